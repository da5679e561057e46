"""`p4r segments`."""

from __future__ import annotations

from typing import Annotated

import typer

from indexer.cli.outputs import AUDIENCE_TABLE, Force, check_output
from indexer.cli.shared import Artifacts, AsJson, exit_for, print_json
from indexer.cli.tenant_option import of_tenant

group = typer.Typer()


@group.command(epilog="Example:  p4r segments --artifacts examples/bookshop --audience")
@of_tenant
def segments(
    artifacts: Artifacts,
    count: Annotated[
        int | None,
        typer.Option("--segments", min=1, max=200, help="Their number; unset: by the catalogue."),
    ] = None,
    smallest: Annotated[
        int,
        typer.Option(min=2, help="Users that a segment needs for them to be counted and listed."),
    ] = 5,
    audience: Annotated[
        bool, typer.Option("--audience", help="Write DIR/audience.csv: each user's segment.")
    ] = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Cluster the personas of the live version into segments, and count their users.

    A segment keeps its id where the cluster stays the same: DIR/segments.json remembers it. The
    version keeps the segments and a map of the personas, and the studio shows both.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.names import ASPECTS, AUDIENCE, REVIEWS
    from indexer.segments.segmenting import Options, make_segments
    from indexer.terminal.progress import ProgressBar, loading
    from indexer.terminal.segments import print_segments
    from p4r_qdrant.index.opening import open_index
    from p4r_qdrant.live.loading import encoder_for_index, history_for_index
    from p4r_qdrant.settings import Settings

    settings, folder = Settings.load(), ArtifactFolder(artifacts)
    if audience:
        check_output(folder.path / AUDIENCE, (), force=force, ours=AUDIENCE_TABLE)
    has_users = folder.has(REVIEWS) or folder.has(ASPECTS)
    with open_index(settings) as index:
        encoder = None
        if has_users:
            with loading("the encoder"):
                encoder = encoder_for_index(settings.encoder, index.metadata)
        history = history_for_index(settings, index.metadata)
        with ProgressBar() as bar:
            options = Options(count, smallest, audience)
            found = make_segments(folder, index, encoder, history, options, bar)
    if as_json:
        made = [one.model_dump() for one in found.segments]
        print_json({"segments": made, "users": found.users, "left_out": found.left_out})
    else:
        print_segments(found, smallest, folder.path, audience=audience)
    exit_for(found.refusals)
