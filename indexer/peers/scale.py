"""A rating scale as digits of one token each, and the expected rating of their distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_DIGITS = 10


@dataclass(frozen=True, slots=True)
class RatingScale:
    """Ratings from `lowest` to `highest`, each named by one digit.

    1 to 5 keep their names. A scale that needs more than one digit, such as 1 to 10, is mapped on
    0 to 9 (Source: EXP3RT, arXiv 2408.06276).
    """

    lowest: float
    highest: float

    @property
    def _is_plain(self) -> bool:
        whole = self.lowest == int(self.lowest) and self.highest == int(self.highest)
        return whole and self.lowest >= 0 and self.highest < _DIGITS

    @property
    def digits(self) -> tuple[str, ...]:
        """The digits of the scale, lowest first."""
        if self._is_plain:
            return tuple(str(one) for one in range(int(self.lowest), int(self.highest) + 1))
        return tuple(str(one) for one in range(_DIGITS))

    def rating(self, digit: str) -> float:
        """The rating that a digit stands for."""
        if self._is_plain:
            return float(digit)
        return self.lowest + int(digit) * (self.highest - self.lowest) / (_DIGITS - 1)

    def digit(self, rating: float) -> str:
        """The digit of the nearest rating of the scale."""
        return min(self.digits, key=lambda one: abs(self.rating(one) - rating))

    def shown(self, rating: float) -> str:
        """A rating in the form of the digits, for a prompt."""
        if self._is_plain:
            return f"{rating:.1f}"
        share = (rating - self.lowest) / (self.highest - self.lowest)
        return f"{share * (_DIGITS - 1):.1f}"

    def expected(self, logprobs: Mapping[str, float]) -> float:
        """The mean rating by the digits' probabilities, scaled to the sum 1.

        Digits without a log-probability count as 0. `logprobs` must hold at least one.
        """
        highest = max(logprobs.values())
        weights = {digit: math.exp(one - highest) for digit, one in logprobs.items()}
        total = sum(weights.values())
        return sum(self.rating(digit) * weight for digit, weight in weights.items()) / total
