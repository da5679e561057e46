"""Options that several commands of `p4r peers` share, and what they are read as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexer.cli.outputs import Force
from indexer.cli.shared import Artifacts, DryRun, PromptDomain, RetryFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexer.peers.options import PeerOptions
    from indexer.peers.recipes import TuningOptions

Results = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="The folder of results; created if missing.")
]
Candidates = Annotated[
    Path, typer.Option("--candidates", metavar="FILE", help="Candidate lists, best first.")
]
LOCAL_MODEL = typer.Option(
    "--local-model",
    metavar="MODEL",
    help="A causal LM on this machine: a folder, a name, a GGUF file, or `bundled` (SmolLM2).",
)
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An option of the peer, such as words=100; repeatable."
    ),
]


@dataclass(frozen=True)
class CandidateFiles:
    """What is ranked, and where results go."""

    artifacts: Artifacts
    candidates: Candidates
    output: Results
    domain: PromptDomain = "products"


@dataclass(frozen=True)
class PeerAsking:
    """Who answers, and how it is asked."""

    local: Annotated[str | None, LOCAL_MODEL] = None
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter", metavar="DIR", help="With --local-model: LoRA layers of `p4r peers tune`."
        ),
    ] = None
    options: Set = None
    dry_run: DryRun = False
    retry_failed: RetryFailed = False
    force: Force = False


@dataclass(frozen=True)
class Training:
    """How LoRA layers are trained."""

    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Default: 1 for letters; at most 10 for pointwise, 3 for rated."),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 16
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of the LoRA layers. Default: 1e-4; 2e-4 for rated."),
    ] = None
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of the LoRA layers. Default: 8; 128 for rated.")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0

    def options(self) -> TuningOptions:
        """The same for the trainer."""
        from indexer.peers.recipes import TuningOptions

        return TuningOptions(
            self.rank,
            None,
            self.epochs,
            self.learning_rate,
            self.batch_size,
            seed=self.seed,
        )


def peer_options(given: Sequence[str] | None, **defaults: Any) -> PeerOptions:
    """The options of --set. Raises InputError for one that is unknown or wrong."""
    import tomllib

    from pydantic import ValidationError

    from indexer.peers.options import PeerOptions
    from p4r_qdrant.errors import InputError
    from p4r_qdrant.validation import validation_sentence

    try:
        return PeerOptions.model_validate(defaults | tomllib.loads("\n".join(given or ())))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--set needs NAME=VALUE, such as words=100: {error}") from None
    except ValidationError as error:
        raise InputError(f"--set: {validation_sentence(error)}") from None
