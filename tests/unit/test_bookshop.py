"""The example catalogue is what its README says, and this test can tell when it is not.

`problems(folder)` reads a catalogue folder and returns one line for each thing that is wrong. The
parametrised test copies the real folder, plants one fault at a time, and expects it to be named.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT, copy_bookshop

BOOKSHOP = ROOT / "examples" / "bookshop"

Row = dict[str, Any]

KEYS: dict[str, tuple[str, ...]] = {
    "items": (
        *("item_id", "title", "description", "categories", "brand"),
        *("author", "language", "price", "stock"),
    ),
    "reviews": ("user_id", "item_id", "rating", "timestamp", "title", "text"),
    "splits": ("user_id", "test_item", "valid_item", "tie"),
    "summaries": ("item_id", "summary"),
    "aspects": ("item_id", "user_id", "timestamp", "rating", "aspects"),
    "personas": ("item_id", "personas"),
    "alignments": ("user_id", "item_id", "persona_id", "justification"),
    "candidates": ("user_id", "results"),
}
UNIQUE: dict[str, tuple[str, ...]] = {
    "items": ("item_id",),
    "reviews": ("user_id", "item_id"),
    "splits": ("user_id",),
    "summaries": ("item_id",),
    "aspects": ("user_id", "item_id"),
    "personas": ("item_id",),
    "alignments": ("user_id", "item_id"),
    "candidates": ("user_id",),
}
PERSONA_KEYS = (
    "persona_id",
    "name",
    "description",
    "preference_rationale",
    "evidence",
    "extractive",
)
SLOTS = ("category_preference", "purchase_purpose", "quality_criteria", "usage_context")
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MARKUP = re.compile(r"</?[A-Za-z!][^<>]*>|&(#\d+|#x[0-9A-Fa-f]+|[A-Za-z]+);")
FORMULA = re.compile(r"\W*this (persona|reader|user|person|customer)\b", re.IGNORECASE)


class Catalogue:
    """The files of one folder, and what follows from the reviews alone."""

    def __init__(self, folder: Path) -> None:
        self.rows: dict[str, list[Row]] = {name: _read(folder / f"{name}.jsonl") for name in KEYS}

    def __getitem__(self, name: str) -> list[Row]:
        return self.rows[name]

    @cached_property
    def items(self) -> set[str]:
        return {row["item_id"] for row in self["items"]}

    @cached_property
    def histories(self) -> dict[str, list[Row]]:
        """Each reader's reviews, oldest first; a tie in time is ordered by item id."""
        found: dict[str, list[Row]] = {}
        for row in sorted(self["reviews"], key=lambda r: (r["timestamp"], r["item_id"])):
            found.setdefault(row["user_id"], []).append(row)
        return found

    @cached_property
    def training(self) -> dict[tuple[str, str], Row]:
        """Reviews by (user, item), without the last two of each reader."""
        return {
            (user, row["item_id"]): row
            for user, rows in self.histories.items()
            for row in rows[:-2]
        }

    @cached_property
    def readers_of(self) -> dict[str, set[str]]:
        """The readers whose aspect tuple of an item exists."""
        found: dict[str, set[str]] = {}
        for row in self["aspects"]:
            found.setdefault(row["item_id"], set()).add(row["user_id"])
        return found


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _keys(cat: Catalogue) -> Iterator[str]:
    for name, keys in KEYS.items():
        for number, row in enumerate(cat[name], 1):
            if tuple(row) != keys:
                yield f"{name} line {number}: keys are {list(row)}, not {list(keys)}"


def _unique(cat: Catalogue) -> Iterator[str]:
    for name, key in UNIQUE.items():
        seen = Counter(tuple(row[part] for part in key) for row in cat[name])
        yield from (f"{name}: {'/'.join(k)} occurs twice" for k, n in seen.items() if n > 1)
    ids = Counter(p["persona_id"] for row in cat["personas"] for p in row["personas"])
    yield from (f"personas: {k} occurs twice" for k, n in ids.items() if n > 1)


