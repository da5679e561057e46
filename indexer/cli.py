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
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    suppress,
)
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from p4r_qdrant.errors import InputError, P4RError

if TYPE_CHECKING:
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.display import ReasoningProgress
    from indexer.judging.comparing import Study
    from indexer.judging.figures import Judged
    from indexer.ledger import Ledger
    from indexer.llm import LLM
    from indexer.publish import Source
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
judges = typer.Typer(
    help="Compare explanations, or personas, by an LLM that passes its controls first.",
    no_args_is_help=True,
)
app.add_typer(judges, name="judge")

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


@app.command("demo-llm", epilog="Example:  p4r demo-llm")
def demo_llm(
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another GGUF model than the small bundled one."),
    ] = None,
) -> None:
    """Let a small LLM on this machine write personas from reviews, and rerank with them.

    No key, no server, no model hub; a minute or two. The bundled model has 135 million
    parameters: its wording is poor, the way it goes is the real one.
    """
    from indexer import demo, demo_llm
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.display import ReasoningProgress, err, out, print_ranking, print_reasoned
    from indexer.local_llm import LocalLLM
    from p4r_qdrant.encoder import BUNDLED_MODEL, PersonaEncoder
    from p4r_qdrant.resources import resource

    refusals = Refusals()
    encoder = PersonaEncoder(BUNDLED_MODEL)  # now, not after minutes of asking
    with tempfile.TemporaryDirectory(prefix="p4r-demo-") as temporary:
        folder = Path(temporary) / "books"
        demo_llm.write_part(resource("examples/bookshop"), folder)
        with LocalLLM(model) as llm:
            out.print(
                f"A part of the bookshop, reasoned by {llm.model.stem} on this machine. "
                "Small models write poorly: look at the form, the evidence and the chain, not at "
                "the wording.",
                highlight=False,
                markup=False,
            )
            progress = ReasoningProgress()
            demo_llm.reason(folder, llm.settings(), progress, refusals)
        progress.print()
        written = ArtifactFolder(folder)
        print_reasoned(written)
        with err.status("encoding the personas ..."):
            [reranked] = demo.run(
                folder,
                Path(temporary) / "index",
                [demo_llm.READER],
                encoder=encoder,
                refusals=refusals,
            )
        with written.items(Refusals()) as items:
            ids = [one.item_id for one in reranked.ranking.items]
            titles = {item_id: item.title for item_id in ids if (item := items.get(item_id))}
        print_ranking(reranked.user_id, reranked.ranking, titles, reranked.history, told=None)
    _exit_for(refusals)


@app.command("local-llm", epilog="Example:  p4r local-llm --port 8090")
def local_llm(
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another GGUF model than the small bundled one."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of this machine; 0: a free one.")
    ] = 0,
) -> None:
    """Serve an LLM on this machine behind the OpenAI protocol, until Ctrl-C.

    What it prints is to be pasted into the shell that runs `p4r reason`.
    """
    import shlex

    from indexer.local_llm import LocalLLM

    with suppress(KeyboardInterrupt), LocalLLM(model, port=port) as llm:
        settings = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in llm.environment().items()
        )
        sys.stderr.write(f"{llm.model.name} answers at {llm.url} until Ctrl-C; elsewhere say\n")
        sys.stdout.write(f"export {settings}\n")
        sys.stdout.flush()
        llm.wait()


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
    from indexer.typical import note_typical_user
    from p4r_qdrant.encoder import load_encoder
    from p4r_qdrant.index.base import open_index
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    folder = ArtifactFolder(artifacts)
    total = folder.count_lines(PERSONAS)
    refusals = Refusals()
    encoder = load_encoder(settings.encoder)
    with open_index(settings, encoder=encoder, create=True) as opened, progress() as bar:
        task = bar.add_task("indexing items", total=total)
        report = index_artifacts(
            folder,
            encoder,
            opened,
            domain=domain,
            refusals=refusals,
            advance=lambda count: bar.advance(task, count),
        )
        note_typical_user(folder, encoder, opened, settings)
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
    epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r publish --artifacts "
    "examples/bookshop --domain books"
)
def publish(
    artifacts: Annotated[
        Path | None,
        typer.Option("--artifacts", metavar="DIR", help="The catalogue's artifact folder."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="ADAPTER", help="The folder of a LoRA adapter.")
    ] = None,
    domain: Domain = "products",
    vectors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Vectors encoded elsewhere: .npy or .parquet."),
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which encoder those vectors are of.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Encode everything, also what did not change.")
    ] = False,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Even if more than half of the live items go.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Only switch back to the previous version.")
    ] = False,
    drop_old: Annotated[
        bool,
        typer.Option("--drop-old", help="Delete all versions but the live and the previous one."),
    ] = False,
) -> None:
    """Encode all personas into a version of their own, verify it, and switch readers to it.

    Items that did not change are skipped: killed and run again, it goes on. With the encoder that
    is live already, its version is brought up to date item by item.
    """
    from contextlib import nullcontext

    from indexer import vectors as vector_files
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.display import print_dropped, print_published
    from p4r_qdrant.encoder import load_encoder
    from p4r_qdrant.index.versions import open_versions
    from p4r_qdrant.settings import Settings

    given = [artifacts is not None, rollback, drop_old]
    if not any(given) or (rollback and any([artifacts is not None, drop_old])):
        raise InputError("publish needs --artifacts DIR, or one of --rollback and --drop-old")
    if (vectors is None) != (fingerprint is None) or (vectors is not None and adapter is not None):
        raise InputError("--vectors FILE and --fingerprint NAME go together, without --adapter")
    settings = Settings.load(**({} if adapter is None else {"encoder": {"adapter": str(adapter)}}))
    if rollback:
        with open_versions(settings) as versions:
            print_published(versions.roll_back(), f"of {versions.location}")
        return
    refusals = Refusals()
    if artifacts is not None:
        folder = ArtifactFolder(artifacts)
        with (
            vector_files.opened(vectors, folder, fingerprint)
            if vectors is not None and fingerprint is not None
            else nullcontext(load_encoder(settings.encoder)) as source
        ):
            _publish(folder, source, settings, domain, refusals, again=again, shrink=shrink)
    if drop_old:
        with open_versions(settings) as versions:
            print_dropped(*versions.drop_old())
    _exit_for(refusals)


