"""Take the words of erased users out of decisions."""

from __future__ import annotations

from collections.abc import Collection

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.writing import rewrite, storage_errors
from indexer.review.decisions import Decision, Decisions, locked
from indexer.review.standing import is_rejection, verdict


def forget(folder: ArtifactFolder, item_ids: Collection[str], broken: Refusals) -> int:
    """Remove the decisions on items that erased users reviewed; returns how many were removed.

    Their texts may rest on these users. Of a persona that is rejected the rejection stays, without
    texts and remark, so that it is not served again. Broken lines are removed, and go to `broken`.
    """
    decisions = Decisions(folder.path)
    if not decisions.path.is_file():
        return 0
    with storage_errors(decisions.path):
        file = locked(decisions.path)
    with file:
        decisions.refresh()
        kept = {
            id_of(last): last
            for item_id in item_ids
            for rows in decisions.of(item_id).values()
            if is_rejection(last := verdict(rows))
        }
        removed = 0

        def changed(one: Decision) -> Decision | None:
            nonlocal removed
            if one.item_id not in item_ids:
                return one
            if kept.get(id_of(one)) == one:
                del kept[id_of(one)]
                return one.model_copy(update={"texts": None, "remark": ""})
            removed += 1
            return None

        rewrite(decisions.path, Decision, changed, broken=broken)
    return removed


def id_of(one: Decision) -> tuple[str, str]:
    """The item and the persona of a decision."""
    return one.item_id, one.persona_id
