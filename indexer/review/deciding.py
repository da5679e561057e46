"""Make a decision of what a reviewer asks for, unless somebody was faster."""

from __future__ import annotations

import time
from dataclasses import asdict

from indexer.artifacts.outdated import persona_digest
from indexer.reasoning.sanitizing import cleaned
from indexer.review.decisions import Decision, Texts, check_reviewer
from indexer.review.rules import Rules
from indexer.review.standing import Decided, Reviewed, asked, reviewed, valid, version
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import ItemPersonas, clean_text
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
    texts = _texts(order, one, rules)
    remark = clean_text(order.remark)
    if len(remark) > MAX_TEXT:
        raise InputError(f"a remark has {MAX_TEXT} characters at most")
    if order.action == "ask":
        _check_asking(order, remark, decided)
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
    if version(one) != order.seen:
        last = valid(one.rows)[-1] if valid(one.rows) else None
        seen_rows = order.seen.partition("-")[0]
        if str(len(one.rows)) == seen_rows or last is None:
            raise ConflictError(
                f"the persona {order.persona_id!r} of item {order.item_id!r} has changed: look at "
                "it, and decide again"
            )
        raise ConflictError(
            f"{last.by} has decided on the persona {order.persona_id!r} of item "
            f"{order.item_id!r} meanwhile ({last.action}): look at it, and decide again"
        )
    return one


def _texts(order: Order, one: Reviewed, rules: Rules) -> Texts:
    """The texts after the decision. Raises InputError if it is not possible."""
    action, name = order.action, f"the persona {order.persona_id!r}"
    if action == "undo" and not valid(one.rows):
        raise InputError(f"there is no decision on {name} to undo")
    if one.state == "locked" and action in ("edit", "approve", "lock"):
        raise InputError(f"{name} is locked: undo that first")
    current = Texts.of(one.persona)
    if action != "edit":
        if order.texts is not None and _plain(order.texts) != current.model_dump():
            raise InputError(f"the texts of {name} are not its own: decide edit to change them")
        texts = current
    else:
        if order.texts is None:
            raise InputError(f"the edit of {name} has no texts")
        given = _plain(order.texts)
        for field, text in given.items():
            if not text or len(text) > MAX_TEXT:
                raise InputError(
                    f"the {field} of {name} needs 1 to {MAX_TEXT} characters, not {len(text)}"
                )
        texts = Texts(**given)
        if texts == current:
            raise InputError(f"the texts of {name} are unchanged: approve it, or change them")
    if action in ("edit", "approve", "lock") and (problem := rules.problem(texts)):
        raise InputError(f"{name}: {problem} (P4R_REASONING__RULES): edit it, or reject it")
    return texts


def _plain(texts: PersonaTexts) -> dict[str, str]:
    """The texts without control characters and outer white space, as personas have them."""
    return {name: clean_text(text) for name, text in asdict(texts).items()}