def _publish(
    folder: ArtifactFolder,
    source: Source,
    settings: Settings,
    domain: str,
    refusals: Refusals,
    **options: bool,
) -> None:
    """Publish an artifact folder, with a progress bar, and say what came of it."""
    from indexer.artifacts import PERSONAS
    from indexer.display import print_published, progress
    from indexer.publish import publish as publish_artifacts

    with progress() as bar:
        task = bar.add_task("publishing items", total=folder.count_lines(PERSONAS))
        report = publish_artifacts(
            folder,
            source,
            settings,
            domain=domain,
            refusals=refusals,
            advance=lambda count: bar.advance(task, count),
            **options,
        )
    print_published(report.version, report.location, report)


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
    interests: Annotated[
        float | None,
        typer.Option(help="Share of single interactions, the nearest of which counts: 0 to 1."),
    ] = None,
    prior: Annotated[
        float | None,
        typer.Option(help="How much of a persona's mean similarity to all users is taken off."),
    ] = None,
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
    given = {"interests": interests, "prior": prior}
    options = {name: value for name, value in given.items() if value is not None}
    with (
        PersonaReranker.from_settings(Settings.load(rerank=options)) as reranker,
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
    """Print where the index is, what it holds, which encoder made it, and its other versions."""
    from indexer.display import print_stats
    from p4r_qdrant.index.versions import open_versions
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    with open_versions(settings) as versions, versions.open_live() as opened:
        print_stats(opened.stats(), versions.all(), opened.version)


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


@app.command(epilog="Example:  p4r audit --artifacts examples/bookshop --html bookshop.html")
def audit(
    artifacts: Artifacts,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with plots too: one file, no scripts."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the figures (- for standard output)."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Items that are encoded, drawn by the seed.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another sample.")] = 0,
    no_encoder: Annotated[
        bool, typer.Option("--no-encoder", help="Leave out what needs an encoder.")
    ] = False,
) -> None:
    """Tell how good an artifact folder is, whoever made it: gaps, leaks, grounding, bias.

    Exit code 2 where held-out interactions have leaked into personas or alignments.
    """
    from dataclasses import asdict
    from functools import partial

    from indexer.artifacts import ArtifactFolder, Refusals, written_whole
    from indexer.audit import page, words
    from indexer.audit.run import audit as examine
    from indexer.display import print_audit, print_refusals, progress
    from p4r_qdrant.encoder import PersonaEncoder
    from p4r_qdrant.settings import Settings

    folder = ArtifactFolder(artifacts)
    settings = Settings.load().encoder
    if html is not None:
        page.check_plots()
    refusals = Refusals()
    with ExitStack() as files:  # opened first: what cannot be written is known at once
        write_page = files.enter_context(written_whole(html)) if html else None
        write_json = files.enter_context(written_whole(json_file)) if json_file else None
        with progress() as bar:
            found = examine(
                folder,
                None if no_encoder else partial(PersonaEncoder.from_settings, settings),
                refusals,
                sample=sample,
                seed=seed,
                track=lambda lines, what, total: bar.track(lines, total=total, description=what),
            )
        if write_page:
            write_page(page.page(found, folder.path.resolve().name))
        if write_json:
            write_json(json.dumps(asdict(found), ensure_ascii=False, indent=2))
    leak = words.leak_sentence(found)
    if "-" not in (str(html), str(json_file)):
        print_audit(words.sections(found), words.sampled(found), leak)
    if leak:
        print_refusals(refusals)
        raise InputError(leak)
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
    strategy: Annotated[
        str,
        typer.Option(
            help="Alignments by an LLM as judge, or by similarity: free, by the encoder alone."
        ),
    ] = "judge",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count requests, tokens and cost; ask nothing.")
    ] = False,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch", help="Through the Batch API: half the price, within a day a round."
        ),
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Submit batches and leave; run it again to collect.")
    ] = False,
) -> None:
    """Turn metadata and reviews into summaries, aspects, personas and alignments, with an LLM.

    Every answer is kept in DIR/ledger: killed and run again, it goes on and pays for none twice.

    With --batch the steps still wait for each other, and answers that cannot be used are asked
    for in a next round: with --no-wait it takes several runs until none says that batches are
    under way. The first request of each step is a live call.
    """
    import asyncio

    from indexer.artifacts import Refusals
    from indexer.display import ReasoningProgress, print_estimates
    from indexer.ledger import Ledger
    from indexer.llm import BatchesUnderWay, BatchFolder
    from indexer.prompts import Domain
    from indexer.reasoning import run
    from indexer.reasoning.step import Sources
    from p4r_qdrant.encoder import PersonaEncoder
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    refusals = Refusals()
    folder = run.gather(items, reviews, splits, artifacts)
    progress = ReasoningProgress()
    names = [name.strip() for name in steps.split(",")]
    encoder = None
    if strategy == "similarity" and "alignments" in names and not dry_run:
        encoder = PersonaEncoder.from_settings(settings.encoder)  # now, not after hours of asking
    chosen = run.steps(
        names,
        Sources(folder, Domain.load(domain), settings.llm, limit),
        refusals,
        per_user=per_user,
        profile=profile,
        seed=seed,
        strategy=strategy,
        encoder=encoder,
        advance=progress.encoded,
    )
    with Ledger(folder.path / "ledger", read_only=dry_run) as ledger:
        if dry_run:
            price_factor = settings.llm.batch_price_factor if batch else 1.0
            waiting = BatchFolder(ledger.folder).waiting()
            print_estimates(run.estimate(chosen, ledger, price_factor, waiting))
            return
        llm: AbstractAsyncContextManager[LLM | None] = nullcontext()
        if any(step.asks for step in chosen):
            llm = _llm(settings, ledger, progress, batch=batch, no_wait=no_wait)

        async def go() -> None:
            async with llm as opened:
                progress.follow(opened)
                await run.reason(
                    chosen, opened, ledger, progress.began, progress.told, progress.wrote
                )

        try:
            with progress, suppress(BatchesUnderWay):
                asyncio.run(go())
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
    from indexer.llm import LLM, BatchFolder
    from indexer.prompts import Domain
    from indexer.reasoning.run import made
    from indexer.reasoning.step import Sources
    from indexer.streaming import Adder, incoming
    from p4r_qdrant.encoder import load_encoder
    from p4r_qdrant.index.base import open_index
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    sources = Sources(ArtifactFolder(made(artifacts)), Domain.load(domain), settings.llm)
    lines = incoming(source, follow=follow)
    refusals = Refusals()
    with Ledger(artifacts / "ledger") as ledger, Arrivals(sources.folder) as arrivals:
        BatchFolder(ledger.folder).check_none("live calls would pay for them once more")

        async def go() -> None:
            async with LLM(settings.llm, ledger) as llm:
                encoder = load_encoder(settings.encoder)
                with open_index(settings, encoder=encoder, create=True) as opened:
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
    from indexer.llm import BatchFolder

    folder = ArtifactFolder(artifacts)
    refusals = Refusals()
    with Ledger(folder.path / "ledger") as ledger:
        batches = BatchFolder(ledger.folder)
        batches.check_none("nobody can be erased from them")
        batches.tidy()
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


