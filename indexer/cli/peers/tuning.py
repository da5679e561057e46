"""`p4r peers tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.option_groups import grouped
from indexer.cli.peers.answering import Answering, loaded
from indexer.cli.peers.app import peers
from indexer.cli.peers.options import LOCAL_MODEL, Set, Training, peer_options
from indexer.cli.shared import Artifacts, DryRun, PromptDomain, RetryFailed, exit_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer.peers.protocol import Asker
    from indexer.peers.tuning_data import TuningData


@peers.command(
    epilog="Example:  p4r peers tune --peer pointwise --local-model bundled "
    "--artifacts examples/bookshop --domain books --output tuned --samples 64"
)
@grouped
def tune(
    artifacts: Artifacts,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The LoRA layers; created if missing.")
    ],
    training: Training,
    local: Annotated[str, LOCAL_MODEL] = "bundled",
    peer: Annotated[
        str, typer.Option(help="letters (LlamaRec), pointwise (TALLRec) or rated (EXP3RT).")
    ] = "pointwise",
    domain: PromptDomain = "products",
    samples: Annotated[
        int | None, typer.Option(min=8, help="Users that are trained on. Default: all.")
    ] = None,
    options: Set = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Tune a local model to answer as the letters, the pointwise or the rated peer, by LoRA.

    It learns from training interactions alone; a fifth of the users choose the best epoch. Killed
    and run again, it goes on. `p4r peers rank --local-model M --adapter DIR` ranks with it.

    rated is the student of a teacher, which is the LLM of the settings P4R_LLM__*: the teacher
    extracts preferences, writes profiles and gives reasons for true ratings, and the student learns
    all three. The teacher's answers are kept in DIR/ledger and paid for once.
    """
    from indexer.artifacts.derived import noted
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.peers.asking import PeerSources
    from indexer.peers.distilling import check_reasons, distilled, targets
    from indexer.peers.material import Material
    from indexer.peers.rated import Rated
    from indexer.peers.recipes import tunable
    from indexer.peers.tuned import TeacherRecord
    from indexer.peers.tuning_data import examples_of, tuning_data
    from indexer.prompts import Domain
    from indexer.terminal.console import out
    from p4r_qdrant.settings import Settings

    refusals, chosen, name = Refusals(), peer_options(options), tunable(peer)
    how, seed = training.options(), training.seed
    about = {"domain": domain, "samples": samples, "peer_options": chosen.model_dump()}
    with Material(ArtifactFolder(artifacts), refusals) as material:
        sources = PeerSources(Domain.load(domain), Settings.load().llm, chosen, material)
        student, teacher = Rated(sources), Answering(sources.llm)
        is_distilled = name == Rated.name
        pupils = targets(student, samples, seed) if is_distilled else ([], [])

        async def taught(ask: Asker, done: Callable[[], None]) -> TuningData:
            return await distilled(student, pupils, ask, done)

        if dry_run:
            teacher.count(output, taught, retry_failed=retry_failed)
            return
        with noted(artifacts, output):
            if is_distilled:
                about["teacher"] = TeacherRecord.of(sources.llm).model_dump()
                steps = sum(map(len, pupils))
                data = teacher.run(output, student.step, steps, taught, retry_failed=retry_failed)
                check_reasons(data)
            else:
                data = tuning_data(examples_of(name, sources, seed), samples, seed)
            from indexer.peers.tuning import tune_peer

            found = tune_peer(loaded(local), name, data, output, how, about)
    out.say(
        f"{found.measure} of {found.dev_examples} dev examples: {found.before:.3f} before, "
        f"{found.after:.3f} after {found.examples} examples: {output}"
    )
    if found.left_out:
        out.say(f"left out: {found.left_out} examples that are too long for the model")
    exit_for(refusals)
