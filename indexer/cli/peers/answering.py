"""Who answers a command of `p4r peers`: an endpoint, or a model on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from indexer.ledger import Ledger
    from indexer.peers.local import LocalModel
    from indexer.peers.protocol import Asker
    from indexer.terminal.reasoning import ReasoningProgress
    from p4r_qdrant.settings import LLMSettings

T = TypeVar("T")
Work = Callable[["Asker", Callable[[], None]], Coroutine[Any, Any, T]]
"""What asks, and calls its second argument after each step."""


@dataclass(frozen=True)
class Answering:
    """The settings that requests are made with; `model` is None for an endpoint."""

    llm: LLMSettings
    model: LocalModel | None = None

    def count(self, output: Path, work: Work[Any], *, retry_failed: bool) -> None:
        """Print what the work would ask; nothing is asked."""
        import asyncio

        from indexer.ledger import LEDGER, Ledger
        from indexer.peers.running import DryRun, nothing
        from indexer.terminal.reasoning import print_estimates

        with Ledger(output / LEDGER, read_only=True) as ledger:
            counting = DryRun(self.llm, ledger, repeat_failed=retry_failed)
            asyncio.run(work(counting, nothing))
        print_estimates(counting.estimates)

    def run(self, output: Path, name: str, steps: int, work: Work[T], *, retry_failed: bool) -> T:
        """The result of the work, whose answers are kept in the ledger of `output`.

        name, steps: of its progress. A failure before the first answer leaves nothing there. Raises
        SettingsError if an endpoint is asked that needs a key and has none.
        """
        import asyncio

        from indexer.ledger import LEDGER, Ledger
        from indexer.leftovers import undone_unless_paid
        from indexer.llm import check_key
        from indexer.terminal.reasoning import ReasoningProgress

        if self.model is None:
            check_key(self.llm)
        progress = ReasoningProgress()

        async def go(ledger: Ledger) -> T:
            async with self._asker(ledger, progress, retry_failed=retry_failed) as ask:
                progress.start(name, steps)
                return await work(ask, progress.advance)

        with undone_unless_paid(output), Ledger(output / LEDGER) as ledger, progress:
            return asyncio.run(go(ledger))

    @asynccontextmanager
    async def _asker(
        self, ledger: Ledger, progress: ReasoningProgress, *, retry_failed: bool
    ) -> AsyncIterator[Asker]:
        """What peers ask; answers are kept in the ledger."""
        if self.model is not None:
            from indexer.peers.local_asker import LocalAsker

            yield LocalAsker(self.model, ledger, repeat_failed=retry_failed)
            return
        from indexer.llm import LLM
        from indexer.peers.running import asker

        async with LLM(self.llm, ledger, repeat_failed=retry_failed) as llm:
            progress.follow(llm)
            yield asker(llm)


def answering(local: str | None, adapter: Path | None = None) -> Answering:
    """The local model, if one is named, else the endpoint of the settings."""
    from p4r_qdrant.settings import Settings

    settings = Settings.load().llm
    if local is None:
        if adapter is not None:
            raise InputError("--adapter needs --local-model")
        return Answering(settings)
    from indexer.peers.local_asker import local_settings

    model = loaded(local, adapter)
    return Answering(local_settings(model, settings.language), model)


def loaded(local: str, adapter: Path | None = None) -> LocalModel:
    """A model on this machine; `bundled` is SmolLM2."""
    from indexer.peers.local import LocalModel
    from indexer.terminal.progress import loading

    with loading("the model"):
        return LocalModel.load(None if local == "bundled" else local, adapter)