@app.command(
    epilog="Example:  p4r candidates --reviews examples/bookshop/reviews.jsonl "
    "--splits examples/bookshop/splits.jsonl --model ease --output ease.jsonl"
)
def candidates(
    reviews: Annotated[Path, typer.Option(metavar="FILE", help="reviews.jsonl")],
    splits: Annotated[Path, typer.Option(metavar="FILE", help="splits.jsonl")],
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The lists; how they came about is written beside it."),
    ],
    model: Annotated[
        str, typer.Option(help="bpr, lightgcn, itemknn, ease or popularity.")
    ] = "ease",
    top: Annotated[int, typer.Option(min=1, help="Items in a list.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another bpr or lightgcn.")] = 0,
) -> None:
    """Write first-stage candidates: a generator fitted to training, tuned on validation items.

    Test items are never seen. Items a user has in training are left out; scores are kept.
    """
    from indexer.artifacts import Refusals
    from indexer.display import out, progress
    from indexer.evaluation.candidates import provenance_path, write_candidates

    refusals = Refusals()
    with progress() as bar:

        def began(what: str, total: int) -> None:
            bar.add_task(what, total=total)

        made = write_candidates(
            reviews,
            splits,
            output,
            refusals,
            model=model,
            top=top,
            seed=seed,
            began=began,
            advance=lambda count: bar.advance(bar.task_ids[-1], count),
        )
    chosen = ", ".join(f"{name} {value}" for name, value in made.settings.items()) or "no settings"
    best = max(one["value"] for one in made.tried)
    out.print(
        f"{made.users} lists by {made.model} ({chosen}; {made.tuned_by}: {best:.4f}, best of "
        f"{len(made.tried)}): {output}, {provenance_path(output).name}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    _exit_for(refusals)


@app.command(
    epilog="Example:  p4r evaluate --candidates examples/bookshop/candidates.jsonl "
    "--truth examples/bookshop/splits.jsonl --segments examples/bookshop/reviews.jsonl"
)
def evaluate(
    candidates: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Lists: a generator's, or the output of p4r rerank."),
    ],
    truth: Annotated[
        Path,
        typer.Option(metavar="FILE", help="splits.jsonl, or lines of user_id and item_id."),
    ],
    on: Annotated[str, typer.Option(help="Of splits.jsonl: test or valid.")] = "test",
    segments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="reviews.jsonl: warm and cold users, head and tail items too."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Other lists, compared with these user by user."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there too.")
    ] = None,
) -> None:
    """Print HR, MRR and NDCG at 5, 10, 20 with their intervals; compare two runs.

    Every user of the truth counts; one whose item is not in the list is a miss.
    """
    from indexer.artifacts import Refusals, written_whole
    from indexer.display import print_evaluation, progress
    from indexer.evaluation.evaluate import evaluate_files

    if on not in ("test", "valid"):
        raise InputError(f"--on is test or valid, not {on!r}")
    refusals = Refusals()
    with progress() as bar:
        task = bar.add_task("reading lines", total=None)
        found = evaluate_files(
            candidates,
            truth,
            refusals,
            on="valid" if on == "valid" else "test",
            reviews=segments,
            against=against,
            advance=lambda count: bar.advance(task, count),
        )
    names = [candidates.stem, against.stem if against else ""]
    if against is not None and names[0] == names[1]:
        names = [str(candidates), str(against)]
    print_evaluation(found, *names)
    if json_file is not None:
        with written_whole(json_file) as write:
            write(json.dumps(found.record(), ensure_ascii=False, indent=2))
    _exit_for(refusals)


