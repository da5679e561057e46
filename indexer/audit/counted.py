"""What can be counted in one pass over each file. Memory holds ids, names, places, no texts."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ALIGNMENTS, ASPECTS, ITEMS, PERSONAS
from indexer.audit.figures import (
    AlignmentFigures,
    AspectFigures,
    EvidenceFigures,
    Found,
    Histogram,
    PersonaFigures,
    Position,
)
from indexer.progress import Progress, track
from p4r_qdrant.records import Alignment, Aspects, Item, ItemPersonas, Persona, clean_text

T = TypeVar("T")

POOL = 1000
"""Aspect tuples of the whole catalogue that grounding is compared with."""
SIMULATIONS = 9999
TENTHS = [round(n / 10, 1) for n in range(11)]
_NAME_LENGTH = 80
_TOP_NAMES = 10


@dataclass
class AspectsRead:
    """Where each tuple lies that is not held out and says something: places[item][user].

    `pool` is a random sample of them, as (item, place).
    """

    figures: AspectFigures
    places: dict[str, dict[str, int]]
    pool: list[tuple[str, int]]


def read_aspects(
    folder: ArtifactFolder,
    held_out: set[tuple[str, str]],
    refusals: Refusals,
    progress: Progress,
    seed: int,
) -> AspectsRead:
    """aspects.jsonl, whatever its slots are."""
    filled: Counter[str] = Counter()
    users: set[str] = set()
    seen: dict[str, set[str]] = {}
    places: dict[str, dict[str, int]] = {}
    pool: list[tuple[str, int]] = []
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    tuples = empty = repeated = held = telling = 0
    lines = read_lines(folder.file(ASPECTS), Aspects, refusals)
    for _, place, one in track(progress, lines, "reading aspects", folder.count_lines(ASPECTS)):
        tuples += 1
        users.add(one.user_id)
        repeated += one.user_id in seen.setdefault(one.item_id, set())
        seen[one.item_id].add(one.user_id)
        filled.update({_label(slot): int(bool(text)) for slot, text in one.aspects.items()})
        if not any(one.aspects.values()):
            empty += 1
        if (one.user_id, one.item_id) in held_out:
            held += 1
        elif any(one.aspects.values()):
            places.setdefault(one.item_id, {})[one.user_id] = place
            telling += 1
            if len(pool) < POOL:
                pool.append((one.item_id, place))
            elif (slot := chance.randrange(telling)) < POOL:
                pool[slot] = (one.item_id, place)
    figures = AspectFigures(
        tuples=tuples,
        users=len(users),
        items=len(seen),
        nulls={slot: 1 - count / tuples for slot, count in filled.items()},
        empty=empty,
        repeated=repeated,
        held_out=held,
    )
    return AspectsRead(figures, places, pool)


def _label(name: str) -> str:
    """A slot's or persona's name, fit to be shown in a line."""
    return " ".join(clean_text(name).split())[:_NAME_LENGTH] or "(no name)"


@dataclass
class PersonasRead:
    """`ids` are each item's persona ids in their order; `places` where its line begins."""

    figures: PersonaFigures
    evidence: EvidenceFigures
    ids: dict[str, list[str]]
    places: dict[str, int]


def read_personas(
    folder: ArtifactFolder,
    held_out: set[tuple[str, str]],
    aspects: AspectsRead | None,
    refusals: Refusals,
    progress: Progress,
) -> PersonasRead:
    """personas.jsonl, beside whom items.jsonl and aspects.jsonl know of."""
    path = folder.file(PERSONAS)
    ids: dict[str, list[str]] = {}
    places: dict[str, int] = {}
    names = _Names()
    evidence = _Evidence(held_out, aspects.places if aspects else None)
    lines = read_lines(path, ItemPersonas, refusals)
    for number, place, one in track(
        progress, lines, "reading personas", folder.count_lines(PERSONAS)
    ):
        if one.item_id in ids:
            refusals.add(
                f"{path}:{number}: item {one.item_id!r} is already in this file; keep one",
                "repeated item",
            )
            continue
        ids[one.item_id] = [persona.persona_id for persona in one.personas]
        places[one.item_id] = place
        names.add(one)
        evidence.add(one)
    per_item = Counter(len(own) for own in ids.values() if own)
    items, personas = per_item.total(), sum(count * n for count, n in per_item.items())
    without = Found()
    for item_id in _known_items(folder, aspects, ids, refusals):
        if not ids.get(item_id):
            without.add(item_id)
    figures = PersonaFigures(
        items=items,
        personas=personas,
        per_item=dict(sorted(per_item.items())),
        mean=personas / items if items else None,
        without=without,
        names=len(names.items),
        same_name_items=names.within,
        shared_names=sum(count > 1 for count in names.items.values()),
        top_names=names.top(),
    )
    return PersonasRead(figures, evidence.figures(), ids, places)


