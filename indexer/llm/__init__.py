"""Any LLM behind the OpenAI chat-completions protocol. The only user of openai and tenacity.

    with Ledger(folder) as ledger:
        async with LLM(settings.llm, ledger) as llm, aclosing(llm.run(requests)) as answers:
            async for answer in answers: ...

Three circles, from the inside out:

- a *call* is one HTTP exchange (`endpoint.py`). 408, 409, 429, 5xx, timeouts and broken connections
  are sent again by the one retry policy (`retrying.py`), never earlier than Retry-After says. What
  cannot get better (no credit, a wrong key or model) stops the run, with the endpoint's reason.
- a *request* is asked until an answer can be used: whole, not refused, JSON, of its schema, and
  past its own check (`answers.py`); each time with what was wrong, `attempts` times in all. Then it
  is a failed answer, recorded as such; one bad record never stops a run.
- a *run* (`live.py`) keeps `concurrency` calls under way, within the ceilings (`budget.py`). An
  answer is in the ledger before it is yielded.

What an endpoint can do (JSON schemas, JSON mode, which parameters) is found out by the first call
of each model and step while the others wait, and then remembered: `capabilities.py`.

Where a day's time costs less than money, `batch.py` sends the same requests as batches.

No text of a user, and no key, is ever logged or in an error's message.
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
from indexer.llm.errors import (
    NO_ANSWER,
    BatchesUnderWay,
    BudgetReachedError,
    EndpointDownError,
    LLMRefusedError,
)
from indexer.llm.live import LLM
from indexer.llm.request import Answer, Request, Requests, Tally, Usage, estimate_tokens

__all__ = [
    "LLM",
    "NO_ANSWER",
    "Answer",
    "BatchFolder",
    "BatchLLM",
    "BatchProgress",
    "BatchesUnderWay",
    "BudgetReachedError",
    "EndpointDownError",
    "LLMRefusedError",
    "Request",
    "Requests",
    "Tally",
    "Usage",
    "estimate_tokens",
]
