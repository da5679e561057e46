"""The names of the files in an artifact folder."""

from __future__ import annotations

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
