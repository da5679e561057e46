"""The names of the files in an artifact folder, and which of them hold people's words."""

from __future__ import annotations

from p4r_qdrant.artifact_names import HISTORY

ITEMS = "items.jsonl"
REVIEWS = "reviews.jsonl"
SUMMARIES = "summaries.jsonl"
ASPECTS = "aspects.jsonl"
PERSONAS = "personas.jsonl"
ALIGNMENTS = "alignments.jsonl"
SPLITS = "splits.jsonl"
CANDIDATES = "candidates.jsonl"
ARRIVALS = "arrivals.jsonl"
ERASING = "erasing.json"
ERASURES = "erasures.jsonl"
OUTDATED = "outdated.json"
DERIVED = "derived.json"
TUNED = "tuned.json"
DECISIONS = "decisions.jsonl"
FLAGS = "flags.jsonl"
SEGMENTS = "segments.json"
AUDIENCE = "audience.csv"
FITTING = "fitting"
"""A folder: see `indexer.collaborative.finished`."""

ARTIFACTS = frozenset(
    {ITEMS, REVIEWS, SUMMARIES, ASPECTS, PERSONAS, ALIGNMENTS, SPLITS, CANDIDATES, ARRIVALS}
    | {ERASING, ERASURES, OUTDATED, DERIVED, TUNED, DECISIONS, FLAGS}
    | {SEGMENTS, AUDIENCE, HISTORY}
)
"""All of them."""

_PEOPLES = frozenset(
    {REVIEWS, SUMMARIES, ASPECTS, PERSONAS, ALIGNMENTS, SPLITS, ARRIVALS, ERASING, DECISIONS, FLAGS}
    | {AUDIENCE}
    | {"results.json", "report.html", "controls.jsonl", "judgments.jsonl", "single.jsonl"}
)


def is_private(name: str) -> bool:
    """Whether a file of this name holds people's words, or says who they are."""
    return name.removesuffix(".gz") in _PEOPLES
