"""The `p4r` command: parsing, progress, exit codes. What a command does is written elsewhere.

Modules are imported inside the commands: `p4r --help` must not wait for an encoder, and serving
commands must run where the offline parts are not installed.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from p4r_qdrant.errors import InputError, P4RError

if TYPE_CHECKING:
    from indexer.artifacts import Refusals
    from indexer.reasoning.step import Sources
    from p4r_qdrant.index.base import PersonaIndex
    from p4r_qdrant.settings import Settings

app = typer.Typer(
    name="p4r",
    help="Persona-profiled item indexing on Qdrant: rerank candidates, and say why.",
    epilog="Settings come from P4R_* environment variables and p4r.toml. "
    "Exit codes: 0 done, 1 something failed, 2 something in the input to put right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
imports = typer.Typer(help="Turn other people's files into our artifacts.", no_args_is_help=True)
app.add_typer(imports, name="import")

Artifacts = Annotated[
    Path, typer.Option("--artifacts", metavar="DIR", help="The catalogue's artifact folder.")
]
Domain = Annotated[
    str, typer.Option(help="Stored with each persona: books, restaurants, products ...")
]


@app.command(epilog="Example:  p4r demo")
def demo(
    artifacts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Another catalogue than the bookshop that comes with it."),
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="Show this reader instead; can be repeated.")
    ] = None,
) -> None:
    """Index an example catalogue in a temporary folder and rerank for three readers."""
    from indexer import demo as demonstration
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.display import err, out, print_ranking
    from p4r_qdrant.resources import resource

    folder = ArtifactFolder(artifacts or resource("examples/bookshop"))
    refusals = Refusals()
    out.print(
        f"Catalogue: {folder.path}. Encoder: all-MiniLM-L6-v2, untrained. "
        "Index: embedded, in a temporary folder.",
        highlight=False,
        markup=False,
    )
    with (
        tempfile.TemporaryDirectory(prefix="p4r-demo-") as index_folder,
        err.status("encoding the personas ..."),
    ):
        shown = list(
            demonstration.run(
                folder.path,
                Path(index_folder) / "index",
                user or demonstration.READERS,
                refusals=refusals,
            )
        )
    with folder.items(Refusals()) as items:
        for reranked in shown:
            print_ranking(
                reranked.user_id,
                reranked.ranking,
                {
                    one.item_id: found.title
                    for one in reranked.ranking.items
                    if (found := items.get(one.item_id))
                },
                reranked.history,
                told=None,
            )
    _exit_for(refusals)


@app.command(
    epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r index --artifacts examples/bookshop "
    "--domain books"
)
def index(artifacts: Artifacts, domain: Domain = "products") -> None:
    """Encode the personas of an artifact folder and write them to the index.

    Items that did not change are skipped: killed and run again, it does what is missing.
    """
    from indexer.artifacts import PERSONAS, ArtifactFolder, Refusals
    from indexer.display import out, progress
    from indexer.publish import index_artifacts
    from p4r_qdrant.encoder import PersonaEncoder
    from p4r_qdrant.index.base import open_index
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    folder = ArtifactFolder(artifacts)
    total = folder.count_lines(PERSONAS)
    refusals = Refusals()
    encoder = PersonaEncoder.from_settings(settings.encoder)
    with (
        open_index(
            settings,
            dimension=encoder.dimension,
            fingerprint=encoder.fingerprint,
            encoder=encoder.name,
            create=True,
        ) as opened,
        progress() as bar,
    ):
        task = bar.add_task("indexing items", total=total)
        report = index_artifacts(
            folder,
            encoder,
            opened,
            domain=domain,
            refusals=refusals,
            advance=lambda count: bar.advance(task, count),
        )
        where = opened.location
    out.print(
        f"{report.written} items written, {report.unchanged} unchanged, "
        f"{report.refused} records refused: {where}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    _exit_for(refusals)


@app.command(
    epilog="Example:  p4r rerank --artifacts examples/bookshop "
    "--candidates examples/bookshop/candidates.jsonl --user maren-o --top 5"
)
def rerank(
    artifacts: Artifacts,
    candidates: Annotated[
        Path,
        typer.Option(metavar="FILE", help='JSON Lines {"user_id", "results": [{"item_id", ...}]}'),
    ],
    user: Annotated[str | None, typer.Option(help="Only this user.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Keep so many items a user.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write JSON Lines there (- for standard output)."),
    ] = None,
) -> None:
    """Rerank candidate lists by the histories of an artifact folder, and say why."""
    from indexer.artifacts import ArtifactFolder, Refusals, written_whole
    from indexer.display import print_ranking, print_refusals, progress
    from indexer.reranking import output_record, rerank_file
    from p4r_qdrant.reranker import PersonaReranker
    from p4r_qdrant.settings import Settings

    folder = ArtifactFolder(artifacts)
    refusals = Refusals()
    with (
        PersonaReranker.from_settings(Settings.load()) as reranker,
        folder.items(Refusals()) as items,  # rerank_file tells what is wrong in it
        progress() as bar,
    ):
        task = bar.add_task("reranking users", total=None)
        rankings = rerank_file(
            folder, candidates, reranker, refusals, user=user, top=top, explain=None
        )
        try:
            if output is not None:
                with written_whole(output) as write:
                    for reranked in rankings:
                        write(json.dumps(output_record(reranked), ensure_ascii=False))
                        bar.advance(task)
            else:
                for reranked in rankings:
                    ids = [one.item_id for one in reranked.ranking.items]
                    found = {item_id: items.get(item_id) for item_id in ids}
                    titles = {item_id: item.title for item_id, item in found.items() if item}
                    print_ranking(reranked.user_id, reranked.ranking, titles, reranked.history)
        except InputError:
            print_refusals(refusals)
            raise
    _exit_for(refusals)


@app.command(epilog="Example:  p4r show salt-orchard")
def show(item: Annotated[str, typer.Argument(help="An item id.")]) -> None:
    """Print an item's personas."""
    from indexer.display import print_personas
    from p4r_qdrant.index.payload import check_item_id

    with _opened() as opened:
        personas = opened.get(check_item_id(item))
        if not personas:
            raise InputError(f"item {item!r} is not in {opened.location}")
    print_personas(item, personas)


