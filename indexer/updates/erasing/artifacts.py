"""Erase users from an artifact folder (the right to be forgotten)."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.journal import JournalRecord
from indexer.artifacts.lines import Model, Refusals, read_lines
from indexer.artifacts.names import (
    ALIGNMENTS,
    ARRIVALS,
    ARTIFACTS,
    ASPECTS,
    CANDIDATES,
    FLAGS,
    PERSONAS,
    REVIEWS,
    SPLITS,
)
from indexer.artifacts.outdated import Outdated, persona_digest
from indexer.artifacts.splits import SplitLine
from indexer.artifacts.writing import rewrite, storage_errors
from indexer.collaborative.finished import forget_parts
from indexer.datasets.output_folder import remove_unfinished_folders
from indexer.datasets.prepare import as_parquet
from indexer.ledger import LEDGER, Ledger
from indexer.review.decisions import Decisions
from indexer.review.flags import FlagRecord
from indexer.review.forgetting import forget
from indexer.review.standing import reviewed
from indexer.updates.erasing.report import Place
from p4r_qdrant.artifact_names import MAPS
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import (
    Alignment,
    Aspects,
    CandidateList,
    ItemPersonas,
    Persona,
    Review,
)
from p4r_qdrant.whole_files import remove_unfinished

OF_REVIEWS = "aspects"
"""The step whose answers come from one review."""
OF_ITEMS = "personas"
"""The step whose answers come from all reviews of one item."""


class Plan(BaseModel):
    """What an erasure has to do: FOLDER/erasing.json, written first and removed last.

    items: to reason on again. bare: they lose all their personas. lost: `persona_digest` of the
    personas that rest on the users alone, and of extractive ones that rest on one of them.
    """

    model_config = ConfigDict(extra="forbid")

    users: set[str] = set()
    items: set[str] = set()
    bare: set[str] = set()
    lost: set[str] = set()


def left_plan(path: Path) -> Plan:
    """The plan of an erasure that was killed; an empty one if there is none."""
    with storage_errors(path, cannot="be read"):
        text = path.read_bytes() if path.is_file() else b"{}"
    try:
        return Plan.model_validate_json(text)
    except ValidationError:
        raise InputError(
            f"{path} is broken: remove it, and erase the users again that were being erased"
        ) from None


def planned(
    folder: ArtifactFolder, ledger: Ledger, users: Collection[str], left: Plan
) -> tuple[Plan, set[str]]:
    """The plan for these users, and for what an erasure that was killed has left.

    Returns: the plan, and the users who are in no file.
    """
    every = {*users, *left.users}
    items, seen = set(left.items), set(left.users)
    for user_id, item_id in _traces(folder, ledger):
        if user_id in every:
            seen.add(user_id)
            if item_id is not None:
                items.add(item_id)
    lost = _resting_on(folder, every)
    digests = {
        persona_digest(persona)
        for item_id, persona in _served(folder)
        if (item_id, persona.persona_id) in lost or _rests_on(persona, every)
    }
    plan = Plan(
        users=every,
        items=items,
        bare=left.bare | _losing_all(folder, lost),
        lost=left.lost | digests,
    )
    return plan, every - seen


def outdated_by(folder: ArtifactFolder, items: Collection[str]) -> Outdated:
    """The personas that these items have now: they rest on somebody who is erased."""
    found: dict[str, set[str]] = {}
    for item_id, persona in _served(folder):
        if item_id in items:
            found.setdefault(item_id, set()).add(persona_digest(persona))
    return found


def erase_from_artifacts(
    folder: ArtifactFolder, ledger: Ledger, plan: Plan, refusals: Refusals
) -> tuple[Place, set[str]]:
    """Remove what came from the users of a plan.

    Their lines, the LLM's answers about them, evidence; the decisions of reviewers on the items
    they reviewed, but for rejections; the answers that made the personas of the
    items they reviewed; personas that rest on these users alone, and extractive ones that rest on
    one of them. Broken lines may be theirs: they are removed and reported in `refusals`.

    Returns: what was removed, and the items that have personas now.
    """
    gone, place = plan.users, Place("artifacts", str(folder.path))
    removed = place.removed
    for step in ledger.steps():
        keys = {
            entry["key"]
            for entry in ledger.entries(step)
            if (about := entry.get("about", {})).get("user_id") in gone
            or (step == OF_ITEMS and about.get("item_id") in plan.items)
        }
        removed[f"answers on {step}"] += ledger.erase(step, keys)
    remove_unfinished(folder.path)  # left by killed runs; they may hold the users' texts
    remove_unfinished_folders(folder.path)
    forget_parts(folder.path)
    for name in (REVIEWS, SPLITS):  # p4r prepare --parquet makes them again
        with storage_errors(copy := folder.path / as_parquet(name), cannot="be removed"):
            if copy.is_file():
                copy.unlink()
                removed["Parquet copies"] += 1

    lost = _resting_on(folder, gone)

    def theirs(record: Aspects | SplitLine | CandidateList | Review) -> bool:
        return record.user_id in gone

    def theirs_arrived(record: JournalRecord) -> bool:
        return record.review is not None and record.review.user_id in gone

    def theirs_or_lost(record: Alignment) -> bool:
        return record.user_id in gone or (record.item_id, record.persona_id) in lost

    def about_theirs(record: FlagRecord) -> bool:
        return record.item_id in plan.items

    if forgotten := forget(folder, plan.items, refusals):
        removed["decisions of reviewers"] += forgotten
    _drop(folder.at(FLAGS), FlagRecord, about_theirs, removed, refusals)
    # Alignments before personas.jsonl, from which a second run finds the lost personas.
    _drop(folder.at(ALIGNMENTS), Alignment, theirs_or_lost, removed, refusals)
    left = _strip_evidence(folder.at(PERSONAS), gone, lost, removed, refusals)
    _drop(folder.at(ASPECTS), Aspects, theirs, removed, refusals)
    _drop(folder.at(CANDIDATES), CandidateList, theirs, removed, refusals)
    _drop(folder.at(ARRIVALS), JournalRecord, theirs_arrived, removed, refusals)
    # Splits last: what they hold out makes no persona, so a second run must not name it.
    _drop(folder.at(REVIEWS), Review, theirs, removed, refusals)
    _drop(folder.at(SPLITS), SplitLine, theirs, removed, refusals)
    return place, left


def others_naming(folder: ArtifactFolder, users: Collection[str]) -> list[str]:
    """The files of a folder that are no artifacts and hold the id of a user, as sentences."""
    ids = [json.dumps(one, ensure_ascii=plain) for one in users for plain in (False, True)]
    known = {folder.at(name) for name in ARTIFACTS}
    return [
        f"{path} is no artifact and holds the id of a user: look at it"
        for path in sorted(folder.path.rglob("*"))
        if path.is_file()
        and path not in known
        and path.parent.name not in (LEDGER, MAPS)
        and _holds(path, [one.encode() for one in ids])
    ]


def _holds(path: Path, words: list[bytes]) -> bool:
    """Whether one of the words is in a file, which may be large."""
    with storage_errors(path, cannot="be read"), path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(word) >= 0 for word in words)


def _traces(folder: ArtifactFolder, ledger: Ledger) -> Iterator[tuple[str, str | None]]:
    """(user, item whose personas may rest on the user, or None), for every mention of a user."""
    held_out = folder.held_out()
    for review in _records(folder, REVIEWS, Review):
        pair = (review.user_id, review.item_id)
        yield review.user_id, None if pair in held_out else review.item_id
    for arrival in _records(folder, ARRIVALS, JournalRecord):
        if arrival.review is not None:
            yield arrival.review.user_id, arrival.item_id
    for aspects in _records(folder, ASPECTS, Aspects):
        yield aspects.user_id, aspects.item_id
    mentions: Iterable[Alignment | SplitLine | CandidateList] = chain(
        _records(folder, ALIGNMENTS, Alignment),
        _records(folder, SPLITS, SplitLine),
        _records(folder, CANDIDATES, CandidateList),
    )
    for mention in mentions:
        yield mention.user_id, None
    for personas in _records(folder, PERSONAS, ItemPersonas):
        for persona in personas.personas:
            yield from ((user_id, personas.item_id) for user_id in persona.evidence)
    decisions = Decisions(folder.path)
    decisions.refresh()
    yield from ((user_id, one.item_id) for one in decisions for user_id in one.users)
    for step in ledger.steps():
        for entry in ledger.entries(step):
            about = entry.get("about", {})
            if "user_id" in about:
                yield about["user_id"], about.get("item_id") if step == OF_REVIEWS else None


def _records(folder: ArtifactFolder, name: str, model: type[Model]) -> Iterator[Model]:
    if folder.has(name):
        for _, _, record in read_lines(folder.file(name), model, Refusals()):
            yield record


def _served(folder: ArtifactFolder) -> Iterator[tuple[str, Persona]]:
    """(item, persona) as they are in personas.jsonl, and with the texts of reviewers."""
    decisions = Decisions(folder.path)
    decisions.refresh()
    for record in _records(folder, PERSONAS, ItemPersonas):
        yield from ((record.item_id, one) for one in record.personas)
        if decided := decisions.of(record.item_id):
            yield from ((record.item_id, one.persona) for one in reviewed(record, decided))


def _resting_on(folder: ArtifactFolder, users: set[str]) -> set[tuple[str, str]]:
    """(item, persona) of the personas whose evidence is these users alone.

    Extractive personas quote their evidence, so that one of the users is enough.
    """
    return {
        (record.item_id, persona.persona_id)
        for record in _records(folder, PERSONAS, ItemPersonas)
        for persona in record.personas
        if _rests_on(persona, users)
    }


def _rests_on(persona: Persona, users: set[str]) -> bool:
    """Whether a persona is lost with these users. One half of a split may be, the other not."""
    return bool(persona.evidence) and (
        users.issuperset(persona.evidence)
        or (persona.extractive and not users.isdisjoint(persona.evidence))
    )


def _losing_all(folder: ArtifactFolder, lost: set[tuple[str, str]]) -> set[str]:
    """The items all of whose personas are lost."""
    return {item_id for item_id, _ in lost} - {
        record.item_id
        for record in _records(folder, PERSONAS, ItemPersonas)
        if any((record.item_id, one.persona_id) not in lost for one in record.personas)
    }


def _strip_evidence(
    path: Path,
    users: set[str],
    lost: set[tuple[str, str]],
    removed: Counter[str],
    refusals: Refusals,
) -> set[str]:
    """Remove the users from all evidence, and the personas that are lost with them.

    Returns: the items that have personas now.
    """
    left = set[str]()

    def stripped(record: ItemPersonas) -> ItemPersonas | None:
        personas = []
        for persona in record.personas:
            evidence = [one for one in persona.evidence if one not in users]
            removed["mentions as evidence"] += len(persona.evidence) - len(evidence)
            if (record.item_id, persona.persona_id) not in lost:
                personas.append(persona.model_copy(update={"evidence": evidence}))
        removed["personas that rested on them alone"] += len(record.personas) - len(personas)
        if not personas:
            return None
        left.add(record.item_id)
        return record.model_copy(update={"personas": personas})

    if path.is_file():
        rewrite(path, ItemPersonas, stripped, broken=refusals)
    return left


def _drop(
    path: Path,
    model: type[Model],
    unwanted: Callable[[Model], bool],
    removed: Counter[str],
    refusals: Refusals,
) -> None:
    """Remove the unwanted records from a file."""

    def kept(record: Model) -> Model | None:
        if not unwanted(record):
            return record
        removed[f"lines of {path.name}"] += 1
        return None

    if path.is_file():
        rewrite(path, model, kept, broken=refusals)
