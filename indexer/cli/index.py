"""`p4r index`, `publish`, `rerank`, `remove`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.looking import opened_live
from indexer.cli.outputs import RANKINGS, Force, new_file
from indexer.cli.shared import Artifacts, Domain, exit_for, publish_folder
from indexer.cli.tenant_option import of_tenant
from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from p4r_qdrant.encoder.base import Encoder
    from p4r_qdrant.settings import Settings

group = typer.Typer()


@group.command(
    epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r index --artifacts examples/bookshop "
    "--domain books"
)
@of_tenant
def index(artifacts: Artifacts, domain: Domain = "products") -> None:
    """Encode the personas of an artifact folder and write them to the index.

    Unchanged items are skipped: killed and run again, it does the rest.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.names import PERSONAS
    from indexer.indexing.fresh_version import FreshVersion
    from indexer.indexing.items import index_artifacts
    from indexer.indexing.mean_user import note_typical_user
    from indexer.review.screening import Policy
    from indexer.terminal.console import out
    from indexer.terminal.index import print_review, print_too_long
    from indexer.terminal.progress import ProgressBar, loading
    from p4r_qdrant.encoder.loading import load_encoder
    from p4r_qdrant.index.opening import open_index, open_versions
    from p4r_qdrant.moderation import Rules
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    folder = ArtifactFolder(artifacts)
    folder.personas()  # before the encoder is loaded
    rules = Rules.load(settings.reasoning.rules)
    total = folder.estimated_lines(PERSONAS)
    refusals = Refusals()
    with loading("the encoder"):
        encoder = load_encoder(settings.encoder)
    with (
        open_versions(settings) as versions,
        FreshVersion(versions) as fresh,
        open_index(settings, encoder=encoder, create=True) as opened,
        ProgressBar() as bar,
    ):
        fresh.is_ours = True
        bar.start("indexing items", total)
        report = index_artifacts(
            folder,
            encoder,
            opened,
            domain=domain,
            refusals=refusals,
            policy=Policy.of_version(rules, opened.metadata),
            progress=bar,
        )
        note_typical_user(folder, encoder, opened, settings)
        where = opened.location
    out.say(
        f"{report.written} items written, {report.unchanged} unchanged, "
        f"{report.refused} records refused: {where}",
    )
    print_review(report.review)
    print_too_long(encoder)
    exit_for(refusals)