@app.command(epilog="Example:  P4R_QDRANT__URL=http://localhost:6333 p4r status")
def status() -> None:
    """Print where the index is, what it holds and which encoder made it."""
    from indexer.display import print_stats

    with _opened() as opened:
        print_stats(opened.stats())


@app.command(epilog="Example:  p4r remove salt-orchard")
def remove(
    items: Annotated[list[str], typer.Argument(help="Item ids.", metavar="ITEM...")],
) -> None:
    """Take items out of the index."""
    from indexer.display import out

    distinct = list(dict.fromkeys(items))
    with _opened() as opened:
        missing = [item for item in distinct if not opened.delete_item(item)]
        where = opened.location
    removed = len(distinct) - len(missing)
    out.print(f"{removed} of {len(distinct)} items removed", highlight=False)
    if missing:
        names = ", ".join(repr(item) for item in missing)
        raise InputError(f"not in {where}: {names}")


@app.command(
    epilog="Example:  p4r prepare amazon-2023 --reviews Books.jsonl.gz --items meta_Books.jsonl.gz "
    "--k-core 5 --output books"
)
def prepare(
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT", help="amazon-2023, amazon-2018, amazon-2014, yelp or plain."
        ),
    ],
    reviews: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="JSON Lines, CSV or Parquet, compressed or not; can be repeated.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The artifact folder, made if it is not there.")
    ],
    items: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="The metadata; can be repeated.")
    ] = None,
    city: Annotated[
        list[str] | None, typer.Option(help="Only items of this city; can be repeated.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Only items in this category; can be repeated.")
    ] = None,
    unknown_items: Annotated[
        bool, typer.Option("--unknown-items", help="Keep reviews of items without metadata.")
    ] = False,
    k_core: Annotated[
        int, typer.Option(min=1, help="Each user and item has so many interactions.")
    ] = 1,
    users: Annotated[int | None, typer.Option(min=1, help="A sample of so many users.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another sample.")] = 0,
    min_interactions: Annotated[int, typer.Option(min=2, help="Split users who have so many.")] = 3,
    file_order_ties: Annotated[
        bool,
        typer.Option(
            "--file-order-ties",
            help="Split equal time stamps by their order in the file, not by item id.",
        ),
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS", help="plain: the source's name of a field; can be repeated."
        ),
    ] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write Parquet files too.")] = False,
) -> None:
    """Turn a public review data set into items.jsonl, reviews.jsonl and splits.jsonl."""
    from indexer.artifacts import Refusals
    from indexer.datasets.prepare import Selection, format_named
    from indexer.datasets.prepare import prepare as prepare_dataset
    from indexer.display import print_counts, progress

    selection = Selection(
        cities=tuple(city or ()),
        categories=tuple(category or ()),
        unknown_items=unknown_items,
        k_core=k_core,
        users=users,
        seed=seed,
        ties="file" if file_order_ties else "item",
        min_interactions=min_interactions,
    )
    refusals = Refusals()
    with progress() as bar:
        task = bar.add_task("reading rows", total=None)
        report = prepare_dataset(
            format_named(form, column or ()),
            reviews,
            items or [],
            output,
            refusals,
            selection=selection,
            parquet=parquet,
            advance=lambda count: bar.advance(task, count),
        )
    print_counts("written", report.written)
    print_counts("left out", report.left_out)
    print_counts("refused", refusals.counts)
    _exit_for(refusals)


