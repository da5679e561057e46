"""`p4r candidates`, `evaluate` and `experiment`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.outputs import (
    EVALUATION,
    EXPERIMENT_PAGE,
    LISTS,
    Force,
    check_file,
    check_output,
    new_file,
)
from indexer.cli.shared import JsonCommand, JsonFile, exit_for
from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexer.artifacts.lines import Refusals
    from indexer.collaborative.hypothetical import PersonaVectors
    from indexer.evaluation.experiment.config import ExperimentConfig
    from indexer.evaluation.generators.hybrid import UserTexts
    from p4r_qdrant.records import Interaction
    from p4r_qdrant.settings import LLMSettings

group = typer.Typer()


@group.command(
    epilog="Example:  p4r candidates --reviews examples/bookshop/reviews.jsonl "
    "--splits examples/bookshop/splits.jsonl --model ease --output ease.jsonl"
)
def candidates(
    reviews: Annotated[Path, typer.Option(metavar="FILE", help="reviews.jsonl")],
    splits: Annotated[Path, typer.Option(metavar="FILE", help="splits.jsonl")],
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The lists; their provenance is written beside them."),
    ],
    model: Annotated[
        str, typer.Option(help="bpr, lightgcn, itemknn, ease, popularity, personas-ease or hybrid.")
    ] = "ease",
    artifacts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="personas-ease, hybrid: the folder with the personas."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Items in a list.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of bpr and lightgcn.")] = 0,
    force: Force = False,
) -> None:
    """Generate first-stage candidates with a classic recommender.

    It is fitted to training interactions, tuned on validation items, and never sees a test item.
    Items that a user has in training are left out; scores are kept. personas-ease takes each
    persona for one more user, whose taste for every item is known; hybrid orders the catalogue by
    that and by the nearest personas. Both need --artifacts.
    """
    from indexer.artifacts.lines import Refusals
    from indexer.evaluation.candidates import (
        ListInputs,
        ListOptions,
        provenance_path,
        write_candidates,
    )
    from indexer.terminal.console import out
    from indexer.terminal.progress import ProgressBar

    provenance = provenance_path(output)
    reads = [reviews, splits, artifacts]
    check_file(provenance, reads, force=force, ours=LISTS)
    check_file(output, reads, force=force or provenance.exists())
    refusals = Refusals()
    inputs = ListInputs(reviews, splits, *_encoded(model, artifacts, splits, refusals))
    with ProgressBar() as bar:
        made = write_candidates(inputs, output, ListOptions(model, top, seed), refusals, bar)
    chosen = ", ".join(f"{name} {value}" for name, value in made.settings.items()) or "no settings"
    best = max(one["value"] for one in made.tried)
    out.say(
        f"{made.users} lists by {made.model} ({chosen}; {made.tuned_by}: {best:.4f}, best of "
        f"{len(made.tried)}): {output}, {provenance.name}",
    )
    exit_for(refusals)


def _encoded(
    model: str, artifacts: Path | None, splits: Path, refusals: Refusals
) -> tuple[PersonaVectors | None, UserTexts | None]:
    """The personas and histories that a generator reads, encoded; None for what it does not read.

    No history holds an interaction that `splits` holds out.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.histories import Histories
    from indexer.artifacts.lines import Refusals as Unreported
    from indexer.collaborative.encoding import encoded_personas
    from indexer.evaluation.generators.base import HYBRID, READ_PERSONAS, check_generator
    from indexer.evaluation.generators.hybrid import UserTexts
    from indexer.evaluation.truth import read_truth
    from indexer.terminal.progress import ProgressBar, loading
    from p4r_qdrant.encoder.loading import load_encoder
    from p4r_qdrant.settings import Settings

    check_generator(model)
    if model not in READ_PERSONAS:
        if artifacts is not None:
            raise InputError(f"the generator {model} reads no personas; leave --artifacts out")
        return None, None
    if artifacts is None:
        raise InputError(f"the generator {model} needs personas; name their folder, --artifacts")
    folder = ArtifactFolder(artifacts)
    folder.personas()  # before the encoder is loaded
    with loading("the encoder"):
        encoder = load_encoder(Settings.load().encoder)
    with ProgressBar() as bar:
        personas = encoded_personas(folder, encoder, refusals, bar)
        if model != HYBRID:
            return personas, None
        held_out = read_truth(splits, Unreported(), "valid").held_out
        users = sorted({user for user, _ in held_out})
        bar.start("encoding histories")
        with Histories(folder, Unreported()) as histories:

            def history_of(user: str) -> list[Interaction]:
                everything = histories.get(user)
                return [one for one in everything if (user, one.item_id) not in held_out]

            return personas, UserTexts.of(users, history_of, encoder)


