"""Calls of several contenders, timed on the same questions in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.synthetic import DIMENSION
from p4r_qdrant.arrays import Floats

ROUNDS = 8

Contender = Callable[[Floats, list[list[str]]], Any]
"""Answers users, (n_users, dim) float32, with the candidates of each."""


@dataclass
class Timing:
    """Milliseconds of one contender's calls."""

    median: float
    p99: float


def measure(
    contenders: dict[str, Contender],
    items: int,
    candidates: int,
    users: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time all contenders on the same random questions, a block of calls each in turn.

    In blocks, for that is how traffic comes; in turn, for what else the machine does meets all.
    clock: gives seconds.
    """
    random = np.random.default_rng(candidates * 1000 + users)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    block = max(1, repeats // ROUNDS)
    for _ in range(ROUNDS):
        vectors = random.standard_normal((block, users, DIMENSION), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        asked = [
            [
                [f"item-{one}" for one in random.choice(items, candidates, replace=False)]
                for _ in range(users)
            ]
            for _ in range(block)
        ]
        for name, contender in contenders.items():
            contender(vectors[0], asked[0])  # warm
            for one, item_ids in zip(vectors, asked, strict=True):
                started = clock()
                contender(one, item_ids)
                times[name].append((clock() - started) * 1e3)
    return {
        name: Timing(float(np.median(each)), float(np.quantile(each, 0.99)))
        for name, each in times.items()
    }