@app.command(epilog="Example:  p4r stats --artifacts examples/bookshop --plot bookshop.png")
def stats(
    artifacts: Artifacts,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it too, as a .png file.")
    ] = None,
) -> None:
    """Print what a data set is like: interactions, users, items, sparsity, ratings."""
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.datasets.stats import check_plot, dataset_stats
    from indexer.datasets.stats import plot as draw
    from indexer.display import print_dataset, progress

    folder = ArtifactFolder(artifacts)
    if plot is not None:
        check_plot(plot)
    refusals = Refusals()
    with progress() as bar:
        task = bar.add_task("reading reviews", total=None)
        found = dataset_stats(folder, refusals, lambda count: bar.advance(task, count))
    print_dataset(found)
    if plot is not None:
        draw(found, plot, folder.path.resolve().name)
    _exit_for(refusals)


@app.command(
    epilog="Example:  P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r reason "
    "--items items.jsonl --reviews reviews.jsonl --splits splits.jsonl --domain books "
    "--artifacts books --dry-run"
)
def reason(
    items: Annotated[Path, typer.Option(metavar="FILE", help="items.jsonl")],
    reviews: Annotated[Path, typer.Option(metavar="FILE", help="reviews.jsonl")],
    artifacts: Annotated[
        Path, typer.Option(metavar="DIR", help="The artifact folder, made if it is not there.")
    ],
    domain: Annotated[
        str, typer.Option(help="books, restaurants, products, or the folder of one of yours.")
    ] = "products",
    splits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Held-out interactions; never reasoned on.")
    ] = None,
    steps: Annotated[
        str, typer.Option(help="Some of summaries,aspects,personas,alignments.")
    ] = "summaries,aspects,personas,alignments",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None,
    per_user: Annotated[int, typer.Option(min=1, help="Alignments of a user.")] = 3,
    profile: Annotated[
        str, typer.Option(help="What the judge sees: before (that interaction) or others.")
    ] = "before",
    seed: Annotated[int, typer.Option(help="Shuffles the judge's options.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count requests, tokens and cost; ask nothing.")
    ] = False,
) -> None:
    """Turn metadata and reviews into summaries, aspects, personas and alignments, with an LLM.

    Every answer is kept in DIR/ledger: killed and run again, it goes on and pays for none twice.
    """
    import asyncio

    from indexer.artifacts import Refusals
    from indexer.display import ReasoningProgress, print_estimates
    from indexer.ledger import Ledger
    from indexer.llm import LLM
    from indexer.prompts import Domain
    from indexer.reasoning import run
    from indexer.reasoning.step import Sources
    from p4r_qdrant.settings import Settings

    settings = Settings.load().llm
    refusals = Refusals()
    folder = run.gather(items, reviews, splits, artifacts)
    chosen = run.steps(
        steps.split(","),
        Sources(folder, Domain.load(domain), settings, limit),
        refusals,
        per_user=per_user,
        profile=profile,
        seed=seed,
    )
    with Ledger(folder.path / "ledger", read_only=dry_run) as ledger:
        if dry_run:
            print_estimates(run.estimate(chosen, ledger))
            return

        async def go(progress: ReasoningProgress) -> None:
            async with LLM(settings, ledger) as llm:
                progress.follow(llm)
                await run.reason(chosen, llm, ledger, progress.began, progress.told, progress.wrote)

        progress = ReasoningProgress()
        try:
            with progress:
                asyncio.run(go(progress))
        finally:
            progress.print()
    _exit_for(refusals)


