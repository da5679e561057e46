"""`p4r prepare`, `stats`, `audit`, `erase` and `import`: artifact folders."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.outputs import (
    AUDIT_PAGE,
    AUDIT_RECORD,
    PLOT,
    Force,
    check_file,
    check_outputs,
    is_one_file,
    new_file,
)
from indexer.cli.shared import Artifacts, AsJson, JsonCommand, JsonFile, exit_for, print_json
from indexer.cli.tenant_option import of_tenant
from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from indexer.terminal.progress import ProgressBar
    from p4r_qdrant.encoder.base import Encoder
    from p4r_qdrant.settings import EncoderSettings

group = typer.Typer()
imports = typer.Typer(help="Import artifacts that other programs made.", no_args_is_help=True)
group.add_typer(imports, name="import")


@group.command(
    epilog="Example:  p4r prepare amazon-2023 --reviews Books.jsonl.gz --items meta_Books.jsonl.gz "
    "--k-core 5 --output books"
)
def prepare(
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="amazon-2023, amazon-2018, amazon-2014, yelp, goodreads, plain or recbole.",
        ),
    ],
    reviews: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="JSON Lines, CSV, TSV, .inter or Parquet, gzipped or not; can be repeated.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The artifact folder; created if missing.")
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
        int, typer.Option(min=1, help="Keep users and items with at least so many interactions.")
    ] = 1,
    users: Annotated[
        int | None, typer.Option(min=1, help="Keep a random sample of so many users.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the sample.")] = 0,
    min_interactions: Annotated[
        int, typer.Option(min=2, help="Split users with at least so many interactions.")
    ] = 3,
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
            metavar="OURS=THEIRS",
            help="plain: the source's name of a field, as item_id=sku, or items.title=name for one "
            "kind of file; can be repeated.",
        ),
    ] = None,
    delimiter: Annotated[
        str, typer.Option(help="What separates columns: ;, :: or tab; else the header tells.")
    ] = "",
    columns: Annotated[
        str, typer.Option(metavar="A,B,...", help="The columns of reviews without a header line.")
    ] = "",
    item_columns: Annotated[
        str, typer.Option(metavar="A,B,...", help="The columns of items without a header line.")
    ] = "",
    parquet: Annotated[bool, typer.Option("--parquet", help="Write Parquet files too.")] = False,
    force: Force = False,
) -> None:
    """Turn a review data set (Amazon, Yelp, Goodreads, your own) into an artifact folder.

    Writes items.jsonl, reviews.jsonl and splits.jsonl.
    """
    from indexer.artifacts.lines import Refusals
    from indexer.datasets.delimited import Layout, names_of
    from indexer.datasets.formats import format_named
    from indexer.datasets.prepare import FILES, Dataset
    from indexer.datasets.prepare import prepare as prepare_dataset
    from indexer.datasets.selection import Selection
    from indexer.terminal.progress import ProgressBar
    from indexer.terminal.tables import print_counts

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
    check_outputs(output, FILES, [*reviews, *(items or [])], force=force)
    refusals = Refusals()
    with ProgressBar() as bar:
        report = prepare_dataset(
            Dataset(
                format_named(form, column or ()),
                reviews,
                items or [],
                Layout(delimiter, names_of(columns)),
                Layout(delimiter, names_of(item_columns)),
            ),
            output,
            refusals,
            selection=selection,
            parquet=parquet,
            progress=bar,
        )
    print_counts("written", report.written)
    print_counts("left out", report.left_out)
    print_counts("refused", refusals.counts)
    exit_for(refusals)


@group.command(epilog="Example:  p4r stats --artifacts examples/bookshop --plot bookshop.png")
def stats(
    artifacts: Artifacts,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it too, as a .png file.")
    ] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Count the users, items, ratings and sparsity of a data set."""
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.datasets.plot import check_plot
    from indexer.datasets.plot import plot as draw
    from indexer.datasets.stats import dataset_record, dataset_stats
    from indexer.terminal.artifacts import print_dataset
    from indexer.terminal.console import err
    from indexer.terminal.progress import ProgressBar

    folder = ArtifactFolder(artifacts)
    if plot is not None:
        check_plot(plot)
        check_file(plot, [artifacts], force=force, ours=PLOT)
    refusals = Refusals()
    with ProgressBar() as bar:
        found = dataset_stats(folder, refusals, bar)
    if as_json:
        print_json(dataset_record(found))
    else:
        print_dataset(found)
    if plot is not None:
        draw(found, plot, folder.path.resolve().name)
        err.say(f"written: {plot}")
    exit_for(refusals)


