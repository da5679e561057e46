"""tuned.json: what `p4r tune` chose for a catalogue and an encoder."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.names import TUNED
from indexer.artifacts.writing import storage_errors, written_whole
from p4r_qdrant.errors import InputError
from p4r_qdrant.rerank.scoring import Scoring
from p4r_qdrant.settings import HistorySettings


class TunedFit(BaseModel):
    """Settings of the collaborative part; the names are those of P4R_COLLABORATIVE__*."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: float = Field(ge=0)
    l2: float = Field(gt=0)
    decay: float = Field(gt=0, le=1)


class Tuned(BaseModel):
    """The best settings on validation items.

    fingerprint: of the encoder that they were chosen for. collaborative: None if there were no
    interactions to fit it on. valid: NDCG@10 of what was compared, on validation items.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    fingerprint: str
    history: HistorySettings
    collaborative: TunedFit | None = None
    scoring: Scoring
    validation: str = ""
    valid: dict[str, float] = Field(default_factory=dict)

    @property
    def has_prior(self) -> bool:
        """Whether a persona prior was chosen, which needs the mean user in the index."""
        chosen = (self.scoring.candidates, self.scoring.catalogue)
        return any(one is not None and one.prior for one in chosen)


def write_tuned(folder: ArtifactFolder, tuned: Tuned) -> None:
    """Write tuned.json, all of it or nothing."""
    with written_whole(folder.path / TUNED) as write:
        write(tuned.model_dump_json(indent=2))


def read_tuned(folder: ArtifactFolder) -> Tuned | None:
    """Read tuned.json; None if there is none. Raises InputError if it cannot be read."""
    path = folder.at(TUNED)
    if not path.is_file():
        return None
    try:
        with storage_errors(path, cannot="be read"):
            return Tuned.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "JSON"
        raise InputError(
            f"{path}: {where}: {problem['msg']}; run p4r tune again, or delete the file"
        ) from None
