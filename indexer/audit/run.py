"""An audit from beginning to end: one pass over each file, then the sampled items."""

from __future__ import annotations

import random
from collections.abc import Callable

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ALIGNMENTS, ASPECTS, PERSONAS, SPLITS
from indexer.audit.counted import (
    PersonasRead,
    read_alignments,
    read_aspects,
    read_personas,
)
from indexer.audit.figures import Audit
from indexer.audit.sampled import measure
from indexer.progress import SILENT, Progress
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError


def audit(
    folder: ArtifactFolder,
    load_encoder: Callable[[], Encoder] | None,
    refusals: Refusals,
    *,
    sample: int = 200,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Audit:
    """Audit a folder; a file that is not there has no figures.

    What needs an encoder is measured on `sample` items with personas, drawn by `seed`; it is
    loaded before any long reading, and only where there are personas.
    Raises InputError where the folder holds neither aspects nor personas nor alignments, and
    where its splits.jsonl is broken.
    """
    if not any(folder.has(name) for name in (ASPECTS, PERSONAS, ALIGNMENTS)):
        raise InputError(
            f"the folder {folder.path} holds none of {ASPECTS}, {PERSONAS} and {ALIGNMENTS}: "
            "there is nothing to audit"
        )
    held_out = folder.held_out()
    encoder = load_encoder() if load_encoder and folder.has(PERSONAS) else None
    aspects = personas = alignments = None
    if folder.has(ASPECTS):
        aspects = read_aspects(folder, held_out, refusals, progress, seed)
    if folder.has(PERSONAS):
        personas = read_personas(folder, held_out, aspects, refusals, progress)
    chosen = _sample(personas, sample, seed) if personas and encoder else []
    if folder.has(ALIGNMENTS):
        alignments = read_alignments(
            folder, held_out, personas, set(chosen), refusals, progress, seed
        )
    return Audit(
        folder=str(folder.path),
        split_pairs=len(held_out) if folder.has(SPLITS) else None,
        aspects=aspects.figures if aspects else None,
        personas=personas.figures if personas else None,
        evidence=personas.evidence if personas else None,
        alignments=alignments.figures if alignments else None,
        similarity=measure(folder, encoder, chosen, personas, aspects, alignments, progress, seed)
        if personas and encoder and chosen
        else None,
    )


def _sample(personas: PersonasRead, sample: int, seed: int) -> list[str]:
    """Items with personas, in the order of the file."""
    items = [item_id for item_id, own in personas.ids.items() if own]
    if len(items) <= sample:
        return items
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    return [items[number] for number in sorted(chance.sample(range(len(items)), sample))]