Results = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="The folder of results; made if not there.")
]
JudgeDomain = Annotated[
    str, typer.Option("--domain", help="books, restaurants, products, or the folder of your own.")
]
Sample = Annotated[int, typer.Option(min=1, help="Comparisons, drawn by the seed.")]
Controls = Annotated[
    int, typer.Option(min=5, help="Comparisons of each control, whose outcome is known.")
]
JudgeSeed = Annotated[int, typer.Option(help="Another seed, another sample.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count requests, tokens and cost; ask nothing.")
]
InBatches = Annotated[bool, typer.Option("--batch", help="Through the Batch API.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Submit batches and leave; run it again to collect.")
]


@judges.command(
    "explanations",
    epilog="Example:  P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r judge explanations "
    "--artifacts books --explanations reranked.jsonl --domain books --output judged --dry-run",
)
def judge_explanations(
    artifacts: Artifacts,
    explanations: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Ours: the output of p4r rerank, or lines of user_id, item_id and explanation.",
        ),
    ],
    output: Results,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Others, alike; without it the items' summaries."),
    ] = None,
    domain: JudgeDomain = "products",
    top: Annotated[int, typer.Option(min=1, help="One of a reader's first so many items.")] = 5,
    sample: Sample = 100,
    controls: Controls = 30,
    seed: JudgeSeed = 0,
    dry_run: DryRun = False,
    batch: InBatches = False,
    no_wait: NoWait = False,
) -> None:
    """Let an LLM compare what readers are told of an item, on five criteria, in both orders.

    It must first be right where the outcome is known. Where it is not, it is asked no more, no win
    rate is given, and the exit code is 1. Killed and run again, it goes on and pays for none twice.
    """
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.judging.explanations import ExplanationStudy
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    refusals = Refusals()
    study = ExplanationStudy(
        ArtifactFolder(artifacts),
        explanations,
        against,
        refusals,
        top=top,
        sample=sample,
        controls=controls,
        seed=seed,
        length=settings.history.length,
    )
    asking = {"dry_run": dry_run, "batch": batch, "no_wait": no_wait}
    _judge(study, output, domain, settings, refusals, **asking)


