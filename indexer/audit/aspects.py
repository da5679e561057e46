"""Read aspects.jsonl of an audit: how full its slots are, and where each tuple is."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from indexer.artifacts.lines import read_lines
from indexer.artifacts.names import ASPECTS
from indexer.audit.figures import AspectFigures
from indexer.audit.formats import label
from indexer.audit.source import Source
from indexer.progress import track
from p4r_qdrant.records import Aspects

POOL = 1000
"""Number of random aspect tuples of the catalogue that grounding compares with."""


@dataclass
class AspectsRead:
    """What an audit knows of aspects.jsonl, without the texts.

    offsets: the byte offset of each tuple by item and user; tuples that are held out or have no
    content are skipped. pool: (item, byte offset) of a random sample of these tuples.
    """

    figures: AspectFigures
    offsets: dict[str, dict[str, int]]
    pool: list[tuple[str, int]]


def read_aspects(source: Source) -> AspectsRead:
    """Read aspects.jsonl, with any slots."""
    filled: Counter[str] = Counter()
    users: set[str] = set()
    seen: dict[str, set[str]] = {}
    offsets: dict[str, dict[str, int]] = {}
    pool: list[tuple[str, int]] = []
    chance = random.Random(source.seed)  # noqa: S311 - a sample, not a secret
    tuples = empty = repeated = held_out = known = 0
    lines = read_lines(source.folder.file(ASPECTS), Aspects, source.refusals)
    total = source.folder.estimated_lines(ASPECTS)
    for _, offset, one in track(source.progress, lines, "reading aspects", total):
        tuples += 1
        users.add(one.user_id)
        repeated += one.user_id in seen.setdefault(one.item_id, set())
        seen[one.item_id].add(one.user_id)
        filled.update({label(slot): int(bool(text)) for slot, text in one.aspects.items()})
        if not any(one.aspects.values()):
            empty += 1
        if (one.user_id, one.item_id) in source.held_out:
            held_out += 1
        elif any(one.aspects.values()):
            offsets.setdefault(one.item_id, {})[one.user_id] = offset
            known += 1
            if len(pool) < POOL:
                pool.append((one.item_id, offset))
            elif (drawn := chance.randrange(known)) < POOL:
                pool[drawn] = (one.item_id, offset)
    figures = AspectFigures(
        tuples=tuples,
        users=len(users),
        items=len(seen),
        nulls={slot: 1 - count / tuples for slot, count in filled.items()},
        empty=empty,
        repeated=repeated,
        held_out=held_out,
    )
    return AspectsRead(figures, offsets, pool)