@group.command(
    epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r publish --artifacts "
    "examples/bookshop --domain books"
)
@of_tenant
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
        str | None,
        typer.Option(metavar="NAME", help="Fingerprint of the encoder of those vectors."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Encode everything, unchanged items too.")
    ] = False,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Allow that more than half of the live items go.")
    ] = False,
    approved_only: Annotated[
        bool,
        typer.Option("--approved-only", help="Only personas that a reviewer has approved."),
    ] = False,
    hide_flagged: Annotated[
        bool,
        typer.Option(
            "--hide-flagged", help="No personas with a flag that no reviewer has approved."
        ),
    ] = False,
    no_collaborative: Annotated[
        bool,
        typer.Option("--no-collaborative", help="Publish the personas alone, without B."),
    ] = False,
    training_only: Annotated[
        bool,
        typer.Option(
            "--training-only",
            help="Fit the collaborative part without the interactions that splits.jsonl holds out.",
        ),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview", help="Only say what would change for readers; nothing goes live."
        ),
    ] = False,
    max_change: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Stop if more than this share of synthetic readers' first ten would change.",
        ),
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Only switch back to the previous version.")
    ] = False,
    live: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Only make this version live, such as a collection restored from a snapshot.",
        ),
    ] = None,
    drop_old: Annotated[
        bool,
        typer.Option("--drop-old", help="Delete all versions but the live and the previous one."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --preview or --max-change: print JSON.")
    ] = False,
) -> None:
    """Build a new version of the index, verify it, and switch to it in one step.

    Unchanged items are skipped: killed and run again, it goes on. With the encoder of the live
    version, that version is updated item by item. The collaborative part, EASE on all interactions
    of the folder and on the personas, is fitted again if they have changed.

    --preview and --max-change compare with what is live: items gained and lost, and the first ten
    items of synthetic readers, which are personas taken for users. A publish that is stopped
    changes nothing that is live, and exits with 1.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.indexing import vector_files
    from indexer.terminal.index import print_dropped
    from p4r_qdrant.index.opening import open_versions
    from p4r_qdrant.settings import Settings
    from p4r_qdrant.users.versions import drop_old as drop_old_versions

    if sum([rollback, live is not None, artifacts is not None or drop_old]) != 1:
        raise InputError(
            "publish needs --artifacts DIR, or one of --rollback, --live VERSION and --drop-old"
        )
    compares = preview or max_change is not None
    if (vectors is None) != (fingerprint is None) or (vectors is not None and adapter is not None):
        raise InputError("--vectors FILE and --fingerprint NAME go together, without --adapter")
    if compares and (artifacts is None or drop_old):
        raise InputError(
            "--preview and --max-change compare an artifact folder: add --artifacts DIR, and leave "
            "--drop-old out"
        )
    if as_json and not compares:
        raise InputError("--json goes with --preview or --max-change")
    given: dict[str, dict[str, object]] = {}
    if adapter is not None:
        given["encoder"] = {"adapter": str(adapter)}
    if no_collaborative:
        given["collaborative"] = {"enabled": False}
    settings = Settings.load(**given)
    if rollback or live is not None:
        _switch(settings, live)
        return
    refusals = Refusals()
    if artifacts is not None:
        folder = ArtifactFolder(artifacts)
        with (
            vector_files.opened(vectors, folder, fingerprint)
            if vectors is not None and fingerprint is not None
            else _loaded(settings) as source
        ):
            options = {
                "again": again,
                "shrink": shrink,
                "training_only": training_only,
                "approved_only": approved_only,
                "hide_flagged": hide_flagged,
                "preview": preview,
                "max_change": max_change,
                "as_json": as_json,
            }
            publish_folder(folder, source, settings, domain, refusals, **options)
    if drop_old:
        with open_versions(settings) as versions:
            print_dropped(*drop_old_versions(settings, versions))
    exit_for(refusals)


def _switch(settings: Settings, live: str | None) -> None:
    """Make another version live: the one named, or the one before."""
    from indexer.terminal.console import out
    from indexer.terminal.index import print_published, tell_of_lost_part
    from p4r_qdrant.index.opening import open_versions

    with open_versions(settings) as versions:
        if live is not None:
            before = versions.make_live(live)
            print_published(live, f"of {versions.location}")
            if before not in (None, live):
                out.say(f"before: {before} (p4r publish --rollback switches back)")
            tell_of_lost_part(versions)
            return
        before, name = versions.live(), versions.roll_back()
        print_published(name, f"of {versions.location}")
        if name == before:
            out.say(
                f"It is live since a rollback from {versions.undone(name)}; "
                "p4r publish --live VERSION makes another one live."
            )
        else:
            out.say(f"before: {before} (p4r publish --live {before} switches to it again)")
        tell_of_lost_part(versions)


@group.command(
    epilog="Example:  p4r rerank --artifacts examples/bookshop "
    "--candidates examples/bookshop/candidates.jsonl --user maren-o --top 5"
)
@of_tenant
def rerank(
    artifacts: Artifacts,
    candidates: Annotated[
        Path,
        typer.Option(metavar="FILE", help='JSON Lines {"user_id", "results": [{"item_id", ...}]}'),
    ],
    user: Annotated[str | None, typer.Option(help="Only this user.")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Keep so many items for each user.")
    ] = None,
    interests: Annotated[
        float | None,
        typer.Option(help="Share of the single nearest interaction in the score: 0 to 1."),
    ] = None,
    prior: Annotated[
        float | None,
        typer.Option(help="Penalty for personas that are similar to everyone (0 = off)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write JSON Lines to this file (- for standard output)."),
    ] = None,
    force: Force = False,
) -> None:
    """Rerank candidate lists by users' histories, and say why."""
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.names import SPLITS
    from indexer.evaluation.leaks.identity import collaborative_check
    from indexer.reranking import output_record, rerank_file
    from indexer.terminal.console import print_refusals
    from indexer.terminal.index import warn_of_leak
    from indexer.terminal.progress import ProgressBar, loading
    from indexer.terminal.ranking import print_ranking
    from p4r_qdrant.rerank.reranker import PersonaReranker
    from p4r_qdrant.rerank.scoring import counted_part
    from p4r_qdrant.settings import Settings

    folder = ArtifactFolder(artifacts)
    refusals = Refusals()
    given = {"interests": interests, "prior": prior}
    options = {name: value for name, value in given.items() if value is not None}
    settings = Settings.load(rerank=options)
    with ExitStack() as files:  # opened first: what cannot be written is known at once
        write = None
        if output is not None:
            reads = [artifacts, candidates]
            write = files.enter_context(new_file(output, RANKINGS, reads, force=force))
        with loading("the encoder"):
            reranker = files.enter_context(PersonaReranker.from_settings(settings))
        if output is not None and folder.has(SPLITS):
            part = counted_part(reranker.index, settings.rerank)
            if part is not None:
                warn_of_leak(collaborative_check(folder, part))
        # rerank_file reports the broken lines of items.jsonl.
        items = files.enter_context(folder.items(Refusals()))
        bar = files.enter_context(ProgressBar())
        bar.start("reranking users")
        rankings = rerank_file(folder, candidates, reranker, refusals, user=user, top=top)
        try:
            for reranked in rankings:
                if write is not None:
                    write(json.dumps(output_record(reranked), ensure_ascii=False))
                    bar.advance()
                    continue
                ids = [one.item_id for one in reranked.ranking.items]
                found = {item_id: items.get(item_id) for item_id in ids}
                titles = {item_id: item.title for item_id, item in found.items() if item}
                print_ranking(reranked.user_id, reranked.ranking, titles, reranked.history)
        except InputError:
            print_refusals(refusals)
            raise
    exit_for(refusals)


@group.command(epilog="Example:  p4r remove salt-orchard")
@of_tenant
def remove(
    items: Annotated[list[str], typer.Argument(help="Item ids.", metavar="ITEM...")],
) -> None:
    """Remove items from the index."""
    from indexer.terminal.console import out

    distinct = list(dict.fromkeys(items))
    with opened_live() as opened:
        missing = [item for item in distinct if not opened.delete_item(item)]
        where = opened.location
    removed = len(distinct) - len(missing)
    out.say(f"{removed} of {len(distinct)} items removed")
    if missing:
        names = ", ".join(repr(item) for item in missing)
        raise InputError(f"not in {where}: {names}")


@contextmanager
def _loaded(settings: Settings) -> Iterator[Encoder]:
    from indexer.terminal.progress import loading
    from p4r_qdrant.encoder.loading import load_encoder

    with loading("the encoder"):
        encoder = load_encoder(settings.encoder)
    yield encoder
