"""The content of a point: payload field names, point ids, and the checks before a write.

One point is one persona. Both engines write what `make_points` returns and read it back with
`stored_persona`, so that a collection looks the same whichever engine made it.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import PersonaError, VectorError
from p4r_qdrant.records import Item, Persona, StoredPersona, check_id
from p4r_qdrant.texts import plain_rationale

_TAG = re.compile(r"</?[a-zA-Z!][^<>]{0,200}>")


_WORD = re.compile(r"\w+")


_POINT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


NAME = "name"


ITEM_TITLE = "item_title"


RATIONALE = "preference_rationale"


DESCRIPTION = "description"


CATEGORY = "category"


SUMMARY = "summary"


DOMAIN = "domain"


ITEM_ID = "item_id"


PERSONA_ID = "persona_id"


EVIDENCE_COUNT = "evidence_count"


EXTRACTIVE = "extractive"
"""Whether the persona quotes reviews; points that an earlier version wrote have no such field."""


POSITION = "slot"
"""The position of a persona among those of its item, from 0. The stored name is an older one."""


GENERATION = "generation"


UPDATED_AT = "updated_at"


CONTENT_HASH = "content_hash"


UNSETTLED = "unsettled"
"""1 on a point whose item is being replaced. A kill leaves it, and `repair()` removes it."""


TENANT = "tenant"
"""The field with the owner, in an index with tenants on a server; no caller sees it."""


MOST_PER_ITEM = 256
"""Most personas of an item with any settings: the ids of its points differ in one byte."""


OWN_FIELDS = frozenset(
    {NAME, RATIONALE, DESCRIPTION, ITEM_ID, PERSONA_ID, EVIDENCE_COUNT, EXTRACTIVE}
    | {POSITION, GENERATION, UPDATED_AT, CONTENT_HASH, UNSETTLED}
)
"""Fields the index fills in; a caller's own fields may have any other name."""


KEYWORDS = (PERSONA_ID, CATEGORY, DOMAIN)
"""Fields beside the item id that can be filtered on without being declared."""


BOOKKEEPING = frozenset({POSITION, GENERATION, UNSETTLED})
"""Indexed fields that a caller's filter cannot use."""


_NOT_TOLD = OWN_FIELDS - {EVIDENCE_COUNT, EXTRACTIVE, UPDATED_AT}


SHORTEST = 1e-12
"""Length below which a vector is zero."""


MAX_DEPTH = 16
"""Lists and objects within each other in a field. Qdrant reads back only so many: one point with
too many of them can no longer be read, and no other point of its collection either."""


FIRST_FIELDS = (ITEM_TITLE, CATEGORY, SUMMARY, DOMAIN)
"""Callers' fields that people look at first: they come before the others in the payload."""


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """One item ready to be written: its personas, their vectors, and the caller's own fields.

    vectors: (n_personas, dim), any float type. vectors_hash: see `content_hash`.
    """

    item_id: str
    personas: Sequence[Persona]
    vectors: npt.ArrayLike
    fields: Mapping[str, Any] = field(default_factory=dict)
    vectors_hash: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """One persona, ready to be written. `vector`: (dim,) float32, normalised."""

    id: str
    vector: Floats
    payload: dict[str, Any]


@lru_cache(maxsize=100_000)
def point_prefix(item_id: str, salt: bytes = b"") -> str:
    """The prefix of the ids of an item's points: a UUIDv8 of its hash, without the last byte.

    salt: up to 16 bytes, which tell apart the same items of several owners of one collection.

    Not UUIDv5: it takes Python 6 us, and a query needs an id for each candidate.
    """
    digest = hashlib.blake2b(
        item_id.encode(), digest_size=15, person=b"p4r-qdrant", salt=salt
    ).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-8{digest[17:20]}-{digest[20:]}"


def point_id(item_id: str, position: int, salt: bytes = b"") -> str:
    """The item's UUIDv8 with the persona's position (0..255) as its last byte.

    The same item, position and salt always give the same id. A point's id identifies its item, so
    the results of a query need no payloads. An engine knows its salt: see `Engine.point_id`.
    """
    return f"{point_prefix(item_id, salt)}{position:02x}"


def is_point_id(text: str) -> bool:
    """Whether a text can be the id of a point."""
    return _POINT.fullmatch(text) is not None


