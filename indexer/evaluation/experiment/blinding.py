"""Copy the interactions without the test items."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import REVIEWS, SPLITS
from indexer.artifacts.writing import written_whole
from indexer.evaluation.experiment.data import Data
from indexer.evaluation.leaks.poison import marker


class _Line(BaseModel):
    model_config = ConfigDict(extra="allow")


def blinded(data: Data, folder: Path) -> tuple[Path, Path]:
    """Copy reviews.jsonl and splits.jsonl with a marker in place of every test item.

    Returns the paths of both. A generator that reads the copies cannot see a test item.
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
