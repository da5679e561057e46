"""Parts of bounded size: records become lines and arrays, and come back from them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from indexer.backups.folder import BackupFolder
from indexer.backups.manifest import Manifest, Part, Section
from p4r_qdrant.index.columns import Column
from p4r_qdrant.index.payload import ITEM_ID, POSITION, Point
from p4r_qdrant.users.records import Job, StoredInteraction

MOST_RECORDS = 10_000
MOST_BYTES = 16 << 20
"""Of lines and arrays before they are packed, after which a part is written."""

Array = npt.NDArray[Any]
Record = TypeVar("Record")


@dataclass
class Content:
    """What goes into one part. arrays: label -> rows or pieces that are put together."""

    lines: list[str] = field(default_factory=list)
    arrays: dict[str, list[Array]] = field(default_factory=dict)
    size: int = 0

    def add(self, line: Any, **arrays: Array) -> None:
        """Add a record."""
        text = json.dumps(line, ensure_ascii=False)
        self.lines.append(text)
        self.size += len(text)
        for label, array in arrays.items():
            self.arrays.setdefault(label, []).append(array)
            self.size += array.nbytes

    @property
    def is_full(self) -> bool:
        """Whether it is time to write it."""
        return len(self.lines) >= MOST_RECORDS or self.size >= MOST_BYTES


class PartWriter:
    """Writes the parts of one section of a version, and notes each in the manifest."""

    def __init__(
        self, folder: BackupFolder, manifest: Manifest, section: Section, version: int
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._section = section
        self._version = version
        self._key = f"{section}-{version}"

    @property
    def is_done(self) -> bool:
        """Whether the section was written to its end."""
        return self._key in self._manifest.done

    def begin_anew(self) -> None:
        """Forget the parts of the section that a killed backup wrote."""
        before = self._manifest.parts
        self._manifest.parts = [
            one for one in before if (one.section, one.version) != (self._section, self._version)
        ]

    def write(self, content: Content, items: int, after: str | None = None) -> None:
        """Write a part; nothing if there is nothing in it."""
        if not content.lines:
            return
        number = 1 + len(self._manifest.of(self._section, self._version))
        lines, arrays = self._folder.write(
            f"{self._key}-{number:05}",
            content.lines,
            {label: np.concatenate(rows) for label, rows in content.arrays.items()},
        )
        self._manifest.parts.append(
            Part(
                section=self._section,
                version=self._version,
                records=len(content.lines),
                items=items,
                lines=lines,
                arrays=arrays,
                after=after,
            )
        )
        self._folder.note(self._manifest)

    def write_all(
        self,
        records: Iterable[Record],
        add: Callable[[Content, Record], None],
        owner: Callable[[Record], str],
    ) -> None:
        """Write a whole section, in place of what a killed backup wrote of it.

        add: adds a record to a part. owner: the item or user of a record; `records` has all of one
        together.
        """
        self.begin_anew()
        content, owners, last = Content(), 0, None
        for record in records:
            owners += (own := owner(record)) != last
            last = own
            add(content, record)
            if content.is_full:
                self.write(content, owners)
                content, owners = Content(), 0
        self.write(content, owners)
        self.finish()

    def finish(self) -> None:
        """The section is complete."""
        self._manifest.done.append(self._key)
        self._folder.note(self._manifest)


def add_point(content: Content, point: Point, datatype: str) -> None:
    """Add a persona: its payload as it is stored, and its vector in the index's number format."""
    content.add(point.payload, vectors=point.vector[None].astype(datatype))


def points_of(
    lines: Sequence[dict[str, Any]], arrays: dict[str, Array], place: Callable[[str, int], str]
) -> Iterator[Point]:
    """The personas of a part. place: see `Engine.point_id`."""
    for payload, vector in zip(lines, arrays["vectors"], strict=True):
        point = place(payload[ITEM_ID], payload[POSITION])
        yield Point(point, vector.astype(np.float32), payload)


def add_column(content: Content, column: Column) -> None:
    """Add a column of B: its item and its number of entries; the entries are in the arrays."""
    line = {"item_id": column.item_id, "number": column.number, "entries": len(column.places)}
    content.add(line, places=column.places, values=column.values)


def columns_of(lines: Sequence[dict[str, Any]], arrays: dict[str, Array]) -> Iterator[Column]:
    """The columns of a part."""
    start = 0
    for line in lines:
        own = slice(start, start := start + line["entries"])
        yield Column(line["item_id"], line["number"], arrays["places"][own], arrays["values"][own])


def add_interaction(content: Content, one: StoredInteraction) -> None:
    """Add an interaction; its vector is in the array, if it has one."""
    line = {**asdict(dataclasses.replace(one, vector=None)), "vector": one.vector is not None}
    vectors = {} if one.vector is None else {"vectors": one.vector[None]}
    content.add(line, **vectors)


def interactions_of(
    lines: Sequence[dict[str, Any]], arrays: dict[str, Array]
) -> Iterator[StoredInteraction]:
    """The interactions of a part."""
    rows = iter(arrays.get("vectors", ()))
    for line in lines:
        vector = next(rows) if line["vector"] else None
        yield StoredInteraction(**{**line, "vector": vector})


def add_job(content: Content, job: Job) -> None:
    """Add a job."""
    content.add(asdict(job))


def jobs_of(lines: Sequence[dict[str, Any]]) -> list[Job]:
    """The jobs of a part."""
    return [Job(**line) for line in lines]