def _references(cat: Catalogue) -> Iterator[str]:
    users = set(cat.histories)
    for name in KEYS:
        for row in cat[name]:
            named = [row[k] for k in ("item_id", "test_item", "valid_item") if k in row]
            named += [result["item_id"] for result in row.get("results", [])]
            yield from (f"{name}: no such item {i}" for i in named if i not in cat.items)
            if "user_id" in row and row["user_id"] not in users:
                yield f"{name}: no such reader {row['user_id']}"
    for name in ("summaries", "personas"):
        missing = cat.items - {row["item_id"] for row in cat[name]}
        yield from (f"{name}: nothing for {item}" for item in sorted(missing))
    for name in ("splits", "candidates"):
        missing = users - {row["user_id"] for row in cat[name]}
        yield from (f"{name}: nothing for {user}" for user in sorted(missing))


def _texts(cat: Catalogue) -> Iterator[str]:
    for name in KEYS:
        for number, row in enumerate(cat[name], 1):
            for text in _strings(row):
                where = f"{name} line {number}"
                if MARKUP.search(text):
                    yield f"{where}: markup in {text[:40]!r}"
                if any(unicodedata.category(c) in {"Cc", "Cf", "Co", "Cs"} for c in text):
                    yield f"{where}: control character in {text[:40]!r}"
                if not text or text != text.strip() or "  " in text:
                    yield f"{where}: empty text or stray space in {text[:40]!r}"
                if text != unicodedata.normalize("NFC", text):
                    yield f"{where}: not in normal form C: {text[:40]!r}"


def _values(cat: Catalogue) -> Iterator[str]:
    for row in cat["items"]:
        if not isinstance(row["price"], float | int) or row["price"] <= 0:
            yield f"items: price of {row['item_id']} is {row['price']}"
        if type(row["stock"]) is not int or row["stock"] < 0:
            yield f"items: stock of {row['item_id']} is {row['stock']}"
        if not row["categories"]:
            yield f"items: {row['item_id']} has no category"
    for row in cat["reviews"]:
        where = f"reviews: {row['user_id']}/{row['item_id']}"
        if not isinstance(row["rating"], float) or row["rating"] not in {1.0, 2.0, 3.0, 4.0, 5.0}:
            yield f"{where}: rating {row['rating']}"
        if type(row["timestamp"]) is not int:
            yield f"{where}: time stamp {row['timestamp']}"
    ids = [*cat.items, *cat.histories]
    yield from (f"items, reviews: {name} is not a slug" for name in ids if not SLUG.fullmatch(name))
    for row in cat["summaries"]:
        if not 2 <= len(re.findall(r"[.!?](?=\s|$)", row["summary"])) <= 3:
            yield f"summaries: {row['item_id']} is not two or three sentences"


def _order(cat: Catalogue) -> Iterator[str]:
    if cat["reviews"] != sorted(cat["reviews"], key=lambda r: (r["timestamp"], r["item_id"])):
        yield "reviews: not sorted by time stamp and item"
    if cat["aspects"] != sorted(cat["aspects"], key=lambda r: (r["item_id"], r["timestamp"])):
        yield "aspects: not sorted by item and time stamp"


def _splits(cat: Catalogue) -> Iterator[str]:
    for row in cat["splits"]:
        history = cat.histories.get(row["user_id"], [])
        if len(history) < 5:
            yield f"splits: {row['user_id']} keeps fewer than 3 training interactions"
            continue
        valid, test = history[-2:]
        true = (test["item_id"], valid["item_id"], test["timestamp"] == valid["timestamp"])
        if (row["test_item"], row["valid_item"], row["tie"]) != true:
            yield f"splits: {row['user_id']} is not the true leave-one-out"
    if sum(row["tie"] is True for row in cat["splits"]) != 1:
        yield "splits: there is not exactly one tie"
    times = Counter(row["timestamp"] for row in cat["reviews"])
    if sum(n - 1 for n in times.values()) > 1:
        yield "reviews: more than one pair shares a time stamp"


