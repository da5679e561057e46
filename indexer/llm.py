"""Any LLM behind the OpenAI chat-completions protocol. The only user of openai and tenacity.

    with Ledger(folder) as ledger:
        async with LLM(settings.llm, ledger) as llm, aclosing(llm.run(requests)) as answers:
            async for answer in answers: ...

Three circles, from the inside out:

- a *call* is one HTTP exchange. 408, 409, 429, 5xx, timeouts and broken connections are sent again
  by the one retry policy (`_patiently`), never earlier than Retry-After says. What cannot get
  better (no credit, a wrong key or model) stops the run, with the endpoint's reason.
- a *request* is asked until an answer can be used: whole, not refused, JSON, of its schema, and
  past its own check; each time with what was wrong, `attempts` times in all. Then it is a failed
  answer, recorded as such; one bad record never stops a run.
- a *run* keeps `concurrency` calls under way. An answer is in the ledger before it is yielded.

What an endpoint can do (JSON schemas, JSON mode, which parameters) is found out by the first call
of each model and step while the others wait, and then remembered: `_Dialect`.

No text of a user, and no key, is ever logged or in an error's message.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import random
import re
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from p4r_qdrant.errors import InputError, MissingExtraError, P4RError, SettingsError
from p4r_qdrant.records import clean_text

try:
    import httpx2
    import jsonschema  # noqa: F401 - for indexer.answers
    import openai
    import tenacity
except ModuleNotFoundError as missing:
    raise MissingExtraError(
        f"reasoning needs {missing.name}: pip install 'p4r-qdrant[indexer]'"
    ) from None

from indexer.answers import OFF_SCHEMA, parse_answer, schema_problem, shortened
from indexer.ledger import Ledger, request_key
from p4r_qdrant.settings import OPENAI_HOST, LLMSettings

MAX_RESPONSE_BYTES = 4 << 20
"""What is read of one response; the rest of a larger one is never read."""
KEPT_CHARACTERS = 20_000
"""How much of an unusable answer is kept, and shown to the model when it is asked again."""
START_PATIENCE_S = 15.0
"""How long an endpoint that has never answered is tried: it is more likely a wrong address."""
DOWN_AFTER = 3
"""An endpoint is down when so many requests in a row have been given up for want of any answer."""
NO_ANSWER = "no answer came"
"""How the problem begins of a request that was given up for want of any answer."""
BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
SYNC_EVERY_S = 1.0
CONNECTIONS_A_POOL = 16

_TRY_AGAIN = frozenset({408, 409, 425, 429})
_TOO_LONG = re.compile(
    r"context.{0,3}(length|size|window)|maximum context|prompt is too long|too many tokens", re.I
)
_FILTERED = re.compile(r"content.?(filter|policy|management)|invalid_prompt|safety", re.I)
_NO_CREDIT = re.compile(r"insufficient.?(quota|credit|balance)|billing", re.I)
_FORM = re.compile(
    r"response.?format|json.?(schema|object|mode)|schema|structured|guided|grammar", re.I
)
_UNSUPPORTED = re.compile(r"support|unknown|unrecogni|not permitted|extra|deprecated", re.I)

_log = logging.getLogger(__name__)


class LLMRefusedError(InputError):
    """The endpoint will not take such requests at all: wrong key, model, address or no credit."""


class BudgetReachedError(InputError):
    """The next call might exceed the ceiling of cost or tokens that the settings name."""


class EndpointDownError(P4RError):
    """The endpoint cannot be reached, or gives no usable response, however long one tries."""


# --- what goes in and out ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask. `schema` is a JSON schema whose root is an object.

    For the endpoints' strict mode every object in it lists all its properties as required and
    has `additionalProperties: false`. `check` looks at an answer that fits the schema and returns
    what is wrong with it in a sentence the model is shown, or None. `about` names the records the
    answer comes from (item_id, user_id): it is stored with the answer, so that it can be found
    when somebody has a right to be forgotten; and so is `template`, the hash of the prompt's
    wording. `max_tokens` bounds the answer; a truncated one is asked again with twice as many.

    Without a `key` of the caller's own (`request_key`) it is made of everything that is sent.
    """

    step: str
    system: str = field(repr=False)
    user: str = field(repr=False)
    schema: Mapping[str, Any] = field(repr=False)
    model: str
    temperature: float = 0.0
    max_tokens: int = 1024
    check: Callable[[Any], str | None] | None = field(default=None, repr=False)
    about: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            key = request_key(
                template=self.step,
                content=[self.system, self.user, self.schema],
                model=self.model,
                parameters={"temperature": self.temperature, "max_tokens": self.max_tokens},
            )
            object.__setattr__(self, "key", key)


