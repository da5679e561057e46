"""What an encoder tells of sampled items: are personas distinct, are they grounded, do alignments
agree with the nearest persona. Items are encoded in blocks; what is kept of them is numbers.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import BinaryIO

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, parse_line
from indexer.artifacts.names import ASPECTS, PERSONAS
from indexer.audit.counted import AlignmentsRead, AspectsRead, PersonasRead, T
from indexer.audit.figures import (
    Agreement,
    Alike,
    Distinctness,
    Grounded,
    Grounding,
    Histogram,
    Interval,
    SimilarityFigures,
)
from indexer.progress import Progress, track
from indexer.reasoning.nearest import Case, Remembering, aspects_text, nearest_personas
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import Aspects, ItemPersonas, Persona
from p4r_qdrant.texts import persona_text, plain_rationale

MOST_CITED = 10
"""Citations of one persona, and alignments of one item, that are looked at."""
RESAMPLES = 2000
_BLOCK = 16
_EXAMPLES = 3
_CITED_EXAMPLES = 3
_EDGES = [round(n / 20, 2) for n in range(-4, 21)]


@dataclass(frozen=True)
class _Item:
    """One sampled item with all that is compared of it.

    `cited` are the aspect texts each persona cites; `aligned` the users' aspects, each with the
    place of the persona they were aligned with.
    """

    item_id: str
    title: str
    personas: Sequence[Persona]
    cited: Sequence[Sequence[str]]
    aligned: Sequence[tuple[Mapping[str, str | None], int]]


def measure(
    folder: ArtifactFolder,
    encoder: Encoder,
    item_ids: Sequence[str],
    personas: PersonasRead,
    aspects: AspectsRead | None,
    alignments: AlignmentsRead | None,
    progress: Progress,
    seed: int,
) -> SimilarityFigures:
    """The figures of these items, which have personas."""
    remembering = Remembering(encoder)
    distinct = _Distinct(encoder.dimension)
    grounded = _Grounded()
    agreed: list[list[tuple[float, float]]] = []
    with _Reader(folder, personas, aspects, alignments, seed) as reader:
        pool = _Pool(reader.pool(), remembering, seed)
        tracked = track(progress, item_ids, "encoding items", len(item_ids))
        items = (reader.item(one) for one in tracked)
        for block in _blocks(items, _BLOCK):
            remembering.encode_texts([text for item in block for text in _texts(item)])
            for item in block:
                distinct.add(item, remembering)
                grounded.add(item, remembering, pool)
                agreed.append(_agreement(item, remembering))
    return SimilarityFigures(
        encoder=encoder.name,
        items=len(item_ids),
        of_items=personas.figures.items,
        seed=seed,
        distinctness=distinct.figures(),
        rationales=_grounding(grounded.rationales, seed),
        descriptions=_grounding(grounded.descriptions, seed),
        best_grounded=grounded.best,
        worst_grounded=grounded.worst,
        agreement=_agreements([one for one in agreed if one], seed),
    )


def _texts(item: _Item) -> Iterator[str]:
    """What an item takes, so that a block is encoded as one batch."""
    for persona, cited in zip(item.personas, item.cited, strict=True):
        yield persona_text(persona)
        if cited:
            yield from (plain_rationale(persona.preference_rationale), persona.description, *cited)
    yield from (aspects_text(aspects) for aspects, _ in item.aligned)


def _blocks(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while block := list(islice(items, size)):
        yield block


class _Reader(ExitStack):
    """Reads sampled items again from their places; a context manager."""

    def __init__(
        self,
        folder: ArtifactFolder,
        personas: PersonasRead,
        aspects: AspectsRead | None,
        alignments: AlignmentsRead | None,
        seed: int,
    ) -> None:
        super().__init__()
        self._personas = personas
        self._aspects = aspects
        self._alignments = alignments
        self._seed = seed
        self._personas_file = self.enter_context(folder.file(PERSONAS).open("rb"))
        self._aspects_file: BinaryIO | None = None
        if aspects is not None:
            self._aspects_file = self.enter_context(folder.file(ASPECTS).open("rb"))
        self._items = self.enter_context(folder.items(Refusals()))

    def item(self, item_id: str) -> _Item:
        self._personas_file.seek(self._personas.places[item_id])
        line = self._personas_file.readline()
        personas = parse_line(line, ItemPersonas, PERSONAS).personas
        own = self._aspects.places.get(item_id, {}) if self._aspects else {}
        chance = random.Random(f"{self._seed}\x00{item_id}")  # noqa: S311 - a sample
        cited = [
            [
                aspects_text(self._read(own[user]))
                for user in _some(
                    [user for user in dict.fromkeys(persona.evidence) if user in own], chance
                )
            ]
            for persona in personas
        ]
        sampled = self._alignments.sampled.get(item_id, []) if self._alignments else []
        known = [(user, place) for user, place in sampled if user in own and len(personas) > 1]
        item = self._items.get(item_id)
        return _Item(
            item_id=item_id,
            title=(plain_text(item.title) if item else "") or item_id,
            personas=personas,
            cited=cited,
            aligned=[(self._read(own[user]), place) for user, place in _some(known, chance)],
        )

    def pool(self) -> list[tuple[str, str]]:
        """(item, aspects) at random from the whole catalogue."""
        pool = self._aspects.pool if self._aspects else []
        return [(item_id, aspects_text(self._read(place))) for item_id, place in pool]

    def _read(self, place: int) -> Mapping[str, str | None]:
        assert self._aspects_file is not None  # noqa: S101 - it has places
        self._aspects_file.seek(place)
        return parse_line(self._aspects_file.readline(), Aspects, ASPECTS).aspects


def _some(values: list[T], chance: random.Random) -> list[T]:
    return values if len(values) <= MOST_CITED else chance.sample(values, MOST_CITED)


class _Distinct:
    """How alike an item's personas are, and how alike those of different items."""

    def __init__(self, dimension: int) -> None:
        self._means: list[float] = []
        self._maxima: list[float] = []
        self._most: list[Alike] = []
        self._sum = np.zeros(dimension)
        self._squares = 0.0
        self._count = 0
        self._count_squares = 0

    def add(self, item: _Item, encoder: Encoder) -> None:
        vectors = encoder.encode_texts([persona_text(one) for one in item.personas])
        vectors = vectors.astype(np.float64)
        total = vectors.sum(axis=0)
        self._sum += total
        self._squares += float(total @ total)
        self._count += len(vectors)
        self._count_squares += len(vectors) ** 2
        pairs = list(combinations(range(len(vectors)), 2))
        if not pairs:
            return
        alike = [float(vectors[one] @ vectors[other]) for one, other in pairs]
        self._means.append(float(np.mean(alike)))
        self._maxima.append(max(alike))
        one, other = (item.personas[place] for place in pairs[int(np.argmax(alike))])
        pair = Alike(
            item.title,
            (one.name, other.name),
            (one.description, other.description),
            max(alike),
        )
        self._most = heapq.nlargest(_EXAMPLES, [*self._most, pair], key=lambda two: two.similarity)

    def figures(self) -> Distinctness | None:
        if not self._means:
            return None
        # The sum over all pairs is the squared length of the sum of all; less those of one item.
        pairs = self._count**2 - self._count_squares
        others = (float(self._sum @ self._sum) - self._squares) / pairs if pairs else None
        return Distinctness(
            items=len(self._means),
            mean=float(np.mean(self._means)),
            maximum=float(np.mean(self._maxima)),
            others=others,
            means=Histogram.of(self._means, _EDGES),
            maxima=Histogram.of(self._maxima, _EDGES),
            most_alike=self._most,
        )


