"""What an experiment works on, and the copy of it in which no test item is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import Lookup
from indexer.artifacts.names import ASPECTS, ITEMS, PERSONAS, REVIEWS, SPLITS, SUMMARIES
from indexer.artifacts.writing import written_whole
from indexer.evaluation.interactions import Interactions, read_interactions
from indexer.evaluation.leaks import marker
from indexer.evaluation.truth import Truth, read_truth
from p4r_qdrant.records import ItemPersonas, Summary
from p4r_qdrant.texts import persona_text

_READ = (REVIEWS, SPLITS, ITEMS, SUMMARIES, ASPECTS, PERSONAS)


@dataclass(frozen=True)
class Data:
    """A catalogue and its split. `users` are those of the split, in its order."""

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
        folder.file(PERSONAS)
        test = read_truth(splits, refusals)
        valid = read_truth(splits, Refusals(), "valid")
        training = read_interactions(folder.file(REVIEWS), test.held_out, refusals)
        return cls(folder, test, valid, training, list(test.items))

    def wanted(self, on: str) -> list[str | None]:
        """The held-out item of each of `users`."""
        items = (self.test if on == "test" else self.valid).items
        return [items.get(user) for user in self.users]

    def hash(self) -> str:
        """A hash of all files that are read."""
        return files_hash(self.folder.path / name for name in _READ)


def files_hash(paths: Any) -> str:
    """A hash of files, in this order; one that is not there counts as empty."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(b"\x00")
    return digest.hexdigest()[:16]


class _Line(BaseModel):
    model_config = ConfigDict(extra="allow")


def blinded(data: Data, folder: Path) -> tuple[Path, Path]:
    """Copies of reviews.jsonl and splits.jsonl with a marker in place of every test item.

    What is made from these cannot have seen a test item, for there is none in them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reviews, splits = folder / REVIEWS, folder / SPLITS
    test = data.test.items
    with written_whole(reviews) as write:
        for _, _, line in read_lines(data.folder.file(REVIEWS), _Line, Refusals()):
            row = line.model_extra or {}
            user, item = str(row.get("user_id")), str(row.get("item_id"))
            if test.get(user) == item:
                word = marker(user, item)
                row |= {"item_id": word, "title": word, "text": word}
            write(json.dumps(row, ensure_ascii=False))
    with written_whole(splits) as write:
        for user, item in test.items():
            row = {
                "user_id": user,
                "test_item": marker(user, item),
                "valid_item": data.valid.items.get(user),
            }
            write(json.dumps(row, ensure_ascii=False))
    return reviews, splits


def persona_texts(personas: Path, summaries: Lookup[Summary]) -> list[tuple[str, list[str]]]:
    """Each item's persona texts, as the index encodes them (Eq. 8); repeated items once."""
    found: dict[str, list[str]] = {}
    for _, _, record in read_lines(personas, ItemPersonas, Refusals()):
        summary = summaries.get(record.item_id)
        text = summary.summary if summary else ""
        found.setdefault(record.item_id, [persona_text(one, text) for one in record.personas])
    return list(found.items())


def summary_texts(summaries: Path) -> list[tuple[str, list[str]]]:
    """Each item's summary alone."""
    if not summaries.is_file():
        return []
    found: dict[str, list[str]] = {}
    for _, _, record in read_lines(summaries, Summary, Refusals()):
        found.setdefault(record.item_id, [record.summary])
    return list(found.items())
