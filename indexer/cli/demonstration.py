"""`p4r demo`, `demo-llm` and `local-llm`: everything at work on this machine."""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.shared import exit_for

group = typer.Typer()


@group.command(epilog="Example:  p4r demo")
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
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.demo import bookshop as demonstration
    from indexer.terminal.console import err, out
    from indexer.terminal.ranking import print_ranking
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
                reasons=None,
            )
    exit_for(refusals)


@group.command("demo-llm", epilog="Example:  p4r demo-llm")
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
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.demo import bookshop as demo
    from indexer.demo import raw_reviews as demo_llm
    from indexer.demo.local_llm import LocalLLM
    from indexer.terminal.artifacts import print_reasoned
    from indexer.terminal.console import err, out
    from indexer.terminal.ranking import print_ranking
    from indexer.terminal.reasoning import ReasoningProgress
    from p4r_qdrant.encoder.local import BUNDLED_MODEL, PersonaEncoder
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
        print_ranking(reranked.user_id, reranked.ranking, titles, reranked.history, reasons=None)
    exit_for(refusals)


@group.command("local-llm", epilog="Example:  p4r local-llm --port 8090")
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
    from indexer.demo.local_llm import LocalLLM

    with suppress(KeyboardInterrupt), LocalLLM(model, port=port) as llm:
        settings = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in llm.environment().items()
        )
        sys.stderr.write(f"{llm.model.name} answers at {llm.url} until Ctrl-C; elsewhere say\n")
        sys.stdout.write(f"export {settings}\n")
        sys.stdout.flush()
        llm.wait()
