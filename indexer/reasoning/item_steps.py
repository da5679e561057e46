"""What is made of one item, with or without an LLM: the steps, and who answers their requests."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from indexer.artifacts.lines import Refusals
from indexer.ledger import Ledger
from indexer.reasoning.answering import Answerer
from indexer.reasoning.aspects import ReviewAspects
from indexer.reasoning.personas import Personas
from indexer.reasoning.step import Sources
from indexer.reasoning.summaries import Summaries
from p4r_qdrant.encoder.base import Encoder


class ItemSteps(NamedTuple):
    """Summary, aspects of each review, and personas of an item."""

    summaries: Summaries
    aspects: ReviewAspects
    personas: Personas


def item_steps(
    sources: Sources, refusals: Refusals, encoder: Encoder | None = None, seed: int = 0
) -> ItemSteps:
    """The steps of these sources; extractive ones need the `encoder` that answers them."""
    if not sources.extractive:
        return ItemSteps(
            Summaries(sources, refusals),
            ReviewAspects(sources, refusals),
            Personas(sources, refusals),
        )
    from indexer.reasoning.extractive.extractor import Extraction
    from indexer.reasoning.extractive.steps import MetadataSummaries, QuotedAspects, QuotedPersonas

    assert encoder is not None  # noqa: S101 - for the type checker
    slots = tuple(slot.asks for slot in sources.domain.slots)
    extraction = Extraction(slots, encoder.fingerprint, seed)
    return ItemSteps(
        MetadataSummaries(sources, refusals),
        QuotedAspects(sources, refusals, extraction),
        QuotedPersonas(sources, refusals, extraction),
    )


def extractor(encoder: Encoder, ledger: Ledger) -> AbstractAsyncContextManager[Answerer]:
    """Who answers extractive steps: the encoder."""
    from indexer.reasoning.extractive.extractor import Extractor

    return Extractor(encoder, ledger)