@app.command(
    epilog="Example:  tail -f arrivals.log | P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r add "
    "--artifacts books --domain books"
)
def add(
    artifacts: Annotated[
        Path, typer.Option(metavar="DIR", help="The artifact folder, made if it is not there.")
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="[FILE]", help="JSON Lines; what has a user_id is a review, else an item."
        ),
    ] = Path("-"),
    domain: Annotated[
        str, typer.Option(help="books, restaurants, products, or the folder of one of yours.")
    ] = "products",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on reading as FILE grows, until Ctrl-C.")
    ] = False,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds without news of an item before it is reasoned on.")
    ] = 1.0,
) -> None:
    """Reason on items and reviews as they arrive, and keep the index up to date.

    Prints a line for each item. Killed and run again, it goes on and pays for nothing twice.
    """
    import asyncio

    from indexer.arrivals import Arrivals
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.display import err, print_added, print_counts
    from indexer.ledger import Ledger
    from indexer.llm import LLM
    from indexer.prompts import Domain
    from indexer.reasoning.run import made
    from indexer.reasoning.step import Sources
    from indexer.streaming import Adder, incoming
    from p4r_qdrant.encoder import PersonaEncoder
    from p4r_qdrant.index.base import open_index
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    sources = Sources(ArtifactFolder(made(artifacts)), Domain.load(domain), settings.llm)
    lines = incoming(source, follow=follow)
    refusals = Refusals()
    with Ledger(artifacts / "ledger") as ledger, Arrivals(sources.folder) as arrivals:

        async def go() -> None:
            async with LLM(settings.llm, ledger) as llm:
                encoder = PersonaEncoder.from_settings(settings.encoder)
                with open_index(
                    settings,
                    dimension=encoder.dimension,
                    fingerprint=encoder.fingerprint,
                    encoder=encoder.name,
                    create=True,
                ) as opened:
                    adder = Adder(
                        sources,
                        arrivals,
                        ledger,
                        llm,
                        encoder,
                        opened,
                        settle_s=settle,
                        refusals=refusals,
                        told=print_added,
                    )
                    try:
                        await adder.run(lines)
                    finally:
                        if adder.lost_alignments:
                            lost = {"alignments: their personas changed": adder.lost_alignments}
                            print_counts("left out", lost, err)

        asyncio.run(go())
    _exit_for(refusals)


@app.command(epilog="Example:  p4r erase maren-o --artifacts books")
def erase(
    users: Annotated[list[str], typer.Argument(help="User ids.", metavar="USER...")],
    artifacts: Artifacts,
) -> None:
    """Remove all that came from a user: lines, answers of the LLM, evidence.

    Prints the items whose personas the user had a part in, one a line: reason on them again.
    """
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.display import err, out, print_counts
    from indexer.erasing import erase_users
    from indexer.ledger import Ledger

    folder = ArtifactFolder(artifacts)
    refusals = Refusals()
    with Ledger(folder.path / "ledger") as ledger:
        erased = erase_users(folder, ledger, users, refusals)
    print_counts("removed", {what: count for what, count in erased.removed.items() if count}, err)
    for item_id in erased.items:
        out.print(item_id, highlight=False, markup=False, soft_wrap=True)
    advice = [
        f"{len(erased.items)} items to reason on again: p4r reason, then p4r index.",
        "Take the user out of the files that p4r reason reads too, or they come back.",
    ]
    if erased.bare:
        advice.append(f"No persona is left: p4r remove {shlex.join(erased.bare)}")
    for sentence in advice:
        err.print(sentence, highlight=False, markup=False, soft_wrap=True)
    _exit_for(refusals)


@app.command(epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r serve --anonymous")
def serve(
    host: Annotated[
        str | None, typer.Option(help="Where to listen, instead of P4R_SERVICE__HOST.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Ask for no key; on this machine only.")
    ] = False,
    artifacts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Do the work of `p4r work` in this process, too."),
    ] = None,
    domain: Annotated[
        str, typer.Option(help="With --artifacts: books, restaurants, products, or a folder.")
    ] = "products",
) -> None:
    """Serve reranking over HTTP; its document is at /docs.

    The embedded index can be open in one process alone: with it, --artifacts has new interactions
    and items reasoned on here.
    """
    import importlib.util

    from p4r_qdrant.errors import MissingExtraError
    from p4r_qdrant.settings import Settings

    if importlib.util.find_spec("fastapi") is None:
        raise MissingExtraError("serving needs FastAPI: pip install 'p4r-qdrant[service]'")
    from p4r_qdrant.service.run import serve as run_service

    told = {"host": host, "port": port, "allow_anonymous": anonymous or None}
    given = {name: value for name, value in told.items() if value is not None}
    settings = Settings.load(service=given) if given else Settings.load()
    if artifacts is None:
        run_service(settings)
        return

    from indexer.ledger import Ledger
    from indexer.worker import Worker, WorkerThread

    sources = _sources(artifacts, domain, settings)
    with Ledger(artifacts / "ledger") as ledger:
        run_service(settings, lambda backend: WorkerThread(Worker(backend, sources, ledger)))


