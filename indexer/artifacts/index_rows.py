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
    """What an index stores of one item, without the vectors. `where` is for error messages."""

    where: str
    item: ItemPersonas
    summary: str
    fields: dict[str, Any]

    def texts(self) -> list[str]:
        """text(p) of each persona, in their order (Eq. 8)."""
        return texts.persona_texts(self.item.personas, self.summary)


class IndexRows:
    """The items of personas.jsonl, read once, line by line, as they are iterated over.

    Broken lines and repeated item ids are refused; of an id the first line counts. While and after
    the iteration, `item_ids` holds the ids read so far, and `broken` the broken lines.
    """

    def __init__(
        self,
        personas: Path,
        summaries: Lookup[Summary],
        items: Lookup[Item],
        domain: str,
        refusals: Refusals,
    ) -> None:
        self.path = personas
        self.broken = Refusals(keep=1, parent=refusals)
        self._first_lines: dict[str, int] = {}
        self._summaries = summaries
        self._items = items
        self._domain = named_domain(domain)
        self._refusals = refusals

    @property
    def item_ids(self) -> set[str]:
        """The ids of the items read so far."""
        return set(self._first_lines)

    def __len__(self) -> int:
        """How many items were read so far."""
        return len(self._first_lines)

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
                summary = summaries.get(item_id)
                text = summary.summary if summary else ""
                yield IndexRow(
                    where, record, text, payload_fields(items.get(item_id), text, self._domain)
                )
