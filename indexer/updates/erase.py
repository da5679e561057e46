"""Erase users from an artifact folder (the right to be forgotten)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.journal import JournalRecord
from indexer.artifacts.lines import Model, Refusals, read_lines
from indexer.artifacts.names import (
    ALIGNMENTS,
    ARRIVALS,
    ASPECTS,
    CANDIDATES,
    ERASING,
    PERSONAS,
    REVIEWS,
    SPLITS,
)
from indexer.artifacts.splits import SplitLine
from indexer.artifacts.writing import rewrite, storage_errors
from indexer.ledger import Ledger
from indexer.llm import BatchFolder
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import (
    Alignment,
    Aspects,
    CandidateList,
    ItemPersonas,
    Review,
)
from p4r_qdrant.whole_files import remove_unfinished, write_whole

OF_REVIEWS = "aspects"
"""The step whose answers come from one review."""
OF_ITEMS = "personas"
"""The step whose answers come from all reviews of one item."""


class UnknownUserError(InputError):
    """A user is in no file of a folder."""


class _Plan(BaseModel):
    """What an erasure has to do: FOLDER/erasing.json, written first and removed last.

    items: to reason on again. bare: they lose all their personas.
    """

    model_config = ConfigDict(extra="forbid")

    users: set[str] = set()
    items: set[str] = set()
    bare: set[str] = set()


@dataclass
class Erased:
    """What was removed, by kind; the items to reason on again; the items without personas now.

    removed: by this run; a killed one may have removed more.
    """

    removed: Counter[str] = field(default_factory=Counter)
    items: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)


@contextmanager
def erasing(
    folder: ArtifactFolder, ledger: Ledger, users: Collection[str], refusals: Refusals
) -> Iterator[Erased]:
    """Remove what came from these users: their lines, the LLM's answers about them, evidence.

    The answers that made the personas of the items they reviewed are removed too, and so are
    personas that rest on these users alone. Broken lines may be theirs: they are removed and
    reported in `refusals`.

    The block makes durable what follows from it: the items to reason on again, the items to
    delete. If it is killed or fails, the next call ends in the same state and yields the same
    items, whichever users it names.

    Raises: UnknownUserError, with nothing changed, if one of the users is in no file of the
        folder; InputError if a batch that may hold their texts is under way.
    """
    batches = BatchFolder(ledger.folder)
    batches.check_none("users cannot be erased from them")
    batches.tidy()
    path = folder.path / ERASING
    plan = _planned(folder, ledger, set(users), _left(path))
    with storage_errors(path, kept="nothing was erased"):
        write_whole(path, plan.model_dump_json(), private=True)
    yield _erase(folder, ledger, plan, refusals)
    with storage_errors(path, cannot="be removed"):
        path.unlink(missing_ok=True)


def _left(path: Path) -> _Plan:
    """The plan of an erasure that was killed; an empty one if there is none."""
    with storage_errors(path, cannot="be read"):
        text = path.read_bytes() if path.is_file() else b"{}"
    try:
        return _Plan.model_validate_json(text)
    except ValidationError:
        raise InputError(
            f"{path} is broken: remove it, and erase the users again that were being erased"
        ) from None


def _planned(folder: ArtifactFolder, ledger: Ledger, users: set[str], left: _Plan) -> _Plan:
    """The plan for these users, and for what an erasure that was killed has left."""
    every = users | left.users
    items, seen = set(left.items), set(left.users)
    for user_id, item_id in _traces(folder, ledger):
        if user_id in every:
            seen.add(user_id)
            if item_id is not None:
                items.add(item_id)
    if unseen := sorted(every - seen):
        raise UnknownUserError(
            f"user {unseen[0]!r} is in no file of {folder.path}; nothing was changed"
        )
    return _Plan(users=every, items=items, bare=left.bare | _losing_all(folder, every))


def _erase(folder: ArtifactFolder, ledger: Ledger, plan: _Plan, refusals: Refusals) -> Erased:
    gone, erased = plan.users, Erased(items=sorted(plan.items))
    for step in ledger.steps():
        keys = {
            entry["key"]
            for entry in ledger.entries(step)
            if (about := entry.get("about", {})).get("user_id") in gone
            or (step == OF_ITEMS and about.get("item_id") in plan.items)
        }
        erased.removed[f"answers on {step}"] += ledger.erase(step, keys)
    remove_unfinished(folder.path)  # left by killed runs; they may hold the users' texts

    lost = _resting_on(folder, gone)

    def theirs(record: Aspects | SplitLine | CandidateList | Review) -> bool:
        return record.user_id in gone

    def theirs_arrived(record: JournalRecord) -> bool:
        return record.review is not None and record.review.user_id in gone

    def theirs_or_lost(record: Alignment) -> bool:
        return record.user_id in gone or (record.item_id, record.persona_id) in lost

    # Alignments before personas.jsonl, from which a second run finds the lost personas.
    _drop(folder.at(ALIGNMENTS), Alignment, theirs_or_lost, erased.removed, refusals)
    left = _strip_evidence(folder.at(PERSONAS), gone, lost, erased.removed, refusals)
    erased.bare = sorted(plan.bare - left)
    _drop(folder.at(ASPECTS), Aspects, theirs, erased.removed, refusals)
    _drop(folder.at(CANDIDATES), CandidateList, theirs, erased.removed, refusals)
    _drop(folder.at(ARRIVALS), JournalRecord, theirs_arrived, erased.removed, refusals)
    # Splits last: what they hold out makes no persona, so a second run must not name it.
    _drop(folder.at(REVIEWS), Review, theirs, erased.removed, refusals)
    _drop(folder.at(SPLITS), SplitLine, theirs, erased.removed, refusals)
    return erased


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
    for step in ledger.steps():
        for entry in ledger.entries(step):
            about = entry.get("about", {})
            if "user_id" in about:
                yield about["user_id"], about.get("item_id") if step == OF_REVIEWS else None


def _records(folder: ArtifactFolder, name: str, model: type[Model]) -> Iterator[Model]:
    if folder.has(name):
        for _, _, record in read_lines(folder.file(name), model, Refusals()):
            yield record


def _resting_on(folder: ArtifactFolder, users: set[str]) -> set[tuple[str, str]]:
    """(item, persona) of the personas whose evidence is these users alone."""
    return {
        (record.item_id, persona.persona_id)
        for record in _records(folder, PERSONAS, ItemPersonas)
        for persona in record.personas
        if persona.evidence and users.issuperset(persona.evidence)
    }


def _losing_all(folder: ArtifactFolder, users: set[str]) -> set[str]:
    """The items all of whose personas rest on these users alone."""
    lost = _resting_on(folder, users)
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
