"""Measure sampled items with an encoder. Items are encoded in blocks; only numbers are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from indexer.audit.agreement import agreement, agreements_of
from indexer.audit.alignments import AlignmentsRead
from indexer.audit.aspects import AspectsRead
from indexer.audit.distinctness import DistinctnessMeter
from indexer.audit.figures import SimilarityFigures
from indexer.audit.grounding import GroundingMeter, RandomAspects, grounding
from indexer.audit.personas import PersonasRead
from indexer.audit.sampled_item import ItemReader, SampledItem, texts_of
from indexer.audit.source import Source
from indexer.progress import track
from indexer.reasoning.nearest import Remembering
from p4r_qdrant.encoder.base import Encoder

_BLOCK = 16


def measure(
    source: Source,
    encoder: Encoder,
    item_ids: Sequence[str],
    personas: PersonasRead,
    aspects: AspectsRead | None,
    alignments: AlignmentsRead | None,
) -> SimilarityFigures:
    """The figures of the sampled items, which all have personas."""
    remembering = Remembering(encoder)
    lengths = encoder.lengths.fresh() if encoder.lengths is not None else None
    distinct = DistinctnessMeter(encoder.dimension)
    grounded = GroundingMeter()
    agreed: list[list[tuple[float, float]]] = []
    with ItemReader(source, personas, aspects, alignments) as reader:
        pool = RandomAspects(reader.pool(), remembering, source.seed)
        tracked = track(source.progress, item_ids, "encoding items", len(item_ids))
        items = (reader.item(one) for one in tracked)
        for block in _blocks(items, _BLOCK):
            remembering.encode_texts([text for item in block for text in texts_of(item)])
            for item in block:
                if lengths is not None:
                    lengths.of_personas([encoder.document_prompt + text for text in item.indexed])
                    lengths.of_histories(encoder.query_prompt, item.told)
                distinct.add(item, remembering)
                grounded.add(item, remembering, pool)
                agreed.append(agreements_of(item, remembering))
    return SimilarityFigures(
        encoder=encoder.name,
        items=len(item_ids),
        of_items=personas.figures.items,
        seed=source.seed,
        distinctness=distinct.figures(),
        rationales=grounding(grounded.rationales, source.seed),
        descriptions=grounding(grounded.descriptions, source.seed),
        best_grounded=grounded.best,
        worst_grounded=grounded.worst,
        too_long=lengths.said() if lengths is not None else (),
        agreement=agreement([one for one in agreed if one], source.seed),
    )


def _blocks(items: Iterator[SampledItem], size: int) -> Iterator[list[SampledItem]]:
    while block := list(islice(items, size)):
        yield block
