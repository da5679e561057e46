"""The record of a tuned peer, and whether it was tuned on training interactions alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.evaluation.leaks.report import Check
from indexer.peers.asking import PeerSources
from indexer.peers.material import Material
from indexer.peers.options import PeerOptions, TunablePeer
from indexer.peers.tuning_data import examples_of, tuning_data
from indexer.prompts import Domain
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings

RECORD = "peer.json"


class TunedRecord(BaseModel):
    """What `p4r peers tune` notes beside an adapter. data: a hash of the examples."""

    model_config = ConfigDict(extra="ignore")

    peer: TunablePeer
    model: str
    data: str
    domain: str
    samples: int | None
    peer_options: PeerOptions
    options: dict[str, Any]

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
    seed = int(record.options.get("seed", 0))
    sources = PeerSources(
        Domain.load(record.domain), LLMSettings(model="m"), record.peer_options, material
    )
    data = tuning_data(examples_of(peer, sources, seed), record.samples, seed)
    if data.hash() == record.data:
        return Check(name, len(data.train))
    return Check(
        name,
        len(data.train),
        unproven=f"{adapter} was tuned on other data than the training interactions of "
        f"{material.folder.path} as they are now; tune it again on these",
    )
