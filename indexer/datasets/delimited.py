"""Stream the rows of text with separators: CSV, TSV and their relatives.

A quote that is never closed would make one field of all the lines up to the next quote, whoever
wrote them. So lines are read one by one. A field that runs across lines is taken if its quotes are
right and none of its lines is a record; else the line that opened it is refused, and the others are
read. In text with tabs, quotes may be letters like others.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import MAX_LINE, NOT_UTF8, TOO_LONG
from p4r_qdrant.errors import InputError

MOST_LINES = 1000
"""Most lines of one field."""

BROKEN_LINE = "broken line"
SEVERAL_LINES = "fields that run across lines"
STRAY_QUOTES = "rows with stray quotes, read as they are"
ESCAPED_QUOTES = 'rows with \\" for a quote'
EMPTY_END = "rows with a separator behind the last column"
SHORT_ROW = "rows with fewer fields than the header"
NO_NAME = "columns without a name, not read"

_SEPARATORS = ("\t", ";", "|", ",")
_BY_SUFFIX = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|", ".inter": "\t", ".item": "\t"}
SUFFIXES = frozenset(_BY_SUFFIX)
_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,:/+ TZ-]*\s*")
"""A number, or a date in digits."""
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_TYPED = re.compile(r"(.+):(token|token_seq|float|float_seq)")


@dataclass(frozen=True, slots=True)
class Layout:
    """How text with separators is laid out.

    delimiter: one character or more, or a name such as "tab"; "" finds it in the header.
    columns: the names of the columns of a file without a header.
    """

    delimiter: str = ""
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "\n" in self.delimiter or self.delimiter == '"':
            raise InputError(f"{self.delimiter!r} cannot separate columns; name another character")
        if twice := _repeated(self.columns):
            raise InputError(f"the column {twice!r} is named twice; give each its own name")

    @property
    def separator(self) -> str:
        """The characters between two fields, or ""."""
        return _NAMES.get(self.delimiter.lower(), self.delimiter)


def names_of(columns: str) -> tuple[str, ...]:
    """The names in a text such as "user_id,item_id"; none in an empty one."""
    return tuple(name.strip() for name in columns.split(",")) if columns.strip() else ()


class TextRow(dict[str, Any]):
    """A row of a file that holds only texts. separator: what stands between its fields."""

    __slots__ = ("separator",)
    separator: str


def delimited_rows(
    file: IO[bytes], path: Path, refusals: Refusals, layout: Layout
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (where, row). Raises InputError if the header cannot be read.

    A header of typed names, as RecBole has them (`rating:float`), makes typed values.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    # Invalid UTF-8 must survive the decoding, so that only its row is refused.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _Table(path, _Lines(text), refusals, layout).rows()
    finally:
        text.detach()


class _Lines:
    """The lines of a text, which can be given back."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._back: deque[str] = deque()
        self.number = 0

    def next(self) -> str | None:
        """The next line without its end, cut after MAX_LINE characters; None at the end."""
        self.number += 1
        if self._back:
            return self._back.popleft()
        line = rest = self._text.readline(MAX_LINE + 1)
        while len(rest) > MAX_LINE and not rest.endswith(("\n", "\r")):
            rest = self._text.readline(MAX_LINE + 1)
        return line.rstrip("\r\n") if line else None

    def give_back(self, lines: Sequence[str]) -> None:
        """Take the last lines back."""
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A line with its quotes resolved: its fields; open: the last one is not closed."""

    fields: list[str]
    open: bool = False


class _Table:
    """Reads the header, then row after row."""

    def __init__(self, path: Path, lines: _Lines, refusals: Refusals, layout: Layout) -> None:
        self._path = path
        self._lines = lines
        self._refusals = refusals
        self._separator = layout.separator
        self._names = list(layout.columns)
        self._types: list[str] = []
        self._latest: deque[list[str]] = deque(maxlen=20)
        """The rows read last, from which it is told which columns hold numbers."""

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        self._read_header()
        while (line := self._lines.next()) is not None:
            if not line.strip(" "):
                continue
            where = f"{self._path}:{self._lines.number}"
            if len(line) > MAX_LINE:
                problem = TOO_LONG
                self._refusals.add(f"{where}: {problem}", BROKEN_LINE)
                continue
            fields = self._fields(line, where)
            if fields is None:
                continue
            if not all(map(_is_utf8, fields)):
                self._refusals.add(f"{where}: {NOT_UTF8}", BROKEN_LINE)
                continue
            if len(fields) < len(self._names):
                self._refusals.note(SHORT_ROW, where)
            yield where, self._row(fields)

    # -- the header ---------------------------------------------------------------------------

    def _read_header(self) -> None:
        first = self._lines.next()
        while first is not None and not first.strip():
            first = self._lines.next()
        if first is None:
            return
        where = f"{self._path}:{self._lines.number}"
        if first.lower().startswith("sep=") and len(first) == 5:  # written by Excel
            self._separator = self._separator or first[4]
            self._read_header()
            return
        self._separator = self._separator or self._found(first)
        parsed = self._parsed(first)
        if self._names:
            if parsed is not None and [one.strip() for one in parsed.fields] == self._names:
                raise InputError(f"{where} is a header; leave out the names of its columns")
            self._lines.give_back([first])
        else:
            if parsed is None or parsed.open:
                raise InputError(f"{where}: the header cannot be read: a quote is not closed")
            self._names = [one.strip() for one in parsed.fields]
            if not all(map(_is_utf8, self._names)):
                raise InputError(f"{where}: the header {NOT_UTF8}")
            if twice := _repeated(self._names):
                raise InputError(f"{where}: two columns are named {twice!r}; rename one")
            if not all(self._names):
                self._refusals.note(NO_NAME, where)
        typed = [_TYPED.fullmatch(name) for name in self._names]
        found = [(one[1], one[2]) for one in typed if one]
        if found and len(found) == len(typed):
            self._names, self._types = [name for name, _ in found], [kind for _, kind in found]

    def _found(self, header: str) -> str:
        """What separates the names in a header: what the file's name promises, if it is there."""
        suffix = Path(self._path.name.removesuffix(".gz")).suffix.lower()
        promised = _BY_SUFFIX.get(suffix, ",")
        counts = {one: header.count(one) for one in (promised, *_SEPARATORS)}
        if not counts[promised] and any(counts.values()):
            return max(counts, key=lambda one: counts[one])
        if suffix not in _BY_SUFFIX:
            return max(counts, key=lambda one: counts[one])
        return promised

    # -- rows ---------------------------------------------------------------------------------

    def _row(self, fields: list[str]) -> dict[str, Any]:
        if self._types:
            padded = [*fields, *[""] * (len(self._names) - len(fields))]
            return {
                name: _typed(kind, value)
                for name, kind, value in zip(self._names, self._types, padded, strict=True)
            }
        self._latest.append(fields)
        row = TextRow(zip_longest(self._names, fields))
        row.pop("", None)
        row.separator = self._separator
        return row

    def _fields(self, line: str, where: str) -> list[str] | None:
        """The fields of a row, which may go on in the next lines; None where it is refused."""
        parsed = self._parsed(line)
        expected = len(self._names)
        if parsed is not None and not parsed.open and not any(parsed.fields[expected:]):
            if len(parsed.fields) > expected:
                self._refusals.note(EMPTY_END, where)
            return parsed.fields[:expected]
        if '"' not in line or self._literal:
            self._refusals.add(f"{where}: has more fields than the header", BROKEN_LINE)
            return None
        swallowed = 0
        is_open = parsed.open if parsed is not None else line.count('"') % 2 == 1
        if is_open:
            found, swallowed = self._several_lines(line)
            if found is not None:
                self._refusals.note(SEVERAL_LINES, where)
                return found
        is_unclosed = parsed is not None and parsed.open
        found = self._repaired(line, where, literal=not is_unclosed or self._separator == "\t")
        if found is None and is_unclosed:
            problem = "a quote opens a field that is not closed on its line"
            if swallowed:
                problem += f" and would swallow the record on line {swallowed}"
            self._refusals.add(f"{where}: {problem}; close or double it", "unclosed quote")
        elif found is None:
            problem = "its quotes make another number of fields than the header has"
            self._refusals.add(f"{where}: {problem}; double each quote in a text", BROKEN_LINE)
        return found

    def _several_lines(self, line: str) -> tuple[list[str] | None, int]:
        """The fields of a row that is not closed on its line; None where it swallows a record.

        Returns the number of the line with that record too, or 0; all lines are given back then.
        """
        before = self._whole_fields(line)
        more: list[str] = []
        like_records: list[bool] = []
        while len(more) < MOST_LINES and (following := self._lines.next()) is not None:
            more.append(following)
            like, sure = self._is_record(following, before)
            like_records.append(like)
            if like and sure:
                break
            found = self._closed("\n".join((line, *more))) if '"' in following else None
            if found is not None:
                if all(like_records[:-1] or like_records):
                    break
                return found, 0
        else:
            self._lines.number -= len(more) < MOST_LINES  # there was no line
        swallowed = like_records.index(True) + 1 if any(like_records) else 0
        first = self._lines.number - len(more)
        self._lines.give_back(more)
        return None, first + swallowed if swallowed else 0

    def _closed(self, text: str) -> list[str] | None:
        """The fields of some lines if they are one whole row; else None."""
        expected = len(self._names)
        parsed = self._parsed(text)
        if parsed is not None:
            return None if parsed.open or len(parsed.fields) != expected else parsed.fields
        escaped = self._parsed(text.replace('\\"', '""'))
        if escaped is not None and not escaped.open and len(escaped.fields) == expected:
            return escaped.fields
        fields = self._lenient(text)
        is_row = len(fields) == expected and not any(one.startswith('"') for one in fields)
        return fields if is_row else None

    def _is_record(self, line: str, before: Sequence[str]) -> tuple[bool, bool]:
        """Whether a line looks like a record of its own, and whether that is sure.

        before: the fields of the row that would contain the line, up to the one that is open.
        """
        parsed = self._parsed(line)
        fields = self._lenient(line) if parsed is None else parsed.fields
        if len(self._names) < 2 or len(fields) <= len(before):
            return False, False
        compared = list(zip(fields, before, strict=False)) or [(one, "") for one in fields]
        if any(one.startswith(" ") and not other.startswith(" ") for one, other in compared):
            return False, False  # in prose a space follows the comma
        numeric = _numeric(before)
        if len(fields) < len(self._names) and len(numeric) < 2:
            return False, False
        if numeric := numeric or self._numeric_columns():
            return all(_NUMBER.fullmatch(fields[at]) for at in numeric), True
        if len(fields) != len(self._names):
            return False, False
        if self._separator not in (",", ";"):
            return True, True
        if parsed is None or parsed.open or any('"' in one for one in fields):
            return False, False
        return all(_is_word(one) == _is_word(other) for one, other in compared if other), False

    def _numeric_columns(self) -> set[int]:
        """The columns that held a number in each of the rows read last."""
        found = [_numeric(fields) for fields in self._latest]
        return set.intersection(*found) if found else set()

    # -- quotes -------------------------------------------------------------------------------

    @property
    def _literal(self) -> bool:
        """Whether quotes have no meaning in this file."""
        return bool(self._types) or len(self._separator) > 1

    def _parsed(self, text: str) -> _Parsed | None:
        """The fields by the rules of CSV; None where the quotes break them."""
        if '"' not in text or self._literal:
            return _Parsed(text.split(self._separator))
        try:
            [fields] = csv.reader([text], delimiter=self._separator, strict=True)
        except csv.Error as error:
            if "unexpected end" not in str(error):
                return None
            [fields] = csv.reader([text], delimiter=self._separator)
            return _Parsed(fields, open=True)
        return _Parsed(fields)

    def _repaired(self, line: str, where: str, *, literal: bool = True) -> list[str] | None:
        """The fields of a row with odd quotes, where a reading gives as many as the header has."""
        expected = len(self._names)
        if '\\"' in line:
            escaped = self._parsed(line.replace('\\"', '""'))
            if escaped is not None and not escaped.open and len(escaped.fields) == expected:
                self._refusals.note(ESCAPED_QUOTES, where)
                return escaped.fields
        if not literal:
            return None
        readings = [self._lenient(line)]
        if len(readings[0]) != expected:
            readings.append([_unquoted(one) for one in line.split(self._separator)])
        for fields in readings:
            if len(fields) == expected:
                self._refusals.note(STRAY_QUOTES, where)
                return fields
        return None

    def _whole_fields(self, line: str) -> list[str]:
        """The fields before the first one whose quotes are not in order, or before the last."""
        mark = re.escape(self._separator)
        pattern = re.compile(rf'(?:"((?:""|[^"])*)"|((?!")[^{mark}]*)){mark}')
        fields, at = [], 0
        while found := pattern.match(line, at):
            fields.append(found[1] or found[2] or "")
            at = found.end()
        return fields

    def _lenient(self, line: str) -> list[str]:
        """The fields where a quoted one ends at a quote before a separator, and only there."""
        mark = re.escape(self._separator)
        pattern = re.compile(rf'"((?:""|[^"]|"(?!"|{mark}|$))*)"(?={mark}|$)|[^{mark}]*')
        fields, at = [], 0
        while True:
            found = pattern.match(line, at)
            assert found is not None  # noqa: S101 - the last alternative fits everywhere
            quoted = found[1]
            fields.append(found[0] if quoted is None else quoted.replace('""', '"'))
            if found.end() == len(line):
                return fields
            at = found.end() + len(self._separator)


def _numeric(fields: Sequence[str]) -> set[int]:
    return {at for at, value in enumerate(fields) if _NUMBER.fullmatch(value)}


def _is_word(field: str) -> bool:
    return not re.search(r"\s", field.strip())


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return inner if is_quoted else field


def _typed(kind: str, value: str) -> Any:
    match kind:
        case "float":
            return _number(value)
        case "token_seq":
            return value.split()
        case "float_seq":
            return [_number(one) for one in re.split(r"[\s,]+", value.strip()) if one]
    return value


def _number(value: str) -> Any:
    """A number; another value stays a text, for its record to be refused."""
    try:
        return float(value)
    except ValueError:
        return value or None


def _repeated(names: Sequence[str]) -> str:
    return next((one for one in names if one and names.count(one) > 1), "")


def _is_utf8(value: str) -> bool:
    return value.isascii() or not _NOT_UTF8.search(value)
