"""Make a decision of what a reviewer asks for, unless somebody was faster."""

from __future__ import annotations

import time
from dataclasses import asdict

from indexer.artifacts.outdated import persona_digest
from indexer.reasoning.sanitizing import cleaned
from indexer.review.decisions import Decision, Half, Texts, check_reviewer, valid
from indexer.review.standing import Decided, Reviewed, asked, is_seen, reviewed, rows_seen
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.payload import MOST_PER_ITEM
from p4r_qdrant.moderation import Rules
from p4r_qdrant.records import MAX_ID_LENGTH, ItemPersonas, clean_text
from p4r_qdrant.service.studio.desk import MAX_TEXT, ConflictError, Order, PersonaTexts

MOST_REMARKS = 10
"""Remarks with which the LLM is asked about an item."""
MAX_REMARK = 1000
"""Characters of each of them."""


def decision_for(order: Order, item: ItemPersonas, decided: Decided, rules: Rules) -> Decision:
    """The decision that an order asks for. Raises ConflictError or InputError.

    item: the line of personas.jsonl. decided: the decisions on it so far.
    """
    try:
        by = check_reviewer(order.by)
    except ValueError as error:
        raise InputError(str(error)) from None
    one = _persona(order, item, decided)
    texts = _texts(order, one, decided, rules)
    remark = clean_text(order.remark)
    if len(remark) > MAX_TEXT:
        raise InputError(f"a remark has {MAX_TEXT} characters at most")
    if order.action == "ask":
        _check_asking(order, remark, decided)
    other, evidence = None, None
    if order.action == "split":
        other = _other_half(order, item, one, decided, rules)
        evidence = tuple(user for user in one.persona.evidence if user not in other.evidence)
        if other.texts == texts:
            raise InputError("both halves have the same texts: write what tells them apart")
    return Decision(
        at=int(time.time()),
        by=by,
        action=order.action,
        item_id=order.item_id,
        persona_id=order.persona_id,
        before=one.digest,
        after=persona_digest(texts.onto(one.persona)),
        texts=None if order.action == "undo" else texts,
        remark=remark,
        evidence=evidence,
        other=other,
    )


def _other_half(
    order: Order, item: ItemPersonas, one: Reviewed, decided: Decided, rules: Rules
) -> Half:
    """The second half of a split. Raises InputError if the persona cannot be split like this."""
    users, off = one.persona.evidence, order.other
    if off is None:
        raise InputError("a split needs the texts and the reviews of the second half")
    if wrong := sorted(number for number in off.reviews if not 1 <= number <= len(users)):
        raise InputError(f"there is no review {wrong[0]}: the persona rests on {len(users)}")
    if not 0 < len(off.reviews) < len(users):
        raise InputError(
            f"each half needs a review of its own: of {len(users)}, {len(off.reviews)} go to the "
            "second half"
        )
    known = {found.persona.persona_id for found in reviewed(item, decided)} | decided.keys()
    if len(known) >= MOST_PER_ITEM:
        raise InputError(f"an item has {MOST_PER_ITEM} personas at most")
    number = next(n for n in range(1, len(known) + 2) if f"{order.persona_id}_S{n}" not in known)
    persona_id = f"{order.persona_id}_S{number}"
    if len(persona_id) > MAX_ID_LENGTH:
        raise InputError(f"the id of the persona is too long to be split: {len(persona_id)}")
    texts = _given_texts(off.texts, f"the second half of {order.persona_id!r}")
    _check_rules(texts, rules, f"the second half of {order.persona_id!r}")
    evidence = tuple(user for place, user in enumerate(users, start=1) if place in off.reviews)
    return Half(
        persona_id=persona_id,
        texts=texts,
        evidence=evidence,
        after=persona_digest(texts.onto(one.persona)),
    )


