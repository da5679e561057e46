"""Warm and cold users, head and tail items: does it work for those with little to go by?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.evaluation.interactions import Interactions
from indexer.evaluation.truth import Truth

SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Segment:
    """Some of the truth's users: (n_users,) bool, in its order. `rule` says who, for people
    (interactions and users in training).
    """

    name: str
    rule: str
    members: npt.NDArray[np.bool_]


def segments(truth: Truth, training: Interactions) -> list[Segment]:
    """Users by the length of their training history, and by the popularity of their held-out item.

    Warm and cold users are the top and bottom 20 %, head items the 20 % with most training
    interactions, tail items the rest. Equals are never separated, so that a segment may be
    larger; where all histories are alike there is neither warm nor cold.
    """
    by_user = dict(zip(training.users, training.user_counts().tolist(), strict=True))
    by_item = dict(zip(training.items, training.item_counts().tolist(), strict=True))
    history = np.array([by_user.get(user, 0) for user in truth.items])
    popularity = np.array([by_item.get(item, 0) for item in truth.items.values()])
    few = _nth(history, smallest=True)
    many = _nth(history, smallest=False)
    popular = _nth(np.array(list(by_item.values())), smallest=False)
    found = []
    if few < many:
        found += [
            Segment("warm users", f"{many}+ interactions", history >= many),
            Segment("cold users", f"up to {few} interactions", history <= few),
        ]
    found += [
        Segment("head items", f"{popular}+ users", popularity >= popular),
        Segment("tail items", f"under {popular} users", popularity < popular),
    ]
    return [one for one in found if one.members.any()]


def _nth(counts: npt.NDArray[np.int64], *, smallest: bool) -> int:
    """The count at the border of the smallest or largest 20 %."""
    ordered = np.sort(counts)
    position = math.ceil(SHARE * len(counts)) - 1
    return int(ordered[position] if smallest else ordered[-1 - position])