@group.command(
    cls=JsonCommand,
    epilog="Example:  p4r evaluate --candidates examples/bookshop/candidates.jsonl "
    "--truth examples/bookshop/splits.jsonl --segments examples/bookshop/reviews.jsonl",
)
def evaluate(
    candidates: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Lists of a generator, or the output of p4r rerank."),
    ],
    truth: Annotated[
        Path,
        typer.Option(metavar="FILE", help="splits.jsonl, or lines of user_id and item_id."),
    ],
    on: Annotated[str, typer.Option(help="Which item of splits.jsonl: test or valid.")] = "test",
    segments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="reviews.jsonl; adds warm and cold users, head and tail items."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Other lists, compared with these user by user."),
    ] = None,
    json_file: JsonFile = None,
    force: Force = False,
) -> None:
    """Measure candidate lists: HR, MRR and NDCG with intervals; compare two lists.

    Every user of the truth counts; a user whose item is not in the list is a miss.
    """
    from indexer.artifacts.lines import Refusals
    from indexer.evaluation.evaluate import EvaluationFiles, evaluate_files
    from indexer.terminal.evaluation import print_evaluation
    from indexer.terminal.progress import ProgressBar

    if on not in ("test", "valid"):
        raise InputError(f"--on must be test or valid, not {on!r}")
    refusals = Refusals()
    with ExitStack() as files:  # opened first: what cannot be written is known at once
        write = None
        if json_file is not None:
            reads = [candidates, truth, segments, against]
            write = files.enter_context(new_file(json_file, EVALUATION, reads, force=force))
        with ProgressBar() as bar:
            found = evaluate_files(
                EvaluationFiles(candidates, truth, against, reviews=segments),
                refusals,
                on="valid" if on == "valid" else "test",
                progress=bar,
            )
        if write is not None:
            write(json.dumps(found.record(), ensure_ascii=False, indent=2))
    names = [candidates.stem, against.stem if against else ""]
    if against is not None and names[0] == names[1]:
        names = [str(candidates), str(against)]
    if str(json_file) != "-":
        print_evaluation(found, *names)
    exit_for(refusals)


@group.command(epilog="Example:  p4r experiment examples/bookshop.toml --output results/bookshop")
def experiment(
    configs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG.toml...",
            help="The experiment: see examples/bookshop.toml. Several have one page in common.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Results, report and caches; created if missing.")
    ],
    artifacts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The artifact folder, instead of the file's."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A trained adapter, instead of the file's."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Make the lists, and count what LLM rerankers would ask; ask nothing.",
        ),
    ] = False,
) -> None:
    """Run a whole experiment on held-out items and write a report.

    It compares generators, persona reranking and its parts. Killed and run again it goes on. It
    scores nothing if held-out data leak into the artifacts. Of several experiments, each has a
    folder in --output, and a page compares them over all users.

    If a file has a table named peers, LLM rerankers are compared too. They ask the LLM of
    P4R_LLM__*.
    """
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.writing import written_whole
    from indexer.evaluation.experiment.config import load_config
    from indexer.evaluation.experiment.peer_judging import most_calls
    from indexer.evaluation.experiment.pooled import pooled, pooled_page
    from indexer.evaluation.experiment.report import check_drawing, write_report
    from indexer.evaluation.experiment.run import estimate_peers, run_experiment
    from indexer.evaluation.experiment.stages import REPORT
    from indexer.terminal.console import out
    from indexer.terminal.evaluation import print_experiment, print_pooled
    from indexer.terminal.progress import ProgressBar
    from indexer.terminal.reasoning import print_estimates

    check_drawing()
    several = len(configs) > 1
    folders = [path.stem for path in configs] if several else ["."]
    if several and (artifacts or adapter):
        raise InputError("--artifacts and --adapter are for one experiment; name them in the files")
    if len(set(folders)) < len(folders):
        raise InputError("two experiments have the same file name; results go into a folder of it")
    wanted = [load_config(path, artifacts=artifacts, adapter=adapter) for path in configs]
    llm = _llm_of_peers(wanted, asks=not dry_run)
    if several:
        check_output(output / REPORT, configs, force=False, ours=EXPERIMENT_PAGE)
    refusals = Refusals()
    found = []
    for one, folder in zip(wanted, folders, strict=True):
        if dry_run:
            with ProgressBar() as bar:
                estimates = estimate_peers(one, output / folder, refusals, bar, llm)
            print_estimates(estimates)
            if one.peers and one.peers.judge:
                most = most_calls(one.peers)
                out.say(f"not counted: the judge of [peers.judge], at most {most:,} calls")
            if one.peers and one.peers.bench:
                minutes = one.peers.bench.minutes
                out.say(f"not counted: what [peers.bench] asks in {minutes:g} minutes")
            continue
        with ProgressBar() as bar:
            found.append(run_experiment(one, output / folder, refusals, bar, llm=llm))
        page = write_report(found[-1], output / folder)
        print_experiment(found[-1])
        out.say(f"report: {page}")
    if several and found:
        print_pooled(pooled(found))
        with written_whole(output / REPORT) as write:
            write(pooled_page(found, folders))
        out.say(f"all together: {output / REPORT}")
    exit_for(refusals)


def _llm_of_peers(configs: Sequence[ExperimentConfig], *, asks: bool) -> LLMSettings | None:
    """The LLM that peers ask, None if no experiment has any. Raises SettingsError without a key."""
    from p4r_qdrant.settings import Settings

    if not any(one.peers and one.peers.asks for one in configs):
        return None
    from indexer.llm import check_key

    llm = Settings.load().llm
    if asks:
        check_key(llm)
    return llm
