"""What an audit finds, in numbers: `--json` writes these fields.

A share is between 0 and 1. None: there was nothing to measure it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

MOST_EXAMPLES = 5
SIMILARITY_EDGES = [round(n / 20, 2) for n in range(-4, 21)]
"""The classes of all histograms of similarities."""


@dataclass
class Found:
    """How often something was seen, and the first few in words."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """One more."""
        self.count += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class Histogram:
    """`counts[n]` values lie from `edges[n]` up to `edges[n + 1]`."""

    edges: Sequence[float]
    counts: Sequence[int]

    @classmethod
    def of(cls, values: Sequence[float], edges: Sequence[float]) -> Histogram:
        """Values outside the edges count into the first or last class."""
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=np.asarray(edges))
        return cls(list(edges), [int(one) for one in counts])


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap confidence interval; None where one item gives no interval."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class AspectFigures:
    """aspects.jsonl. `nulls` is the share of tuples that leave a slot empty, by slot.

    `empty` tuples have no slot filled. `repeated` ones give a (user, item) again. `held_out` ones
    belong to interactions of splits.jsonl.
    """

    tuples: int
    users: int
    items: int
    nulls: Mapping[str, float]
    empty: int
    repeated: int
    held_out: int


@dataclass(frozen=True)
class PersonaFigures:
    """personas.jsonl. `per_item` counts items by their number of personas.

    `without` are items of items.jsonl or aspects.jsonl that have no persona. `same_name_items`
    have two personas of one name; `shared_names` are used by more than one item, `top_names` by
    the most.
    """

    items: int
    personas: int
    per_item: Mapping[int, int]
    mean: float | None
    without: Found
    names: int
    same_name_items: Found
    shared_names: int
    top_names: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class EvidenceFigures:
    """Whom personas cite. `cited` counts citations, `held_out` those of held-out interactions.

    `missing` ones name a user who says nothing of that item. `unsupported` personas cite nobody
    though there are aspects of their item (or no aspects.jsonl to tell), `unseen` ones because
    there are none. `coverage` is the mean share of an
    item's aspect tuples that some persona cites, `coverage_of_tuples` the share of all tuples;
    `coverage_of_items` the items by that share. All three are of tuples that are not held out and
    say something, of items with personas.
    """

    cited: int
    held_out: Found
    missing: Found | None
    unsupported: int
    unseen: int
    coverage: float | None
    coverage_of_tuples: float | None
    coverage_of_items: Histogram | None


@dataclass(frozen=True)
class Position:
    """How often the persona at a place in its item's list was chosen, and would be by chance."""

    chosen: int
    expected: float


@dataclass(frozen=True)
class AlignmentFigures:
    """alignments.jsonl. `unknown` ones name a persona that the item does not have.

    Balance and position are of items with two personas or more. `evenness` is the mean over items
    of entropy(choices) / log(personas), of items with two alignments or more; `evenness_uniform`
    what uniform choice gives for as many alignments. `position_p` is how likely uniform choice is
    to be at least as far from what is expected of it (chi-square statistic, simulated).
    """

    alignments: int
    users: int
    items: int
    unjustified: int
    unknown: Found | None
    held_out: Found
    evenness: float | None
    evenness_uniform: float | None
    positions: Sequence[Position]
    position_p: float | None


@dataclass(frozen=True)
class Grounded:
    """A persona beside what it cites; `similarity` is the mean one of its rationale to that."""

    item: str
    name: str
    rationale: str
    cited: Sequence[str]
    similarity: float


@dataclass(frozen=True)
class Alike:
    """Two personas of one item and their cosine similarity."""

    item: str
    names: tuple[str, str]
    descriptions: tuple[str, str]
    similarity: float


@dataclass(frozen=True)
class Distinctness:
    """Cosine similarity of the personas of one item: means over items of mean and maximum.

    `others` is the mean similarity of personas of different items, to compare with.
    """

    items: int
    mean: float
    maximum: float
    others: float | None
    means: Histogram
    maxima: Histogram
    most_alike: Sequence[Alike]


@dataclass(frozen=True)
class Grounding:
    """Mean similarity of a persona's text to the aspects it cites (`cited`) and to as many random
    aspects of other items (`random`); `difference` with an interval over items.
    """

    personas: int
    items: int
    cited: float
    random: float
    difference: Interval
    cited_of_personas: Histogram
    random_of_personas: Histogram


@dataclass(frozen=True)
class Agreement:
    """How often an alignment is the persona nearest to the user's aspects of the item.

    `chance` is the mean of 1 / personas; `difference` is agreement less chance. Items with one
    persona are left out.
    """

    alignments: int
    items: int
    agreement: float
    chance: float
    difference: Interval


@dataclass(frozen=True)
class SimilarityFigures:
    """What needs an encoder, of `items` sampled ones of `of_items`."""

    encoder: str
    items: int
    of_items: int
    seed: int
    distinctness: Distinctness | None
    rationales: Grounding | None
    descriptions: Grounding | None
    best_grounded: Sequence[Grounded]
    worst_grounded: Sequence[Grounded]
    agreement: Agreement | None


@dataclass(frozen=True)
class Audit:
    """All of it; None where the folder does not hold the file, or no encoder was asked for.

    `split_pairs` interactions are held out by splits.jsonl, None where there is no such file.
    """

    folder: str
    split_pairs: int | None
    aspects: AspectFigures | None
    personas: PersonaFigures | None
    evidence: EvidenceFigures | None
    alignments: AlignmentFigures | None
    similarity: SimilarityFigures | None

    @property
    def leaks(self) -> int:
        """Held-out interactions that personas or alignments were made from."""
        evidence = self.evidence.held_out.count if self.evidence else 0
        return evidence + (self.alignments.held_out.count if self.alignments else 0)
