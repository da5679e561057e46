"""Erase users from every place, by one plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from indexer.artifacts.derived import derived_from
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ERASING
from indexer.artifacts.outdated import note_outdated
from indexer.artifacts.writing import storage_errors
from indexer.ledger import Ledger
from indexer.llm import BatchFolder
from indexer.segments.audience import erase_from_audience
from indexer.segments.winning import forget_wins
from indexer.updates.erasing.artifacts import (
    Plan,
    erase_from_artifacts,
    left_plan,
    others_naming,
    outdated_by,
    planned,
)
from indexer.updates.erasing.report import Erased, append
from indexer.updates.erasing.results import Gone, erase_from_results
from indexer.updates.erasing.stored import Stored
from p4r_qdrant.errors import InputError
from p4r_qdrant.whole_files import write_whole


class UnknownUserError(InputError):
    """A user is in no file of a folder."""


@contextmanager
def erasing(
    folder: ArtifactFolder,
    ledger: Ledger,
    users: Collection[str],
    refusals: Refusals,
    *,
    stored: Stored | None = None,
    results: Sequence[Path] = (),
) -> Iterator[Erased]:
    """Remove what came from these users: see `erasing.artifacts`, `.results` and `.stored`.

    stored: the index and the stored users; None: they are not touched. results: folders and files
    that were made from the artifact folder, beside those that it knows of.

    The block makes durable what follows from it: the items to reason on again. If it is killed or
    fails, the next call ends in the same state and yields the same items, whichever users it names.

    Raises: UnknownUserError, with nothing changed, if one of the users is nowhere; InputError if a
        batch that may hold their texts is under way; at the end, why a place could not be looked
        at, and then the next call looks again.
    """
    batches = BatchFolder(ledger.folder)
    batches.check_none("users cannot be erased from them")
    batches.tidy()
    path = folder.path / ERASING
    plan, unseen = planned(folder, ledger, users, left_plan(path))
    if stored is not None:
        unseen = {one for one in unseen if not stored.knows(one)}
    if unseen:
        raise UnknownUserError(
            f"user {min(unseen)!r} is in no file of {folder.path}; nothing was changed"
        )
    with storage_errors(path, kept="nothing was erased"):
        write_whole(path, plan.model_dump_json(), private=True)
    note_outdated(folder.path, outdated_by(folder, plan.items))
    erased = _erased(folder, ledger, plan, refusals, [*derived_from(folder.path), *results])
    if stored is not None:
        erased.places += stored.erase(plan.users, plan.items, plan.lost)
    append(folder.path, erased.record())
    yield erased
    if erased.problem is not None:
        raise erased.problem
    with storage_errors(path, cannot="be removed"):
        path.unlink(missing_ok=True)


def _erased(
    folder: ArtifactFolder, ledger: Ledger, plan: Plan, refusals: Refusals, results: Sequence[Path]
) -> Erased:
    place, left = erase_from_artifacts(folder, ledger, plan, refusals)
    place.removed["lines of audience.csv"] += erase_from_audience(folder.path, plan.users)
    place.removed["counts of wins"] += forget_wins(folder.path)
    gone = Gone(plan.users, plan.items)
    places = [place, *(erase_from_results(one, gone) for one in dict.fromkeys(results))]
    place.remains += others_naming(folder, plan.users)
    return Erased(len(plan.users), places, sorted(plan.items), sorted(plan.bare - left))