class _Pool:
    """Random aspects of the catalogue, encoded once."""

    def __init__(self, pool: Sequence[tuple[str, str]], encoder: Encoder, seed: int) -> None:
        self._items = [item_id for item_id, _ in pool]
        self._vectors = encoder.encode_texts([text for _, text in pool])
        self._seed = seed

    def others(self, item_id: str, persona_id: str, count: int) -> Floats:
        """(count, dim) vectors of other items' aspects; fewer where there are no more."""
        rows = [row for row, item in enumerate(self._items) if item != item_id]
        chance = random.Random(f"{self._seed}\x00{item_id}\x00{persona_id}")  # noqa: S311
        return self._vectors[chance.sample(rows, min(count, len(rows)))]


@dataclass
class _Grounded:
    """(to what is cited, to random aspects) of each persona, by item; rationale, description."""

    rationales: list[list[tuple[float, float]]] = field(default_factory=list)
    descriptions: list[list[tuple[float, float]]] = field(default_factory=list)
    best: list[Grounded] = field(default_factory=list)
    worst: list[Grounded] = field(default_factory=list)

    def add(self, item: _Item, encoder: Encoder, pool: _Pool) -> None:
        told: list[tuple[list[float], list[float]]] = []
        for persona, cited in zip(item.personas, item.cited, strict=True):
            if not cited:
                continue
            texts = encoder.encode_texts(
                [plain_rationale(persona.preference_rationale), persona.description, *cited]
            )
            own, there = texts[:2], texts[2:]
            near = (own @ there.T).mean(axis=1).tolist()
            self._example(item, persona, cited, near[0])
            random_ones = pool.others(item.item_id, persona.persona_id, len(cited))
            if len(random_ones):
                told.append((near, (own @ random_ones.T).mean(axis=1).tolist()))
        if told:
            self.rationales.append([(near[0], far[0]) for near, far in told])
            self.descriptions.append([(near[1], far[1]) for near, far in told])

    def _example(
        self, item: _Item, persona: Persona, cited: Sequence[str], similarity: float
    ) -> None:
        one = Grounded(
            item.title,
            persona.name,
            plain_rationale(persona.preference_rationale),
            cited[:_CITED_EXAMPLES],
            similarity,
        )
        self.best = heapq.nlargest(_EXAMPLES, [*self.best, one], key=lambda it: it.similarity)
        self.worst = heapq.nsmallest(_EXAMPLES, [*self.worst, one], key=lambda it: it.similarity)


