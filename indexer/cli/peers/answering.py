"""Who answers a command of `p4r peers`: an endpoint, or a model on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from indexer.ledger import Ledger
    from indexer.peers.local import LocalModel
    from indexer.peers.protocol import Asker
    from indexer.terminal.reasoning import ReasoningProgress
    from p4r_qdrant.settings import LLMSettings


@dataclass(frozen=True)
class Answering:
    """The settings that requests are made with; `model` is None for an endpoint."""

    llm: LLMSettings
    model: LocalModel | None = None

    def check_key(self) -> None:
        """Raise SettingsError if an endpoint is asked that needs a key and has none."""
        from indexer.llm import check_key

        if self.model is None:
            check_key(self.llm)

    @asynccontextmanager
    async def asker(
        self, ledger: Ledger, progress: ReasoningProgress, *, retry_failed: bool
    ) -> AsyncIterator[Asker]:
        """What peers ask; answers are kept in the ledger."""
        if self.model is not None:
            from indexer.peers.local_asker import LocalAsker

            yield LocalAsker(self.model, ledger)
            return
        from indexer.llm import LLM
        from indexer.peers.running import asker

        async with LLM(self.llm, ledger, repeat_failed=retry_failed) as llm:
            progress.follow(llm)
            yield asker(llm)


def answering(local: str | None, adapter: Path | None = None) -> Answering:
    """The local model, if one is named, else the endpoint of the settings."""
    from p4r_qdrant.settings import Settings

    if local is None:
        if adapter is not None:
            raise InputError("--adapter needs --local-model")
        return Answering(Settings.load().llm)
    from indexer.peers.local import LocalModel
    from indexer.peers.local_asker import local_settings
    from indexer.terminal.progress import loading

    with loading("the model"):
        model = LocalModel.load(None if local == "bundled" else local, adapter)
    return Answering(local_settings(model), model)
