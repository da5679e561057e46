"""The manifest of a backup: what it holds, with the checksum of each file and of itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p4r_qdrant.errors import InputError
from p4r_qdrant.index.metadata import PROJECT, IndexMetadata

FORMAT = 1
KIND = "backup"

Section = Literal["personas", "columns", "interactions", "jobs"]
"""What a part holds. Interactions and jobs are stored once, for the live version."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class File(_Model):
    """A file of a backup. size: bytes."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$")]
    size: int
    sha256: str


class Part(_Model):
    """Some records of a section, in a file of JSON Lines, and arrays beside it.

    version: the position of the version in the manifest; that of the live one for users. items: the
    items or users that begin in the part. after: where the index is read on after it; None if this
    was the last part.
    """

    section: Section
    version: int
    records: int
    items: int
    lines: File
    arrays: dict[str, File] = {}
    after: str | None = None

    @property
    def files(self) -> list[File]:
        """All files of the part."""
        return [self.lines, *self.arrays.values()]


class BackedUpVersion(_Model):
    """A version of the index. fields: those that were declared to filter on, with their types."""

    name: str
    metadata: dict[str, Any]
    datatype: Literal["", "float32", "float16"] = ""
    fields: dict[str, str] = {}

    def made_with(self) -> IndexMetadata:
        """The metadata of the version. Raises IndexMismatchError if they are not this project's."""
        return IndexMetadata.from_json(self.metadata, f"the version {self.name!r}")


class Source(_Model):
    """What was there when the backup began. A backup goes on only if it still is there."""

    location: str
    live: str
    undone: str
    versions: list[BackedUpVersion]
    users: bool

    def is_same(self, other: Source) -> bool:
        """Whether both are the same versions of the same index."""
        unread = {"versions": {"__all__": {"datatype", "fields"}}}
        return self.model_dump(exclude=unread) == other.model_dump(exclude=unread)


class Manifest(_Model):
    """A backup. done: sections that are complete, as `SECTION-VERSION`. left_out: half items."""

    id: str
    created_at: str
    source: Source
    parts: list[Part] = []
    done: list[str] = []
    left_out: int = 0

    def of(self, section: Section, version: int | None = None) -> list[Part]:
        """The parts of a section, in order."""
        return [
            one for one in self.parts if one.section == section and version in (None, one.version)
        ]

    @property
    def live(self) -> int:
        """The position of the live version."""
        names = [one.name for one in self.source.versions]
        return names.index(self.source.live)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for part in self.parts for file in part.files)

    def to_text(self) -> str:
        """The stored form."""
        body = self.model_dump(mode="json")
        stored = {"project": PROJECT, "kind": KIND, "format": FORMAT, "sha256": _sum_of(body)}
        return json.dumps({**stored, KIND: body}, ensure_ascii=False, indent=1)

    @classmethod
    def from_text(cls, text: bytes, path: Path) -> Manifest:
        """Read the stored form. Raises InputError that names the file."""
        damaged = InputError(f"{path} is damaged; take another copy of the backup")
        try:
            stored = json.loads(text)
        except ValueError:
            raise damaged from None
        if not isinstance(stored, dict) or stored.get("project") != PROJECT:
            raise InputError(f"{path} is no backup of {PROJECT}; name the folder of one")
        version = stored.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise InputError(
                f"{path} has format {version}, and this release reads up to {FORMAT}: update "
                f"{PROJECT} to restore it"
            )
        try:
            if version != FORMAT or _sum_of(stored[KIND]) != stored["sha256"]:
                raise damaged
            manifest = cls.model_validate(stored[KIND])
            manifest.live  # noqa: B018 - raises if there is none
        except (ValidationError, KeyError, ValueError, TypeError):
            raise damaged from None
        return manifest


def _sum_of(body: Any) -> str:
    text = json.dumps(body, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
