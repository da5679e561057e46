"""`p4r demo`, `demo-llm` and `local-llm`: demonstrations that need only this machine."""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.shared import exit_for

if TYPE_CHECKING:
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.reranking import Reranked

group = typer.Typer()


@group.command(epilog="Example:  p4r demo")
def demo(
    artifacts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Another catalogue than the bundled bookshop."),
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="Show this reader instead; can be repeated.")
    ] = None,
) -> None:
    """Rerank an example catalogue for three readers, and say why.

    It is indexed in a temporary folder. The reasons are those of the first items whose persona
    speaks for the item: the reviews behind it rate the item 4 of 5 or better.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.demo import bookshop
    from indexer.terminal.console import out
    from indexer.terminal.progress import ProgressBar
    from indexer.terminal.ranking import print_before_and_after
    from p4r_qdrant.resources import resource

    folder = ArtifactFolder(artifacts or resource("examples/bookshop"))
    refusals = Refusals()
    readers = user or bookshop.READERS
    with (
        tempfile.TemporaryDirectory(prefix="p4r-demo-") as temporary,
        ProgressBar() as bar,
    ):
        index = Path(temporary) / "index"
        shown = list(bookshop.run(folder.path, index, readers, refusals=refusals, progress=bar))
    chosen = bookshop.speaking_for(folder)
    for reranked in shown:
        titles = _titles(folder, reranked)
        print_before_and_after(reranked.user_id, reranked.ranking, titles, reranked.history, chosen)
    out.print()
    out.paragraph(
        f"Catalogue: {folder.path}. Encoder: all-MiniLM-L6-v2, untrained. Index: embedded, in a "
        "temporary folder. p4r rerank shows whole lists.",
        style="dim",
    )
    exit_for(refusals)


def _titles(folder: ArtifactFolder, reranked: Reranked) -> dict[str, str]:
    """The titles of the ranked items."""
    from indexer.artifacts.lines import Refusals

    with folder.items(Refusals()) as items:
        ids = [one.item_id for one in reranked.ranking.items]
        return {item_id: item.title for item_id in ids if (item := items.get(item_id))}


@group.command("demo-llm", epilog="Example:  p4r demo-llm")
def demo_llm(
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another GGUF model than the bundled one."),
    ] = None,
) -> None:
    """Let a small LLM on this machine write personas, and rerank with them.

    It needs no key, no server and no model hub, and takes a minute or two. The bundled model has
    135 million parameters: its wording is poor, but the steps are the real ones.
    """
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.demo import bookshop as demo
    from indexer.demo import raw_reviews as demo_llm
    from indexer.demo.local_llm import LocalLLM
    from indexer.terminal.artifacts import print_reasoned
    from indexer.terminal.console import out
    from indexer.terminal.progress import ProgressBar, loading
    from indexer.terminal.ranking import print_ranking
    from indexer.terminal.reasoning import ReasoningProgress
    from p4r_qdrant.encoder.local import BUNDLED_MODEL, PersonaEncoder
    from p4r_qdrant.resources import resource

    refusals = Refusals()
    with loading("the encoder"):  # now, not after minutes of asking
        encoder = PersonaEncoder(BUNDLED_MODEL)
    with tempfile.TemporaryDirectory(prefix="p4r-demo-") as temporary:
        folder = Path(temporary) / "books"
        demo_llm.write_part(resource("examples/bookshop"), folder)
        with LocalLLM(model) as llm:
            out.paragraph(
                f"A part of the bookshop, reasoned by {llm.model.stem} on this machine. "
                "Small models write poorly: look at the form and the evidence, not at the wording."
            )
            progress = ReasoningProgress()
            demo_llm.reason(folder, llm.settings(), progress, refusals)
        progress.print()
        written = ArtifactFolder(folder)
        print_reasoned(written)
        with ProgressBar() as bar:
            [reranked] = demo.run(
                folder,
                Path(temporary) / "index",
                [demo_llm.READER],
                encoder=encoder,
                refusals=refusals,
                progress=bar,
            )
        titles = _titles(written, reranked)
        print_ranking(reranked.user_id, reranked.ranking, titles, reranked.history, reasons=None)
    exit_for(refusals)


@group.command("local-llm", epilog="Example:  p4r local-llm --port 8090")
def local_llm(
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another GGUF model than the bundled one."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 0,
) -> None:
    """Serve a small LLM on this machine with an OpenAI-compatible API.

    Paste what it prints into the shell that runs `p4r reason`. Ctrl-C stops it.
    """
    from indexer.demo.local_llm import LocalLLM

    with suppress(KeyboardInterrupt), LocalLLM(model, port=port) as llm:
        settings = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in llm.environment().items()
        )
        sys.stderr.write(
            f"{llm.model.name} answers at {llm.url} until Ctrl-C; in another shell run:\n"
        )
        sys.stdout.write(f"export {settings}\n")
        sys.stdout.flush()
        llm.wait()
