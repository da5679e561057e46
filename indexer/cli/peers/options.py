"""Options that several commands of `p4r peers` share, and what they are read as."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexer.peers.options import PeerOptions

Results = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="The folder of results; created if missing.")
]
Candidates = Annotated[
    Path, typer.Option("--candidates", metavar="FILE", help="Candidate lists, best first.")
]
_LOCAL_MODEL = typer.Option(
    "--local-model",
    metavar="MODEL",
    help="A causal LM on this machine: a folder, a name, a GGUF file, or `bundled` (SmolLM2).",
)
LocalModelOption = Annotated[str | None, _LOCAL_MODEL]
TunedModel = Annotated[str, _LOCAL_MODEL]
AdapterOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter", metavar="DIR", help="With --local-model: LoRA layers of `p4r peers tune`."
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Default: 1 for letters; at most 10 for pointwise, 3 for rated."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples of a step.")]
LearningRate = Annotated[
    float | None, typer.Option(min=0.0, help="Of the LoRA layers. Default: 1e-4; 2e-4 for rated.")
]
Rank = Annotated[
    int | None, typer.Option(min=1, help="Of the LoRA layers. Default: 8; 128 for rated.")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An option of the peer, such as words=100; repeatable."
    ),
]


def peer_options(given: Sequence[str] | None, **defaults: Any) -> PeerOptions:
    """The options of --set. Raises InputError for one that is unknown or wrong."""
    import tomllib

    from pydantic import ValidationError

    from indexer.artifacts.lines import validation_sentence
    from indexer.peers.options import PeerOptions
    from p4r_qdrant.errors import InputError

    try:
        return PeerOptions.model_validate(defaults | tomllib.loads("\n".join(given or ())))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--set needs NAME=VALUE, such as words=100: {error}") from None
    except ValidationError as error:
        raise InputError(f"--set: {validation_sentence(error)}") from None
