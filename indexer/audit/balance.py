"""Are the choices among the personas of an item uniform? Entropy, and a test by position."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from indexer.audit.figures import Position

SIMULATIONS = 9999


def evenness(chosen: Iterable[Sequence[int]]) -> tuple[float | None, float | None]:
    """Mean over items of entropy / log(personas): (of the choices, of uniform choice).

    chosen: how often each persona of an item was chosen, for each item. Items with one persona or
    one choice are skipped; (None, None) if no item is left.
    """
    items = [(len(counts), sum(counts), counts) for counts in chosen]
    items = [one for one in items if one[0] > 1 and one[1] > 1]
    if not items:
        return None, None
    known: dict[tuple[int, int], float] = {}
    observed, expected = [], []
    for personas, choices, counts in items:
        shares = [count / choices for count in counts if count]
        entropy = -sum(share * math.log(share) for share in shares)
        observed.append(entropy / math.log(personas))
        if (personas, choices) not in known:
            known[personas, choices] = uniform_entropy(personas, choices) / math.log(personas)
        expected.append(known[personas, choices])
    return float(np.mean(observed)), float(np.mean(expected))


def uniform_entropy(options: int, choices: int) -> float:
    """Expected entropy, in nats, of `choices` uniform choices among `options`.

    An option that is chosen c times, with binomial probability, adds -c/n log(c/n).
    """
    c = np.arange(1, choices + 1)
    log_ways = np.cumsum(np.log((choices - c + 1) / c))
    log_chance = log_ways - c * math.log(options) + (choices - c) * math.log1p(-1 / options)
    share = c / choices
    return float(-options * (np.exp(log_chance) * share * np.log(share)).sum())


def position_bias(
    chosen: Iterable[Sequence[int]], seed: int
) -> tuple[list[Position], float | None]:
    """(choices at each position, p value of uniform choice); ([], None) without a choice.

    The statistic is chi-square, its distribution simulated with `SIMULATIONS` draws.
    """
    items = [counts for counts in chosen if len(counts) > 1]
    if not items:
        return [], None
    width = max(map(len, items))
    choices: Counter[int] = Counter()
    observed = np.zeros(width)
    for counts in items:
        choices[len(counts)] += sum(counts)
        observed[: len(counts)] += counts
    expected = np.zeros(width)
    simulated = np.zeros((SIMULATIONS, width))
    generator = np.random.default_rng(seed)
    for personas, count in sorted(choices.items()):
        expected[:personas] += count / personas
        simulated[:, :personas] += generator.multinomial(
            count, [1 / personas] * personas, SIMULATIONS
        )
    distances = _chi_square(simulated, expected)
    # The tolerance counts equal distances as equal in spite of rounding.
    as_far = int((distances >= _chi_square(observed, expected) * (1 - 1e-9)).sum())
    positions = [
        Position(int(one), float(other)) for one, other in zip(observed, expected, strict=True)
    ]
    return positions, (1 + as_far) / (1 + SIMULATIONS)


def _chi_square(
    observed: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    squares: npt.NDArray[np.float64] = ((observed - expected) ** 2 / expected).sum(axis=-1)
    return squares
