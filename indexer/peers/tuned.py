"""The record of a tuned peer, and whether it was tuned on training interactions alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.evaluation.leaks.report import Check
from indexer.ledger import LEDGER, Ledger
from indexer.peers.asking import PeerSources
from indexer.peers.distilling import distilled, known_answers, targets
from indexer.peers.material import Material
from indexer.peers.options import PeerOptions, TunablePeer
from indexer.peers.rated import Rated
from indexer.peers.tuning_data import TuningData, examples_of, tuning_data
from indexer.prompts import Domain
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings

RECORD = "peer.json"


class TeacherRecord(BaseModel):
    """What decides the questions that a teacher is asked."""

    model_config = ConfigDict(extra="ignore")

    model: str
    temperature: float
    language: str | None

    @classmethod
    def of(cls, settings: LLMSettings) -> TeacherRecord:
        """The teacher of the settings."""
        one = settings.of(f"peer-{Rated.name}")
        return cls(model=one.model, temperature=one.temperature, language=settings.language)

    def settings(self) -> LLMSettings:
        """Settings with which the same questions are made."""
        return LLMSettings.model_validate(self.model_dump())


class TunedRecord(BaseModel):
    """What `p4r peers tune` notes beside an adapter.

    data: a hash of the examples. teacher: who has answered those of rated; its answers are in the
    folder's ledger.
    """

    model_config = ConfigDict(extra="ignore")

    peer: TunablePeer
    model: str
    data: str
    domain: str
    samples: int | None
    peer_options: PeerOptions
    options: dict[str, Any]
    teacher: TeacherRecord | None = None

    @classmethod
    def read(cls, adapter: Path) -> TunedRecord:
        """Raises InputError for a folder without a record."""
        try:
            return cls.model_validate(json.loads((adapter / RECORD).read_bytes()))
        except (OSError, ValueError, ValidationError):
            raise InputError(f"{adapter} holds no {RECORD} of `p4r peers tune`") from None


def tuned_check(peer: str, adapter: Path, material: Material) -> Check:
    """An adapter must be tuned on the training interactions of these artifacts alone.

    The examples are made again as `p4r peers tune` makes them now, and compared.
    """
    name, record = f"training data of {peer}, tuned", TunedRecord.read(adapter)
    if record.peer != peer:
        raise InputError(f"{adapter} was tuned as {record.peer}, not as {peer}")
    data = _made_again(record, adapter, material)
    if data.hash() == record.data:
        return Check(name, len(data.train))
    return Check(
        name,
        len(data.train),
        unproven=f"{adapter} was tuned on other data than the training interactions of "
        f"{material.folder.path} as they are now; tune it again on these",
    )


def _made_again(record: TunedRecord, adapter: Path, material: Material) -> TuningData:
    """The examples as they are made now; a teacher's answers come from the adapter's ledger."""
    seed = int(record.options.get("seed", 0))
    llm = record.teacher.settings() if record.teacher else LLMSettings(model="m")
    sources = PeerSources(Domain.load(record.domain), llm, record.peer_options, material)
    if record.peer != Rated.name:
        return tuning_data(examples_of(record.peer, sources, seed), record.samples, seed)
    peer = Rated(sources)
    with Ledger(adapter / LEDGER, read_only=True) as ledger:
        chosen = targets(peer, record.samples, seed)
        return asyncio.run(distilled(peer, chosen, known_answers(ledger)))
