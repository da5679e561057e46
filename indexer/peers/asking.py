"""The base of peers that ask an LLM: how their requests are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from indexer.llm import Options, Request
from indexer.peers.material import Material
from indexer.peers.options import PeerOptions
from indexer.peers.protocol import Peer
from indexer.prompts import Domain
from p4r_qdrant.settings import LLMSettings


@dataclass(frozen=True)
class PeerSources:
    """What peers that ask an LLM are made of."""

    domain: Domain
    llm: LLMSettings
    options: PeerOptions
    material: Material


@dataclass(frozen=True)
class Form:
    """What an answer looks like; see `Request`."""

    max_tokens: int
    schema: Mapping[str, Any] | None = None
    options: Options | None = None
    check: Callable[[Any], str | None] | None = None
    numbers: int | None = None


@dataclass(frozen=True)
class RequestMaker:
    """Makes the requests of one step. `step`: the name of its file in the ledger."""

    step: str
    domain: Domain
    llm: LLMSettings

    def __call__(
        self, template: str, material: str, form: Form, about: Mapping[str, str], **values: Any
    ) -> Request:
        """A request; `values` are put into the template beside the material."""
        model = self.llm.of(self.step)
        prompt = self.domain.render(
            template,
            material=material,
            language=self.llm.language or "the language of the material",
            **values,
        )
        return Request(
            self.step,
            prompt,
            form.schema,
            model.model,
            temperature=model.temperature,
            max_tokens=form.max_tokens,
            check=form.check,
            about=about,
            template=self.domain.version(template),
            options=form.options,
            numbers=form.numbers,
        )


class AskingPeer(Peer):
    """A peer that asks an LLM by `request`."""

    def __init__(self, sources: PeerSources) -> None:
        self.sources = sources
        self.options = sources.options
        self.step = f"peer-{self.name}"
        self.request = RequestMaker(self.step, sources.domain, sources.llm)