@group.command(
    cls=JsonCommand, epilog="Example:  p4r audit --artifacts examples/bookshop --html bookshop.html"
)
def audit(
    artifacts: Artifacts,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write a page with plots: one file without scripts."
        ),
    ] = None,
    json_file: JsonFile = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Items that are encoded, a random sample.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the sample.")] = 0,
    no_encoder: Annotated[
        bool, typer.Option("--no-encoder", help="Skip the figures that need an encoder.")
    ] = False,
    force: Force = False,
) -> None:
    """Measure the quality of an artifact folder: gaps, leaks, grounding, bias.

    Exit code 2 if held-out interactions have leaked into personas or alignments.
    """
    from dataclasses import asdict
    from functools import partial

    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.audit import page
    from indexer.audit import wording as words
    from indexer.audit.run import audit as examine
    from indexer.terminal.artifacts import print_audit
    from indexer.terminal.console import print_refusals
    from indexer.terminal.progress import ProgressBar
    from p4r_qdrant.settings import Settings

    if html is not None and json_file is not None and is_one_file(html, json_file):
        raise InputError(f"--html and --json name one file, {html}; name two")
    folder = ArtifactFolder(artifacts)
    settings = Settings.load().encoder
    refusals = Refusals()
    with ExitStack() as files:  # opened first: what cannot be written is known at once
        write_page, write_json = (
            files.enter_context(new_file(path, ours, [artifacts], force=force)) if path else None
            for path, ours in ((html, AUDIT_PAGE), (json_file, AUDIT_RECORD))
        )
        with ProgressBar() as bar:
            found = examine(
                folder,
                None if no_encoder else partial(_load_encoder, settings, bar),
                refusals,
                sample=sample,
                seed=seed,
                progress=bar,
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
    exit_for(refusals)


def _load_encoder(settings: EncoderSettings, progress: ProgressBar) -> Encoder:
    from p4r_qdrant.encoder.local import PersonaEncoder

    progress.start("loading the encoder")
    return PersonaEncoder.from_settings(settings)


@group.command(epilog="Example:  p4r erase maren-o --artifacts books")
@of_tenant
def erase(
    users: Annotated[list[str], typer.Argument(help="User ids.", metavar="USER...")],
    artifacts: Artifacts,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Also erase from this folder or file that was made from the artifacts, beside "
            "those that the folder knows of; can be repeated.",
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Fit the collaborative parts of all versions again at once."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Erase users everywhere: artifacts, results, stored users, all versions of the index.

    Prints the items whose personas cite a user, one on each line: reason on them again. A report
    says where it looked and what remains; erasures.jsonl keeps it. Killed and run again, it removes
    the rest and prints the same items. The collaborative part of the live version is fitted again
    by the next publish; versions kept for a rollback lose theirs. --refit fits all at once instead.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.indexing.collaborative import refitted
    from indexer.ledger import Ledger
    from indexer.terminal.artifacts import print_erased
    from indexer.terminal.console import err, out
    from indexer.updates.erasing.run import erasing
    from indexer.updates.erasing.stored import Stored
    from p4r_qdrant.settings import Settings

    folder = ArtifactFolder(artifacts)
    settings = Settings.load()
    for path in results or ():
        _check_results(path, artifacts, settings.qdrant.path)
    stored = Stored(settings, refits=refit)
    stored.check_tenant()
    refusals = Refusals()
    with (
        Ledger(folder.path / "ledger") as ledger,
        erasing(folder, ledger, users, refusals, stored=stored, results=results or ()) as erased,
    ):
        # In the block: until the list is out, another run prints it again.
        if as_json:
            print_json(erased.record())
        else:
            for item_id in erased.items:
                out.say(item_id)
        out.file.flush()
        print_erased(erased)
        for version, done in refitted(folder, settings, refusals).items() if refit else ():
            err.say(f"collaborative part of {version}: {done}")
    exit_for(refusals)


def _check_results(path: Path, *others: Path | None) -> None:
    """Raise InputError if --results would reach into the artifact folder or the embedded index."""
    for other in others:
        if other is not None and other.resolve().is_relative_to(path.resolve()):
            raise InputError(
                f"--results {path} is or holds {other}, which p4r erase looks through by itself; "
                "name the folders of results alone"
            )


@imports.command(
    "persona4rec", epilog="Example:  p4r import persona4rec pipeline/output --output artifacts"
)
def import_persona4rec(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the paper's files.")],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The artifact folder; created if missing.")
    ],
) -> None:
    """Import the files of the paper's public code (books and restaurants)."""
    from indexer.artifacts.lines import Refusals
    from indexer.datasets.persona4rec import convert
    from indexer.terminal.progress import ProgressBar
    from indexer.terminal.tables import print_counts

    refusals = Refusals()
    with ProgressBar() as bar:
        report = convert(source, output, refusals, bar)
    print_counts("taken", report.taken)
    print_counts("repaired", report.repaired)
    print_counts("left out", report.left_out)
    print_counts("refused", refusals.counts)
    exit_for(refusals)