@judges.command(
    "personas",
    epilog="Example:  P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r judge personas "
    "--artifacts examples/bookshop --domain books --output judged-personas --dry-run",
)
def judge_personas(
    artifacts: Artifacts,
    output: Results,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Another personas.jsonl; without it a single persona that the LLM writes.",
        ),
    ] = None,
    domain: JudgeDomain = "products",
    sample: Sample = 100,
    controls: Controls = 30,
    seed: JudgeSeed = 0,
    dry_run: DryRun = False,
    batch: InBatches = False,
    no_wait: NoWait = False,
) -> None:
    """Let an LLM compare the several personas of an item with a single one, on five criteria.

    It must first be right where the outcome is known. Where it is not, it is asked no more, no win
    rate is given, and the exit code is 1. Killed and run again, it goes on and pays for none twice.
    """
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.judging.personas import PersonaStudy
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    refusals = Refusals()
    study = PersonaStudy(
        ArtifactFolder(artifacts),
        against,
        output,
        refusals,
        sample=sample,
        controls=controls,
        seed=seed,
    )
    asking = {"dry_run": dry_run, "batch": batch, "no_wait": no_wait}
    _judge(study, output, domain, settings, refusals, **asking)


def _judge(
    study: Study,
    output: Path,
    domain: str,
    settings: Settings,
    refusals: Refusals,
    *,
    dry_run: bool,
    batch: bool,
    no_wait: bool,
) -> None:
    """Run a study, print what it found; fail where the judge does."""
    import asyncio

    from indexer.display import (
        ReasoningProgress,
        print_estimates,
        print_judged,
        print_refusals,
    )
    from indexer.judging.run import Run, unfit
    from indexer.ledger import Ledger
    from indexer.llm import BatchesUnderWay, BatchFolder

    sources = _sources(output, domain, settings)
    progress = ReasoningProgress()
    found: Judged | None = None
    with study, Ledger(output / "ledger", read_only=dry_run) as ledger:
        run = Run(study, sources, refusals)
        if dry_run:
            price_factor = settings.llm.batch_price_factor if batch else 1.0
            waiting = BatchFolder(ledger.folder).waiting()
            print_estimates(run.estimate(ledger, price_factor, waiting))
            return
        llm = _llm(settings, ledger, progress, batch=batch, no_wait=no_wait)

        async def go() -> Judged:
            async with llm as opened:
                progress.follow(opened)
                return await run.judge(
                    opened, ledger, progress.began, progress.told, progress.wrote
                )

        try:
            with progress, suppress(BatchesUnderWay):
                found = asyncio.run(go())
        finally:
            progress.print()
    if found is not None:
        print_judged(found, output)
        if not found.passed:
            print_refusals(refusals)
            raise unfit(found, output)
    _exit_for(refusals)


