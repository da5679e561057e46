"""The figures of an audit; `--json` writes these fields.

Shares lie between 0 and 1. None: there was nothing to measure.
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
    """How often a defect occurs, with the first few examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more occurrence."""
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
    """A mean with its 95% bootstrap interval; low and high are None for a single item."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class AspectFigures:
    """Figures of aspects.jsonl.

    nulls: share of tuples without a slot, by slot. empty: tuples without any content. repeated:
    tuples whose (user, item) pair occurred before. held_out: tuples of interactions that
    splits.jsonl holds out.
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
    """Figures of personas.jsonl.

    extractive: personas that quote reviews.
    per_item: number of items by number of personas. mean: personas per item. without: items of
    items.jsonl or aspects.jsonl without personas. names: different names. same_name_items: items
    with two personas of the same name. shared_names: names that several items use. top_names:
    (name, number of items) of the most used ones.
    """

    items: int
    personas: int
    extractive: int
    per_item: Mapping[int, int]
    mean: float | None
    without: Found
    names: int
    same_name_items: Found
    shared_names: int
    top_names: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class EvidenceFigures:
    """Figures of the users that personas cite.

    cited: citations. held_out: citations of held-out interactions. missing: citations of users
    without aspects for the item. unsupported: personas without a citation although their item has
    aspects (or aspects.jsonl is missing). unseen: personas without a citation whose item has no
    aspects. coverage: share of an item's aspect tuples that at least one persona cites, mean over
    items. coverage_of_tuples: the same share over all tuples. coverage_of_items: items by that
    share. The three coverages skip held-out tuples, tuples without content and items without
    personas.
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
    """How often the personas at one position of their lists are chosen, and the expected count."""

    chosen: int
    expected: float


@dataclass(frozen=True)
class AlignmentFigures:
    """Figures of alignments.jsonl.

    unjustified: alignments without a justification. unknown: alignments to a persona that the item
    does not have. held_out: alignments of held-out interactions. evenness: mean over items of
    entropy(choices) / log(personas), for items with two personas and two alignments or more.
    evenness_uniform: its expected value under uniform choice. positions: choices at each position
    of the lists of items with two personas or more. position_p: p value of uniform choice
    (chi-square statistic, simulated).
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
    """A persona with its evidence; `similarity` is the mean of its rationale to the evidence."""

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
    """Cosine similarities of the personas of one item.

    mean, maximum: means over items of the mean and the highest similarity of two personas. others:
    mean similarity of personas of different items. means, maxima: items by both.
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
    """Mean similarity of a text of personas to their evidence.

    cited: to the aspects that the persona cites. random: to as many random aspects of other items.
    difference: cited less random, with an interval over items.
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
    """How often an alignment chooses the persona nearest to the user's aspects of the item.

    chance: mean of 1 / personas. difference: agreement less chance. Items with one persona are
    skipped.
    """

    alignments: int
    items: int
    agreement: float
    chance: float
    difference: Interval


@dataclass(frozen=True)
class SimilarityFigures:
    """Figures that need an encoder, from `items` sampled items of `of_items` with personas.

    too_long: sentences on texts that the encoder cannot read whole.
    """

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
    too_long: Sequence[str] = ()


@dataclass(frozen=True)
class Audit:
    """All figures; None for missing files, and for `similarity` without an encoder.

    split_pairs: number of interactions that splits.jsonl holds out; None without that file.
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
        """Number of held-out interactions that personas or alignments are made from."""
        evidence = self.evidence.held_out.count if self.evidence else 0
        return evidence + (self.alignments.held_out.count if self.alignments else 0)