def _aspects(cat: Catalogue) -> Iterator[str]:
    for row in cat["aspects"]:
        pair = (row["user_id"], row["item_id"])
        where = f"aspects: {'/'.join(pair)}"
        review = cat.training.get(pair)
        if review is None:
            yield f"{where} is not a training interaction"
        elif (row["timestamp"], row["rating"]) != (review["timestamp"], review["rating"]):
            yield f"{where} has another time stamp or rating than its review"
        if tuple(row["aspects"]) != SLOTS:
            yield f"{where} has slots {list(row['aspects'])}"
        if not any(row["aspects"].values()):
            yield f"{where} has only nulls"
    untold = len(cat.training) - len(cat["aspects"])
    if untold not in {2, 3}:
        yield f"aspects: {untold} training reviews have no tuple, not 2 or 3"


def _personas(cat: Catalogue) -> Iterator[str]:
    for row in cat["personas"]:
        item, personas = row["item_id"], row["personas"]
        told = len(cat.readers_of.get(item, ()))
        low, high = {0: (2, 2), 1: (1, 2)}.get(told, (2, 7))
        if not low <= len(personas) <= high:
            yield f"personas: {item} has {len(personas)} for {told} aspect tuples"
        names = Counter(p["name"].casefold() for p in personas)
        yield from (f"personas: name {n!r} twice in {item}" for n, k in names.items() if k > 1)
        for slot, persona in enumerate(personas, 1):
            yield from _persona(cat, item, slot, persona)


def _persona(cat: Catalogue, item: str, slot: int, persona: Row) -> Iterator[str]:
    where = f"personas: {persona['persona_id']}"
    readers = cat.readers_of.get(item, set())
    cited = persona["evidence"]
    if tuple(persona) != PERSONA_KEYS:
        yield f"{where} has keys {list(persona)}"
    if persona["persona_id"] != f"{item}_P{slot}":
        yield f"{where} should be {item}_P{slot}"
    if not 2 <= len(persona["name"].split()) <= 4:
        yield f"{where}: name {persona['name']!r} is not two to four words"
    if FORMULA.match(persona["preference_rationale"]):
        yield f"{where}: rationale opens with the formula"
    if readers and not cited:
        yield f"{where} cites no evidence"
    if len(set(cited)) != len(cited):
        yield f"{where} cites a reader twice"
    yield from (f"{where}: evidence {u} has no aspects here" for u in cited if u not in readers)


def _alignments(cat: Catalogue) -> Iterator[str]:
    owned = {row["item_id"]: {p["persona_id"] for p in row["personas"]} for row in cat["personas"]}
    told = {(row["user_id"], row["item_id"]): row["timestamp"] for row in cat["aspects"]}
    for row in cat["alignments"]:
        user, item = row["user_id"], row["item_id"]
        where = f"alignments: {user}/{item}"
        if row["persona_id"] not in owned.get(item, set()):
            yield f"{where}: {row['persona_id']} is not a persona of this item"
        target = cat.training.get((user, item))
        if target is None:
            yield f"{where} is not a training interaction"
        elif not any(u == user and t < target["timestamp"] for (u, _), t in told.items()):
            yield f"{where} has no earlier aspects to explain it"
    most = Counter(row["user_id"] for row in cat["alignments"])
    yield from (f"alignments: {user} has {n}" for user, n in most.items() if n > 4)


