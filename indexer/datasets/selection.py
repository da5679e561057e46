"""Which part of a data set is prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.datasets.splits import MIN_INTERACTIONS, Ties
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a data set to prepare, in the order in which the filters apply.

    cities, categories: keep the items of one of the cities and in one of the categories
        (compared without case); empty keeps all.
    unknown_items: keep reviews of items without metadata. Without items files they always stay.
    k_core: keep users and items with this many interactions or more.
    users: then keep a sample of this many users, the same for the same `seed`, and apply `k_core`
        again; so fewer users may be left.
    ties, min_interactions: see `leave_one_out`.
    """

    cities: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    unknown_items: bool = False
    k_core: int = 1
    users: int | None = None
    seed: int = 0
    ties: Ties = "item"
    min_interactions: int = MIN_INTERACTIONS

    def __post_init__(self) -> None:
        if self.min_interactions < 2:
            raise InputError("a user needs 2 interactions to be split, a test and a validation")

    def wants(self, item: Item) -> bool:
        """Whether an item is of the cities and categories."""
        city = str((item.model_extra or {}).get("city", ""))
        return _one_of([city], self.cities) and _one_of(item.categories, self.categories)


def _one_of(found: Sequence[str], wanted: Sequence[str]) -> bool:
    names = {one.strip().casefold() for one in wanted}
    return not names or any(one.casefold() in names for one in found)