def content_hash(
    personas: Sequence[Persona], fields: Mapping[str, Any], vectors_hash: str = ""
) -> str:
    """The content of an item's points: their number, and a hash of the texts.

    If it is unchanged, the item need not be encoded or written. The texts determine the vectors of
    an encoder; `vectors_hash` identifies vectors from other sources.
    """
    content = [
        [one.persona_id, one.name, one.description, one.preference_rationale, len(one.evidence)]
        + [EXTRACTIVE] * one.extractive  # other personas keep the hash of earlier versions
        for one in personas
    ]
    made_from = [content, dict(fields), *([vectors_hash] if vectors_hash else [])]
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=False, default=str)
    return f"{len(personas)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def make_points(
    item: ItemVectors,
    *,
    generation: int,
    dimension: int,
    max_personas: int,
    place: Callable[[str, int], str] = point_id,
) -> list[Point]:
    """Check one item's personas and vectors, and make their points.

    Vectors are normalised here. `generation` is the time of the write in microseconds. `place`:
    see `Engine.point_id`. Raises PersonaError or VectorError naming the item.
    """
    item_id, personas = item.item_id, item.personas
    check_item_id(item_id)
    check_personas(item_id, personas, max_personas)
    fields = checked_fields(item_id, item.fields)
    matrix = check_vectors(item.vectors, dimension, f"item {item_id!r}")
    if len(matrix) != len(personas):
        raise VectorError(
            f"item {item_id!r} has {len(personas)} personas but {len(matrix)} vectors"
        )
    digest = content_hash(personas, fields, item.vectors_hash)
    updated_at = datetime.fromtimestamp(generation / 1e6, UTC).isoformat(timespec="seconds")
    first = {name: fields[name] for name in FIRST_FIELDS if name in fields}
    rest = {name: value for name, value in fields.items() if name not in FIRST_FIELDS}
    return [
        Point(
            place(item_id, position),
            matrix[position],
            # In this order a person meets them in the dashboard; values are cut there after
            # some 45 characters, so the rationale opens with the reason itself.
            {
                NAME: persona.name,
                **first,
                RATIONALE: plain_rationale(persona.preference_rationale),
                DESCRIPTION: persona.description,
                **rest,
                ITEM_ID: item_id,
                PERSONA_ID: persona.persona_id,
                EVIDENCE_COUNT: len(persona.evidence),
                EXTRACTIVE: persona.extractive,
                POSITION: position,
                GENERATION: generation,
                UPDATED_AT: updated_at,
                CONTENT_HASH: digest,
            },
        )
        for position, persona in enumerate(personas)
    ]


def in_order(item_ids: Sequence[str], points: Iterable[Point]) -> list[Point]:
    """Points of items, by item as in `item_ids`, then by position."""
    place = {item_id: number for number, item_id in enumerate(item_ids)}
    return sorted(points, key=lambda one: (place[one.payload[ITEM_ID]], one.payload[POSITION]))


def payload_fields(item: Item | None, summary: str, domain: str) -> dict[str, Any]:
    """The fields that are stored with an item's personas: title, category, summary, own fields."""
    fields: dict[str, Any] = {}
    if item is not None:
        fields |= item.model_extra or {}
        fields |= {"categories": [plain_text(one) for one in item.categories], "brand": item.brand}
        fields[ITEM_TITLE] = plain_text(item.title)
    fields |= {SUMMARY: plain_text(summary), DOMAIN: domain}
    if item is not None and item.categories:
        # The last category is the most specific; a slug can be typed into a dashboard filter.
        fields[CATEGORY] = slug(item.categories[-1])
    return {
        name: value
        for name, value in fields.items()
        if name not in OWN_FIELDS and value not in ("", [], None)
    }


def plain_text(value: str) -> str:
    """Text without HTML tags and entities, white space folded: for people to read."""
    return " ".join(_TAG.sub(" ", html.unescape(value)).split())


def slug(value: str) -> str:
    """A keyword that is easy to type: lower case, words joined by hyphens."""
    return "-".join(_WORD.findall(plain_text(value).lower()))


def stored_persona(payload: Mapping[str, Any]) -> StoredPersona:
    """A point's payload as the record that callers get."""
    return StoredPersona(
        item_id=payload[ITEM_ID],
        persona_id=payload[PERSONA_ID],
        name=payload[NAME],
        description=payload[DESCRIPTION],
        preference_rationale=payload[RATIONALE],
        fields={name: value for name, value in payload.items() if name not in _NOT_TOLD},
    )


