"""`p4r train` and `tune`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.outputs import TUNING, Force, check_output
from indexer.cli.shared import Artifacts, Domain, exit_for, publish_folder
from indexer.cli.tenant_option import of_tenant

group = typer.Typer()


@group.command(
    epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r train --artifacts examples/bookshop "
    "--output bookshop-adapter"
)
@of_tenant
def train(
    artifacts: Artifacts,
    output: Annotated[Path, typer.Option(metavar="ADAPTER", help="The new folder of the adapter.")],
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write logs for TensorBoard to this folder.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish the adapter if it reranks better.")
    ] = False,
    domain: Domain = "products",
) -> None:
    """Train a LoRA adapter for the encoder on alignments.

    Settings: P4R_TRAINING__*, P4R_HISTORY__*, P4R_ENCODER__MODEL. Checkpoints are in
    ADAPTER.training: killed and run again, it goes on. Several GPUs: torchrun --no-python p4r train
    """
    import warnings
    from importlib.util import find_spec

    warnings.simplefilter("ignore")  # the libraries below warn their own developers
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.terminal.training import print_training
    from p4r_qdrant.encoder.loading import load_encoder
    from p4r_qdrant.errors import MissingExtraError, VerificationError
    from p4r_qdrant.index.opening import open_versions
    from p4r_qdrant.settings import Settings

    needed = ["sentence_transformers", "peft", "accelerate", "matplotlib"]
    for name in [*needed, "tensorboard"] if tensorboard else needed:
        if find_spec(name) is None:
            raise MissingExtraError(f"training needs {name}: pip install 'p4r-qdrant[train]'")
    from indexer.terminal.training_progress import TrainingProgress
    from indexer.training import run

    settings = Settings.load()
    folder, refusals = ArtifactFolder(artifacts), Refusals()
    if publish:  # report an obstacle before hours of training
        with open_versions(settings) as versions:
            versions.check_switch(versions.named(str(output)))
    with TrainingProgress() as progress:
        trained = run.train(
            folder, output, settings, refusals, callbacks=[progress], tensorboard=tensorboard
        )
    if trained is None:  # not the first process of torchrun
        return
    print_training(trained)
    if publish:
        if not trained.is_better:
            raise VerificationError(
                f"the index stays as it is: {output} reranks no better than the untrained "
                f"encoder; p4r publish --adapter {output} publishes it all the same"
            )
        adapted = Settings.load(encoder={"adapter": str(output)})
        publish_folder(folder, load_encoder(adapted.encoder), adapted, domain, refusals)
    exit_for(refusals)


@group.command(
    epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r tune --artifacts examples/bookshop "
    "--candidates examples/bookshop/candidates.jsonl"
)
def tune(
    artifacts: Artifacts,
    candidates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Lists of your generator, to choose the weights for lists with."
        ),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="ADAPTER", help="Instead of P4R_ENCODER__ADAPTER.")
    ] = None,
    force: Force = False,
) -> None:
    """Choose history, collaborative fit and weights of the score on the validation items.

    The choice is written to tuned.json in the artifact folder, where p4r publish finds it. Lists
    must be made from training interactions alone, as p4r candidates does.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.names import TUNED
    from indexer.terminal.progress import ProgressBar
    from indexer.terminal.training import print_tuning
    from indexer.tuning.run import tune_all
    from p4r_qdrant.settings import Settings

    refusals = Refusals()
    settings = Settings.load(encoder={"adapter": adapter}) if adapter else Settings.load()
    folder = ArtifactFolder(artifacts)
    check_output(folder.path / TUNED, (), force=force, ours=TUNING)
    with ProgressBar() as bar:
        tuning = tune_all(folder, settings, candidates, refusals, bar)
    print_tuning(tuning, folder.path / TUNED)
    exit_for(refusals)
