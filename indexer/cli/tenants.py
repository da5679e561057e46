"""`p4r tenant`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.shared import AsJson, print_json
from p4r_qdrant.errors import InputError

group = typer.Typer()
app = typer.Typer(
    help="The tenants of an index that holds several catalogues.",
    no_args_is_help=True,
)
group.add_typer(app, name="tenant")

Name = Annotated[str, typer.Argument(help="A tenant's name, such as shop-a.")]


@app.command(epilog="Example:  P4R_INDEX__TENANTS=true p4r tenant add shop-a")
def add(name: Name) -> None:
    """Add a tenant. Items can be published to it afterwards."""
    from indexer.terminal.console import out
    from p4r_qdrant.index.opening import open_tenants
    from p4r_qdrant.settings import Settings

    settings = Settings.load().of_tenant(name)
    with open_tenants(settings) as tenants:
        is_new = tenants.add(name)
        where = tenants.location
    out.say(f"{name} is {'a tenant' if is_new else 'a tenant already'} of {where}")


@app.command(name="list", epilog="Example:  P4R_INDEX__TENANTS=true p4r tenant list")
def list_all(as_json: AsJson = False) -> None:
    """Print the tenants of the index and their live versions."""
    from dataclasses import asdict

    from indexer.terminal.console import out
    from p4r_qdrant.index.opening import open_tenants
    from p4r_qdrant.settings import Settings

    with open_tenants(Settings.load()) as tenants:
        found, where = tenants.all(), tenants.location
    if as_json:
        print_json([asdict(one) for one in found])
        return
    out.say(f"tenants of {where}: {len(found)}")
    for one in found:
        out.say(f"{one.name}  added {one.created_at[:10]}, live: {one.live or 'nothing yet'}")


@app.command(epilog="Example:  P4R_INDEX__TENANTS=true p4r tenant promote shop-a")
def promote(name: Name) -> None:
    """Give a large tenant shards of its own in a Qdrant cluster, while it is in use.

    Killed and run again, it goes on. What the tenant publishes later with another encoder is in the
    shared shards again, until the next call.
    """
    from indexer.terminal.console import out
    from p4r_qdrant.index.opening import open_tenants
    from p4r_qdrant.settings import Settings

    settings = Settings.load().of_tenant(name)
    with open_tenants(settings) as tenants:
        tenants.check(name)
        moved = tenants.promote(name)
    for collection, points in moved.items():
        out.say(f"{collection}: {points} points of {name} have shards of their own")


@app.command(epilog="Example:  P4R_INDEX__TENANTS=true p4r tenant export shop-a shop-a-backup")
def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
) -> None:
    """Write everything of a tenant into a folder: a backup, which `p4r restore` reads.

    It can be restored as another tenant, into an index without tenants, and on the other engine.
    """
    from indexer.backups.backup import backup
    from indexer.terminal.backups import print_backup
    from indexer.terminal.progress import ProgressBar
    from p4r_qdrant.index.opening import open_tenants
    from p4r_qdrant.settings import Settings

    settings = Settings.load().of_tenant(name)
    with open_tenants(settings) as tenants:
        tenants.check(name)
    with ProgressBar() as bar:
        manifest = backup(settings, folder, progress=bar)
    print_backup(folder, manifest)
    if manifest.left_out:
        raise typer.Exit(1)


@app.command(epilog="Example:  P4R_INDEX__TENANTS=true p4r tenant drop shop-a --yes")
def drop(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what goes.")] = False,
) -> None:
    """Delete a tenant with all its versions, users and jobs; the others stay as they are.

    Killed and run again, it goes on.
    """
    from indexer.terminal.console import out
    from p4r_qdrant.index.opening import open_tenants
    from p4r_qdrant.settings import Settings
    from p4r_qdrant.users.tenants import drop_tenant

    settings = Settings.load().of_tenant(name)
    with open_tenants(settings) as tenants:
        tenants.check(name)
        where = tenants.location
    if not yes:
        raise InputError(
            f"this deletes all versions, users and jobs of {name} in {where}: repeat it with --yes"
        )
    drop_tenant(settings)
    out.say(f"{name} is gone from {where}")
