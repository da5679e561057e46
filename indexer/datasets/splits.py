"""Leave-one-out by time: a user's last interaction is the test, the last but one the validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Literal

from p4r_qdrant.records import Split

Ties = Literal["item", "file"]
"""What orders equal time stamps: the item id, or the position in the source."""

MIN_INTERACTIONS = 3
"""Users with fewer are not split, because no training interaction would be left."""


def leave_one_out(
    interactions: Iterable[tuple[str, str, int]],
    *,
    ties: Ties = "item",
    min_interactions: int = MIN_INTERACTIONS,
) -> Iterator[Split]:
    """Split interactions (user_id, item_id, timestamp), grouped by user, without repeated pairs.

    ties: how equal time stamps are ordered; "file" is for splits published by others. The field
        `tie` of a split says that its test and validation item have the same time stamp.
    min_interactions: 2 or more.
    """
    by_time = itemgetter(2) if ties == "file" else itemgetter(2, 1)
    for user_id, own in groupby(interactions, key=itemgetter(0)):
        ordered = sorted(own, key=by_time)
        if len(ordered) >= min_interactions:
            (_, valid_item, before), (_, test_item, last) = ordered[-2:]
            yield Split(
                user_id=user_id, test_item=test_item, valid_item=valid_item, tie=before == last
            )
