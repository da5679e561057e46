"""What ended batches brought back: validated, and put into the ledger."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

from indexer.ledger import Ledger
from indexer.llm.answers import Attempt
from indexer.llm.batch.files import Batch, BatchFolder
from indexer.llm.caller import Caller
from indexer.llm.capabilities import RetryPrompt
from indexer.llm.errors import (
    NO_ANSWER,
    LLMRefusedError,
    TransientError,
    UnanswerableError,
    UnknownParameterError,
)
from indexer.llm.parsing import shortened
from indexer.llm.request import Answer, Request, to_record, usage_of
from indexer.llm.wire import Completion, completion_of
from p4r_qdrant.records import clean_text
from p4r_qdrant.settings import LLMSettings

_NEVER_ASKED = frozenset({"batch_expired", "batch_cancelled"})


class Result(NamedTuple):
    """The result of one request: at `place` in the batch's results; None if there is none."""

    batch: Batch
    place: int | None


class _NotAskedError(Exception):
    """The batch ended before this request was asked."""


def attempt_at(request: Request, ledger: Ledger, attempts: int) -> Attempt:
    """The request, with the answers that earlier batches brought."""
    record = ledger.failure(request.step, request.key) or {}
    problems = tuple(record.get("problems", ()))
    if "again" not in record or len(problems) >= attempts:
        return Attempt.first(request)
    again = RetryPrompt(**record["again"])
    return Attempt(request, again, usage_of(record), problems, record["completion"])


class Results:
    """The results of all batches that have ended, for one pass."""

    def __init__(
        self, settings: LLMSettings, ledger: Ledger, folder: BatchFolder, caller: Caller
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.folder = folder
        self.caller = caller
        self._ended = [batch for batch in folder if batch.ended is not None]
        self._by_step: dict[str, dict[str, Result]] = {}

    def take(self, step: str, key: str) -> Result | None:
        """The result of a request, at most once."""
        return self._of(step).pop(key, None)

    def _of(self, step: str) -> dict[str, Result]:
        """By key, the results of this step that are not in the ledger yet."""
        if step not in self._by_step:
            self._by_step[step] = {
                key: Result(batch, place)
                for batch in self._ended
                if batch.step == step
                for key, place in self.folder.found(batch).items()
                if not self.ledger.has(step, key)
                and batch.name not in self._failure(step, key).get("batches", ())
            }
        return self._by_step[step]

    def validate(self, request: Request, result: Result) -> Answer | None:
        """The answer as the ledger now holds it; None if the request must be asked again."""
        caller, attempt = self.caller, self.attempt_at(request)
        unanswerable, answer = False, None
        try:
            completion = self._completion(request, result)
            spent = caller.budget.spend(request, completion, self.settings.batch_price_factor)
            answer = attempt.validate(completion, spent, caller.capabilities_of(request))
        except _NotAskedError:
            return None
        except LLMRefusedError as error:
            caller.halt(error)
            return None
        except TransientError as error:
            attempt.problems += (f"{NO_ANSWER}: {error}",)
        except (UnanswerableError, UnknownParameterError) as error:
            attempt.problems += (str(error),)
            unanswerable = True
        if answer is None and (unanswerable or len(attempt.problems) >= self.settings.attempts):
            answer = attempt.failed()
        self._record(answer, attempt, result.batch)
        return answer

    def attempt_at(self, request: Request) -> Attempt:
        """The request, with the answers that earlier batches brought."""
        return attempt_at(request, self.ledger, self.settings.attempts)

    def record_failure(self, answer: Answer) -> None:
        """Record that a live call failed in this campaign."""
        record = to_record(answer) | {"campaign": self.folder.campaign}
        self.ledger.put(answer.request.step, answer.request.key, record, ok=False)

    def is_given_up(self, step: str, key: str) -> bool:
        """Whether the request has failed in this campaign."""
        record = self._failure(step, key)
        return "again" not in record and record.get("campaign") == self.folder.campaign

    def clear_up(self) -> None:
        """Remove the batches whose results are all in the ledger; mark the others as validated."""
        for batch in self._ended:
            if batch.step not in self._by_step:
                continue
            left = (one for one in self._by_step[batch.step].values() if one.batch == batch)
            if all(one.place is None for one in left):
                self.folder.forget(batch)
            elif not batch.validated:
                self.folder.save(batch.model_copy(update={"validated": True}))

    def _record(self, answer: Answer | None, attempt: Attempt, batch: Batch) -> None:
        """Record an answer or a failure; a failure names its batches, so each counts once."""
        step, key = attempt.request.step, attempt.request.key
        record, ok = to_record(answer or attempt.failed()), answer is not None and answer.ok
        if not ok:
            record["campaign"] = self.folder.campaign
            record["batches"] = [*self._failure(step, key).get("batches", ()), batch.name]
        if answer is None:
            record["again"] = {
                name: clean_text(value) if isinstance(value, str) else value
                for name, value in asdict(attempt.retry).items()
            }
        self.ledger.put(step, key, record, ok=ok)
        tally = self.caller.budget.tally(step)
        if answer is None:
            tally.retries += 1
        elif ok:
            tally.answered += 1
        else:
            tally.failed += 1

    def _failure(self, step: str, key: str) -> dict[str, Any]:
        return self.ledger.failure(step, key) or {}

    def _completion(self, request: Request, result: Result) -> Completion:
        """Raises what a live call raises, and _NotAskedError."""
        if result.place is None:
            if result.batch.ended != "completed":
                raise _NotAskedError
            raise TransientError("the batch holds no result for it")
        match self.folder.result(result.batch, result.place):
            case {"response": {"status_code": 200, "body": body}}:
                return completion_of(body)
            case {"response": {"status_code": int(status), "body": body}}:
                detail = body.get("error", body) if isinstance(body, dict) else body
                raise self.caller.endpoint.failure(status, detail, request)
            case {"error": {"code": str(code)}}:
                if code in _NEVER_ASKED:
                    raise _NotAskedError
                raise TransientError(f"the batch holds an error: {shortened(code, 40)}")
        raise TransientError("the batch holds an error")
