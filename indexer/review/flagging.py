"""Find what is suspicious about each persona, as the audit measures it on a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import combinations
from statistics import fmean

import numpy as np
import py3langid

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, as_line
from indexer.artifacts.names import ASPECTS, FLAGS
from indexer.artifacts.outdated import persona_digest
from indexer.artifacts.writing import written_whole
from indexer.audit.aspects import AspectsRead, read_aspects
from indexer.audit.grounding import RandomAspects
from indexer.audit.personas import read_personas
from indexer.audit.sampled_item import ItemReader, SampledItem, texts_of
from indexer.audit.source import Source
from indexer.progress import SILENT, Progress, track
from indexer.reasoning.nearest import Remembering
from indexer.reasoning.sanitizing import suspicion
from indexer.review.flags import COMPLAINT, FOREIGN, INJECTION, TWIN, UNGROUNDED, FlagRecord
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.records import Persona
from p4r_qdrant.texts import persona_text, plain_rationale

ALIKE = 0.95
"""Cosine similarity from which two personas of an item are near twins."""
SURE = 5.0
"""Difference of log-probabilities from which a text is in another language than the others."""
SCALES = (5.0, 10.0, 100.0)
BLOCK = 16


def flag(
    folder: ArtifactFolder,
    encoder: Encoder | None,
    refusals: Refusals,
    progress: Progress = SILENT,
) -> Counter[str]:
    """Write flags.jsonl, all of it or nothing; returns the number of personas by flag.

    encoder: None leaves out grounding and twins.
    Raises InputError if there are no personas, or if a file cannot be read or written.
    """
    source = Source(folder, folder.held_out(), refusals, progress, seed=0)
    folder.personas()
    aspects = read_aspects(source) if folder.has(ASPECTS) else None
    personas = read_personas(source, aspects)
    counts: Counter[str] = Counter()
    with ExitStack() as files:
        reader = files.enter_context(ItemReader(source, personas, aspects, None))
        write = files.enter_context(written_whole(folder.path / FLAGS))
        flagger = _Flagger(reader, aspects, encoder, _main_language(reader, personas.ids))
        tracked = track(progress, personas.ids, "looking for flags", len(personas.ids))
        for record in flagger.records(reader.item(one) for one in tracked):
            counts.update(record.flags.keys())
            write(as_line(record))
    return counts


class _Flagger:
    """Finds the flags of items, block by block."""

    def __init__(
        self,
        reader: ItemReader,
        aspects: AspectsRead | None,
        encoder: Encoder | None,
        language: str,
    ) -> None:
        self._language = language
        self._best = next(one for one in SCALES if one >= min(reader.best_rating(), SCALES[-1]))
        self._encoder = Remembering(encoder) if encoder is not None else None
        self._pool = None
        if self._encoder is not None and aspects is not None and aspects.pool:
            self._pool = RandomAspects(reader.pool(), self._encoder, seed=0)

    def records(self, items: Iterator[SampledItem]) -> Iterator[FlagRecord]:
        """The personas that have flags, in the order of the file."""
        while block := [item for _, item in zip(range(BLOCK), items, strict=False)]:
            if self._encoder is not None:
                self._encoder.encode_texts([text for item in block for text in texts_of(item)])
            for item in block:
                twins = self._twins(item)
                for position, persona in enumerate(item.personas):
                    flags = dict(self._flags(item, position, persona))
                    if position in twins:
                        flags[TWIN] = twins[position]
                    if flags:
                        yield FlagRecord(
                            item_id=item.item_id,
                            persona_id=persona.persona_id,
                            digest=persona_digest(persona),
                            flags=flags,
                        )

    def _flags(
        self, item: SampledItem, position: int, persona: Persona
    ) -> Iterator[tuple[str, str]]:
        for text in (persona.name, persona.description, persona.preference_rationale):
            if problem := suspicion(text):
                yield INJECTION, problem
        ratings = item.ratings[position]
        if ratings and fmean(ratings) < (1 + self._best) / 2:
            yield (
                COMPLAINT,
                f"its reviews rate the item {fmean(ratings):.1f} of {self._best:g} on average",
            )
        if (found := _other_language(persona, self._language)) is not None:
            yield FOREIGN, f"its language is {found}, that of most personas {self._language}"
        cited = item.cited[position]
        if self._encoder is not None and self._pool is not None and cited:
            own = [plain_rationale(persona.preference_rationale), *cited]
            rationale, *near = self._encoder.encode_texts(own)
            far = self._pool.others(item.item_id, persona.persona_id, len(cited))
            similarity = float((np.array(near) @ rationale).mean())
            if len(far) and similarity <= (chance := float((far @ rationale).mean())):
                yield (
                    UNGROUNDED,
                    f"similarity to its reviews {similarity:.2f}, to others {chance:.2f}",
                )

    def _twins(self, item: SampledItem) -> Mapping[int, str]:
        """The positions of personas that say what an earlier one of the item says."""
        if self._encoder is None or len(item.personas) < 2:
            return {}
        vectors = self._encoder.encode_texts([persona_text(one) for one in item.personas])
        alike = vectors @ vectors.T
        return {
            other: f"similarity {alike[one, other]:.2f} to {item.personas[one].name}"
            for one, other in combinations(range(len(vectors)), 2)
            if alike[one, other] >= ALIKE
        }


def _words(persona: Persona) -> str:
    return f"{persona.description} {plain_rationale(persona.preference_rationale)}"


def _main_language(reader: ItemReader, item_ids: Mapping[str, Sequence[str]]) -> str:
    """The language of most personas, from up to 1,000 items spread over the file."""
    every = [one for one, own in item_ids.items() if own]
    some = every[:: max(1, len(every) // 1000)]
    found = Counter(
        py3langid.classify(_words(persona))[0] for one in some for persona in reader.personas(one)
    )
    return str(found.most_common(1)[0][0]) if found else ""


def _other_language(persona: Persona, main: str) -> str | None:
    """The language of a persona, if it is surely not the main one."""
    scores = dict(py3langid.rank(_words(persona)))
    best = max(scores, key=scores.__getitem__)
    return str(best) if best != main and scores[best] - scores.get(main, 0.0) >= SURE else None