def _grounding(items: Sequence[Sequence[tuple[float, float]]], seed: int) -> Grounding | None:
    told = [one for item in items for one in item]
    if not told:
        return None
    near, far = zip(*told, strict=True)
    return Grounding(
        personas=len(told),
        items=len(items),
        cited=float(np.mean(near)),
        random=float(np.mean(far)),
        difference=interval([[one - other for one, other in item] for item in items], seed),
        cited_of_personas=Histogram.of(near, _EDGES),
        random_of_personas=Histogram.of(far, _EDGES),
    )


def _agreement(item: _Item, encoder: Encoder) -> list[tuple[float, float]]:
    """(1 where it is the nearest, 1 / personas) for each alignment."""
    cases = [Case(aspects, item.personas) for aspects, _ in item.aligned]
    nearest = nearest_personas(encoder, cases)
    return [
        (float(one.place == place), 1 / len(item.personas))
        for one, (_, place) in zip(nearest, item.aligned, strict=True)
    ]


def _agreements(items: Sequence[Sequence[tuple[float, float]]], seed: int) -> Agreement | None:
    told = [one for item in items for one in item]
    if not told:
        return None
    agreed, chance = zip(*told, strict=True)
    return Agreement(
        alignments=len(told),
        items=len(items),
        agreement=float(np.mean(agreed)),
        chance=float(np.mean(chance)),
        difference=interval([[one - other for one, other in item] for item in items], seed),
    )


def interval(items: Iterable[Sequence[float]], seed: int) -> Interval:
    """The mean of all values, with the bootstrap interval of drawing whole items anew.

    The values of one item go together: they are no independent witnesses.
    """
    told = list(items)
    sums = np.array([sum(values) for values in told])
    counts = np.array([len(values) for values in told])
    mean = float(sums.sum() / counts.sum())
    if len(told) < 2:
        return Interval(mean, None, None)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(told), size=len(told))
        means.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
