"""Note what a publish holds in the history of the artifact folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from indexer.artifacts.index_rows import IndexRow
from p4r_qdrant.artifact_names import HISTORY
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.history import History, PublishRecord, Recording
from p4r_qdrant.index.metadata import today
from p4r_qdrant.index.payload import CATEGORY

MOST_CATEGORIES = 24
"""Categories of a publish whose sizes are kept: the largest ones."""


class Noted:
    """The items of a publish, as they settle. A history that cannot be written stops no publish.

    problem: why this publish is not noted.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._recording: Recording | None = None
        self._items = 0
        self._categories: Counter[str] = Counter()

    @classmethod
    @contextmanager
    def of(cls, folder: Path) -> Iterator[Noted]:
        """Note a publish in the history of a folder."""
        own = cls()
        with ExitStack() as opened:

            def begin() -> None:
                history = opened.enter_context(closing(History(folder / HISTORY)))
                own._recording = opened.enter_context(history.recording())

            own._try(begin)
            yield own

    def add(self, row: IndexRow) -> None:
        """Note an item that the version holds now."""
        personas = row.item.personas
        self._items += 1
        self._categories[category_of(row.fields)] += len(personas)
        if (recording := self._recording) is not None:
            self._try(lambda: recording.settle(row.item.item_id, personas))

    def finish(self, version: str, held: Collection[str] | None) -> None:
        """Keep what was noted: the version is live. held: see `Recording.finish`."""
        largest = dict(self._categories.most_common(MOST_CATEGORIES))
        record = PublishRecord(0, today(), version, self._items, self._categories.total(), largest)
        if (recording := self._recording) is not None:
            self._try(lambda: recording.finish(record, held))

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except InputError as error:
            self.problem, self._recording = str(error), None


def category_of(fields: Mapping[str, Any]) -> str:
    """The category of an item by its stored fields; "" if it has none."""
    value = fields.get(CATEGORY) or ""
    return str(value[-1] if isinstance(value, list) and value else value)