@app.command(epilog="Example:  p4r experiment examples/bookshop.toml --output results/bookshop")
def experiment(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What is compared.")],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Results, report and caches; made if not there.")
    ],
    artifacts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The artifact folder, instead of the file's."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A trained adapter, instead of the file's."),
    ] = None,
) -> None:
    """Compare generators, persona reranking and its parts on held-out items; write a report.

    Killed and run again it goes on. Nothing is scored where held-out data leak into what is made.
    """
    from indexer.artifacts import Refusals
    from indexer.display import StageProgress, out, print_experiment
    from indexer.evaluation.experiment.config import load_config
    from indexer.evaluation.experiment.report import check_drawing, write_report
    from indexer.evaluation.experiment.run import run_experiment

    check_drawing()
    wanted = load_config(config, artifacts=artifacts, adapter=adapter)
    refusals = Refusals()
    with StageProgress() as watcher:
        results = run_experiment(wanted, output, refusals, watcher)
    page = write_report(results, output)
    print_experiment(results)
    out.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)
    _exit_for(refusals)


@app.command(
    epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r train --artifacts examples/bookshop "
    "--output bookshop-adapter"
)
def train(
    artifacts: Artifacts,
    output: Annotated[
        Path, typer.Option(metavar="ADAPTER", help="The adapter's folder; must not be there yet.")
    ],
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Log for TensorBoard there.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Then do as p4r publish, if reranking got better.")
    ] = False,
    domain: Domain = "products",
) -> None:
    """Train a LoRA adapter for the encoder on the alignments of an artifact folder.

    Settings: P4R_TRAINING__*, P4R_HISTORY__*, P4R_ENCODER__MODEL. Checkpoints are in
    ADAPTER.training: killed and run again, it goes on. Several GPUs: torchrun --no-python p4r train
    """
    import warnings
    from importlib.util import find_spec

    warnings.simplefilter("ignore")  # what the libraries below have to say to their developers
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.display import print_training
    from p4r_qdrant.encoder import load_encoder
    from p4r_qdrant.errors import MissingExtraError, VerificationError
    from p4r_qdrant.index.versions import open_versions
    from p4r_qdrant.settings import Settings

    needed = ["sentence_transformers", "peft", "accelerate", "matplotlib"]
    for name in [*needed, "tensorboard"] if tensorboard else needed:
        if find_spec(name) is None:
            raise MissingExtraError(f"training needs {name}: pip install 'p4r-qdrant[train]'")
    from indexer.training import run
    from indexer.training.progress import TrainingProgress

    settings = Settings.load()
    folder, refusals = ArtifactFolder(artifacts), Refusals()
    if publish:  # what would keep the adapter from readers is better known before training
        with open_versions(settings) as versions:
            versions.check_switch(versions.named(str(output)))
    trained = run.train(
        folder,
        output,
        settings,
        refusals,
        callbacks=[TrainingProgress()],
        tensorboard=tensorboard,
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
        _publish(folder, load_encoder(adapted.encoder), adapted, domain, refusals)
    _exit_for(refusals)


@app.command(
    epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r tune --artifacts examples/bookshop"
)
def tune(
    artifacts: Artifacts,
    adapter: Annotated[
        str | None, typer.Option(metavar="ADAPTER", help="Instead of P4R_ENCODER__ADAPTER.")
    ] = None,
) -> None:
    """Pick history length and decay on the validation items, and record them with the adapter."""
    from indexer.artifacts import ArtifactFolder, Refusals
    from indexer.display import print_tuning
    from indexer.training.tune import tune_history
    from p4r_qdrant.settings import Settings

    refusals = Refusals()
    settings = Settings.load(encoder={"adapter": adapter}) if adapter else Settings.load()
    tuned = tune_history(ArtifactFolder(artifacts), settings, refusals)
    print_tuning(tuned)
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
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Answer Prometheus there, on P4R_SERVICE__HOST; 0: a free one."
        ),
    ] = None,
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
    from indexer.worker import Worker, publish_metrics
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
        if metrics_port is not None:
            found = publish_metrics(worker, settings.service.host, metrics_port)
            logs.requests.info("metrics", extra={"fields": {"port": found}})

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


def _llm(
    settings: Settings, ledger: Ledger, progress: ReasoningProgress, *, batch: bool, no_wait: bool
) -> LLM:
    """Whom to ask: with a call each, or in batches."""
    from indexer.llm import LLM, BatchFolder, BatchLLM

    if batch:
        return BatchLLM(settings.llm, ledger, wait=not no_wait, watch=progress.watch)
    if no_wait:
        raise InputError("--no-wait is for --batch alone")
    BatchFolder(ledger.folder).check_none("live calls would pay for them once more")
    return LLM(settings.llm, ledger)


@contextmanager
def _opened() -> Iterator[PersonaIndex]:
    from p4r_qdrant.index.base import open_index
    from p4r_qdrant.settings import Settings

    with open_index(Settings.load()) as opened:
        yield opened