def check_item_id(item_id: str) -> str:
    """Return `item_id`; raise PersonaError if it is not valid."""
    try:
        return check_id(item_id)
    except ValueError as error:
        raise PersonaError(f"item id refused: {error}") from None


def check_owner(item_id: str, fields: Mapping[str, Any], tenant: str) -> None:
    """Raise PersonaError if an item of a tenant brings the field that names the tenant."""
    if tenant and TENANT in fields:
        raise PersonaError(
            f"the field {TENANT!r} of item {item_id!r} names the owner in an index with tenants; "
            "give it another name"
        )


def check_vectors(vectors: npt.ArrayLike, dimension: int, owner: str) -> Floats:
    """(n, dimension) float32 rows of unit length; raise VectorError naming `owner` and the row."""
    matrix, norms = check_rows(vectors, dimension, owner)
    if (norms < SHORTEST).any():
        row = int(np.argmax(norms < SHORTEST))
        raise VectorError(f"vector {row} of {owner} is zero, it points nowhere")
    unit: Floats = (matrix / norms[:, None]).astype(np.float32)
    return unit


def check_rows(
    vectors: npt.ArrayLike, dimension: int, owner: str
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """(n, dimension) float32 rows as they are, and their lengths (n,); raises VectorError."""
    try:
        with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused below
            matrix = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        raise VectorError(f"the vectors of {owner} are not rows of numbers of one width") from None
    if matrix.ndim != 2 or matrix.shape[1] != dimension:
        raise VectorError(
            f"the vectors of {owner} have the shape {matrix.shape}, the index needs "
            f"(n, {dimension}); encode them with the encoder the index was made with"
        )
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    if not np.isfinite(norms).all():
        row = int(np.argmin(np.isfinite(norms)))
        raise VectorError(f"vector {row} of {owner} holds NaN or infinity")
    return matrix, norms


def check_personas(item_id: str, personas: Sequence[Persona], max_personas: int) -> None:
    """Raise PersonaError unless there are 1 to `max_personas`, each with an id of its own."""
    if not personas:
        raise PersonaError(
            f"item {item_id!r} has no personas; to take an item out of the index, remove it"
        )
    if len(personas) > max_personas:
        raise PersonaError(
            f"item {item_id!r} has {len(personas)} personas, at most {max_personas} are allowed "
            "(P4R_INDEX__MAX_PERSONAS)"
        )
    seen = set()
    for persona in personas:
        if persona.persona_id in seen:
            raise PersonaError(f"item {item_id!r} has the persona id {persona.persona_id!r} twice")
        seen.add(persona.persona_id)


def checked_fields(item_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as plain JSON, the same for both engines; else raises PersonaError."""
    for name in fields:
        if not isinstance(name, str) or not name or name in OWN_FIELDS:
            raise PersonaError(
                f"the field {name!r} of item {item_id!r} is one the index fills in itself; "
                "give it another name"
            )
    try:
        plain = _plain(fields)
    except (TypeError, ValueError, RecursionError):
        plain = {}
        for name, value in fields.items():  # which one it is
            try:
                plain |= _plain({name: value})
            except (TypeError, ValueError, RecursionError) as error:
                raise PersonaError(
                    f"the field {name!r} of item {item_id!r} is not JSON: {error}"
                ) from None
    for name, value in plain.items():
        if problem := _unstorable(value, MAX_DEPTH):
            raise PersonaError(f"the field {name!r} of item {item_id!r} {problem}")
    return plain


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as JSON has them. Raises TypeError, ValueError, RecursionError."""
    text = json.dumps(dict(fields), allow_nan=False, ensure_ascii=False)
    text.encode()  # lone surrogates
    plain: dict[str, Any] = json.loads(text)
    return plain


def _unstorable(value: Any, depth: int) -> str:
    """Why Qdrant cannot store a JSON value unchanged; empty if it can."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "holds a number of more than 64 bits; store it as text"
    if not isinstance(value, (list, dict)):
        return ""
    if not depth:
        return f"is nested deeper than {MAX_DEPTH} levels; make it flatter"
    inner = value.values() if isinstance(value, dict) else value
    return next(filter(None, (_unstorable(one, depth - 1) for one in inner)), "")
