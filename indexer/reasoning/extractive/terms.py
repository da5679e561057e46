"""Names of groups of sentences by their most telling terms: class-based TF-IDF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

MOST_TERMS = 200_000
"""Terms of the catalogue whose weights are kept, the most frequent ones."""
TERMS_OF_A_NAME = 3
_TERM = r"(?<![\w'\u2019])[^\W\d_]{3,}(?![\w'\u2019])"
"""Three letters or more, and no part of a contraction."""
LONGEST_NAME = 60
"""Characters of a sentence that names a group."""


class Terms:
    """The weights of the catalogue's terms, learned from its `texts`.

    A group of sentences counts as one text, a class. A term is telling if the group uses it often,
    the catalogue's texts rarely, and the other groups of the item less.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts = CountVectorizer(
            stop_words="english",
            token_pattern=_TERM,
            max_features=MOST_TERMS,
        )
        self._weights = TfidfTransformer(norm=None)
        try:
            self._weights.fit(self._counts.fit_transform(texts))
        except ValueError:  # no text, or stop words alone
            self._terms: list[str] = []
        else:
            self._terms = self._counts.get_feature_names_out().tolist()

    def names(self, groups: Sequence[Sequence[str]]) -> list[str]:
        """A name for each group of an item's sentences, no two alike.

        Where the catalogue has no terms, they are learned from the item. A group without a telling
        term is named by the beginning of its first sentence.
        """
        known = self if self._terms else Terms(chain.from_iterable(groups))
        names: list[str] = []
        for own, terms in zip(groups, known._telling(groups), strict=True):
            first = ", ".join(one.capitalize() for one in terms) or own[0][:LONGEST_NAME].strip()
            same = [first, *(f"{first} {number}" for number in range(2, len(groups) + 1))]
            names.append(next(one for one in same if one not in names))
        return names

    def _telling(self, groups: Sequence[Sequence[str]]) -> Iterator[list[str]]:
        """The most telling terms of each group, at most `TERMS_OF_A_NAME`."""
        if not self._terms:
            yield from ([] for _ in groups)
            return
        counts = self._counts.transform(" ".join(own) for own in groups)
        everywhere = np.asarray(counts.sum(axis=0)).ravel()
        weights = self._weights.transform(counts.astype(np.float64))
        for row in range(len(groups)):
            start, end = weights.indptr[row : row + 2]
            columns = weights.indices[start:end]
            share = counts.data[start:end] / everywhere[columns]
            telling = weights.data[start:end] * share
            order = np.lexsort((columns, -telling))  # of equally telling terms, the first by letter
            yield _different(self._terms[column] for column in columns[order])


def _different(terms: Iterable[str]) -> list[str]:
    """The first terms of which none begins as another one: no "string" beside "strings"."""
    chosen: list[str] = []
    for term in terms:
        if not any(term.startswith(one) or one.startswith(term) for one in chosen):
            chosen.append(term)
        if len(chosen) == TERMS_OF_A_NAME:
            break
    return chosen
