"""Read an order of numbered candidates from a model's answer, whatever stands around it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_ID = r"\[\s*(?:#\s*)?(\d{1,4})\s*\]"
_JOINT = r"\s*(?:>|\u2192|\u203a|,|;|=|\bthen\b)?\s*"
_CHAIN = re.compile(rf"{_ID}(?:{_JOINT}{_ID})+".replace(r"(\d{1,4})", r"\d{1,4}"))
_BARE_CHAIN = re.compile(r"(?<![\d.])\d{1,4}(?:\s*(?:>|\u2192|,)\s*\d{1,4})+(?![\d.])")
_BRACKETED = re.compile(_ID)
_PIECES = re.compile(r">|\u2192|\n")
_NUMBER = re.compile(r"\d{1,4}")
_SIGNS = str.maketrans("\u3010\u3011\u3001", "[],")
"""Brackets and commas of East Asian texts that NFKC leaves as they are."""


@dataclass(frozen=True, slots=True)
class ReadOrder:
    """Places from 0, none twice, of those that were named; `repairs`: what was wrong or missing."""

    places: tuple[int, ...]
    repairs: int


def read_order(answer: str, count: int) -> ReadOrder | None:
    """The order of `count` candidates in an answer such as "[2] > [1] > [3]".

    Of chains of numbers in brackets the one with most candidates counts, of equals the last. The
    first numbers in brackets of each line and of each part between ">" count in its place if they
    name more: so titles may stand beside the numbers, with digits in them. Without brackets, a
    chain of plain numbers counts. None if there is no number of a candidate.

    The candidates that are not named follow in their old order; each is one repair, and so is each
    repeated or unknown number.
    """
    answer = unicodedata.normalize("NFKC", answer).translate(_SIGNS)
    chains = [_BRACKETED.findall(chain[0]) for chain in _CHAIN.finditer(answer)]
    chain = _best(chains, count)
    pieces = [one[1] for part in _PIECES.split(answer) if (one := _BRACKETED.search(part))]
    named = pieces if len(_known(pieces, count)) > len(_known(chain, count)) else chain
    if not _known(named, count):
        named = _best([_NUMBER.findall(one[0]) for one in _BARE_CHAIN.finditer(answer)], count)
    found = _known(named, count)
    if not found:
        return None
    missing = [place for place in range(count) if place not in found]
    wrong = len(named) - len(found)
    return ReadOrder((*found, *missing), wrong + len(missing))


def _best(chains: Sequence[Sequence[str]], count: int) -> Sequence[str]:
    """The chain that names most candidates; of equals, the last one."""
    return max(reversed(chains), key=lambda chain: len(_known(chain, count)), default=())


def _known(named: Sequence[str], count: int) -> dict[int, None]:
    """The places that are named, in order and once each."""
    return dict.fromkeys(int(one) - 1 for one in named if 1 <= int(one) <= count)
