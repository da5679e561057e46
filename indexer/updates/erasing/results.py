"""Erase users from what was made from an artifact folder: experiments, judgments, rankings.

Lines and lists lose the records about a user. Files that hold texts without saying whose they are
go as a whole; the next run makes them again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.artifacts.opening import is_packed, opened_lines
from indexer.artifacts.writing import written_whole
from indexer.evaluation.experiment.stages import LOCK, locked
from indexer.ledger import LEDGER, Ledger
from indexer.updates.erasing.report import Place
from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.index.edge.folder import MANIFEST
from p4r_qdrant.whole_files import remove_unfinished

TEXTS, VECTORS = ".texts.jsonl", ".f32"
"""How the files end in which an experiment keeps texts and their vectors."""
PAGES = (".html", ".csv", ".png")
"""What is drawn from a record that lost somebody."""
_GONE = object()


@dataclass(frozen=True)
class Gone:
    """The users who are erased, and the items whose personas may rest on them."""

    users: Collection[str]
    items: Collection[str] = ()


def erase_from_results(path: Path, gone: Gone) -> Place:
    """Erase users from a folder of results, or from one file of them."""
    place = Place("results", str(path))
    if not path.exists():
        place.remains.append(f"{path} is not there: erase from where it was moved to (--results)")
        return place
    try:
        if path.is_file():
            _erase_from_file(path, gone, place)
            return place
        with locked(path) if (path / LOCK).is_file() else nullcontext():
            _erase_from_folder(path, gone, place)
    except P4RError as error:
        place.problem = error
    except OSError as error:
        place.problem = InputError(f"{path} cannot be changed: {error.strerror}")
    return place


def _erase_from_folder(path: Path, gone: Gone, place: Place) -> None:
    for folder in _folders(path):
        remove_unfinished(folder)
        if folder.name == LEDGER:
            _erase_from_ledger(folder, gone, place)
            continue
        for file in sorted(one for one in folder.iterdir() if one.is_file()):
            _erase_from_file(file, gone, place)


def _folders(path: Path) -> Iterator[Path]:
    """A folder and those in it; the indexes among them are removed, since they are made again."""
    yield path
    for one in sorted(path.iterdir()):
        if one.is_dir() and not one.is_symlink():
            if (one / MANIFEST).is_file():
                shutil.rmtree(one)
            else:
                yield from _folders(one)


def _erase_from_ledger(folder: Path, gone: Gone, place: Place) -> None:
    with Ledger(folder) as ledger:
        for step in ledger.steps():
            keys = [one["key"] for one in ledger.entries(step) if without(one, gone) is _GONE]
            place.removed[f"answers on {step}"] += ledger.erase(step, keys)


def _erase_from_file(path: Path, gone: Gone, place: Place) -> None:
    if path.name.endswith(TEXTS):
        path.with_name(path.name.removesuffix(TEXTS) + VECTORS).unlink(missing_ok=True)
        path.unlink()
        place.removed["files of texts"] += 1
    elif path.suffix == ".json":
        _erase_from_record(path, gone, place)
    elif path.name.removesuffix(".gz").endswith(".jsonl"):
        _erase_from_lines(path, gone, place)


def _erase_from_record(path: Path, gone: Gone, place: Place) -> None:
    try:
        value = json.loads(path.read_bytes())
    except ValueError:  # not a record of this project
        return
    left = without(value, gone)
    if left == value:
        return
    place.removed[f"entries of {path.name}"] += 1
    # The pages first: a kill in between leads back here.
    for page in (one for one in path.parent.iterdir() if one.suffix in PAGES):
        page.unlink()
        place.removed["pages"] += 1
    if left is _GONE:
        path.unlink()
        return
    with written_whole(path) as write:
        write(json.dumps(left, ensure_ascii=False, indent=1))


def _erase_from_lines(path: Path, gone: Gone, place: Place) -> None:
    with opened_lines(path) as lines:
        changed = any(_changed_line(line, gone) is not line for line in lines)
    if not changed:
        return
    with opened_lines(path) as lines, written_whole(path, packed=is_packed(lines)) as write:
        for line in lines:
            left = _changed_line(line, gone)
            if left is not line:
                place.removed[f"lines of {path.name}"] += 1
            if left:
                write(left.decode(errors="surrogateescape").rstrip("\r\n"))


def _changed_line(line: bytes, gone: Gone) -> bytes:
    """A line without the users, b"" where nothing is left; the same object where none is in it."""
    try:
        value = json.loads(line)
    except ValueError:
        return line
    left = without(value, gone)
    if left == value:
        return line
    return b"" if left is _GONE else json.dumps(left, ensure_ascii=False).encode()


def without(value: Any, gone: Gone) -> Any:
    """A JSON value without what is about these users and items; _GONE where all of it is.

    About a user is an object whose `user_id` or `user` names one, or whose `about` names one or an
    item; and all that such an object stands in, up to a list. So is an extractive persona whose
    evidence is one of them, and one of such an item where the evidence is not named: it may quote
    the user.
    """
    if isinstance(value, list):
        left = [without(one, gone) for one in value]
        return [one for one in left if one is not _GONE]
    if not isinstance(value, dict):
        return value
    if any(_names(value.get(name), gone.users) for name in ("user_id", "user")):
        return _GONE
    about = value.get("about")
    if isinstance(about, dict) and _names(about.get("item_id"), gone.items):
        return _GONE
    if value.get("extractive") is True:
        evidence = value.get("evidence")
        quotes = isinstance(evidence, list) and any(_names(one, gone.users) for one in evidence)
        if quotes or _names(value.get("item_id"), gone.items):
            return _GONE
    fields = {name: without(one, gone) for name, one in value.items()}
    for name in ("users", "evidence"):
        if isinstance(fields.get(name), list):
            fields[name] = [one for one in fields[name] if not _names(one, gone.users)]
    return _GONE if any(one is _GONE for one in fields.values()) else fields


def _names(value: Any, ids: Collection[str]) -> bool:
    return isinstance(value, str) and value in ids
