"""Asks an LLM at an address about some requests, in a ledger of its own."""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from indexer.ledger import Ledger
from indexer.llm import LLM, Answer, BatchLLM, Request
from p4r_qdrant.settings import LLMSettings


def ask(
    url: str,
    folder: Path,
    wanted: Iterable[Request],
    *,
    in_batches: bool = False,
    repeat_failed: bool = True,
    **settings: Any,
) -> list[Answer]:
    """The answers in the order in which they come; raises what stops the run."""
    hasty: dict[str, Any] = {
        "concurrency": 1,
        "retry_for_s": 3,
        "timeout_s": 5,
        "batch_poll_s": 0.01,
    }
    chosen = LLMSettings(base_url=url, **hasty | settings)
    answers: list[Answer] = []

    async def go() -> None:
        with Ledger(folder) as ledger:
            kind = BatchLLM if in_batches else LLM
            async with (
                kind(chosen, ledger, repeat_failed=repeat_failed) as llm,
                aclosing(llm.run(list(wanted))) as coming,
            ):
                async for answer in coming:
                    answers.append(answer)  # noqa: PERF401 - the caller sees them as they come

    asyncio.run(go())
    return answers


def entries(folder: Path, step: str = "aspects") -> list[dict[str, Any]]:
    """The ledger's records of a step."""
    with Ledger(folder, read_only=True) as ledger:
        return list(ledger.entries(step))
