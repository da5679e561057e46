"""Turn the lines of each of the files of the paper's public code into artifact lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from indexer.artifacts import names
from indexer.artifacts.aspect_tuples import is_informative
from indexer.artifacts.lines import Refusals, as_line
from indexer.datasets.values import SECONDS_END, parsed_object, seconds, storable
from indexer.datasets.yelp import business
from p4r_qdrant.records import (
    Alignment,
    Aspects,
    CandidateList,
    Item,
    ItemPersonas,
    Review,
    Split,
    Summary,
)
from p4r_qdrant.validation import validation_sentence

Model = TypeVar("Model", bound=BaseModel)

_EMPTY = {"", "null", "none", "n/a", "na", "unknown", "not mentioned", "not specified"}
_NAMED_PERSONA = re.compile(r"\*\*Selection:?\*\*:?\s*(?:\d+\.\s*)?(\S+_P\d+)\b")
_PADDING = "[PAD]"


@dataclass
class ImportReport:
    """Records taken, by artifact; repairs, and records left out, by reason.

    Records left out are no mistakes: empty aspect tuples, and alignments with a held-out item.
    """

    taken: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


class Importer:
    """Turns lines of the files into artifact lines; each `read_*` takes a line of one file."""

    def __init__(self, report: ImportReport, refusals: Refusals, *, has_personas: bool) -> None:
        self._has_personas = has_personas
        self.where = ""
        self.write: dict[str, Callable[[str], None]] = {}
        self._report = report
        self._refusals = refusals
        self._seen: set[tuple[str, ...]] = set()
        self._held_out: set[tuple[str, str]] = set()

    def read_truth(self, row: Mapping[str, Any]) -> None:
        """gt: the held-out test interaction."""
        values = {"user_id": row.get("user_id"), "test_item": _item_id(row), "valid_item": None}
        split = self._take(names.SPLITS, Split, values, "user_id")
        if split is not None:
            self._held_out.add((split.user_id, split.test_item))

    def read_candidates(self, row: Mapping[str, Any]) -> None:
        """candidate: a user's list, without its padding."""
        entries = list(self._entries(row, "results"))
        items = [one for one in entries if one.get("item_id") != _PADDING]
        if len(items) < len(entries):
            self._report.repaired["candidate list without its padding"] += 1
        values = {"user_id": row.get("user_id"), "results": items}
        self._take(names.CANDIDATES, CandidateList, values, "user_id")

    def read_review(self, row: Mapping[str, Any]) -> None:
        """1_aspects, and the entries of 2.5_grouped and 3.5_history: a review and its aspects."""
        key = (str(row.get("user_id")), str(_item_id(row)))
        if all((name, *key) in self._seen for name in (names.REVIEWS, names.ASPECTS)):
            return  # the files repeat each other
        interaction = {
            "user_id": row.get("user_id"),
            "item_id": _item_id(row),
            "rating": row.get("rating", row.get("stars")),
            "timestamp": self._seconds(row.get("timestamp", row.get("date"))),
        }
        texts = {"title": row.get("review_title"), "text": row.get("review_text")}
        self._take(names.REVIEWS, Review, interaction | texts, "user_id", "item_id")
        extracted = row.get("extracted_aspects", row.get("extracted"))
        if not isinstance(extracted, Mapping):
            self._refuse("the review has no aspects", "review without aspects")
            return
        slots = {
            slot: self._slot(value)
            for slot, value in extracted.items()
            if not slot.endswith("_reason")
        }
        if is_informative(slots):
            aspects = interaction | {"aspects": slots}
            self._take(names.ASPECTS, Aspects, aspects, "user_id", "item_id")
        elif self._is_new(names.ASPECTS, interaction, "user_id", "item_id"):
            self._report.left_out["aspects all null"] += 1

    def read_item(self, row: Mapping[str, Any]) -> None:
        """2_summary, and the heads of 2.5_grouped and 3_personas: metadata and summary.

        A restaurant's description is its Yelp record, as JSON text.
        """
        record = parsed_object(row.get("item_description"))
        item: dict[str, Any] = {"description": _joined(row.get("item_description"))}
        if record is not None and "categories" in record:
            self._report.repaired["description read as a Yelp record"] += 1
            item = storable(business(dict(record)))
        item |= {"item_id": _item_id(row), "title": row.get("item_title") or item.get("title")}
        self._take(names.ITEMS, Item, item, "item_id")
        if row.get("item_summary"):
            summary = {"item_id": item["item_id"], "summary": row["item_summary"]}
            self._take(names.SUMMARIES, Summary, summary, "item_id")

    def read_grouped(self, row: Mapping[str, Any]) -> None:
        """2.5_grouped: an item with all its reviews."""
        self.read_item(row)
        for review in self._entries(row, "aspects"):
            self.read_review({"item_id": _item_id(row), **review})

    def read_history(self, row: Mapping[str, Any]) -> None:
        """3.5_history: a user's reviews, each with the item's summary."""
        for review in self._entries(row, "reviews"):
            self.read_review({"user_id": row.get("user_id"), **review})
            if review.get("summary"):
                summary = {"item_id": _item_id(review), "summary": review["summary"]}
                self._take(names.SUMMARIES, Summary, summary, "item_id")

    def read_personas(self, row: Mapping[str, Any]) -> None:
        """3_personas and 3.5_persona_with_summary: an item's personas."""
        if "item_title" in row:
            self.read_item(row)
        item_id = _item_id(row)
        entries = list(self._entries(row, "personas"))
        personas: list[dict[str, Any]] = [
            {
                "persona_id": entry.get("unique_persona_id")
                or (f"{item_id}_{entry['ID']}" if entry.get("ID") else None),
                "name": entry.get("Name"),
                "description": entry.get("Description"),
                "preference_rationale": entry.get("Preference_Rationale"),
                "evidence": [],
            }
            for entry in entries
        ]
        for entry in entries:
            if entry.get("Item_Summary"):
                summary = {"item_id": item_id, "summary": entry["Item_Summary"]}
                self._take(names.SUMMARIES, Summary, summary, "item_id")
        values = {"item_id": item_id, "personas": personas}
        if personas:
            self._take(names.PERSONAS, ItemPersonas, values, "item_id")
        elif isinstance(row.get("personas"), list):
            self._refuse(f"item {item_id!r} has no personas", "item without personas")

    def read_personas_again(self, row: Mapping[str, Any]) -> None:
        """3.5_persona_with_summary: 3_personas with summaries.

        Its personas are read only if 3_personas is missing.
        """
        if not self._has_personas:
            self.read_personas(row)
            return
        for entry in self._entries(row, "personas"):
            if entry.get("Item_Summary"):
                summary = {"item_id": _item_id(row), "summary": entry["Item_Summary"]}
                self._take(names.SUMMARIES, Summary, summary, "item_id")

    def read_selection(self, row: Mapping[str, Any]) -> None:
        """4_selected_personas: the persona that the judge chose.

        The public code falls back to P1 if it cannot parse the answer. The answer often names
        another persona; then that one is taken.
        """
        item_id = row.get("target_item_id") or _item_id(row)
        if (str(row.get("user_id")), str(item_id)) in self._held_out:  # ids may be numbers here
            self._report.left_out["alignment with the held-out item"] += 1
            return
        chosen = str(row.get("selected_persona_id") or "")
        persona_id = chosen if chosen.startswith(f"{item_id}_") else f"{item_id}_{chosen}"
        reasoning = str(row.get("selection_reasoning") or "")
        named = _NAMED_PERSONA.findall(reasoning)
        if named and named[-1].startswith(f"{item_id}_") and named[-1] != persona_id:
            persona_id = named[-1]
            self._report.repaired["persona taken from the judge's own words"] += 1
        values = {
            "user_id": row.get("user_id"),
            "item_id": item_id,
            "persona_id": persona_id if chosen or named else None,
            "justification": " ".join(reasoning.split("**Selection")[0].strip("* ").split()),
        }
        self._take(names.ALIGNMENTS, Alignment, values, "user_id", "item_id")

    # -- shared -------------------------------------------------------------------------------

    def _take(
        self, artifact: str, model: type[Model], values: Mapping[str, Any], *key: str
    ) -> Model | None:
        """Write a record of an artifact unless its key was written before; None if refused."""
        try:
            record = model.model_validate(values)
        except ValidationError as error:
            self._refuse(validation_sentence(error), f"broken {artifact} record")
            return None
        if self._is_new(artifact, record.model_dump(include=set(key)), *key):
            self.write[artifact](as_line(record))
            self._report.taken[artifact] += 1
        return record

    def _is_new(self, artifact: str, values: Mapping[str, Any], *key: str) -> bool:
        full = (artifact, *(str(values[name]) for name in key))
        if full in self._seen:
            return False
        self._seen.add(full)
        return True

    def _refuse(self, problem: str, reason: str) -> None:
        self._refusals.add(f"{self.where}: {problem}", reason)

    def _entries(self, row: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
        entries = row.get(name)
        if not isinstance(entries, list):
            self._refuse(f"{name} is not a list", f"record without {name}")
            return
        for entry in entries:
            if isinstance(entry, dict):
                yield entry
            else:
                self._refuse(f"an entry of {name} is not an object", f"broken entry of {name}")

    def _slot(self, value: Any) -> str | None:
        """A slot's text; a list is joined, and a word for "nothing" becomes None."""
        if isinstance(value, list):
            self._report.repaired["list of values joined"] += 1
            value = _joined(value)
        if value is None:
            return None
        text = str(value).strip()
        if text.lower() in _EMPTY:
            self._report.repaired["word for nothing taken as null"] += 1
            return None
        return text

    def _seconds(self, value: Any) -> Any:
        """A time stamp in seconds, as `seconds`; a value that is none stays unchanged."""
        try:
            found = seconds(value)
        except ValueError:
            return value
        if isinstance(value, str):
            self._report.repaired["time stamp read from text"] += 1
        elif value >= SECONDS_END:
            self._report.repaired["time stamp in milliseconds"] += 1
        return found


def _item_id(row: Mapping[str, Any]) -> Any:
    return row.get("item_id", row.get("business_id"))


def _joined(value: Any) -> Any:
    return ", ".join(str(one) for one in value if one) if isinstance(value, list) else value
