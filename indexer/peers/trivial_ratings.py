"""Predictors of ratings that need no LLM."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.metrics import Floats
from indexer.peers.rating_records import RatedPair
from indexer.peers.scale import RatingScale

FOLDS = 5
SHRINK = 5
"""Ratings of a mean user or item that are added to those of each."""


@dataclass(frozen=True)
class Predictor:
    """A named prediction for every test pair: (n,) float64. leaks: it has seen test ratings."""

    name: str
    values: Floats
    leaks: bool = False


class TrivialPredictors:
    """Predictions from printed averages.

    trained: the (user, item) pairs that were trained on, without ratings. What the printed
    averages of users hold beside the test ratings gives the mean of the training ratings.
    """

    def __init__(
        self,
        pairs: Sequence[RatedPair],
        trained: Iterable[tuple[str, str]],
        scale: RatingScale,
        folds: int = FOLDS,
    ) -> None:
        self._pairs = pairs
        self.scale = scale
        self._folds = folds
        self.truth: Floats = np.array([one.rating for one in pairs], dtype=np.float64)
        self._users: Counter[str] = Counter()
        self._items: Counter[str] = Counter()
        for user, item in trained:
            self._users[user] += 1
            self._items[item] += 1
        self.mean = self._training_mean()

    def all(self) -> list[Predictor]:
        """Every predictor, the simplest first."""
        user = np.array([one.user_average for one in self._pairs], dtype=np.float64)
        item = np.array([one.item_average for one in self._pairs], dtype=np.float64)
        both = self.clipped(user + item - self.mean)
        clean = self.mean + self._offsets("user_id", "user_average", self._users)
        clean = clean + self._offsets("item_id", "item_average", self._items)
        averages = np.column_stack([user, item])
        return [
            Predictor(f"constant {self.mean:.1f}", np.full(len(self.truth), self.mean)),
            Predictor("user average as printed", user),
            Predictor("item average as printed", item, leaks=True),
            Predictor("user + item - mean as printed", both, leaks=True),
            Predictor(f"the same, test ratings taken out, shrunk by {SHRINK}", self.clipped(clean)),
            Predictor(
                f"weights of both averages, {self._folds} folds",
                self.clipped(fitted(averages, self.truth, self._folds)),
                leaks=True,
            ),
        ]

    def clipped(self, values: Floats) -> Floats:
        """Values within the scale."""
        kept: Floats = np.clip(values, self.scale.lowest, self.scale.highest)
        return kept

    def _training_mean(self) -> float:
        """The mean of the training ratings: users' sums without their test ratings."""
        averages = {one.user_id: one.user_average for one in self._pairs}
        tested = Counter(one.user_id for one in self._pairs)
        known = {u: a for u, a in averages.items() if a is not None and self._users[u]}
        total = sum(a * (self._users[u] + tested[u]) for u, a in known.items())
        total -= sum(one.rating for one in self._pairs if one.user_id in known)
        count = sum(self._users[u] for u in known)
        return total / count if count else float(self.truth.mean())

    def _offsets(self, who: str, average: str, trained: Counter[str]) -> Floats:
        """How far each user's (or item's) training ratings are from the mean, shrunk: (n,)."""
        key: Callable[[RatedPair], str] = lambda one: str(getattr(one, who))  # noqa: E731
        tested: Counter[str] = Counter(map(key, self._pairs))
        sums: defaultdict[str, float] = defaultdict(float)
        for one in self._pairs:
            sums[key(one)] += one.rating
        offsets = []
        for one in self._pairs:
            name, count = key(one), trained[key(one)]
            printed = getattr(one, average) * (count + tested[name])
            left = printed - sums[name] - self.mean * count
            offsets.append(left / (count + SHRINK))
        return np.array(offsets, dtype=np.float64)


def fold_of_each(count: int, folds: int) -> npt.NDArray[np.int64]:
    """A random fold, from 0, for each of so many pairs: (count,)."""
    fold: npt.NDArray[np.int64] = np.random.default_rng(0).permutation(count) % folds
    return fold


def fitted(inputs: Floats, truth: Floats, folds: int = FOLDS) -> Floats:
    """A linear fit of the truth, (n,), to (n, k) inputs, each fold by the others: (n,)."""
    features = np.column_stack([np.ones(len(inputs)), inputs])
    fold = fold_of_each(len(inputs), folds)
    found = np.zeros(len(inputs))
    for number in range(folds):
        others = fold != number
        weights, *_ = np.linalg.lstsq(features[others], truth[others], rcond=None)
        found[~others] = features[~others] @ weights
    return found


@dataclass(frozen=True)
class RatingError:
    """RMSE and MAE with 95 % bootstrap intervals over pairs."""

    rmse: float
    mae: float
    rmse_interval: tuple[float, float]
    mae_interval: tuple[float, float]


def rating_error(predicted: Floats, truth: Floats, resamples: int = 1000) -> RatingError:
    """The error over all pairs."""
    squares, absolutes = (predicted - truth) ** 2, np.abs(predicted - truth)
    drawn = np.random.default_rng(0).integers(0, len(truth), (resamples, len(truth)))
    rmses, maes = np.sqrt(squares[drawn].mean(axis=1)), absolutes[drawn].mean(axis=1)
    return RatingError(
        float(np.sqrt(squares.mean())),
        float(absolutes.mean()),
        _interval(rmses),
        _interval(maes),
    )


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
