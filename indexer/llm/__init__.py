"""Any LLM with the OpenAI chat-completions API. The only package that uses openai and tenacity.

    with Ledger(folder) as ledger:
        async with LLM(settings.llm, ledger) as llm, aclosing(llm.run(requests)) as answers:
            async for answer in answers: ...

Three levels, from the inside out:

- A *call* (`caller.py`) is one HTTP exchange (`endpoint.py`). After 408, 409, 429, 5xx, a timeout,
  a broken connection, or any error that names a time to wait, it is retried (`retrying.py`), never
  earlier than that time. Codes decide what a retry cannot help, never sentences: no credit or a
  wrong key stops the run. A request that is refused fails alone, once the model has answered
  another one.
- A *request* is asked until an answer is usable: complete, not refused, JSON that fits the schema
  and passes the request's check (`answers.py`). It is found wherever it stands: content, parts,
  tool calls, the end of a thought (`wire.py`, `parsing.py`). Each retry says what was wrong. After
  `attempts` attempts the request is recorded as failed.
- A *run* (`live.py`) keeps `concurrency` calls open, within the ceilings (`budget.py`). An answer
  is in the ledger before it is yielded.

The first call of each model and step finds out what the endpoint supports (JSON schemas, JSON
mode, which parameters) while the other calls wait, and whether the model thinks: `capabilities.py`.

`batch/` sends the same requests through the Batch API: half the price, within a day.

No user's text and no key is ever logged or part of an error message.
"""

from __future__ import annotations

from p4r_qdrant.errors import MissingExtraError

try:
    import httpx2  # noqa: F401
    import jsonschema  # noqa: F401
    import openai  # noqa: F401
    import tenacity  # noqa: F401
except ModuleNotFoundError as missing:
    raise MissingExtraError(
        f"reasoning needs {missing.name}: pip install 'p4r-qdrant[indexer]'"
    ) from None

from indexer.llm.batch.files import BatchFolder
from indexer.llm.batch.queue import BatchProgress
from indexer.llm.batch.run import BatchLLM
from indexer.llm.budget import Budget
from indexer.llm.endpoint import check_key
from indexer.llm.errors import (
    NO_ANSWER,
    TOO_LONG,
    BatchesUnderWay,
    BudgetReachedError,
    EndpointDownError,
    LLMRefusedError,
)
from indexer.llm.live import LLM
from indexer.llm.options import Options
from indexer.llm.request import (
    Answer,
    Request,
    Requests,
    Tally,
    Usage,
    estimate_tokens,
    given_up,
)

__all__ = [
    "LLM",
    "NO_ANSWER",
    "TOO_LONG",
    "Answer",
    "BatchFolder",
    "BatchLLM",
    "BatchProgress",
    "BatchesUnderWay",
    "Budget",
    "BudgetReachedError",
    "EndpointDownError",
    "LLMRefusedError",
    "Options",
    "Request",
    "Requests",
    "Tally",
    "Usage",
    "check_key",
    "estimate_tokens",
    "given_up",
]
