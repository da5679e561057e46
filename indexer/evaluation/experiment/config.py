"""The TOML file that describes an experiment."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from indexer.evaluation.generators.base import GENERATORS
from indexer.peers.options import PeerOptions, Precision, RankingPeer, TunablePeer
from p4r_qdrant.encoder.local import BUNDLED_MODEL
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import EncoderSettings
from p4r_qdrant.validation import validation_sentence


def _distinct(values: list[Any]) -> list[Any]:
    if not values or len(set(values)) < len(values):
        raise ValueError("give at least one value, and none twice")
    return values


def _known(values: list[str]) -> list[str]:
    unknown = next((one for one in values if one not in GENERATORS), None)
    if unknown is not None:
        raise ValueError(f"there is no generator {unknown!r}; choose of {', '.join(GENERATORS)}")
    return values


EXTRACTIVE = "extractive"
"""The folder of extractive artifacts in that of the experiment."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(gt=0, le=1)]
Prior = Annotated[float, Field(ge=0, le=2)]
Distinct = AfterValidator(_distinct)


class PeerBench(BaseModel):
    """Latency and memory of peers and of personas, on calls that no ledger answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: Annotated[list[Count], Distinct] = [1, 10, 100]
    """How many ask at the same time."""
    candidates: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Distinct] = [20, 50, 100]
    minutes: Annotated[float, Field(gt=0)] = 7.0
    """For all peers; the other cells are extrapolated."""


class PeerJudge(BaseModel):
    """An LLM as judge of explanations and of personas, as `p4r judge` asks it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample: Count = 100
    """Comparisons of each study."""
    controls: Annotated[int, Field(ge=5)] = 30
    """Comparisons of each control, whose outcome is known."""