def _check_asking(order: Order, remark: str, decided: Decided) -> None:
    """Raises InputError if the LLM cannot be asked again with this remark."""
    if not remark:
        raise InputError("the remark is empty: say what the LLM should do better, then ask again")
    if len(remark) > MAX_REMARK:
        raise InputError(f"a remark for the LLM has {MAX_REMARK:,} characters at most")
    if cleaned(remark).removed or not cleaned(remark).text:
        raise InputError(
            "a part of this remark speaks of instructions to a model, and would not reach the LLM: "
            "say in other words what is wrong with the texts"
        )
    # Each one is on a persona; they are counted for the item, because one prompt holds them all.
    already = asked(one for rows in decided.values() for one in rows)
    if any((one.persona_id, one.remark) == (order.persona_id, remark) for one in already):
        raise InputError("the LLM is asked with this remark already")
    if len(already) >= MOST_REMARKS:
        raise InputError(
            f"the LLM is asked about item {order.item_id!r} with {MOST_REMARKS} remarks already: "
            "edit the texts, or undo a remark first"
        )


def _persona(order: Order, item: ItemPersonas, decided: Decided) -> Reviewed:
    """The persona, as the reviewer has seen it."""
    found = {one.persona.persona_id: one for one in reviewed(item, decided)}
    one = found.get(order.persona_id)
    if one is None:
        raise ConflictError(
            f"item {order.item_id!r} no longer has the persona {order.persona_id!r}"
        )
    if not is_seen(one, order.seen, with_evidence=order.action == "split"):
        last = valid(one.rows)[-1] if valid(one.rows) else None
        if str(len(one.rows)) == rows_seen(order.seen) or last is None:
            raise ConflictError(
                f"the persona {order.persona_id!r} of item {order.item_id!r} has changed: look at "
                "it, and decide again"
            )
        raise ConflictError(
            f"{last.by} has decided on the persona {order.persona_id!r} of item "
            f"{order.item_id!r} meanwhile ({last.action}): look at it, and decide again"
        )
    return one


def _texts(order: Order, one: Reviewed, decided: Decided, rules: Rules) -> Texts:
    """The texts after the decision. Raises InputError if it is not possible."""
    action, name = order.action, f"the persona {order.persona_id!r}"
    if action == "undo":
        _check_undo(one, decided, name)
    if one.state == "locked" and action in ("edit", "approve", "lock", "split"):
        raise InputError(f"{name} is locked: undo that first")
    current = Texts.of(one.persona)
    if action not in ("edit", "split"):
        if order.texts is not None and _plain(order.texts) != current.model_dump():
            raise InputError(f"the texts of {name} are not its own: decide edit to change them")
        texts = current
    else:
        if order.texts is None:
            raise InputError(f"the {action} of {name} has no texts")
        texts = _given_texts(order.texts, name)
        if action == "edit" and texts == current:
            raise InputError(f"the texts of {name} are unchanged: approve it, or change them")
    if action in ("edit", "approve", "lock", "split"):
        _check_rules(texts, rules, name)
    return texts


def _check_undo(one: Reviewed, decided: Decided, name: str) -> None:
    """Raises InputError if the last decision on a persona cannot be taken back."""
    rows = valid(one.rows)
    if not rows:
        raise InputError(f"there is no decision on {name} to undo")
    last = rows[-1]
    if last.action != "split":
        return
    if last.other is None:
        raise InputError(f"{name} comes from a split: undo that on the other half")
    if len(valid(decided.get(last.other.persona_id, ()))) > 1:
        raise InputError(
            f"undo the decisions on {last.other.persona_id!r} first, which the split has made"
        )


def _given_texts(given: PersonaTexts, name: str) -> Texts:
    """The texts that a reviewer has written. Raises InputError."""
    plain = _plain(given)
    for field, text in plain.items():
        if not text or len(text) > MAX_TEXT:
            raise InputError(
                f"the {field} of {name} needs 1 to {MAX_TEXT} characters, not {len(text)}"
            )
    return Texts(**plain)


def _check_rules(texts: Texts, rules: Rules, name: str) -> None:
    """Raises InputError if texts break a rule."""
    if problem := rules.problem(texts):
        raise InputError(f"{name}: {problem} (P4R_REASONING__RULES): edit it, or reject it")


def _plain(texts: PersonaTexts) -> dict[str, str]:
    """The texts without control characters and outer white space, as personas have them."""
    return {name: clean_text(text) for name, text in asdict(texts).items()}
