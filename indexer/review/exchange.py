"""Decisions that are made elsewhere: personas as a table, and the filled table back.

A row is a persona with its texts, its state and its flags. Whoever decides fills the columns
`decision` and `remark`, and for an edit changes the texts. `seen` says what the row shows: a row
about a persona that has changed, or that somebody else has decided on, is refused.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.opening import HEAD, opened
from indexer.datasets.filled import filled_rows
from indexer.review.decisions import valid
from indexer.review.desk import ReviewDesk
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Action, Id, Text, clean_text
from p4r_qdrant.service.studio.desk import (
    ItemReview,
    Order,
    PersonaReview,
    PersonaTexts,
    SplitOff,
)
from p4r_qdrant.service.studio.evidence import Evidence, Quote
from p4r_qdrant.spreadsheets import formula_safe
from p4r_qdrant.validation import validation_sentence


class Row(BaseModel):
    """A row of the table."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    item_id: Id
    title: Text = ""
    persona_id: Id
    state: Text = ""
    risk: Text = ""
    flags: Text = ""
    name: Text = ""
    description: Text = ""
    preference_rationale: Text = ""
    seen: Text
    decision: Text = ""
    remark: Text = ""
    by: Text = ""
    reviews: Text = ""
    other_name: Text = ""
    other_description: Text = ""
    other_preference_rationale: Text = ""
    other_reviews: Text = ""

    @property
    def texts(self) -> PersonaTexts:
        """The texts, with the line breaks of files."""
        return _as_in_files(self.name, self.description, self.preference_rationale)

    @property
    def other(self) -> SplitOff:
        """The second half of a split. Raises InputError."""
        if not re.fullmatch(r"[\s,;0-9]*", self.other_reviews):
            raise InputError(
                f"{self.other_reviews[:40]!r} is no list of reviews: write numbers such as 2, 3"
            )
        numbers = (number[:9] for number in re.findall("[0-9]+", self.other_reviews))
        texts = self.other_name, self.other_description, self.other_preference_rationale
        return SplitOff(_as_in_files(*texts), frozenset(map(int, numbers)))


def _as_in_files(*texts: str) -> PersonaTexts:
    return PersonaTexts(*(one.replace("\r\n", "\n") for one in texts))


COLUMNS = tuple(Row.model_fields)
NEEDED = ("item_id", "persona_id", "seen", "decision")


def rows(
    desk: ReviewDesk, state: str, flag: str, evidence: Evidence | None = None
) -> Iterator[Row]:
    """The personas in a state ("open": those that wait; "": all) and with a flag, riskiest first.

    Items are in the order of the queue; what is decided meanwhile is there as it is then.
    evidence: finds the reviews that are quoted; None: none are.
    """
    for item_id in desk.item_ids():
        if (item := desk.item(item_id)) is not None:
            quotes = evidence(item_id) if evidence is not None else {}
            for one in item.personas:
                if one.matches(state, flag):
                    yield _row(item, one, quotes.get(one.persona_id, ()))


def _row(item: ItemReview, one: PersonaReview, quotes: Sequence[Quote]) -> Row:
    return Row(
        item_id=item.item_id,
        title=item.title,
        persona_id=one.persona_id,
        state=one.state,
        risk=f"{one.risk:.2f}",
        flags="; ".join(f"{name}: {what}" for name, what in one.flags.items()),
        name=one.texts.name,
        description=one.texts.description,
        preference_rationale=one.texts.preference_rationale,
        seen=one.seen,
        reviews="\n".join(f"{quote.number}: {' '.join(quote.text.split())}" for quote in quotes),
    )


def as_lines(found: Iterable[Row], *, is_csv: bool) -> Iterator[str]:
    """The table as CSV that no spreadsheet computes, or as JSON Lines."""
    if not is_csv:
        yield from (json.dumps(one.model_dump(), ensure_ascii=False) for one in found)
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for cells in _cells(found):
        writer.writerow(cells)
        yield buffer.getvalue().removesuffix("\n")
        buffer.seek(0)
        buffer.truncate()


def _cells(found: Iterable[Row]) -> Iterator[Sequence[str]]:
    yield COLUMNS
    for one in found:
        yield [formula_safe(getattr(one, name)) for name in COLUMNS]


def take(desk: ReviewDesk, path: Path, by: str, refusals: Refusals) -> tuple[int, int]:
    """Keep the decisions of a filled table; bad rows go to `refusals`.

    by: the reviewer of rows that name none.
    Returns: how many decisions were kept, and how many were there already.
    Raises: InputError if the file is no such table.
    """
    already = 0
    where: dict[int, str] = {}

    def orders() -> Iterator[Order]:
        nonlocal already
        for place, row in _read(path, refusals):
            if not row.decision:
                continue
            try:
                order = _order(desk, row, by)
            except InputError as error:
                refusals.add(f"{place}: {error}", "decision refused")
                continue
            if order is None:
                already += 1
            else:
                where[id(order)] = place
                yield order

    def refuse(order: Order, error: InputError) -> None:
        refusals.add(f"{where[id(order)]}: {error}", "decision refused")

    return len(desk.decide_all(orders(), refuse)), already


def _order(desk: ReviewDesk, row: Row, by: str) -> Order | None:
    """The order of a row; None if it is kept already. Raises InputError."""
    action: Action
    for action in get_args(Action):
        if row.decision.strip().casefold() == action:
            break
    else:
        raise InputError(
            f"{row.decision[:40]!r} is no decision: write one of {', '.join(get_args(Action))}"
        )
    name = row.by or by
    if not name:
        raise InputError("nobody is named as the reviewer: fill in the column by, or use --by")
    given = {one.persona.persona_id: one for one in desk.decided(row.item_id)}
    known = given.get(row.persona_id)
    texts = row.texts
    if known is not None and (stack := valid(known.rows)):
        last, kept = stack[-1], known.persona
        same = texts == PersonaTexts(kept.name, kept.description, kept.preference_rationale)
        if action == "ask":
            same = last.remark == clean_text(row.remark)
        if action == "split" and last.other is not None:
            half, given_half = last.other.texts, row.other.texts
            same &= given_half == PersonaTexts(**half.model_dump())
        if (last.by, last.action, same) == (name, action, True):
            return None
    other = row.other if action == "split" else None
    return Order(name, action, row.item_id, row.persona_id, row.seen, texts, row.remark, other)


def _read(path: Path, refusals: Refusals) -> Iterator[tuple[str, Row]]:
    """(where, row) of a table. Raises InputError if it is none."""
    with opened(path) as file:
        is_json = file.peek(HEAD).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    if is_json:
        for number, _, row in read_lines(path, Row, refusals):
            yield f"{path}:{number}", row
        return
    for where, cells in filled_rows(path, NEEDED, COLUMNS, refusals, "p4r review export"):
        try:
            yield where, Row.model_validate(cells)
        except ValidationError as error:
            refusals.add(f"{where}: {validation_sentence(error)}", "broken row")
