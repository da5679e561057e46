"""The base of all steps: questions in, one artifact out, both in input order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import Any, ClassVar

from pydantic import BaseModel

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, as_line, read_lines
from indexer.artifacts.names import ITEMS
from indexer.artifacts.writing import written_whole
from indexer.ledger import Ledger, request_key
from indexer.llm import Request
from indexer.prompts import Domain, LazyPrompt
from indexer.reasoning.failures import Failures
from p4r_qdrant.moderation import Rules
from p4r_qdrant.records import Item
from p4r_qdrant.settings import LLMSettings


@dataclass(frozen=True)
class Sources:
    """What reasoning reads and writes, and which LLM it asks.

    extractive: no LLM is asked; sentences of reviews are quoted, which an encoder groups.
    folder: holds items.jsonl and reviews.jsonl. Interactions that its splits.jsonl holds out are
        used in no aspects, personas or alignments.
    limit: use only the first `limit` items.
    rules: what the texts of personas may not hold.
    """

    folder: ArtifactFolder
    domain: Domain
    llm: LLMSettings
    limit: int | None = None
    extractive: bool = False
    rules: Rules = field(default_factory=Rules)

    @cached_property
    def held_out(self) -> set[tuple[str, str]]:
        """(user, item) pairs of validation and test."""
        return self.folder.held_out()

    def wanted_items(self) -> set[str] | None:
        """The ids of the first `limit` items; None without a limit."""
        if self.limit is None:
            return None
        lines = read_lines(self.folder.file(ITEMS), Item, Refusals())
        return {item.item_id for _, _, item in islice(lines, self.limit)}

    @property
    def language(self) -> str:
        """The language of the answers, as the prompts name it."""
        return self.llm.language or "the language of the material"


@dataclass(frozen=True)
class Question:
    """All requests about one input record; their answers become one line, or none.

    earlier: other ways to ask, which may have been answered before; the first of them whose answers
    are all there serves until the requests are answered.
    """

    about: Any
    requests: Sequence[Request]
    earlier: Sequence[Sequence[Request]] = ()


@dataclass(frozen=True)
class AnswerForm:
    """What an answer must look like, and which records it comes from."""

    schema: dict[str, Any]
    check: Callable[[Any, str], str | None]
    """(answer, system prompt) -> what is wrong with the answer, None where nothing is."""
    about: dict[str, str]
    """The ids of the records (item_id, user_id)."""
    max_tokens: int


@dataclass
class StepReport:
    """Lines written, inputs with missing answers, and what was left out, by reason.

    failures: why requests have no usable answer. A step that has none at all writes no file.
    """

    written: int = 0
    unanswered: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    failures: Failures = field(default_factory=Failures)


class _NothingToWriteError(Exception):
    """No line could be made of any input, because answers are missing."""


class Step(ABC):
    """One step of reasoning. `name` is the name of its ledger file and settings section."""

    name: ClassVar[str]
    artifact: str
    templates: tuple[str, ...]
    """The names of its prompt templates."""
    reads: tuple[str, ...] = ()
    """Artifacts of earlier steps that it needs."""
    answer_tokens: ClassVar[int]
    """Tokens of an answer, for estimates; measured on the bookshop with a large model."""
    asks: ClassVar[bool] = True
    """False if the step needs no LLM and has no requests."""
    needs_answers: ClassVar[bool] = True
    """A run fails if none of its requests has a usable answer."""

    def __init__(self, sources: Sources, refusals: Refusals) -> None:
        self.sources = sources
        self.refusals = refusals
        self.left_out: Counter[str] = Counter()
        self.keys: dict[bytes, bytes] | None = None
        """A cache: the content of each request -> its ledger key. None: no cache."""

    @abstractmethod
    def questions(self) -> Iterator[Question]:
        """Stream all questions in input order, the same ones on each call.

        A record that becomes a line without an LLM has a question without requests.
        """

    @abstractmethod
    def record(self, about: Any, values: list[Any]) -> BaseModel | None:
        """The artifact's line from the answers; None if it has no content."""

    @cached_property
    def versions(self) -> dict[str, str]:
        """The version of each template, by name."""
        return {name: self.sources.domain.version(name) for name in self.templates}

    def values(self, question: Question, ledger: Ledger) -> list[Any] | None:
        """The answers to a question in the ledger, or to an earlier one; None if one is missing."""
        for number, requests in enumerate((question.requests, *question.earlier)):
            answers = [ledger.get(request.step, request.key) for request in requests]
            values = [answer["answer"] for answer in answers if answer is not None]
            if len(values) == len(answers):
                if number:
                    self.left_out["remarks of reviewers without an answer"] += 1
                return values
        return None

    def write(self, ledger: Ledger, questions: Iterable[Question]) -> StepReport:
        """Write the artifact from the answers in the ledger, in input order.

        The same answers make the same bytes, whatever the order in which they came. Where answers
        are missing and not one line could be made, an earlier file is kept as it is.
        """
        report = StepReport(left_out=self.left_out)
        path = self.sources.folder.path / self.artifact
        with suppress(_NothingToWriteError), written_whole(path) as write:
            for question in questions:
                values = self.values(question, ledger)
                if values is None:
                    report.unanswered += 1
                    continue
                record = self.record(question.about, values)
                if record is not None:
                    write(as_line(record))
                    report.written += 1
            if report.unanswered and not report.written:
                raise _NothingToWriteError
        return report

    def request(self, template: str, material: str, answer: AnswerForm, **values: Any) -> Request:
        """A request of this step; `values` are put into the template beside the material.

        Its prompt is rendered when its text, or a key that is not in `keys`, is first needed.
        """
        sources, model = self.sources, self.sources.llm.of(self.name)
        prompt = LazyPrompt(
            partial(
                sources.domain.render,
                template,
                material=material,
                language=sources.language,
                **values,
            )
        )
        content = [material, values, answer.schema, answer.max_tokens]
        identity = bytes.fromhex(request_key(template=template, content=content, model=""))
        known = self.keys.get(identity) if self.keys is not None else None
        request = Request(
            step=self.name,
            prompt=prompt,
            schema=answer.schema,
            model=model.model,
            temperature=model.temperature,
            max_tokens=answer.max_tokens,
            check=lambda value: answer.check(value, prompt.system),
            about=answer.about,
            template=self.versions[template],
            key=known.hex() if known is not None else "",
        )
        if self.keys is not None and known is None:
            self.keys[identity] = bytes.fromhex(request.key)
        return request


def an_object(**properties: Any) -> dict[str, Any]:
    """A JSON schema: an object of exactly these properties, in the strict form."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def an_array(items: dict[str, Any], *, least: int, most: int) -> dict[str, Any]:
    """A JSON schema: `least` to `most` items."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def one_of(texts: Iterable[str]) -> dict[str, Any]:
    """A JSON schema: one of these texts."""
    return {"type": "string", "enum": list(texts)}


TEXT: dict[str, Any] = {"type": "string"}
TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}