def _known_items(
    folder: ArtifactFolder,
    aspects: AspectsRead | None,
    ids: Mapping[str, Any],
    refusals: Refusals,
) -> dict[str, None]:
    """Every item that some file knows, in the order they come; each once."""
    known: dict[str, None] = {}
    if folder.has(ITEMS):
        lines = read_lines(folder.path / ITEMS, Item, refusals)
        known.update((item.item_id, None) for _, _, item in lines)
    known.update(dict.fromkeys(aspects.places if aspects else ()))
    known.update(dict.fromkeys(ids))
    return known


class _Names:
    """Names as people read them: case and spaces do not tell two apart."""

    def __init__(self) -> None:
        self.items: Counter[str] = Counter()
        self.within = Found()
        self._spelled: dict[str, str] = {}

    def add(self, one: ItemPersonas) -> None:
        own: dict[str, str] = {}
        for persona in one.personas:
            name = _label(persona.name)
            own.setdefault(name.casefold(), name)
        if len(own) < len(one.personas):
            self.within.add(one.item_id)
        self.items.update(own.keys())
        for name, spelled in own.items():
            self._spelled.setdefault(name, spelled)

    def top(self) -> list[tuple[str, int]]:
        """The names of most items; ties by name."""
        most = sorted(self.items.items(), key=lambda one: (-one[1], one[0]))[:_TOP_NAMES]
        return [(self._spelled[name], count) for name, count in most if count > 1]


@dataclass
class _Evidence:
    """Whom the personas cite, against who there is."""

    held_out: set[tuple[str, str]]
    places: Mapping[str, Mapping[str, int]] | None
    unsupported: int = 0
    unseen: int = 0
    cited: int = 0
    leaked: Found = field(default_factory=Found)
    missing: Found = field(default_factory=Found)
    shares: list[float] = field(default_factory=list)
    covered: int = 0
    tuples: int = 0

    def add(self, one: ItemPersonas) -> None:
        own = (self.places or {}).get(one.item_id, {})
        unseen = self.places is not None and not own
        covered = set()
        for persona in one.personas:
            self.unsupported += not persona.evidence and not unseen
            self.unseen += not persona.evidence and unseen
            self.cited += len(persona.evidence)
            covered |= self._check(one.item_id, persona, own)
        if own and one.personas:
            self.shares.append(len(covered) / len(own))
            self.covered += len(covered)
            self.tuples += len(own)

    def _check(self, item_id: str, persona: Persona, own: Mapping[str, int]) -> set[str]:
        """The users that the persona rightly cites."""
        for user_id in persona.evidence:
            if (user_id, item_id) in self.held_out:
                self.leaked.add(f"{persona.persona_id} of {item_id} cites {user_id}")
            elif user_id not in own:
                self.missing.add(f"{persona.persona_id} of {item_id} cites {user_id}")
        return own.keys() & set(persona.evidence)

    def figures(self) -> EvidenceFigures:
        return EvidenceFigures(
            cited=self.cited,
            held_out=self.leaked,
            missing=None if self.places is None else self.missing,
            unsupported=self.unsupported,
            unseen=self.unseen,
            coverage=float(np.mean(self.shares)) if self.shares else None,
            coverage_of_tuples=self.covered / self.tuples if self.tuples else None,
            coverage_of_items=Histogram.of(self.shares, TENTHS) if self.shares else None,
        )


@dataclass
class AlignmentsRead:
    """`sampled` holds (user, place of the persona) of the items that were asked for."""

    figures: AlignmentFigures
    sampled: dict[str, list[tuple[str, int]]]