def _candidates(cat: Catalogue) -> Iterator[str]:
    tests = {row["user_id"]: row["test_item"] for row in cat["splits"]}
    hits = 0
    for row in cat["candidates"]:
        user = row["user_id"]
        items = [result["item_id"] for result in row["results"]]
        scores = [result["score"] for result in row["results"]]
        hits += tests.get(user) in items
        trained = [item for item in items if (user, item) in cat.training]
        yield from (f"candidates: {user} already read {item}" for item in trained)
        if len(set(items)) != len(items):
            yield f"candidates: {user} is offered an item twice"
        if scores != sorted(scores, reverse=True):
            yield f"candidates: {user} is not in descending score"
        if any(score != round(score, 4) for score in scores):
            yield f"candidates: {user} has scores of more than four decimals"
        if not 10 <= len(items) <= 12:
            yield f"candidates: {user} has {len(items)} items, not 10 to 12"
        if any(tuple(result) != ("item_id", "score") for result in row["results"]):
            yield f"candidates: {user} has results with other keys"
    if hits < 16:
        yield f"candidates: only {hits} readers find their test item"


def _counts(cat: Catalogue) -> Iterator[str]:
    per_item = Counter(row["item_id"] for row in cat["reviews"])
    per_reader = [len(rows) for rows in cat.histories.values()]
    wanted = {
        "books": (len(cat.items), 24, 24),
        "readers": (len(cat.histories), 20, 24),
        "reviews": (len(cat["reviews"]), 145, 160),
        "fewest reviews of a reader": (min(per_reader), 5, 11),
        "most reviews of a reader": (max(per_reader), 5, 11),
        "books with one review": (sum(n == 1 for n in per_item.values()), 4, 4),
        "books without a review": (len(cat.items - set(per_item)), 3, 3),
        "alignments": (len(cat["alignments"]), 55, 65),
    }
    for what, (number, low, high) in wanted.items():
        if not low <= number <= high:
            yield f"counts: {what}: {number}, not {low} to {high}"


CHECKS: tuple[Callable[[Catalogue], Iterator[str]], ...] = (
    *(_unique, _references, _texts, _values, _order, _splits),
    *(_aspects, _personas, _alignments, _candidates, _counts),
)


def problems(folder: Path) -> list[str]:
    """One line for each thing that is wrong with the catalogue in `folder`."""
    catalogue = Catalogue(folder)
    # Nothing else can be looked up in records of another shape.
    return list(_keys(catalogue)) or [line for check in CHECKS for line in check(catalogue)]


def test_the_catalogue_has_no_problems() -> None:
    assert problems(BOOKSHOP) == []


# --- Faults. Each takes the rows of one file and spoils them in place. ----------------------------

USER = "maren-o"
TEST_ITEM = "sleeping-third"
UNREVIEWED = "beans-mostly"
REVIEWED = "salt-orchard"


def _of(rows: list[Row], **wanted: str) -> Row:
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def _personas_of(rows: list[Row], item: str) -> list[Row]:
    personas: list[Row] = _of(rows, item_id=item)["personas"]
    return personas


def _repeat_item(rows: list[Row]) -> None:
    rows.append(dict(rows[0]))


def _repeat_review(rows: list[Row]) -> None:
    rows.append({**rows[-1], "timestamp": rows[-1]["timestamp"] + 1})


def _repeat_persona_id(rows: list[Row]) -> None:
    personas = _personas_of(rows, REVIEWED)
    personas[1]["persona_id"] = personas[0]["persona_id"]


def _rename_key(rows: list[Row]) -> None:
    rows[0]["synopsis"] = rows[0].pop("summary")


def _unknown_item(rows: list[Row]) -> None:
    rows[0]["item_id"] = "no-such-book"


def _unknown_reader(rows: list[Row]) -> None:
    rows[0]["user_id"] = "no-such-reader"


def _drop_first(rows: list[Row]) -> None:
    del rows[0]


def _drop_two_aspects(rows: list[Row]) -> None:
    del rows[:2]


def _unknown_evidence(rows: list[Row]) -> None:
    _personas_of(rows, REVIEWED)[0]["evidence"].append("yusuf-k")


def _held_out_evidence(rows: list[Row]) -> None:
    _personas_of(rows, TEST_ITEM)[0]["evidence"].append(USER)


def _evidence_from_nothing(rows: list[Row]) -> None:
    _personas_of(rows, UNREVIEWED)[0]["evidence"].append(USER)