@app.command(
    epilog="Example:  P4R_QDRANT__URL=http://localhost:6333 "
    "P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r work --artifacts books --domain books"
)
def work(
    artifacts: Annotated[
        Path, typer.Option(metavar="DIR", help="The artifact folder, made if it is not there.")
    ],
    domain: Annotated[
        str, typer.Option(help="books, restaurants, products, or the folder of one of yours.")
    ] = "products",
    once: Annotated[
        bool, typer.Option("--once", help="End when no job is left whose time has come.")
    ] = False,
) -> None:
    """Do the jobs that `p4r serve` enqueued: read reviews, make personas, erase users.

    Killed and run again, it goes on and pays for nothing twice.
    """
    import asyncio
    import signal
    import threading

    from indexer.display import print_counts
    from indexer.ledger import Ledger
    from indexer.llm import LLM
    from indexer.worker import Worker
    from p4r_qdrant.service import logs
    from p4r_qdrant.service.backend import Backend
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    sources = _sources(artifacts, domain, settings)
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    backend = Backend(settings)
    with Ledger(artifacts / "ledger") as ledger:
        LLM(settings.llm, ledger)  # without an endpoint there is nothing to be done
        logs.configure()
        worker = Worker(backend, sources, ledger)

        async def until_done() -> None:
            while not stop.is_set() and await worker.work_once():
                pass

        try:
            asyncio.run(until_done() if once else worker.run(stop))
        finally:
            backend.close()
    print_counts("done", dict(worker.done))


@imports.command(
    "persona4rec", epilog="Example:  p4r import persona4rec pipeline/output --output artifacts"
)
def import_persona4rec(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the paper's files.")],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Our artifact folder, made if it is not there.")
    ],
) -> None:
    """Import the files of the paper's public code (books and restaurants flavours)."""
    from indexer.artifacts import Refusals
    from indexer.datasets.persona4rec import convert
    from indexer.display import print_counts, progress

    refusals = Refusals()
    with progress() as bar:
        task = bar.add_task("reading lines", total=None)
        report = convert(source, output, refusals, lambda count: bar.advance(task, count))
    print_counts("taken", report.taken)
    print_counts("repaired", report.repaired)
    print_counts("left out", report.left_out)
    print_counts("refused", refusals.counts)
    _exit_for(refusals)


def main() -> None:
    """The entry point: runs the command and turns our errors into sentences and exit codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter
    try:
        _run()
    except P4RError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; run it again to go on", 130)
    except BrokenPipeError:
        _silence_output()
        sys.exit(0)  # whoever read our output has seen enough
    except OSError as error:
        _silence_output()
        _fail(f"{error.filename or 'the output'}: {error.strerror or error}", 1)


def _run() -> None:
    """The command itself. Typer leaves by SystemExit, after Ctrl-C and a closed pipe too."""
    try:
        app()
    except SystemExit as leaving:
        if leaving.code == 130:
            raise KeyboardInterrupt from None
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        sys.stdout.flush()
        raise


def _silence_output() -> None:
    """Drop what could not be written: Python would complain of it once more at exit."""
    with suppress(OSError):  # not every standard output is a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"p4r: {sentence}\n")
    sys.exit(code)


def _exit_for(refusals: Refusals) -> None:
    """Say what was refused; some input has to be put right, and the exit code says so."""
    from indexer.display import print_refusals

    print_refusals(refusals)
    if refusals.total:
        raise typer.Exit(2)


def _sources(artifacts: Path, domain: str, settings: Settings) -> Sources:
    from indexer.artifacts import ArtifactFolder
    from indexer.prompts import Domain
    from indexer.reasoning.run import made
    from indexer.reasoning.step import Sources

    return Sources(ArtifactFolder(made(artifacts)), Domain.load(domain), settings.llm)


@contextmanager
def _opened() -> Iterator[PersonaIndex]:
    from p4r_qdrant.index.base import open_index
    from p4r_qdrant.settings import Settings

    with open_index(Settings.load()) as opened:
        yield opened
