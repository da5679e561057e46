"""`p4r backup`, `restore`, `copy`, `migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.tenant_option import of_tenant

group = typer.Typer()

LiveOnly = Annotated[
    bool, typer.Option("--live", help="Only the live version, without those for a rollback.")
]
NoUsers = Annotated[
    bool, typer.Option("--no-users", help="Without users: their interactions, vectors and jobs.")
]
Beside = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Also where there is data: its versions stay for a rollback, its users are kept.",
    ),
]


@group.command(epilog="Example:  p4r backup backups/monday")
@of_tenant
def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    live: LiveOnly = False,
    no_users: NoUsers = False,
) -> None:
    """Back up the index and its users into a folder, while they are in use.

    All versions, their collaborative parts, users' interactions and jobs, with checksums. What is
    written meanwhile is in the backup or not, never half of an item. Killed and run again, it goes
    on.
    """
    from indexer.backups.backup import BackupOptions
    from indexer.backups.backup import backup as back_up
    from indexer.terminal.backups import print_backup
    from indexer.terminal.progress import ProgressBar
    from p4r_qdrant.settings import Settings

    with ProgressBar() as bar:
        manifest = back_up(Settings.load(), folder, BackupOptions(live, not no_users), bar)
    print_backup(folder, manifest)
    if manifest.left_out:
        raise typer.Exit(1)


@group.command(epilog="Example:  P4R_QDRANT__PATH=restored p4r restore backups/monday")
@of_tenant
def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a backup.")],
    force: Beside = False,
) -> None:
    """Restore a backup into the index of the settings, on either engine.

    New versions are filled, compared with the backup, and made live in one step; until then nothing
    changes for readers. Killed and run again, it goes on.
    """
    from indexer.backups.restore import restore as put_back
    from indexer.terminal.backups import print_restored
    from indexer.terminal.progress import ProgressBar
    from p4r_qdrant.settings import Settings

    with ProgressBar() as bar:
        done = put_back(Settings.load(), folder, force=force, progress=bar)
    print_restored(done)


@group.command(
    epilog="Example:  p4r copy --from p4r-index --to http://localhost:6333",
)
@of_tenant
def copy(
    source: Annotated[
        str,
        typer.Option("--from", metavar="URL|PATH", help="A Qdrant server, or an embedded index."),
    ],
    target: Annotated[
        str, typer.Option("--to", metavar="URL|PATH", help="The same, for the copy.")
    ],
    from_collection: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the index on that server.")
    ] = None,
    to_collection: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the index on that server.")
    ] = None,
    from_key: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="Environment variable with the API key of --from."),
    ] = None,
    to_key: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="Environment variable with the API key of --to."),
    ] = None,
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the backup in between is put.")
    ] = Path(),
    live: LiveOnly = False,
    no_users: NoUsers = False,
    force: Beside = False,
) -> None:
    """Copy the index and its users between servers, clusters and embedded indexes.

    A backup is written and restored, and then deleted. P4R_QDRANT__API_KEY and
    P4R_QDRANT__GRPC_PORT belong to P4R_QDRANT__URL; at another address the gRPC port is the one
    after the port of the address.
    """
    from indexer.backups.backup import BackupOptions
    from indexer.backups.copying import copy as copy_index
    from indexer.backups.places import Place
    from indexer.terminal.backups import print_restored
    from indexer.terminal.progress import ProgressBar

    here = Place(source, from_collection, from_key).settings()
    there = Place(target, to_collection, to_key).settings()
    with ProgressBar() as bar:
        options = BackupOptions(live, not no_users)
        done = copy_index(here, there, work, options, force=force, progress=bar)
    print_restored(done)
    if done.manifest.left_out:
        raise typer.Exit(1)


@group.command(epilog="Example:  p4r migrate --backup backups/before --dry-run")
@of_tenant
def migrate(
    folder: Annotated[
        Path,
        typer.Option("--backup", metavar="DIR", help="A new folder for a backup, which stays."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
) -> None:
    """Bring an index of an earlier release into today's form.

    A collection on a server that has the name of the alias itself, from before there were versions,
    becomes a version. Stop what writes to it first. Other formats need nothing.
    """
    from indexer.backups.migrate import migrate as bring_up_to_date
    from indexer.backups.migrate import outdated
    from indexer.terminal.backups import print_restored
    from indexer.terminal.console import out
    from indexer.terminal.progress import ProgressBar
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    work = outdated(settings, folder)
    if not work:
        out.say("Nothing to migrate: the index has today's form.")
    elif dry_run:
        out.say(f"To do: {work}.")
    else:
        with ProgressBar() as bar:
            done = bring_up_to_date(settings, folder, bar)
        print_restored(done)