def _no_evidence(rows: list[Row]) -> None:
    _personas_of(rows, REVIEWED)[0]["evidence"].clear()


def _swap_split(rows: list[Row]) -> None:
    row = _of(rows, user_id=USER)
    row["test_item"], row["valid_item"] = row["valid_item"], row["test_item"]


def _false_tie(rows: list[Row]) -> None:
    _of(rows, user_id=USER)["tie"] = True


def _held_out_aspects(rows: list[Row]) -> None:
    row = _of(rows, item_id=TEST_ITEM)
    rows[rows.index(row)] = {**row, "user_id": USER}


def _other_rating(rows: list[Row]) -> None:
    rows[0]["rating"] = 1.0 if rows[0]["rating"] != 1.0 else 2.0


def _all_null(rows: list[Row]) -> None:
    rows[0]["aspects"] = dict.fromkeys(SLOTS)


def _other_slot(rows: list[Row]) -> None:
    rows[0]["aspects"]["mood"] = "cheerful"


def _held_out_alignment(rows: list[Row]) -> None:
    row = _of(rows, user_id=USER)
    row["item_id"], row["persona_id"] = TEST_ITEM, f"{TEST_ITEM}_P1"


def _alignment_of_the_first(rows: list[Row]) -> None:
    first = Catalogue(BOOKSHOP).histories[USER][0]["item_id"]
    row = _of(rows, user_id=USER)
    row["item_id"], row["persona_id"] = first, f"{first}_P1"


def _foreign_persona(rows: list[Row]) -> None:
    rows[0]["persona_id"] = f"{UNREVIEWED}_P1"


def _formula(rows: list[Row]) -> None:
    persona = _personas_of(rows, REVIEWED)[0]
    persona["preference_rationale"] = "This persona appreciates this item because it is long."


def _same_name(rows: list[Row]) -> None:
    personas = _personas_of(rows, REVIEWED)
    personas[1]["name"] = personas[0]["name"].upper()


def _one_word_name(rows: list[Row]) -> None:
    _personas_of(rows, REVIEWED)[0]["name"] = "Reader"


def _too_few_personas(rows: list[Row]) -> None:
    del _personas_of(rows, REVIEWED)[1:]


def _too_many_personas(rows: list[Row]) -> None:
    personas = _personas_of(rows, REVIEWED)
    for slot in range(len(personas) + 1, 9):
        new = {"persona_id": f"{REVIEWED}_P{slot}", "name": f"Reader Number {slot}"}
        personas.append({**personas[0], **new})


def _offer_what_was_read(rows: list[Row]) -> None:
    _of(rows, user_id=USER)["results"][0]["item_id"] = REVIEWED


def _offer_twice(rows: list[Row]) -> None:
    results = _of(rows, user_id=USER)["results"]
    results[1]["item_id"] = results[0]["item_id"]


def _unsorted_scores(rows: list[Row]) -> None:
    rows[0]["results"].reverse()


def _short_list(rows: list[Row]) -> None:
    del rows[0]["results"][9:]


def _hide_test_items(rows: list[Row]) -> None:
    tests = {row["user_id"]: row["test_item"] for row in Catalogue(BOOKSHOP)["splits"]}
    for row in rows:
        row["results"] = [r for r in row["results"] if r["item_id"] != tests[row["user_id"]]]


def _markup(rows: list[Row]) -> None:
    rows[0]["text"] += " <br /> Fine."


def _entity(rows: list[Row]) -> None:
    rows[0]["description"] += " Tips &amp; tricks."


def _control_character(rows: list[Row]) -> None:
    rows[0]["text"] += "\u0007"


def _stray_space(rows: list[Row]) -> None:
    rows[0]["title"] += " "


def _long_summary(rows: list[Row]) -> None:
    rows[0]["summary"] += " One more. And one more."


def _half_star(rows: list[Row]) -> None:
    rows[0]["rating"] = 5.5


