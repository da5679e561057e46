"""The records: one name and one form for each thing, everywhere.

What crosses a border (artifact files, HTTP) is a pydantic model. What the reranking path takes
and returns is a frozen, slotted dataclass. Field names are those of the artifact files.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_ID_LENGTH = 512
"""Characters an item, user or persona id may have: it is a keyword in an index, not a text."""
MAX_DOMAIN_LENGTH = 100
AHEAD_S = 14 * 3600
"""Seconds that a time stamp may be ahead of our clock: a local time that was taken for UTC."""

_INVISIBLE = "\u00ad\u200b\u200c\u200e\u200f\u2060\ufeff"
"""No white space, but without width: what spreadsheets and web pages leave at the end of a word."""
_PLAIN_ID = re.compile(rf"[!-~](?:[ -~]{{0,{MAX_ID_LENGTH - 2}}}[!-~])?")
"""What nearly all ids are: printable ASCII, without a space around it."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_TEXT = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def check_id(value: str) -> str:
    """Return `value` if it can be an id; else raise ValueError in one sentence.

    Emoji, quotes, slashes and spaces inside are fine. Empty ids, ids over `MAX_ID_LENGTH`
    characters, control characters (newlines too), lone surrogates and surrounding white space or
    invisible characters are not: they cannot be distinguished, typed, or sent.
    """
    if _PLAIN_ID.fullmatch(value):
        return value
    if not value:
        raise ValueError("an id must not be empty")
    if len(value) > MAX_ID_LENGTH:
        raise ValueError(f"an id may have {MAX_ID_LENGTH} characters, this one has {len(value)}")
    if _CONTROL.search(value):
        raise ValueError(f"the id {value[:40]!r} holds a control character or line break")
    if value != value.strip().strip(_INVISIBLE):
        raise ValueError(
            f"the id {value[:40]!r} begins or ends with white space, or with an invisible character"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the id {value[:40]!r} is not valid Unicode") from None
    return value


def is_id(text: str) -> bool:
    """Whether a text can be an id."""
    try:
        check_id(text)
    except ValueError:
        return False
    return True


def _as_id(value: Any) -> Any:
    """An id as a text: JSON catalogues often number their items; 17 and "17" are the same id.

    One function for both, since a request has a thousand ids.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return check_id(value) if isinstance(value, str) else value


def check_time(value: int) -> int:
    """Return a time stamp; raise ValueError if it is in the future, as milliseconds are."""
    now = time.time()
    if value <= now + AHEAD_S:
        return value
    hint = "; it looks like milliseconds" if 0 < value // 1000 <= now + AHEAD_S else ""
    raise ValueError(f"{str(value)[:30]} is in the future: give seconds since 1970{hint}")


def check_domain(value: str) -> str:
    """Return the name of a domain; raise ValueError if it cannot be one: empty, long, two lines."""
    if not value.strip() or len(value) > MAX_DOMAIN_LENGTH or _CONTROL.search(value):
        raise ValueError(
            f"{value[:40]!r} is no name of a domain: it is one line of 1 to {MAX_DOMAIN_LENGTH} "
            "characters"
        )
    return value.strip()


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is no number")
    return value


def clean_text(value: str) -> str:
    """Strip terminal sequences, control characters and lone surrogates; keep tabs and newlines."""
    return _NOT_TEXT.sub("", value).strip()


def _none_to_empty(value: Any) -> Any:
    return "" if value is None else value


Id = Annotated[str, BeforeValidator(_as_id)]
Timestamp = Annotated[
    int, BeforeValidator(_no_truth_value), Field(ge=0), AfterValidator(check_time)
]
"""Seconds since 1970."""
Rating = Annotated[float, BeforeValidator(_no_truth_value), Field(ge=0, le=100)]
"""A rating: 1 to 5 stars, 1 to 10, per cent."""
Score = Annotated[float, BeforeValidator(_no_truth_value)]
DomainName = Annotated[str, AfterValidator(check_domain)]
Text = Annotated[str, BeforeValidator(_none_to_empty), AfterValidator(clean_text)]
NonEmptyText = Annotated[Text, Field(min_length=1)]

Action = Literal["approve", "edit", "reject", "lock", "split", "ask", "undo"]
"""What a reviewer decides about a persona."""

State = Literal["changed", "pending", "asked", "edited", "approved", "locked", "rejected"]
"""What the decisions make of a persona."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Item(_Record):
    """One line of items.jsonl. Fields of the caller's own (price, language ...) are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    item_id: Id
    title: Text = ""
    description: Text = ""
    categories: list[Text] = Field(default_factory=list)
    brand: Text = ""


class Review(_Record):
    """One line of reviews.jsonl; `timestamp` in seconds since 1970."""

    user_id: Id
    item_id: Id
    rating: Rating
    timestamp: Timestamp
    title: Text = ""
    text: Text = ""


class Summary(_Record):
    """One line of summaries.jsonl: s_i (Eq. 1)."""

    item_id: Id
    summary: NonEmptyText


class Aspects(_Record):
    """One line of aspects.jsonl: a_ui (Eq. 2). Slots belong to the domain; null = no evidence."""

    item_id: Id
    user_id: Id
    timestamp: Timestamp
    rating: Rating
    aspects: dict[str, Text | None]


class Persona(_Record):
    """One persona of an item (Eq. 3); `evidence` names the users whose aspects support it.

    `extractive` personas quote reviews: no LLM wrote them.
    """

    persona_id: Id
    name: NonEmptyText
    description: NonEmptyText
    preference_rationale: NonEmptyText
    evidence: list[Id] = Field(default_factory=list)
    extractive: bool = False

    @property
    def label(self) -> str:
        """The name for people, which says if the persona is extractive."""
        return labelled(self.name, extractive=self.extractive)


def labelled(name: str, *, extractive: bool) -> str:
    """A persona's name for people."""
    return f"{name} (extractive)" if extractive else name


class ItemPersonas(_Record):
    """One line of personas.jsonl: P_i."""

    item_id: Id
    personas: list[Persona]


class Alignment(_Record):
    """One line of alignments.jsonl: the judge's pick (Eq. 5)."""

    user_id: Id
    item_id: Id
    persona_id: Id
    justification: Text = ""


class Split(_Record):
    """One line of splits.jsonl: a user's leave-one-out; `valid_item` is null where only a test
    item is known.
    """

    user_id: Id
    test_item: Id
    valid_item: Id | None
    tie: bool = False


class Candidate(_Record):
    """One entry of a candidate list; `score` is the generator's."""

    item_id: Id
    score: Score | None = None


class CandidateList(_Record):
    """One line of a candidates file, best first."""

    user_id: Id
    results: list[Candidate]


@dataclass(frozen=True, slots=True)
class Interaction:
    """A past interaction of a user: what Eq. 6 encodes.

    `summary` is s_i; `aspects` is a_ui, empty where the review gave none.
    """

    item_id: str
    timestamp: int
    summary: str = ""
    title: str = ""
    aspects: Mapping[str, str | None] = field(default_factory=dict)
    rating: float | None = None


@dataclass(frozen=True, slots=True)
class StoredPersona:
    """A persona as the index returns it. `fields` holds the rest of its payload."""

    item_id: str
    persona_id: str
    name: str
    description: str
    preference_rationale: str
    fields: Mapping[str, Any]

    @property
    def extractive(self) -> bool:
        """Whether the persona quotes reviews: no LLM wrote it."""
        return bool(self.fields.get("extractive"))

    @property
    def label(self) -> str:
        """The name for people, which says if the persona is extractive."""
        return labelled(self.name, extractive=self.extractive)


class PersonaMatch(NamedTuple):
    """An item's best persona for one user (Eq. 10).

    `score` and `point_id` are None where the item has no personas (or the filter excludes
    them). `point_id` names the persona's point; `persona` and `vector` ((dim,) float32,
    normalised) are there where they were asked for. A tuple, for one call makes thousands.
    """

    item_id: str
    score: float | None = None
    point_id: str | None = None
    persona: StoredPersona | None = None
    vector: Any = None


class Because(NamedTuple):
    """What one item of a user's history contributes to a score.

    Of a persona score: the contributions of all interactions add up to it (Eq. 7 is linear), before
    a prior is taken off; `share` is the contribution divided by that sum. Of a collaborative score:
    only the items that speak for the ranked one; `share` is the contribution divided by theirs.
    """

    item_id: str
    title: str
    contribution: float
    share: float


class Parts(NamedTuple):
    """What each part carried of an item's score; they add up to it. None: it was left out."""

    personas: float | None = None
    collaborative: float | None = None
    generator: float | None = None


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One item of a reranked list.

    `score` is what ordered the item: the persona score, or the fused one. It is None where the
    item kept the generator's order (no personas, or a user without history). `persona_score`
    is Eq. 10 (or what `RerankSettings` ask for), `collaborative_score` is c(u, i),
    `generator_score` what the candidate came with, `generator_rank` its place there (from 1).
    `parts`: see `Parts`; only with `fusion = "standard"`.

    `because` is sorted by contribution, largest first; with several interests the one that won is
    first. `chosen_with`: the user's own items that the collaborative score comes from, largest
    contribution first.
    """

    item_id: str
    rank: int
    score: float | None
    persona_score: float | None = None
    persona: StoredPersona | None = None
    because: tuple[Because, ...] = ()
    generator_score: float | None = None
    generator_rank: int = 0
    collaborative_score: float | None = None
    parts: Parts | None = None
    chosen_with: tuple[Because, ...] = ()

    @property
    def why(self) -> str:
        """Both reasons as one sentence for people; empty if the item is not explained.

        "for the Bread-and-History Reader; readers of One Ring, One Pan chose it too"
        """
        reasons = []
        if self.persona is not None:
            reasons.append(f"for the {_ARTICLE.sub('', self.persona.label)}")
        if self.chosen_with:
            first = self.chosen_with[0]
            domain = self.persona.fields.get("domain") if self.persona is not None else None
            people = _PEOPLE.get(str(domain), "users")
            reasons.append(f"{people} of {first.title or first.item_id} chose it too")
        return "; ".join(reasons)


_ARTICLE = re.compile(r"^the\s+", re.IGNORECASE)
_PEOPLE = {"books": "readers", "products": "buyers", "restaurants": "guests"}
"""Who chooses the items of a domain."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one rerank: the items, best first.

    `personalized` is False where nothing is known of the user and the generator's order was kept.
    `fingerprint` tells which encoder made the personas' vectors, and the user's.
    """

    items: tuple[RankedItem, ...]
    personalized: bool = True
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a history: an item that is left out, or (`adds`) added as the newest.

    rank: the place of the ranked item after the change.
    """

    item_id: str
    title: str
    adds: bool
    rank: int


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Why an item is not among the first `top`.

    threshold: the last item of the first `top`; None if the item is among them. differences: what
    each part carried of the item's score minus that of the threshold; with another score than the
    standardised one, the difference of the scores as `personas`. change: the smallest one that
    lifts the item; of several items that can be left out the oldest, which weighs least. tried: the
    number of changes that were looked at. reason: why there is no change, as a sentence.
    """

    item: RankedItem
    top: int
    threshold: RankedItem | None = None
    differences: Parts = field(default_factory=Parts)
    change: Change | None = None
    tried: int = 0
    reason: str = ""

    @property
    def advice(self) -> str:
        """The change, or why there is none, as a sentence for people."""
        if self.change is None:
            return f"{self.reason[:1].upper()}{self.reason[1:]}."
        title, rank = self.change.title or self.change.item_id, self.change.rank
        how = f"with {title!r} as one more item" if self.change.adds else f"without {title!r}"
        return f"It is number {rank} {how} in the history."
