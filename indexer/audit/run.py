"""Run an audit: one pass over each file, then the sampled items."""

from __future__ import annotations

import random
from collections.abc import Callable

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ALIGNMENTS, ASPECTS, PERSONAS, SPLITS
from indexer.audit.alignments import read_alignments
from indexer.audit.aspects import read_aspects
from indexer.audit.figures import Audit
from indexer.audit.personas import PersonasRead, read_personas
from indexer.audit.sampled import measure
from indexer.audit.source import Source
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
    """Audit a folder; a missing file has no figures.

    load_encoder: called before the first file is read, and only if there are personas; None skips
    the figures that need an encoder. sample: the number of items with personas that these figures
    are measured on, drawn by `seed`.
    Raises InputError if the folder holds no aspects, personas or alignments, if personas.jsonl is
    empty, or if splits.jsonl is broken.
    """
    if folder.has(PERSONAS):
        folder.personas()
    if not any(folder.has(name) for name in (ASPECTS, PERSONAS, ALIGNMENTS)):
        raise InputError(
            f"the folder {folder.path} holds none of {ASPECTS}, {PERSONAS} and {ALIGNMENTS}: "
            "there is nothing to audit"
        )
    source = Source(folder, folder.held_out(), refusals, progress, seed)
    encoder = load_encoder() if load_encoder and folder.has(PERSONAS) else None
    aspects = personas = alignments = None
    if folder.has(ASPECTS):
        aspects = read_aspects(source)
    if folder.has(PERSONAS):
        personas = read_personas(source, aspects)
    chosen = _sample(personas, sample, seed) if personas and encoder else []
    if folder.has(ALIGNMENTS):
        alignments = read_alignments(source, personas, set(chosen))
    return Audit(
        folder=str(folder.path),
        split_pairs=len(source.held_out) if folder.has(SPLITS) else None,
        aspects=aspects.figures if aspects else None,
        personas=personas.figures if personas else None,
        evidence=personas.evidence if personas else None,
        alignments=alignments.figures if alignments else None,
        similarity=measure(source, encoder, chosen, personas, aspects, alignments)
        if personas and encoder and chosen
        else None,
    )


def _sample(personas: PersonasRead, sample: int, seed: int) -> list[str]:
    """Sampled items with personas, in the order of the file."""
    items = [item_id for item_id, own in personas.ids.items() if own]
    if len(items) <= sample:
        return items
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    return [items[number] for number in sorted(chance.sample(range(len(items)), sample))]