def read_alignments(
    folder: ArtifactFolder,
    held_out: set[tuple[str, str]],
    personas: PersonasRead | None,
    sample: set[str],
    refusals: Refusals,
    progress: Progress,
    seed: int,
) -> AlignmentsRead:
    """alignments.jsonl; what it chose among is known only where there is a personas.jsonl."""
    users: set[str] = set()
    items: set[str] = set()
    chosen: dict[str, list[int]] = {}
    sampled: dict[str, list[tuple[str, int]]] = {}
    unknown, leaked = Found(), Found()
    alignments = unjustified = 0
    lines = read_lines(folder.file(ALIGNMENTS), Alignment, refusals)
    for _, _, one in track(progress, lines, "reading alignments", folder.count_lines(ALIGNMENTS)):
        alignments += 1
        users.add(one.user_id)
        items.add(one.item_id)
        unjustified += not one.justification
        if (one.user_id, one.item_id) in held_out:
            leaked.add(f"{one.user_id} is aligned with {one.item_id}")
        if personas is None:
            continue
        own = personas.ids.get(one.item_id, [])
        if one.persona_id not in own:
            unknown.add(f"{one.user_id}: {one.item_id} has no persona {one.persona_id}")
            continue
        place = own.index(one.persona_id)
        chosen.setdefault(one.item_id, [0] * len(own))[place] += 1
        if one.item_id in sample:
            sampled.setdefault(one.item_id, []).append((one.user_id, place))
    evenness, uniform = _evenness(chosen.values())
    positions, chance = _positions(chosen.values(), seed)
    figures = AlignmentFigures(
        alignments=alignments,
        users=len(users),
        items=len(items),
        unjustified=unjustified,
        unknown=None if personas is None else unknown,
        held_out=leaked,
        evenness=evenness,
        evenness_uniform=uniform,
        positions=positions,
        position_p=chance,
    )
    return AlignmentsRead(figures, sampled)


def _evenness(chosen: Iterable[Sequence[int]]) -> tuple[float | None, float | None]:
    """Mean entropy ratio over items, and what uniform choice gives. Too few choices: None."""
    told = [(len(counts), sum(counts), counts) for counts in chosen]
    told = [one for one in told if one[0] > 1 and one[1] > 1]
    if not told:
        return None, None
    known: dict[tuple[int, int], float] = {}
    observed, expected = [], []
    for personas, choices, counts in told:
        shares = [count / choices for count in counts if count]
        entropy = -sum(share * math.log(share) for share in shares)
        observed.append(entropy / math.log(personas))
        if (personas, choices) not in known:
            known[personas, choices] = uniform_entropy(personas, choices) / math.log(personas)
        expected.append(known[personas, choices])
    return float(np.mean(observed)), float(np.mean(expected))


def uniform_entropy(options: int, choices: int) -> float:
    """The entropy (in nats) that `choices` uniform choices among `options` show on average.

    Each option is chosen c times with binomial probability and then adds -c/n log(c/n).
    """
    c = np.arange(1, choices + 1)
    log_ways = np.cumsum(np.log((choices - c + 1) / c))
    log_chance = log_ways - c * math.log(options) + (choices - c) * math.log1p(-1 / options)
    share = c / choices
    return float(-options * (np.exp(log_chance) * share * np.log(share)).sum())


def _positions(chosen: Iterable[Sequence[int]], seed: int) -> tuple[list[Position], float | None]:
    """How often each place was chosen, and how likely uniform choice is to stray as far."""
    told = [counts for counts in chosen if len(counts) > 1]
    if not told:
        return [], None
    width = max(map(len, told))
    choices: Counter[int] = Counter()
    observed = np.zeros(width)
    for counts in told:
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
    strays = _chi_square(simulated, expected)
    # Counted with the sum of squares as it is rounded: what is equal must not look smaller.
    as_far = int((strays >= _chi_square(observed, expected) * (1 - 1e-9)).sum())
    positions = [
        Position(int(one), float(other)) for one, other in zip(observed, expected, strict=True)
    ]
    return positions, (1 + as_far) / (1 + SIMULATIONS)


def _chi_square(
    observed: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    squares: npt.NDArray[np.float64] = ((observed - expected) ** 2 / expected).sum(axis=-1)
    return squares
