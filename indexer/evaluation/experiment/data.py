"""The catalogue, the split and the texts of an experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import Lookup
from indexer.artifacts.names import ASPECTS, ITEMS, PERSONAS, REVIEWS, SPLITS, SUMMARIES
from indexer.evaluation.interactions import Interactions, read_interactions
from indexer.evaluation.truth import On, Truth, read_truth
from p4r_qdrant import texts
from p4r_qdrant.records import ItemPersonas, Summary

_READ = (REVIEWS, SPLITS, ITEMS, SUMMARIES, ASPECTS, PERSONAS)


ItemTexts = list[tuple[str, list[str]]]
"""Ids of items, each with its texts."""


@dataclass(frozen=True)
class Data:
    """A catalogue and its split. users: those of the split, in its order."""

    folder: ArtifactFolder
    test: Truth
    valid: Truth
    training: Interactions
    users: list[str]

    @classmethod
    def read(cls, path: Path, refusals: Refusals) -> Data:
        """Read the splits and the training interactions of a folder."""
        folder = ArtifactFolder(path)
        splits = folder.file(SPLITS)
        folder.personas()
        test = read_truth(splits, refusals)
        valid = read_truth(splits, Refusals(), "valid")
        training = read_interactions(folder.file(REVIEWS), test.held_out, refusals)
        return cls(folder, test, valid, training, list(test.items))

    def wanted(self, on: On) -> list[str | None]:
        """The held-out item of each of `users`."""
        items = (self.test if on == "test" else self.valid).items
        return [items.get(user) for user in self.users]

    def hash(self) -> str:
        """A hash of all files that an experiment reads."""
        return files_hash(self.folder.at(name) for name in _READ)


def files_hash(paths: Iterable[Path]) -> str:
    """A hash of files in this order; a missing file counts as an empty one."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(b"\x00")
    return digest.hexdigest()[:16]


def persona_texts(personas: Path, summaries: Lookup[Summary]) -> ItemTexts:
    """Each item's persona texts, as the index encodes them (Eq. 8); repeated items once."""
    found: dict[str, list[str]] = {}
    for _, _, record in read_lines(personas, ItemPersonas, Refusals()):
        summary = summaries.get(record.item_id)
        text = summary.summary if summary else ""
        found.setdefault(record.item_id, texts.persona_texts(record.personas, text))
    return list(found.items())


def summary_texts(summaries: Path) -> ItemTexts:
    """Each item's summary alone."""
    if not summaries.is_file():
        return []
    found: dict[str, list[str]] = {}
    for _, _, record in read_lines(summaries, Summary, Refusals()):
        found.setdefault(record.item_id, [record.summary])
    return list(found.items())