@dataclass(frozen=True, slots=True)
class Usage:
    """What was spent. `cost_usd` is None where a price is not known."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Both kinds together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            (self.cost_usd or 0) + (other.cost_usd or 0) if known else None,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    `value` is None where it failed; `problems` says, a sentence an attempt, what was wrong, and
    `completion` is then the last text the model gave. `known`: it was in the ledger already, and
    its usage is what it cost then.
    """

    request: Request
    value: Any = field(repr=False)
    usage: Usage
    problems: tuple[str, ...] = field(default=(), repr=False)
    completion: str = field(default="", repr=False)
    known: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


@dataclass(slots=True)
class Tally:
    """One step's counts, live. `known` answers came from the ledger and cost nothing now."""

    answered: int = 0
    failed: int = 0
    known: int = 0
    retries: int = 0
    usage: Usage = Usage()


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, rather too many than too few: a third of its bytes."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 3)


# --- what may go wrong with one request -------------------------------------------------------


class _TransientError(Exception):
    """Worth sending again; not before `wait_s` seconds where the endpoint said so."""

    def __init__(self, reason: str, wait_s: float = 0.0, *, heard: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.heard = heard
        """Somebody is there, the address is right."""


class _HopelessError(Exception):
    """The request will never be answered; others may."""


class _UnknownParameterError(Exception):
    """HTTP 400 or 422: perhaps the endpoint does not know a parameter; `complaint` says which."""

    def __init__(self, said: str, complaint: str) -> None:
        super().__init__(said)
        self.complaint = complaint


class _StoppedError(Exception):
    """The run is at its end: nothing new is begun."""


class _TooLargeError(openai.OpenAIError):
    """More than MAX_RESPONSE_BYTES. openai hands exceptions of its own kind through."""


# --- the wire ---------------------------------------------------------------------------------


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > MAX_RESPONSE_BYTES:
                raise _TooLargeError
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Transport(httpx2.AsyncBaseTransport):
    """Bounded responses, errors included, over several small connection pools taken in turn.

    What a pool does for each call grows with its connections: with one pool for 64 or 256 a call
    took 12 % more CPU. How many connections there are is bounded by who uses this.
    """

    def __init__(self, settings: LLMSettings) -> None:
        parts = urlsplit(settings.base_url)
        proxied = not settings.is_local and not proxy_bypass(parts.netloc)
        options: dict[str, Any] = {
            "verify": httpx2.create_ssl_context(),
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            "proxy": getproxies().get(parts.scheme) if proxied else None,
        }
        count = math.ceil(settings.concurrency / CONNECTIONS_A_POOL)
        self._pools = [httpx2.AsyncHTTPTransport(**options) for _ in range(count)]
        self._turns = itertools.cycle(self._pools)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await next(self._turns).handle_async_request(request)
        response.stream = _BoundedStream(cast("httpx2.AsyncByteStream", response.stream))
        return response

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


@dataclass(frozen=True, slots=True)
class _Completion:
    """The part of a chat completion that matters here."""

    text: str
    finish_reason: str
    refusal: str
    tokens: tuple[int, int] | None
    """In and out; not every endpoint counts."""


def _read_completion(body: bytes) -> _Completion:
    """Raises _TransientError where the body is no chat completion: a proxy has answered."""
    try:
        data = json.loads(body.decode(errors="replace"))
        choice = data["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish_reason = choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        what = "an empty body" if not body.strip() else "something else than a chat completion"
        raise _TransientError(f"the endpoint sent {what}") from None
    return _Completion(
        content if isinstance(content, str) else "",
        finish_reason if isinstance(finish_reason, str) else "",
        refusal if isinstance(refusal, str) else "",
        _counted(data.get("usage")),
    )


def _counted(usage: Any) -> tuple[int, int] | None:
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
            return max(prompt, 0), max(completion, 0)
    return None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait as the headers have it (seconds, milliseconds or a date), else 0."""
    with suppress(KeyError, ValueError):
        return _seconds(float(headers["retry-after-ms"]) / 1000)
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return _seconds(float(value))
    with suppress(ValueError, TypeError):
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return _seconds((moment - datetime.now(UTC)).total_seconds())
    return 0.0


def _seconds(value: float) -> float:
    return max(0.0, value) if math.isfinite(value) else 0.0


# --- what the endpoint understands ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Speech:
    form: str
    tokens: str = "max_tokens"
    temperature: bool = True


@dataclass(slots=True)
class _Dialect:
    """What one model takes for one step. Changes only towards simpler, so it comes to an end.

    Per step, since a schema that an endpoint cannot do must not cost the other steps theirs.
    """

    speech: _Speech
    fixed_form: bool
    proved: bool = False
    spelled_out: bool = False
    """The endpoint took the JSON schema and did not keep to it: it is in the prompt from now on."""
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def simplify(self, complaint: str) -> bool:
        """Leave out what the endpoint complains of; False where that is nothing we could."""
        old = self.speech
        if "max_tokens" in complaint and old.tokens == "max_tokens" and _refuses(complaint):
            self.speech = replace(old, tokens="max_completion_tokens")
        elif "temperature" in complaint and old.temperature and _refuses(complaint):
            self.speech = replace(old, temperature=False)
        elif not self.fixed_form and old.form != "text" and _FORM.search(complaint):
            simpler = "json_object" if old.form == "json_schema" else "text"
            self.speech = replace(old, form=simpler)
        return self.speech != old

    def body(self, request: Request, remark: _Remark) -> dict[str, Any]:
        """The request as this model takes it."""
        speech = self.speech
        system = request.system
        if speech.form != "json_schema" or self.spelled_out:
            schema = json.dumps(request.schema, ensure_ascii=False)
            system += f"\n\nAnswer with one JSON object that fits this JSON schema:\n{schema}"
        if remark.rule:
            system += f"\n\n{remark.rule}"
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": request.user},
        ]
        if remark.correction:
            messages += [
                {"role": "assistant", "content": remark.completion},
                {"role": "user", "content": remark.correction},
            ]
        for message in messages:  # half an emoji cannot be sent
            message["content"] = clean_text(message["content"])
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        body[speech.tokens] = remark.max_tokens
        if speech.temperature:
            body["temperature"] = request.temperature
        if speech.form == "json_schema":
            schema_form = {"name": request.step, "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema_form}
        elif speech.form == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body


def _refuses(complaint: str) -> bool:
    return _UNSUPPORTED.search(complaint) is not None


@dataclass(frozen=True, slots=True)
class _Remark:
    """What is said on asking again: a `rule` for the system, or a `correction` of an answer."""

    max_tokens: int
    rule: str = ""
    completion: str = ""
    correction: str = ""


# --- the answers ------------------------------------------------------------------------------


def _judge(
    request: Request, completion: _Completion, max_tokens: int
) -> tuple[Any, str, _Remark | None]:
    """(value, "", None) of an answer that can be used, else (None, problem, what to say)."""
    more = _Remark(max_tokens)
    if completion.refusal or completion.finish_reason == "content_filter":
        said = completion.refusal and f": {shortened(completion.refusal)}"
        return None, f"the model refused to answer{said}", replace(more, rule=_DO_ANSWER)
    if completion.finish_reason == "length" and not _is_json(completion.text):
        rule = f"Your last answer was cut off after {max_tokens} tokens: keep this one shorter."
        problem = f"the answer was cut off after {max_tokens} tokens"
        return None, problem, _Remark(min(2 * max_tokens, 4 * request.max_tokens), rule)
    if not completion.text.strip():
        return None, "the answer was empty", replace(more, rule=_DO_ANSWER)
    value, problem = _read_answer(request, completion.text)
    if not problem:
        return value, "", None
    correction = (
        f"This answer cannot be used: {problem}. Answer again, with one corrected JSON object "
        "and nothing else."
    )
    shown = completion.text[:KEPT_CHARACTERS]
    return None, problem, replace(more, completion=shown, correction=correction)


def _read_answer(request: Request, text: str) -> tuple[Any, str]:
    """(value, what is wrong with it)."""
    try:
        value = parse_answer(text)
    except ValueError as error:
        return None, str(error)
    problem = schema_problem(value, request.schema)
    if problem is None and request.check is not None:
        problem = request.check(value)
    return value, problem or ""


_DO_ANSWER = (
    "You gave no answer the last time. Nobody asks for an opinion, only for the JSON object "
    "described above; where there is nothing to say, leave its fields as empty as it allows."
)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# --- the layer --------------------------------------------------------------------------------


class LLM:
    """One endpoint, one ledger, one run's budget; an async context manager.

    Raises SettingsError where OpenAI is asked without a key. Once it has stopped (a ceiling, a
    refusal, a full disk) it stays stopped: `stopped` says why.
    """

    def __init__(self, settings: LLMSettings, ledger: Ledger) -> None:
        if settings.api_key is None and settings.host == OPENAI_HOST:
            raise SettingsError(
                "there is no key for OpenAI: set P4R_LLM__API_KEY, or P4R_LLM__BASE_URL to "
                "another endpoint"
            )
        self.tallies: dict[str, Tally] = {}
        self.stopped: Exception | None = None
        self._settings = settings
        self._ledger = ledger
        self._secret = settings.api_key.get_secret_value() if settings.api_key else ""
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=self._secret or "none",
            max_retries=0,
            http_client=httpx2.AsyncClient(
                transport=_Transport(settings),
                timeout=httpx2.Timeout(settings.timeout_s, connect=min(10.0, settings.timeout_s)),
                follow_redirects=False,  # prompts go where the settings say, nowhere else
                headers={"Accept-Encoding": "identity"},  # a bound that compression cannot evade
            ),
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._stopping = asyncio.Event()
        self._dialects: dict[tuple[str, str], _Dialect] = {}
        self._asking: dict[tuple[str, str], asyncio.Event] = {}
        self._served = False
        self._unanswered = 0
        """Requests in a row that were given up for want of any answer."""
        self._in_flight = 0
        self._reserved = Usage()
        self._released = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def usage(self) -> Usage:
        """What this run has spent so far, over all steps."""
        return sum((tally.usage for tally in self.tallies.values()), Usage())

    async def run(
        self, requests: Iterable[Request] | AsyncIterable[Request]
    ) -> AsyncGenerator[Answer, None]:
        """One answer for each request, as they come; requests are pulled as they are needed.

        What the ledger knows is yielded from there and costs nothing. An answer is in the ledger
        before it is yielded; an abandoned or cancelled run loses only the calls under way.

        Raises, when the calls under way have ended and were yielded: LLMRefusedError,
        EndpointDownError, BudgetReachedError, StorageFullError. All that was answered is kept:
        the same run goes on from there.
        """
        # Twice as many as slots: the next call stands ready when one ends, and a request that
        # waits before it is sent again keeps no slot empty.
        count = 2 * self._settings.concurrency
        answers: asyncio.Queue[Answer | None] = asyncio.Queue(count)
        pull = self._puller(requests)

        async def work() -> None:
            try:
                while self.stopped is None and (request := await pull()) is not None:
                    await answers.put(await self._resolve(request))
            except _StoppedError:
                pass
            except Exception as error:  # a full disk, a bug in a check: stops all
                self._halt(error)

        async def work_all() -> None:
            async with asyncio.TaskGroup() as workers:
                for _ in range(count):
                    workers.create_task(work())
            await answers.put(None)

        tasks = [asyncio.create_task(work_all()), asyncio.create_task(self._keep_synced())]
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._ledger.sync)
        if self.stopped is not None:
            raise self.stopped

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, from the ledger where it is there. Raises as `run` does."""
        try:
            return await self._resolve(request)
        except _StoppedError as error:
            raise (self.stopped or error) from None

    def _puller(
        self, requests: Iterable[Request] | AsyncIterable[Request]
    ) -> Callable[[], Awaitable[Request | None]]:
        """The function that gives the next request, and None at the end."""
        if not isinstance(requests, AsyncIterable):
            iterator = iter(requests)

            async def pull() -> Request | None:
                return next(iterator, None)

            return pull

        stream, turn = aiter(requests), asyncio.Lock()

        async def pull_async() -> Request | None:
            async with turn:  # a generator cannot be advanced twice at once
                coming = asyncio.ensure_future(anext(stream, None))
                stopping = asyncio.ensure_future(self._stopping.wait())
                try:
                    await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    return coming.result() if coming.done() else None
                finally:
                    coming.cancel()
                    stopping.cancel()

        return pull_async

    async def _keep_synced(self) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            try:
                await asyncio.to_thread(self._ledger.sync)
            except P4RError as error:
                self._halt(error)
                return

    def _halt(self, error: Exception) -> _StoppedError:
        """Begin nothing any more; the first reason counts."""
        if self.stopped is None:
            self.stopped = error
        self._stopping.set()
        self._released.set()
        return _StoppedError()

    def _tally(self, step: str) -> Tally:
        return self.tallies.setdefault(step, Tally())

    # -- a request ------------------------------------------------------------------------------

    async def _resolve(self, request: Request) -> Answer:
        """From the ledger, else from the endpoint and into the ledger. Raises _StoppedError."""
        place = request.step, request.key
        while (other := self._asking.get(place)) is not None:  # two alike at once: ask one
            await other.wait()
        if (record := self._ledger.get(*place)) is not None:
            self._tally(request.step).known += 1
            return _from_record(request, record)
        done = self._asking[place] = asyncio.Event()
        try:
            answer = await self._reason(request)
            self._ledger.put(*place, _to_record(answer), ok=answer.ok)
        finally:
            del self._asking[place]
            done.set()
        tally = self._tally(request.step)
        if answer.ok:
            tally.answered += 1
        else:
            tally.failed += 1
        return answer

    async def _reason(self, request: Request) -> Answer:
        """Ask until an answer can be used. From the last call's end on there is no await."""
        usage, problems, text = Usage(), list[str](), ""
        remark = _Remark(request.max_tokens)
        for _ in range(self._settings.attempts):
            try:
                completion, spent = await self._patiently(request, remark)
            except _HopelessError as error:
                problems.append(str(error))
                break
            usage += spent
            text = clean_text(completion.text[:KEPT_CHARACTERS])
            value, problem, again = _judge(request, completion, remark.max_tokens)
            if again is None:
                return Answer(request, value, usage, tuple(problems))
            problems.append(problem)
            remark = again
            if problem.startswith(OFF_SCHEMA) and completion.finish_reason != "length":
                self._dialect(request).spelled_out = True
        return Answer(request, None, usage, tuple(problems), text)

    async def _patiently(self, request: Request, remark: _Remark) -> tuple[_Completion, Usage]:
        """One call, sent again as long as it may help: the one retry policy there is."""
        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            wait=_wait,
            stop=self._is_out_of_patience,
            before_sleep=lambda state: self._note_retry(request, state),
            sleep=self._pause,
            reraise=True,
        )
        try:
            return await policy(self._call, request, remark)
        except _TransientError as error:
            self._unanswered += 1
            reached = self._served or error.heard
            if reached and self._unanswered < DOWN_AFTER:
                raise _HopelessError(f"{NO_ANSWER}: {error}") from None
            advice = "all answers are kept" if self._served else "check P4R_LLM__BASE_URL"
            raise self._halt(
                EndpointDownError(
                    f"{self._settings.base_url} gives no answer ({error}); {advice}, and run "
                    "again when it is up"
                )
            ) from None

    def _is_out_of_patience(self, state: tenacity.RetryCallState) -> bool:
        error, patience = _transient(state), self._settings.retry_for_s
        if not self._served and not error.heard:
            patience = min(patience, START_PATIENCE_S)
        return (state.seconds_since_start or 0) + state.upcoming_sleep > patience

    def _note_retry(self, request: Request, state: tenacity.RetryCallState) -> None:
        self._tally(request.step).retries += 1
        _log.debug("%s: %s, again in %.1f s", request.step, _transient(state), state.upcoming_sleep)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- a call ---------------------------------------------------------------------------------

    async def _call(self, request: Request, remark: _Remark) -> tuple[_Completion, Usage]:
        """One exchange in one slot, within the budget."""
        dialect = self._dialect(request)
        async with self._slots, self._afforded(request, remark):
            if not dialect.proved:
                async with dialect.probing:  # the first one finds out, the others wait
                    if not dialect.proved:
                        return await self._exchange(request, remark, dialect)
            return await self._exchange(request, remark, dialect)

    def _dialect(self, request: Request) -> _Dialect:
        form = self._settings.answer_form
        first = _Dialect(_Speech("json_schema" if form == "auto" else form), form != "auto")
        return self._dialects.setdefault((request.model, request.step), first)

    @asynccontextmanager
    async def _afforded(self, request: Request, remark: _Remark) -> AsyncIterator[None]:
        """Keep back what the call may cost at worst; wait while calls under way might need it."""
        worst = self._worst(request, remark)
        while self.stopped is None and (ceiling := self._exceeded(worst)):
            if not self._in_flight:
                spent = self.usage
                cost = "" if spent.cost_usd is None else f", {spent.cost_usd:.4f} USD"
                raise self._halt(
                    BudgetReachedError(
                        f"the next call might exceed {ceiling}: this run has used "
                        f"{spent.tokens:,} tokens{cost}; all answers are kept, run again to go on"
                    )
                )
            await self._released.wait()
        if self.stopped is not None:
            raise _StoppedError
        self._in_flight += 1
        self._reserved = self._reserved + worst
        try:
            yield
        finally:
            self._in_flight -= 1
            self._reserved = self._reserved + _negative(worst)
            self._released.set()
            self._released = asyncio.Event()

    def _worst(self, request: Request, remark: _Remark) -> Usage:
        if self._settings.max_tokens is None and self._settings.max_cost_usd is None:
            return Usage()
        text = f"{request.system}{request.user}{json.dumps(request.schema)}{remark.completion}"
        tokens = estimate_tokens(text) + 100, remark.max_tokens
        return Usage(0, *tokens, self._settings.of(request.step).cost(*tokens))

    def _exceeded(self, worst: Usage) -> str:
        """The ceiling that one more call might exceed, "" where it might not."""
        after = self.usage + self._reserved + worst
        tokens, cost = self._settings.max_tokens, self._settings.max_cost_usd
        if tokens is not None and after.tokens > tokens:
            return f"the {tokens:,} tokens of P4R_LLM__MAX_TOKENS"
        if cost is not None and (after.cost_usd or 0) > cost:
            return f"the {cost:g} USD of P4R_LLM__MAX_COST_USD"
        return ""

    async def _exchange(
        self, request: Request, remark: _Remark, dialect: _Dialect
    ) -> tuple[_Completion, Usage]:
        """Send, in ever simpler terms where the endpoint knows no better; count what was spent."""
        while True:
            if self.stopped is not None:
                raise _StoppedError
            speech = dialect.speech
            try:
                completion = await self._send(request, dialect.body(request, remark))
                break
            except _UnknownParameterError as error:
                if dialect.speech == speech and not dialect.simplify(error.complaint):
                    if remark != _Remark(request.max_tokens):  # it was taken the first time
                        raise _HopelessError(f"the endpoint refused: {error}") from None
                    raise self._refusal(400, str(error), request) from None
                _log.warning("%s for %s: it takes %s", request.model, request.step, dialect.speech)
        dialect.proved = self._served = True
        self._unanswered = 0
        tokens = completion.tokens or (
            estimate_tokens(request.system + request.user),
            estimate_tokens(completion.text),
        )
        spent = Usage(1, *tokens, self._settings.of(request.step).cost(*tokens))
        tally = self._tally(request.step)
        tally.usage = tally.usage + spent
        return completion, spent

    async def _send(self, request: Request, body: dict[str, Any]) -> _Completion:
        """One HTTP exchange; every way it can end is one of the four exceptions, or an answer."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._client.post(
                    "/chat/completions", body=body, cast_to=httpx2.Response
                )
            return _read_completion(response.content)
        except openai.APIStatusError as error:
            raise self._translated(error, request) from None
        except (TimeoutError, openai.APITimeoutError) as error:
            reason = f"no whole response within {self._settings.timeout_s:g} s"
            heard = not isinstance(error.__cause__, httpx2.ConnectTimeout)
            raise _TransientError(reason, heard=heard) from None
        except openai.APIConnectionError as error:
            what = type(error.__cause__).__name__ if error.__cause__ else "it was lost"
            raise _TransientError(f"the connection failed: {what}") from None
        except _TooLargeError:
            megabytes = MAX_RESPONSE_BYTES >> 20
            raise _HopelessError(f"the response was larger than {megabytes} MB") from None

    def _translated(self, error: openai.APIStatusError, request: Request) -> Exception:
        status, (message, complaint) = error.status_code, _complaint(error)
        said = self._said(message, request)
        if status == 429 and _NO_CREDIT.search(complaint):
            return self._refusal(status, said, request)
        if status in _TRY_AGAIN or status >= 500:
            wait_s = _retry_after(error.response.headers)
            return _TransientError(f"HTTP {status}", wait_s, heard=True)
        if status == 413 or (status in (400, 422) and _TOO_LONG.search(complaint)):
            return _HopelessError(f"the prompt is too long for the model: {said}")
        if status in (400, 422) and _FILTERED.search(complaint):
            return _HopelessError(f"the endpoint's content filter refused the prompt: {said}")
        if status in (400, 422):
            return _UnknownParameterError(said, complaint)
        return self._refusal(status, said, request)

    def _refusal(self, status: int, said: str, request: Request) -> Exception:
        """Stop the run: the next request would fare no better."""
        url = self._settings.base_url
        advice = {
            400: f"{url} does not take such requests",
            401: f"{url} refuses the key: set P4R_LLM__API_KEY",
            403: f"{url} does not allow this with this key: check its rights and the model's name",
            404: f"{url} has no model {request.model}, or is no such endpoint: check "
            "P4R_LLM__MODEL and P4R_LLM__BASE_URL",
            429: f"the account at {url} has no credit left",
        }.get(status, f"{url} does not take such requests: check P4R_LLM__BASE_URL")
        return self._halt(LLMRefusedError(f"{advice} (HTTP {status}: {said or 'no reason given'})"))

    def _said(self, message: str, request: Request) -> str:
        """The endpoint's words for people: short, without the key, without the prompt."""
        text = message.replace(self._secret, "***") if self._secret else message
        text = shortened(text, 200)
        prompt = " ".join(f"{request.system} {request.user}".split())
        windows = range(max(1, len(text) - _ECHO + 1))
        if any(len(text) >= _ECHO and text[at : at + _ECHO] in prompt for at in windows):
            return "its explanation repeats the prompt and is left out"
        return text


_ECHO = 24
"""So many characters of a prompt in an endpoint's error are no coincidence."""


def _wait(state: tenacity.RetryCallState) -> float:
    """Full jitter over a doubling bound; never before Retry-After, and then not all at once."""
    bound = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(state.attempt_number, 16))
    return _transient(state).wait_s + random.uniform(0, bound)  # noqa: S311 - jitter


