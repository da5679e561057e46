"""Stream the items to index: personas joined with summaries and metadata."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import Lookup
from indexer.review.screening import Screening
from p4r_qdrant import texts
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.payload import payload_fields
from p4r_qdrant.records import Item, ItemPersonas, Summary, check_domain


def named_domain(name: str) -> str:
    """The name of a domain. Raises InputError if it cannot be one."""
    try:
        return check_domain(name)
    except ValueError as error:
        raise InputError(f"--domain: {error}") from None


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What an index stores of one item, without the vectors. `where` is for error messages.

    positions: see `Screened`; None: the personas are those of personas.jsonl.
    """

    where: str
    item: ItemPersonas
    summary: str
    fields: dict[str, Any]
    positions: tuple[int | None, ...] | None = None

    def texts(self) -> list[str]:
        """text(p) of each persona, in their order (Eq. 8)."""
        return texts.persona_texts(self.item.personas, self.summary)


class IndexRows:
    """The items of personas.jsonl, read once, line by line, as they are iterated over.

    Broken lines and repeated item ids are refused; of an id the first line counts. `screening`
    decides which personas are served, and with which texts. While and after the iteration,
    `item_ids` holds the ids read so far of items with such personas, and `broken` the broken lines.
    """

    def __init__(
        self,
        personas: Path,
        summaries: Lookup[Summary],
        items: Lookup[Item],
        domain: str,
        refusals: Refusals,
        screening: Screening,
    ) -> None:
        self.path = personas
        self.screening = screening
        self.broken = Refusals(keep=1, parent=refusals)
        self._first_lines: dict[str, int] = {}
        self._summaries = summaries
        self._items = items
        self._domain = named_domain(domain)
        self._refusals = refusals

    @property
    def item_ids(self) -> set[str]:
        """The ids of the items read so far that are served."""
        return self._first_lines.keys() - self.screening.items

    def __len__(self) -> int:
        """How many items were read so far that are served."""
        return len(self._first_lines) - len(self.screening.items)

    def __iter__(self) -> Iterator[IndexRow]:
        with ExitStack() as files:
            lines = read_lines(self.path, ItemPersonas, self.broken)
            # Opened first, because a merge writes it last: what it names is in the other files.
            first_line = list(islice(lines, 1))
            summaries = files.enter_context(self._summaries)
            items = files.enter_context(self._items)
            for number, _, record in chain(first_line, lines):
                item_id, where = record.item_id, f"{self.path}:{number}"
                first = self._first_lines.setdefault(item_id, number)
                if first != number:
                    self._refusals.add(
                        f"{where}: item {item_id!r} is already on line {first}; keep one",
                        "repeated item",
                    )
                    continue
                screened = self.screening.screened(record)
                if screened is None:
                    continue
                summary = summaries.get(item_id)
                text = summary.summary if summary else ""
                fields = payload_fields(items.get(item_id), text, self._domain)
                yield IndexRow(where, screened.item, text, fields, screened.positions)
