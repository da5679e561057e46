"""The texts of users and items as vectors of one encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Literal

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import PERSONAS, SUMMARIES
from indexer.evaluation.experiment.config import EXTRACTIVE
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.data import ItemTexts, persona_texts, summary_texts
from indexer.evaluation.experiment.embedded import Personas, Profiles
from indexer.evaluation.experiment.vectors import CachedEncoder
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.records import Interaction
from p4r_qdrant.texts import interaction_text

EncoderName = Literal["untrained", "trained"]


@dataclass(frozen=True)
class Material:
    """Users and items in all forms that the experiment compares.

    full, summaries: histories as summary with aspects, or as summary alone. personas: of the
    catalogue. items: the summary of each item instead of personas. others: more personas, by name
    ("aggregated", "extractive", "leaking").
    """

    full: Profiles
    summaries: Profiles
    personas: Personas
    items: Personas
    others: Mapping[str, Personas]


@dataclass(frozen=True)
class Encoded:
    """All vectors of one encoder."""

    name: EncoderName
    encoder: CachedEncoder
    material: Material


@contextmanager
def encoded(name: EncoderName, model: Encoder, context: Context) -> Iterator[Encoded]:
    """Encode all texts. Vectors are stored on disk; those of leaking personas have their own
    folder, because the leak checks search the other one.
    """
    config, output = context.config, context.output
    with ExitStack() as stack:

        def cached(folder: str) -> CachedEncoder:
            encoder = CachedEncoder(model, output / folder, context.progress)
            return stack.enter_context(closing(encoder))

        encoder = cached("vectors")
        catalogue = context.data.folder
        others: dict[str, Personas] = {}
        with catalogue.summaries(Refusals()) as summaries:
            personas = persona_texts(catalogue.personas(), summaries)
            if config.aggregated is not None:
                texts = persona_texts(ArtifactFolder(config.aggregated).personas(), summaries)
                others["aggregated"] = Personas.of(texts, encoder)
            quoted = output / EXTRACTIVE / PERSONAS
            if config.extractive == "line" and quoted.is_file():
                others["extractive"] = Personas.of(persona_texts(quoted, summaries), encoder)
            if config.leaking is not None:
                texts = persona_texts(ArtifactFolder(config.leaking).personas(), summaries)
                others["leaking"] = Personas.of(texts, cached("vectors-leaking"))
        items = summary_texts(catalogue.at(SUMMARIES))
        inputs = encoder.document_inputs(list(_texts(personas, items)))
        inputs += encoder.query_inputs(list(dict.fromkeys(_history_texts(context))))
        missing = encoder.missing(inputs)
        context.progress.start(f"encoding texts, {name}", len(missing))
        full, alone = (
            Profiles.of(
                context.histories.get, context.data.users, encoder, text, max(config.lengths)
            )
            for text in _FORMS
        )
        material = Material(
            full, alone, Personas.of(personas, encoder), Personas.of(items, encoder), others
        )
        yield Encoded(name, encoder, material)


def summary_of(interaction: Interaction) -> str:
    """The text of an interaction that is only the summary of its item."""
    return interaction.summary or interaction.title


_FORMS: tuple[Callable[[Interaction], str], ...] = (interaction_text, summary_of)


def _texts(*kinds: ItemTexts) -> Iterator[str]:
    return (text for kind in kinds for _, own in kind for text in own)


def _history_texts(context: Context) -> Iterator[str]:
    for user in context.data.users:
        for one in newest_first(context.histories.get(user), max(context.config.lengths)):
            yield from (text(one) for text in _FORMS if text(one))