def _transient(state: tenacity.RetryCallState) -> _TransientError:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, _TransientError) else _TransientError("")


def _complaint(error: openai.APIStatusError) -> tuple[str, str]:
    """(what the endpoint says, that with its codes), be it OpenAI's form, FastAPI's or text."""
    body = error.body
    if not isinstance(body, dict):
        return str(body or ""), str(body or "")
    message = str(body.get("message") or body.get("detail") or "")
    codes = (str(body.get(name) or "") for name in ("code", "type", "param"))
    return message, " ".join((message, *codes))


def _negative(usage: Usage) -> Usage:
    cost = None if usage.cost_usd is None else -usage.cost_usd
    return Usage(-usage.calls, -usage.prompt_tokens, -usage.completion_tokens, cost)


def _to_record(answer: Answer) -> dict[str, Any]:
    """What the ledger keeps of an answer."""
    request, usage = answer.request, answer.usage
    record: dict[str, Any] = {"about": dict(request.about), "template": request.template}
    if answer.ok:
        record["answer"] = answer.value
    else:
        record["completion"] = answer.completion
    return record | {
        "problems": [clean_text(problem) for problem in answer.problems],
        "model": request.model,
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
        "time": int(time.time()),
    }


def _from_record(request: Request, record: Mapping[str, Any]) -> Answer:
    names = ("calls", "prompt_tokens", "completion_tokens", "cost_usd")
    usage = Usage(**{name: record[name] for name in names})
    return Answer(request, record["answer"], usage, tuple(record["problems"]), known=True)