def _unsorted(rows: list[Row]) -> None:
    rows.reverse()


def _drop_a_readers_reviews(rows: list[Row]) -> None:
    rows[:] = [row for row in rows if row["user_id"] != USER][:140]


def _drop_alignments(rows: list[Row]) -> None:
    del rows[40:]


def _review_the_new(rows: list[Row]) -> None:
    rows[0]["item_id"] = UNREVIEWED


FAULTS: list[tuple[str, Callable[[list[Row]], None], str]] = [
    ("items", _repeat_item, "occurs twice"),
    ("items", _drop_first, "no such item"),
    ("items", _drop_first, "counts: books: 23"),
    ("items", _entity, "markup"),
    ("reviews", _repeat_review, "occurs twice"),
    ("reviews", _unknown_item, "reviews: no such item no-such-book"),
    ("reviews", _markup, "markup"),
    ("reviews", _control_character, "control character"),
    ("reviews", _stray_space, "stray space"),
    ("reviews", _half_star, "rating 5.5"),
    ("reviews", _unsorted, "not sorted"),
    ("reviews", _drop_a_readers_reviews, "counts: reviews: 140"),
    ("reviews", _drop_a_readers_reviews, f"no such reader {USER}"),
    ("reviews", _review_the_new, "counts: books without a review: 2"),
    ("summaries", _rename_key, "keys are"),
    ("summaries", _drop_first, "summaries: nothing for"),
    ("summaries", _long_summary, "two or three sentences"),
    ("splits", _swap_split, "true leave-one-out"),
    ("splits", _false_tie, "exactly one tie"),
    ("splits", _drop_first, "splits: nothing for"),
    ("aspects", _held_out_aspects, f"{USER}/{TEST_ITEM} is not a training interaction"),
    ("aspects", _all_null, "has only nulls"),
    ("aspects", _other_slot, "has slots"),
    ("aspects", _other_rating, "another time stamp or rating"),
    ("aspects", _drop_two_aspects, "training reviews have no tuple"),
    ("aspects", _unsorted, "not sorted"),
    ("personas", _repeat_persona_id, "occurs twice"),
    ("personas", _unknown_evidence, "evidence yusuf-k has no aspects here"),
    ("personas", _held_out_evidence, f"evidence {USER} has no aspects here"),
    ("personas", _evidence_from_nothing, f"evidence {USER} has no aspects here"),
    ("personas", _no_evidence, "cites no evidence"),
    ("personas", _formula, "opens with the formula"),
    ("personas", _same_name, "twice in salt-orchard"),
    ("personas", _one_word_name, "not two to four words"),
    ("personas", _too_few_personas, "salt-orchard has 1 for"),
    ("personas", _too_many_personas, "salt-orchard has 8 for"),
    ("alignments", _unknown_reader, "no such reader"),
    ("alignments", _held_out_alignment, f"{USER}/{TEST_ITEM} is not a training interaction"),
    ("alignments", _alignment_of_the_first, "no earlier aspects"),
    ("alignments", _foreign_persona, "not a persona of this item"),
    ("alignments", _drop_alignments, "counts: alignments: 40"),
    ("candidates", _offer_what_was_read, f"{USER} already read {REVIEWED}"),
    ("candidates", _offer_twice, "offered an item twice"),
    ("candidates", _unsorted_scores, "descending score"),
    ("candidates", _short_list, "has 9 items"),
    ("candidates", _hide_test_items, "only 0 readers"),
]


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        pytest.param(*fault, id=f"{fault[0]}-{fault[1].__name__.strip('_')}-{number}")
        for number, fault in enumerate(FAULTS)
    ],
)
def test_a_planted_fault_is_reported(
    tmp_path: Path, name: str, spoil: Callable[[list[Row]], None], said: str
) -> None:
    folder = copy_bookshop(tmp_path / "bookshop")
    path = folder / f"{name}.jsonl"
    rows = _read(path)
    spoil(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert any(said in line for line in problems(folder)), problems(folder)
