"""Open a file of records, packed with gzip or not, and tell what else it may be.

People give UTF-16, archives, pretty-printed JSON or CSV where JSON Lines are wanted. Such a file is
refused as a whole, in one sentence that names what it is and what to do.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from typing_extensions import Buffer

from p4r_qdrant.errors import InputError

BOM = b"\xef\xbb\xbf"
MAX_LINE = 16 * 1024 * 1024
"""Most bytes of a line: it limits memory on a file that is not text."""
TOO_LONG = f"the line is longer than {MAX_LINE >> 20} MB"

GZIP = b"\x1f\x8b"
_BUFFER = 1024 * 1024
HEAD = 64 * 1024
"""So many bytes are read to find the kind of a file."""
_SEPARATORS = ",;\t|"
NOT_UTF8 = "is not UTF-8; convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8"
_UNPACK = "unpack it, or pack it with gzip"
_OTHERS: dict[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "give the file inside it as CSV"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save it as CSV in UTF-8"),
    b"BZh": ("packed with bzip2", _UNPACK),
    b"\xfd7zXZ\x00": ("packed with xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", _UNPACK),
    b"PAR1": ("a Parquet file", "name it .parquet for p4r prepare"),
    b"ARROW1": ("an Arrow file", "write it as Parquet"),
    b"SQLite format 3": ("an SQLite database", "export its tables as CSV"),
    b"%PDF": ("a PDF file", "give the data as CSV or JSON Lines"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the data", "run git lfs pull"),
    b"<!doctype html": ("a web page, not the data", "download the file itself"),
    b"<html": ("a web page, not the data", "download the file itself"),
    b"<?xml": ("XML", "convert it to JSON Lines"),
}


class _Raw(io.RawIOBase):
    """The bytes of a file, unpacked; reading raises InputError and no other error."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = cast("io.BufferedReader", file)
        self.packed = self._file.peek(len(GZIP)).startswith(GZIP)
        self._source: io.BufferedReader | gzip.GzipFile = self._file
        if self.packed:
            self._source = gzip.GzipFile(fileobj=self._file, mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)
        try:
            found = self._source.read1(len(view))  # what is there: a pipe is not waited for
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            why = str(error).partition(" (")[0]  # without the bytes that stand there
            raise InputError(
                f"{self._path} is damaged or cut short ({why}); fetch it again"
            ) from None
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror}") from None
        view[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


def is_packed(file: io.BufferedReader) -> bool:
    """Whether a file that `opened` returned is packed with gzip."""
    return isinstance(file.raw, _Raw) and file.raw.packed


def as_stored(path: Path) -> Path:
    """The path itself, or with .gz behind it where only that file exists."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.exists() else path


def opened(path: Path, file: IO[bytes] | None = None) -> io.BufferedReader:
    """Open a file to read its bytes; gzip is seen from the first bytes and unpacked.

    file: the same file, where it is open already.
    Raises: InputError if it cannot be read, now or while it is read.
    """
    try:
        raw = _Raw(path, file or path.open("rb"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return io.BufferedReader(raw, _BUFFER)


def opened_lines(path: Path, file: IO[bytes] | None = None) -> io.BufferedReader:
    """Open a file of JSON Lines, as `opened`. Raises InputError if it is something else."""
    file = opened(path, file)
    try:
        check_json_lines(path, file.peek(HEAD))
    except BaseException:
        file.close()
        raise
    return file


def bounded_lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes | None]]:
    """(number, offset, line) of the lines that are not blank.

    A line over MAX_LINE bytes is not held: it is None.
    """
    number = offset = 0
    while line := file.readline(MAX_LINE + 1):
        number, start, rest = number + 1, offset, line
        offset += len(line)
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 1)
            offset += len(rest)
        if len(line) > MAX_LINE:
            yield number, start, None
        elif line.removeprefix(BOM).strip():
            yield number, start, line


def opened_at_offsets(path: Path) -> BinaryIO:
    """Open a file to read at byte offsets of its unpacked content. Raises InputError."""
    file = opened(path)
    if not is_packed(file):
        file.close()
        return path.open("rb")
    with file:
        unpacked = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
        shutil.copyfileobj(file, unpacked)
    return unpacked


def check_json_lines(path: Path, head: bytes) -> None:
    """Raise InputError where a file that begins with `head` is no JSON Lines."""
    check_text(path, head)
    if what := _json_kind(head):
        kind, fix = what
        raise InputError(f"{path} is {kind}, not JSON Lines: {_with_command(fix, path)}")
    if not (lines := _lines_without_json(head)):
        return
    if _has_separators(lines):
        raise InputError(
            f"{path} is CSV or the like (its first line: {lines[0][:60]!r}), not JSON Lines; "
            "name it .csv or .tsv for p4r prepare, which makes JSON Lines of it"
        )
    if len(lines) > 2:
        raise InputError(
            f"{path} is no JSON Lines, whose lines are objects (its first line: "
            f"{lines[0][:60]!r}); p4r prepare reads text with separators too (--delimiter)"
        )


def check_delimited(path: Path, head: bytes) -> None:
    """Raise InputError where a file that begins with `head` is no text with separators."""
    check_text(path, head)
    start = head.removeprefix(BOM).lstrip()
    if start[:1] in (b"{", b"["):
        kind, fix = _json_kind(head) or ("JSON Lines", "name it .jsonl")
        raise InputError(f"{path} is {kind}, not CSV: {_with_command(fix, path)}")


def check_text(path: Path, head: bytes) -> None:
    """Raise InputError where a file that begins with `head` is no UTF-8 text."""
    if encoding := _wide(head):
        fix = f"write it as UTF-8 (iconv -f {encoding} -t UTF-8)"
        raise InputError(f"{path} is {encoding} text: {_with_command(fix, path)}")
    if head[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive: unpack it, and give the file inside")
    start = head.removeprefix(BOM).lstrip()[:32]
    for magic, (kind, fix) in _OTHERS.items():
        if start.startswith(magic) or (magic[:1] == b"<" and start.lower().startswith(magic)):
            raise InputError(f"{path} is {kind}: {fix}")


def _with_command(fix: str, path: Path) -> str:
    """The advice, with the file in the command that stands in parentheses in it."""
    what, paren, command = fix.rstrip(")").partition("(")
    if not paren:
        return fix
    name = shlex.quote(str(path))
    source = f"gzip -dc {name} | {command}" if path.suffix == ".gz" else f"{command} < {name}"
    return f"{what}({source} > new_file)"


def _wide(head: bytes) -> str:
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if re.match(rb"[^\0]\0[^\0]\0", head):
        return "UTF-16LE"
    return "UTF-16BE" if re.match(rb"\0[^\0]\0[^\0]", head) else ""


def _json_kind(head: bytes) -> tuple[str, str] | None:
    """What JSON it is that is no JSON Lines, and how to convert it; else None."""
    text = head.removeprefix(BOM).decode(errors="replace").lstrip()
    first, _, rest = text.partition("\n")
    if text.startswith("["):
        is_whole = _is_json(first)
        if (is_whole and not rest.strip()) or (not is_whole and first[1:].strip()[:1] in ("", "{")):
            return "one JSON array", "write a line for each record (jq -c '.[]')"
    elif text.startswith("{") and not _is_json(first):
        if first.strip() == "{":
            pretty = rest.lstrip().startswith('"')
        else:
            pretty = _ends_later(text, len(first))
        if pretty:
            return "pretty-printed JSON", "write each record on one line (jq -c .)"
    return None


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError, MemoryError):
        return False
    return True


def _ends_later(text: str, end: int) -> bool:
    """Whether the object that begins a text ends after `end`."""
    try:
        return json.JSONDecoder().raw_decode(text)[1] > end
    except (ValueError, RecursionError, MemoryError):
        return False


def is_delimited(head: bytes) -> bool:
    """Whether the first lines of a file look like text with separators."""
    return _has_separators(_lines_without_json(head))


def _has_separators(lines: list[str]) -> bool:
    return bool(lines) and any(mark in lines[0] for mark in _SEPARATORS)


def _lines_without_json(head: bytes) -> list[str]:
    """The first lines of a text, where none of them may be JSON; else none."""
    lines = head.removeprefix(BOM).decode(errors="replace").split("\n")[:20]
    lines = [line.rstrip("\r") for line in lines if line.strip()]
    if not lines or any(line.lstrip()[:1] in ("{", "[") for line in lines):
        return []
    is_text = lines[0].replace("\t", " ").isprintable() and "\ufffd" not in lines[0]
    return lines if is_text else []
