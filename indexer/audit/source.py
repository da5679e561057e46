"""The inputs of an audit that all its readers share."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.progress import Progress


@dataclass(frozen=True)
class Source:
    """A folder and how to read it.

    held_out: the (user, item) pairs of splits.jsonl. seed: decides every random draw.
    """

    folder: ArtifactFolder
    held_out: set[tuple[str, str]]
    refusals: Refusals
    progress: Progress
    seed: int
