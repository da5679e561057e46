"""Scores of the collaborative part of an index, and writing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from p4r_qdrant.errors import IndexMismatchError, InputError
from p4r_qdrant.index.columns import CollaborativePart, Column, ColumnSet, Scored, Weights
from p4r_qdrant.index.engine import Engine
from p4r_qdrant.index.query import distinct_texts

Result = TypeVar("Result")


class CollaborativeIndex:
    """The collaborative half of a `PersonaIndex`: c(u, i) = sum over j of w_uj B[j, i].

    A history is item id -> w_uj. Items of a history that B does not know are skipped.
    """

    engine: Engine
    _opened: tuple[CollaborativePart, ColumnSet] | None = None

    @property
    def collaborative(self) -> CollaborativePart | None:
        """The record of the collaborative part; None if the index has none."""
        return CollaborativePart.from_text(self.engine.metadata.collaborative)

    # -- reading ------------------------------------------------------------------------------

    def collaborative_scores(
        self, histories: Sequence[Mapping[str, float]], candidate_ids: Sequence[Sequence[str]]
    ) -> list[Scored]:
        """c(u, i) of each candidate of each user.

        Candidates that nothing in the history speaks for are missing and count as 0: all of them
        if no item of the history is known. Raises IndexMismatchError without a collaborative part.
        """
        if len(histories) != len(candidate_ids):
            raise InputError(f"{len(histories)} histories but {len(candidate_ids)} candidate lists")

        def work(columns: ColumnSet) -> list[Scored]:
            numbers = columns.numbers(distinct_texts(chain.from_iterable(histories)))
            users = [Weights.of(own, numbers) for own in histories]
            known = [place for place, own in enumerate(users) if len(own.places)]
            asked = [distinct_texts(candidate_ids[one]) for one in known]
            found: list[Scored] = [{} for _ in users]
            answers = columns.scores([users[one] for one in known], asked) if known else []
            for place, own in zip(known, answers, strict=True):
                found[place] = {item_id: score for item_id, score in own.items() if score}
            return found

        return self._ask(work)

    def collaborative_nearest(
        self, history: Mapping[str, float], limit: int, exclude: Collection[str] = ()
    ) -> list[tuple[str, float]]:
        """Up to `limit` items of the whole catalogue with the largest c(u, i), and their scores.

        Best first, ties by item id; only scores above 0. Empty if no item of the history is known.
        Raises InputError, and IndexMismatchError without a collaborative part.
        """
        if limit < 1:
            raise InputError(f"a limit must be at least 1, not {limit}")
        unwanted = set(exclude)

        def work(columns: ColumnSet) -> list[tuple[str, float]]:
            user = Weights.of(history, columns.numbers(distinct_texts(history)))
            if not len(user.places):
                return []
            found = columns.nearest(user, limit + len(unwanted))
            kept = [(one, score) for one, score in found if one not in unwanted]
            return sorted(kept, key=lambda one: (-one[1], one[0]))[:limit]

        return self._ask(work)

    def collaborative_shares(
        self, history: Mapping[str, float], item_ids: Sequence[str]
    ) -> dict[str, list[tuple[str, float]]]:
        """For each item: what each item j of the history adds to its score, w_uj B[j, i].

        The largest first, ties by item id. Items without a share are missing. Raises
        IndexMismatchError without a collaborative part.
        """
        asked = [*dict.fromkeys(item_ids)]
        products = self.collaborative_products(history, asked)
        found = {}
        for item_id, values in zip(asked, products.T.tolist(), strict=True):
            pairs = zip(values, history, strict=True)
            shares = sorted((-value, own) for value, own in pairs if value)
            if shares:
                found[item_id] = [(own, -value) for value, own in shares]
        return found

    def collaborative_products(
        self, history: Mapping[str, float], item_ids: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """w_uj B[j, i] of each item j of the history and each item i, in their orders: (m, n).

        0 where j says nothing of i. Raises IndexMismatchError without a collaborative part.
        """

        def work(columns: ColumnSet) -> npt.NDArray[np.float64]:
            products = np.zeros((len(history), len(item_ids)))
            numbers = columns.numbers(distinct_texts(history))
            user = Weights.of(history, numbers)
            if len(user.places):
                asked = distinct_texts(item_ids)
                found = columns.products(user, asked)
                row_of = {numbers[one]: row for row, one in enumerate(history) if one in numbers}
                rows = [row_of[number] for number in user.places.tolist()]
                if len(asked) < len(item_ids):
                    place_of = {one: place for place, one in enumerate(asked)}
                    places = [place_of.get(one, -1) for one in item_ids]
                    found = np.pad(found, [(0, 0), (0, 1)])[:, places]  # no texts: -1 is nothing
                products[rows] = found
            return products

        return self._ask(work)

    def collaborative_columns(self, item_ids: Sequence[str]) -> dict[str, Column]:
        """The columns of the items that have one. Raises IndexMismatchError without the part."""
        return self._ask(lambda columns: columns.columns(distinct_texts(item_ids)))

    def item_numbers(self) -> dict[str, int]:
        """Item id -> number, of all items that ever had one; empty without a collaborative part."""
        if self.collaborative is None:
            return {}
        return self._ask(
            lambda columns: {one: number for one, number in columns.items() if number is not None}
        )

    def refresh(self) -> None:
        """Read the metadata again: a publish may have refitted the collaborative part."""
        self.engine.read_metadata()

    def _ask(self, work: Callable[[ColumnSet], Result]) -> Result:
        """Ask the set that the metadata names. If it was deleted, the part may have been refitted:
        the metadata is read again.
        """
        asked = self.collaborative
        try:
            return work(self._columns())
        except IndexMismatchError:
            if asked is None:
                raise
            self.refresh()
            if self.collaborative == asked:
                raise
            return work(self._columns())

    def _columns(self) -> ColumnSet:
        part = self.collaborative
        if part is None:
            raise IndexMismatchError(
                f"{self.engine.location} has no collaborative part; `p4r publish --artifacts DIR` "
                "adds it"
            )
        sets, opened = self.engine.columns, self._opened
        if opened is None or opened[0] != part:
            opened = self._opened = (part, sets.open(part.set))
        return opened[1]

    # -- writing ------------------------------------------------------------------------------

    def write_collaborative(self, part: CollaborativePart, columns: Iterable[Column]) -> None:
        """Write a new set of columns and switch to it in one step.

        `part.set` is chosen here, and `part.items` counted.

        Only one process may do so at a time. The set before stays for readers that still use it,
        older ones are deleted.
        """
        before = self.collaborative
        number = 1 + (before.set if before else 0)
        items = 0

        def counted() -> Iterator[Column]:
            nonlocal items
            for one in columns:
                items += bool(len(one.places))
                yield one

        self.engine.columns.write(number, counted())
        self._switch(dataclasses.replace(part, set=number, items=items), before)

    def drop_collaborative(self) -> None:
        """Take the collaborative part out of the index. Its set stays until the next publish."""
        before = self.collaborative
        if before is not None:
            self._switch(None, before)

    def _switch(self, part: CollaborativePart | None, before: CollaborativePart | None) -> None:
        text = part.to_text() if part else ""
        self.engine.write_metadata(dataclasses.replace(self.engine.metadata, collaborative=text))
        self.engine.columns.drop({one.set for one in (part, before) if one is not None})

    def put_provisional(self, columns: Sequence[Column]) -> None:
        """Add columns of new items, until the next fit; items that have a column keep it.

        Without a collaborative part, nothing is done.
        """
        item_ids = [one.item_id for one in columns]

        def work(opened: ColumnSet) -> None:
            held, numbers = opened.columns(item_ids), opened.numbers(item_ids)
            new = [
                dataclasses.replace(one, number=numbers.get(one.item_id))
                for one in columns
                if one.item_id not in held
            ]
            if new:
                opened.put(new)

        self.refresh()
        if self.collaborative is not None:
            self._ask(work)

    def remove_columns(self, item_ids: Sequence[str]) -> None:
        """Delete the columns of items that left the catalogue."""
        self.refresh()
        if self.collaborative is not None and item_ids:
            with suppress(IndexMismatchError):  # no set, no column
                self._ask(lambda columns: columns.remove(item_ids))

    def check_collaborative(self) -> None:
        """Take the collaborative part out if its set of columns is missing."""
        part = self.collaborative
        if part is not None:
            try:
                self.engine.columns.open(part.set)
            except IndexMismatchError:
                self.drop_collaborative()

    def drop_columns_before(self) -> None:
        """Delete all sets of columns but the one in use."""
        part = self.collaborative
        self.engine.columns.drop({part.set} if part else ())