class PeerStudent(BaseModel):
    """EXP3RT's student, distilled in the experiment: the users of a fold are ranked by a student
    that was taught on the other users, and has read nothing of theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folds: Annotated[int, Field(ge=2)] = 5
    samples: Annotated[int, Field(ge=8)] | None = None
    """The ratings that each student is taught. Unset: one of each user of the other folds."""
    rank: Count | None = None
    epochs: Count | None = None
    """Unset: as `p4r peers tune --peer rated` has it."""


class PeersConfig(PeerOptions):
    """The LLM rerankers that an experiment compares with personas, on the same lists."""

    names: tuple[RankingPeer, ...] = ("listwise", "letters", "pointwise", "rated")
    """Asked through the endpoint. rated has a second line, with average ratings in its prompts."""
    adapters: dict[TunablePeer, Path] = Field(default_factory=dict)
    """Folders that `p4r peers tune` made: lines of peers tuned on this machine. A relative path
    starts at the file."""
    untuned: tuple[RankingPeer, ...] = ()
    """Lines of peers that ask a model on this machine, without an adapter, in place of the
    endpoint."""
    local: str = "bundled"
    """The model of `adapters`, `untuned` and `student`: a folder, a name, a GGUF file, or
    `bundled` (SmolLM2)."""
    precision: Precision = "float32"
    """Of the weights of `untuned`. bfloat16 is faster on CPUs that compute with it."""
    student: PeerStudent | None = None
    """Unset: no student is taught. Its teacher is the LLM of the settings P4R_LLM__*."""
    generators: Annotated[list[str], Distinct] | None = None
    """Unset: the strongest generator on validation items."""
    candidates: Count | None = None
    """One of the numbers of candidates of the experiment. Unset: the first."""
    users: Count | None = None
    """A random sample of users. Unset: all."""
    shuffled: bool = True
    """Also give the candidates in a random order, to see how much the order of a prompt decides."""
    bench: PeerBench | None = None
    """Unset: latency and memory are not measured. These calls are paid for beside the others."""
    judge: PeerJudge | None = None
    """Unset: explanations and personas are not judged."""

    @property
    def asks(self) -> bool:
        """Whether anything of it asks the endpoint."""
        return bool(self.names or self.judge or self.student)

    @model_validator(mode="after")
    def _check_names(self) -> PeersConfig:
        twice = any(len(set(own)) < len(own) for own in (self.names, self.untuned))
        if twice or not (self.names or self.adapters or self.untuned or self.student):
            raise ValueError("names, untuned: give at least one peer, and none twice")
        return self


class ExperimentConfig(BaseModel):
    """What is compared. Lists of settings are tried on validation items, where one is chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    artifacts: Path
    """The artifact folder; a relative path starts at the file."""
    domain: str = "products"
    generators: Annotated[list[str], Distinct, AfterValidator(_known)] = [
        "popularity",
        "bpr",
        "lightgcn",
        "itemknn",
        "ease",
        "personas-ease",
        "hybrid",
    ]
    lists: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], Path] = {}
    """Lists of other programs, by name, best first. They must be made from training interactions
    alone; this cannot be checked, and every page says so. A relative path starts at the file."""
    candidates: Annotated[list[Count], Distinct] = [20, 50]
    """How many of a generator's items are reranked."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Distinct] = [0]
    """All tables use the first seed; the others show how much bpr and lightgcn depend on it."""
    encoder: EncoderSettings = EncoderSettings(model=BUNDLED_MODEL)
    """With an adapter there are lines for both, without and with it."""
    lengths: Annotated[list[Count], Distinct] = [5, 10, 20]
    decays: Annotated[list[Decay], Distinct] = [0.5, 0.7, 0.85, 1.0]
    weights: Annotated[list[Share], Distinct] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    interests: Annotated[list[Share], Distinct] = [0.0, 0.5, 1.0]
    """Shares of single interactions, see `RerankSettings`. If a share or a prior other than 0 is
    best on validation items, the tables have lines for it beside Eq. 10."""
    priors: Annotated[list[Prior], Distinct] = [0.0, 0.25, 0.5, 1.0]
    personas: Annotated[list[Count], Distinct] = [1, 3, 5, 7]
    """The most personas of an item; the others are not used."""
    cold: Share = 0.2
    """The share of items whose interactions are hidden, to see what personas do for new items."""
    disliked: float = 2.0
    """A rating up to this is a dislike."""
    aggregated: Path | None = None
    """A folder whose personas.jsonl has one persona for each item, from all its reviews."""
    extractive: Literal["line", "all", "none"] = "line"
    """Personas made without an LLM. line: one variant has them. all: every line has them, and
    their aspects and summaries too; then the folder needs none of these."""
    leaking: Path | None = None
    """A folder whose personas.jsonl was made with held-out reviews, to measure a leak.
    Every page then says that one of its lines leaks."""
    examples: Annotated[int, Field(ge=0, le=20)] = 3
    peers: PeersConfig | None = None
    """LLM rerankers to compare with. They ask the LLM of the settings P4R_LLM__*."""

    @model_validator(mode="after")
    def _check_names(self) -> ExperimentConfig:
        twice = next((name for name in self.lists if name in self.generators), None)
        if twice is not None:
            raise ValueError(f"lists.{twice} has the name of a generator; give it another one")
        if self.peers is not None:
            self._check_peers(self.peers)
        return self

    def _check_peers(self, peers: PeersConfig) -> None:
        known = [*self.generators, *self.lists]
        unknown = next((one for one in peers.generators or () if one not in known), None)
        if unknown is not None:
            raise ValueError(f"peers.generators: {unknown!r} is none of {', '.join(known)}")
        if peers.candidates is not None and peers.candidates not in self.candidates:
            counts = ", ".join(map(str, self.candidates))
            raise ValueError(f"peers.candidates: {peers.candidates} is none of {counts}")


def load_config(
    path: Path, *, artifacts: Path | None = None, adapter: Path | None = None
) -> ExperimentConfig:
    """Read an experiment; `artifacts` and `adapter` replace the settings of the file.

    Raises InputError for a file that cannot be read, and for a setting that is unknown or wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    for name in ("artifacts", "aggregated", "leaking"):
        if isinstance(values.get(name), str):
            values[name] = path.parent / values[name]
    lists = values.get("lists")
    if isinstance(lists, dict):
        values["lists"] = {
            name: path.parent / one if isinstance(one, str) else one for name, one in lists.items()
        }
    _resolve_peers(values.get("peers"), path.parent)
    encoder = values.setdefault("encoder", {"model": BUNDLED_MODEL})
    if isinstance(encoder, dict) and isinstance(encoder.get("adapter"), str):
        encoder["adapter"] = str(path.parent / encoder["adapter"])
    if artifacts is not None:
        values["artifacts"] = artifacts
    if adapter is not None and isinstance(encoder, dict):
        encoder["adapter"] = str(adapter)
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {validation_sentence(error)}") from None


def _resolve_peers(peers: Any, folder: Path) -> None:
    """Start the relative paths of [peers] at the folder of the file."""
    if not isinstance(peers, dict):
        return
    adapters, local = peers.get("adapters"), peers.get("local")
    if isinstance(adapters, dict):
        peers["adapters"] = {
            name: folder / one if isinstance(one, str) else one for name, one in adapters.items()
        }
    if isinstance(local, str) and (folder / local).exists():  # else the name of a model
        peers["local"] = str(folder / local)
