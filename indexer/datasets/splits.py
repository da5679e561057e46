"""Leave-one-out by time: a user's last interaction is the test, the last but one the validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Literal

from p4r_qdrant.records import Split

Ties = Literal["item", "file"]
"""What puts equal time stamps in order: the item id, or the place in the source."""

MIN_INTERACTIONS = 3
"""Users with fewer are not split: nothing would be left to learn from."""


def leave_one_out(
    interactions: Iterable[tuple[str, str, int]],
    *,
    ties: Ties = "item",
    min_interactions: int = MIN_INTERACTIONS,
) -> Iterator[Split]:
    """Split (user_id, item_id, timestamp); a user's must stand together.

    `tie` says that the test item was told from the validation item by `ties`, not by time. By
    "item" the order in which a user's interactions come does not matter; by "file" it decides, as
    in splits that others published. A pair of user and item must come only once, and
    `min_interactions` be 2 or more.
    """
    by_time = itemgetter(2) if ties == "file" else itemgetter(2, 1)
    for user_id, own in groupby(interactions, key=itemgetter(0)):
        ordered = sorted(own, key=by_time)
        if len(ordered) >= min_interactions:
            (_, valid_item, before), (_, test_item, last) = ordered[-2:]
            yield Split(
                user_id=user_id, test_item=test_item, valid_item=valid_item, tie=before == last
            )
