"""What ended batches brought back: validated, and put into the ledger."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, NamedTuple

from indexer.ledger import Ledger
from indexer.llm.answers import Attempt
from indexer.llm.batch.files import Batch, BatchFolder
from indexer.llm.caller import Caller
from indexer.llm.capabilities import RetryPrompt
from indexer.llm.errors import (
    NO_ANSWER,
    LLMRefusedError,
    RefusedRequestError,
    TransientError,
    UnanswerableError,
)
from indexer.llm.parsing import shortened
from indexer.llm.request import Answer, Request, to_record, usage_of
from indexer.llm.wire import Completion
from p4r_qdrant.records import clean_text
from p4r_qdrant.settings import LLMSettings

_NEVER_ASKED = frozenset({"batch_expired", "batch_cancelled"})


class Result(NamedTuple):
    """The result of one request: at `place` in the batch's results; None if there is none."""

    batch: Batch
    place: int | None


class _NotAskedError(Exception):
    """The batch ended before this request was asked."""


def attempt_at(request: Request, ledger: Ledger, caller: Caller) -> Attempt:
    """The request, with the answers that earlier batches brought."""
    record = ledger.failure(request.step, request.key) or {}
    problems = tuple(record.get("problems", ()))
    if "again" not in record or len(problems) >= caller.attempts:
        return Attempt(request, caller.capabilities_of(request).first_prompt(request))
    return Attempt(
        request,
        RetryPrompt(**record["again"]),
        usage_of(record),
        problems,
        record["completion"],
        refusals=tuple(record.get("refusals", ())),
    )


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
        answer = None
        try:
            completion = self._completion(request, result)
            spent = caller.budget.spend(request, completion, self.settings.batch_price_factor)
            caller.answered(request.model)
            answer = attempt.validate(completion, spent, caller.capabilities_of(request))
        except _NotAskedError:
            return None
        except LLMRefusedError as error:
            caller.halt(error)
            return None
        except TransientError as error:
            attempt.problems += (f"{NO_ANSWER}: {error}",)
            attempt.final = False
        except RefusedRequestError as error:
            if (stop := self._refused(attempt, error)) is not None:
                caller.halt(stop)
                return None
        except UnanswerableError as error:
            attempt.give_up(str(error), final=error.final)
        if answer is None and (attempt.hopeless or len(attempt.problems) >= caller.attempts):
            answer = attempt.failed()
        self._record(answer, attempt, result.batch)
        return answer

    def _refused(self, attempt: Attempt, error: RefusedRequestError) -> Exception | None:
        """Record a refusal as the attempt's problem, or return the error that stops the run."""
        attempt.refusals += (str(error),)
        problem = self.caller.refused(attempt.request, error)
        if error.too_long:
            capabilities = self.caller.capabilities_of(attempt.request)
            limit = capabilities.wanted(attempt.retry)
            try:
                attempt.retry = self.caller.with_less_room(attempt, error, limit)
                attempt.problems += (f"the answer does not fit into the context: {error}",)
                return None
            except UnanswerableError as too_long:
                problem = too_long
        if not isinstance(problem, UnanswerableError):
            return problem
        attempt.give_up(str(problem), final=problem.final)
        return None

    def attempt_at(self, request: Request) -> Attempt:
        """The request, with the answers that earlier batches brought."""
        return attempt_at(request, self.ledger, self.caller)

    def record_failure(self, answer: Answer) -> None:
        """Record that a live call failed in this campaign."""
        record = to_record(answer, self.settings) | {"campaign": self.folder.campaign}
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
        so_far = answer or replace(attempt.failed(), final=False)
        record, ok = to_record(so_far, self.settings), so_far.ok
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
                return self.caller.endpoint.completion(body, request)
            case {"response": {"status_code": int(status), "body": body}}:
                raise self.caller.endpoint.failure(status, body, request)
            case {"error": {"code": str(code)}}:
                if code in _NEVER_ASKED:
                    raise _NotAskedError
                raise TransientError(f"the batch holds an error: {shortened(code, 40)}")
        raise TransientError("the batch holds an error")
