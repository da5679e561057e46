"""`p4r peers tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.peers.answering import answering
from indexer.cli.peers.app import peers
from indexer.cli.peers.options import (
    LocalModelOption,
    Set,
    peer_options,
)
from indexer.cli.shared import Artifacts, PromptDomain, exit_for


@peers.command(
    epilog="Example:  p4r peers tune --peer pointwise --local-model bundled "
    "--artifacts examples/bookshop --domain books --output tuned --samples 64"
)
def tune(
    artifacts: Artifacts,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The LoRA layers; created if missing.")
    ],
    local: LocalModelOption = "bundled",
    peer: Annotated[str, typer.Option(help="letters (LlamaRec) or pointwise (TALLRec).")] = (
        "pointwise"
    ),
    domain: PromptDomain = "products",
    samples: Annotated[
        int | None, typer.Option(min=8, help="Examples, one for each user. Default: all.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: 1 for letters, at most 10 for pointwise.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Of the LoRA layers.")] = 1e-4,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    options: Set = None,
) -> None:
    """Tune a local model to answer as the letters or the pointwise peer, by LoRA.

    It learns from training interactions alone; a fifth of the users choose the best epoch. Killed
    and run again, it goes on. `p4r peers rank --local-model M --adapter DIR` ranks with it.
    """
    from indexer.artifacts.derived import noted
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.peers.asking import PeerSources
    from indexer.peers.material import Material
    from indexer.peers.tuning import TuningOptions, tune_peer
    from indexer.peers.tuning_data import examples_of, tuning_data
    from indexer.prompts import Domain
    from indexer.terminal.console import out
    from p4r_qdrant.errors import InputError

    refusals, chosen = Refusals(), peer_options(options)
    how = TuningOptions(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    with Material(ArtifactFolder(artifacts), refusals) as material, noted(artifacts, output):
        who = answering(local)
        if who.model is None:
            raise InputError("name a local model, --local-model")
        sources = PeerSources(Domain.load(domain), who.llm, chosen, material)
        data = tuning_data(examples_of(peer, sources, seed), samples, seed)
        about = {"domain": domain, "samples": samples, "peer_options": chosen.model_dump()}
        found = tune_peer(who.model, peer, data, output, how, about)
    out.say(
        f"{found.measure} of {found.dev_examples} dev examples: {found.before:.3f} before, "
        f"{found.after:.3f} after {found.examples} examples: {output}"
    )
    exit_for(refusals)
