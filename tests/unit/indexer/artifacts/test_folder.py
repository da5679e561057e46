"""Artifact files as people really leave them: broken lines, repeats, missing files, full disks."""

import errno
import gzip
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.opening import NOT_UTF8
from indexer.artifacts.splits import read_splits
from indexer.artifacts.writing import written_whole
from indexer.checking import check_files
from indexer.evaluation.experiment.data import Data
from indexer.training.pairs import Catalogue
from p4r_qdrant import whole_files
from p4r_qdrant.errors import InputError, RecordError, StorageFullError
from p4r_qdrant.index.payload import plain_text, slug
from p4r_qdrant.index.query import MAX_CANDIDATES
from p4r_qdrant.records import Review, Summary
from tests.support.artifact_rows import aspects, review
from tests.support.jsonl import write

BOM = b"\xef\xbb\xbf"


def summary(item_id: Any, text: str = "S.") -> dict[str, Any]:
    return {"item_id": item_id, "summary": text}


def persona(name: str = "p") -> dict[str, Any]:
    return {"persona_id": name, "name": "N", "description": "D.", "preference_rationale": "R."}


def read(path: Path) -> tuple[list[tuple[int, str]], Refusals]:
    refusals = Refusals()
    return [(n, one.item_id) for n, _, one in read_lines(path, Summary, refusals)], refusals


# --- lines -------------------------------------------------------------------------------------


def test_a_broken_line_is_told_by_its_place_and_the_others_go_on(tmp_path: Path) -> None:
    broken = [
        "{",
        "[]",
        "17",
        "null",
        '{"item_id": "x"}',
        '{"item_id": "x", "summary": "  "}',
        '{"item_id": "x", "summary": 5}',
        '{"item_id": "a\\nb", "summary": "S."}',
        '{"item_id": "' + "x" * 10_000 + '", "summary": "S."}',
        '{"item_id": "\\ud800", "summary": "S."}',
        '{"item_id": "x", "summary": "S."} {}',
        "[" * 100_000,
    ]
    path = write(tmp_path, "s.jsonl", [summary("first"), *broken, summary("last")])
    found, refusals = read(path)
    assert found == [(1, "first"), (len(broken) + 2, "last")]
    assert refusals.counts == {"broken record": len(broken)}
    for number, sentence in enumerate(refusals.sentences, start=2):
        assert sentence.startswith(f"{path}:{number}: ")
        assert "\n" not in sentence
        assert len(sentence) < 400
    assert refusals.sentences[4].endswith(":6: summary: is missing")


def test_a_line_that_is_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    good = json.dumps(summary("a")).encode()
    latin = '{"item_id": "b", "summary": "caf\xe9"}'.encode("latin-1")
    path.write_bytes(b"\n".join([good, latin, b"\x00\x01\xff", good.replace(b'"a"', b'"c"')]))
    found, refusals = read(path)
    assert found == [(1, "a"), (4, "c")]
    assert refusals.total == 2
    assert refusals.sentences[0] == f"{path}:2: {NOT_UTF8}"


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ('"rating": "4,5"', 'rating: "4,5" is not a number'),
        ('"rating": null', "rating: null is not a number"),
        ('"rating": NaN', "rating: NaN is not a finite number"),
        ('"timestamp": 1.5', "timestamp: 1.5 is not a whole number"),
        ('"timestamp": "today"', 'timestamp: "today" is not a whole number'),
        ('"text": {"a": 1}', 'text: {"a": 1} is not a text'),
        ('"title": ["a"]', 'title: ["a"] is not a text'),
    ],
)
def test_a_value_of_another_type_is_shown(field: str, problem: str, tmp_path: Path) -> None:
    line = f'{{"user_id": "u", "item_id": "i", "rating": 5, "timestamp": 1, {field}}}'
    path = write(tmp_path, "r.jsonl", [line])
    refusals = Refusals()
    assert list(read_lines(path, Review, refusals)) == []
    assert refusals.sentences == [f"{path}:1: {problem}"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("start", [b"", BOM, BOM + b"\n", b"\n \t\n", BOM + b"\r\n\r\n"])
def test_bom_blank_lines_and_line_ends(start: bytes, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(start + json.dumps(summary("a")).encode() + end)
    found, refusals = read(path)
    assert [item_id for _, item_id in found] == ["a"]
    assert refusals.total == 0


@pytest.mark.parametrize("content", [b"", BOM, b"\n\n"])
def test_a_file_with_nothing_in_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_bytes(content)
    found, refusals = read(tmp_path / "s.jsonl")
    assert (found, refusals.total) == ([], 0)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope cannot be read: No such file"):
        read(tmp_path / "nope")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read(tmp_path)


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=30), max_size=6
    ),
    bom=st.booleans(),
)
def test_a_record_is_found_again_at_its_offset(
    texts: list[str], bom: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("artifacts")
    rows = [summary(number, f"S {text}") for number, text in enumerate(texts)]
    path = write(folder, "summaries.jsonl", ["", *rows, "broken"])
    if bom:
        path.write_bytes(BOM + path.read_bytes())
    refusals = Refusals()
    with ArtifactFolder(folder).summaries(refusals) as summaries:
        for row in rows:
            found = summaries.get(str(row["item_id"]))
            assert found is not None
            assert found.summary == row["summary"].strip()
        assert summaries.get("nobody") is None
    assert refusals.total == 1


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "summaries.jsonl", [summary("a", "long text"), summary("b")])
    with ArtifactFolder(tmp_path).summaries(Refusals()) as summaries:
        path.write_text("x" * 100)
        with pytest.raises(RecordError, match=r"summaries.jsonl: Invalid JSON"):
            summaries.get("b")


def test_refusals_keep_the_first_sentences_and_count_all() -> None:
    refusals = Refusals(keep=2)
    for number in range(5):
        refusals.add(f"sentence {number}", "odd" if number % 2 else "even")
    assert refusals.sentences == ["sentence 0", "sentence 1"]
    assert refusals.counts == {"even": 3, "odd": 2}
    assert refusals.total == 5


# --- written whole -----------------------------------------------------------------------------


def test_a_file_appears_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with written_whole(path) as put:
        put("é 🎻")
        put("two")
        assert path.read_text() == "old"
    assert path.read_bytes() == "é 🎻\ntwo\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def write_and_raise(path: Path, error: Any = None) -> None:
    with written_whole(path) as put:
        put("new" * 10_000)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, ValueError, RecordError("x:1: y"), SystemExit]
)
def test_whatever_happens_the_old_file_stays(error: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - of any kind
        write_and_raise(path, error)
    assert raised.value is error or raised.type is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", refusing(errno.ENOSPC))
    with pytest.raises(
        StorageFullError, match=r"no space left to write .*out.jsonl \(nothing was written\)"
    ):
        write_and_raise(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    monkeypatch.setattr(whole_files, "take", lambda *_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(StorageFullError):
        write_and_raise(path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, Path(), Path("/"), Path("..")):
        with pytest.raises(InputError, match="it is a folder; name a file"):
            write_and_raise(path)
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_and_raise(tmp_path / "no" / "such" / "folder")
    with pytest.raises(InputError, match="cannot be written: File name too long"):
        write_and_raise(tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        write_and_raise(tmp_path / "file" / "below")
    (tmp_path / "file").unlink()
    monkeypatch.setattr(Path, "replace", refusing(errno.EACCES))
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        write_and_raise(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_a_pipe_stay_what_they_are(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(tmp_path / "file")
    with written_whole(link) as put:
        put("one")
    assert link.is_symlink()
    assert (tmp_path / "file").read_text() == "one\n"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as threads:
        read = threads.submit(pipe.read_text)
        with written_whole(pipe) as put:
            put("two")
        assert read.result(timeout=10) == "two\n"
    assert pipe.is_fifo()


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with written_whole(Path("-")) as put:
        put("é")
    assert capsys.readouterr().out == "é\n"
    assert not Path("-").exists()
    assert sys.stdout is not None


# --- rows to index -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "items.jsonl",
        [
            {
                "item_id": "a",
                "title": "Salt &amp; <i>Orchard</i>",
                "categories": ["Fiction", "Crime &amp; Mystery"],
                "brand": "",
                "price": 3.5,
                "stock": 0,
                "name": "one of ours",
                "nothing": None,
                "title_de": "",
            },
            {"item_id": 17},
        ],
    )
    write(tmp_path, "summaries.jsonl", [summary("a", "About <b>salt</b>."), summary("17")])
    write(
        tmp_path,
        "personas.jsonl",
        [
            {"item_id": "a", "personas": [persona()]},
            {"item_id": 17, "personas": [persona()]},
            {"item_id": "bare", "personas": [persona()]},
        ],
    )
    return tmp_path


def test_an_item_to_index_is_joined_from_three_files(folder: Path) -> None:
    refusals = Refusals()
    rows = list(ArtifactFolder(folder).index_rows("books", refusals))
    assert [row.item.item_id for row in rows] == ["a", "17", "bare"]
    assert rows[0].where == f"{folder}/personas.jsonl:1"
    assert rows[0].summary == "About <b>salt</b>."
    assert rows[0].fields == {
        "price": 3.5,
        "stock": 0,
        "categories": ["Fiction", "Crime & Mystery"],
        "item_title": "Salt & Orchard",
        "summary": "About salt .",
        "domain": "books",
        "category": "crime-mystery",
    }
    assert rows[1].fields == {"summary": "S.", "domain": "books"}
    assert rows[2].fields == {"domain": "books"}
    assert rows[2].summary == ""
    assert refusals.total == 0


@pytest.mark.parametrize("content", [b"", BOM, b"\n \n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_of_personas_is_refused(content: bytes, folder: Path) -> None:
    path = folder / "personas.jsonl"
    path.write_bytes(content)
    (folder / "splits.jsonl").write_text("")
    artifacts = ArtifactFolder(folder)
    readers: list[Callable[[], object]] = [
        lambda: artifacts.index_rows("books", Refusals()),  # p4r index, p4r publish
        lambda: Catalogue.read(artifacts, Refusals()),  # p4r train, p4r tune
        lambda: Data.read(folder, Refusals()),  # p4r experiment
    ]
    for read_personas in readers:
        with pytest.raises(InputError, match=f"{path} is empty: no item has personas"):
            read_personas()
    [checked] = check_files({"personas.jsonl": path}, max_personas=9).files
    assert checked.broken == 1


def test_a_domain_of_two_lines_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="is no name of a domain"):
        ArtifactFolder(folder).index_rows("a\nb", Refusals())


def test_items_and_summaries_are_optional(folder: Path) -> None:
    (folder / "items.jsonl").unlink()
    (folder / "summaries.jsonl").unlink()
    rows = list(ArtifactFolder(folder).index_rows("books", Refusals()))
    assert [row.fields for row in rows] == [{"domain": "books"}] * 3


def test_a_repeated_item_is_refused_and_the_first_stays(folder: Path) -> None:
    first = {"item_id": "a", "personas": [persona("first")]}
    second = {"item_id": "a", "personas": [persona("second")]}
    path = write(folder, "personas.jsonl", [first, second, second])
    refusals = Refusals()
    [row] = ArtifactFolder(folder).index_rows("books", refusals)
    assert row.item.personas[0].persona_id == "first"
    assert refusals.counts == {"repeated item": 2}
    assert refusals.sentences[0] == f"{path}:2: item 'a' is already on line 1; keep one"


def test_a_repeated_summary_is_refused_and_the_first_stays(folder: Path) -> None:
    path = write(folder, "summaries.jsonl", [summary("a", "first"), summary("a", "second")])
    refusals = Refusals()
    rows = list(ArtifactFolder(folder).index_rows("books", refusals))
    assert rows[0].summary == "first"
    assert refusals.sentences == [f"{path}:2: item 'a' is already in this file; keep one"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no artifact folder .*nope; name one that holds"):
        ArtifactFolder(tmp_path / "nope")
    write(tmp_path, "file", [])
    with pytest.raises(InputError, match="no artifact folder"):
        ArtifactFolder(tmp_path / "file")
    with pytest.raises(InputError, match=r"holds no personas.jsonl"):
        list(ArtifactFolder(tmp_path).index_rows("books", Refusals()))
    with pytest.raises(InputError, match=r"holds no reviews.jsonl"):
        Histories(ArtifactFolder(tmp_path), Refusals())


# --- histories ---------------------------------------------------------------------------------


def test_a_history_is_joined_from_five_files(folder: Path) -> None:
    write(
        folder, "reviews.jsonl", [review("u", "a", 5), review("u", "bare", 6, 2), review("v", "a")]
    )
    write(
        folder,
        "aspects.jsonl",
        [aspects("u", "a", 5, use="evenings", why=None), aspects("u", "17", 7)],
    )
    with Histories(ArtifactFolder(folder), Refusals()) as histories:
        history = {one.item_id: one for one in histories.get("u")}
        assert histories.get("nobody") == []
    assert set(history) == {"a", "bare", "17"}
    assert history["a"].summary == "About <b>salt</b>."
    assert history["a"].title == "Salt & Orchard"
    assert history["a"].aspects == {"use": "evenings", "why": None}
    assert history["bare"].aspects == {}
    assert (history["bare"].rating, history["bare"].timestamp) == (2, 6)
    assert history["17"].summary == "S."


@pytest.mark.parametrize("name", ["reviews.jsonl", "aspects.jsonl"])
def test_either_file_is_a_history(name: str, tmp_path: Path) -> None:
    write(tmp_path, name, [aspects("u", "a") | review("u", "a")])
    with Histories(ArtifactFolder(tmp_path), Refusals()) as histories:
        assert [one.item_id for one in histories.get("u")] == ["a"]


def test_a_broken_review_costs_one_interaction(tmp_path: Path) -> None:
    write(tmp_path, "reviews.jsonl", [review("u", "a"), "{", review("u", "b")])
    refusals = Refusals()
    with Histories(ArtifactFolder(tmp_path), refusals) as histories:
        assert [one.item_id for one in histories.get("u")] == ["a", "b"]
    assert refusals.sentences[0].startswith(f"{tmp_path}/reviews.jsonl:2: ")


USERS = st.sampled_from(["u", "v", "w"])
ITEMS = st.sampled_from(["a", "b", "c", "d", "1"])
PAIRS = st.lists(st.tuples(USERS, ITEMS, st.integers(0, 3)), max_size=12)


@settings(max_examples=60)
@given(
    reviews=PAIRS,
    told=PAIRS,
    held=st.dictionaries(USERS, st.tuples(ITEMS, st.one_of(st.none(), ITEMS)), max_size=3),
    numbers=st.booleans(),
)
def test_what_is_held_out_is_never_in_a_history(
    reviews: list[tuple[str, str, int]],
    told: list[tuple[str, str, int]],
    held: dict[str, tuple[str, str | None]],
    numbers: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("artifacts")
    write(folder, "reviews.jsonl", [review(*one) for one in reviews])
    write(folder, "aspects.jsonl", [aspects(*one) for one in told])
    write(
        folder,
        "splits.jsonl",
        [
            {
                "user_id": user,
                "test_item": 1 if numbers and test == "1" else test,
                "valid_item": valid,
                "tie": False,
            }
            for user, (test, valid) in held.items()
        ],
    )
    with Histories(ArtifactFolder(folder), Refusals()) as histories:
        for user in ("u", "v", "w"):
            done = {item for who, item, _ in [*reviews, *told] if who == user}
            items = [one.item_id for one in histories.get(user)]
            assert set(items) == done - set(held.get(user, ()))
            assert len(items) == len(set(items)), "an interaction is there once"


def test_splits_have_two_forms(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "splits.jsonl",
        [
            {"user_id": "u", "test_item": "a", "valid_item": "b", "tie": True},
            {"user_id": "v", "item_id": 7},
            {"user_id": "w", "test_item": "c", "valid_item": None},
        ],
    )
    refusals = Refusals()
    splits = list(read_splits(path, refusals))
    assert [(number, one.test_item, one.valid_item, one.tie) for number, one in splits] == [
        (1, "a", "b", True),
        (2, "7", None, False),
        (3, "c", None, False),
    ]
    held_out = {("u", "a"), ("u", "b"), ("v", "7"), ("w", "c")}
    assert ArtifactFolder(tmp_path).held_out() == held_out
    for broken in ({"user_id": "x"}, {"user_id": "x", "item_id": "a", "test_item": "a"}, "{"):
        path = write(tmp_path, "splits.jsonl", [broken])
        with pytest.raises(InputError, match=r"splits.jsonl:1: .*repair it"):
            ArtifactFolder(tmp_path).held_out()


# --- candidates --------------------------------------------------------------------------------


def test_candidates(tmp_path: Path) -> None:
    long = [{"item_id": number} for number in range(MAX_CANDIDATES + 1)]
    path = write(
        tmp_path,
        "c.jsonl",
        [
            {"user_id": "u", "results": [{"item_id": "a", "score": 0.5}, {"item_id": "b"}]},
            {"user_id": "v", "results": []},
            {"user_id": "u", "results": [{"item_id": "c"}]},
            {"user_id": "w", "results": [{"item_id": "a", "score": "NaN"}]},
            '{"user_id": "w", "results": [{"item_id": "a", "score": NaN}]}',
            {"user_id": "w", "results": ["a"]},
            {"user_id": "x", "results": long},
            {"user_id": "y", "results": long[:-1], "topk": 20},
        ],
    )
    refusals = Refusals()
    found = list(read_candidates(path, refusals))
    assert [one.user_id for one in found] == ["u", "y"]
    assert [(one.item_id, one.score) for one in found[0].results] == [("a", 0.5), ("b", None)]
    assert refusals.counts == {
        "broken record": 3,
        "no candidates": 1,
        "repeated user": 1,
        "too many candidates": 1,
    }
    assert refusals.sentences[0] == f"{path}:2: user 'v' has no candidates"
    assert refusals.sentences[1] == f"{path}:3: user 'u' is already on line 1; keep one"
    assert refusals.sentences[-1] == (
        f"{path}:7: user 'x' has 10001 candidates, at most 10000 can be reranked"
    )


# --- texts for people --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Salt &amp; Orchard", "Salt & Orchard"),
        ("<p>One</p><br/>two", "One two"),
        ("&lt;b&gt;bold&lt;/b&gt; word", "bold word"),
        ("  a \n\t b  ", "a b"),
        ("it&#39;s &quot;so&quot; &nbsp;x", 'it\'s "so" x'),
        ("I <3 books, 5>4", "I <3 books, 5>4"),
        ("a < b and c > d", "a < b and c > d"),
        ("a &lt; b &gt; c", "a < b > c"),
        ("<!-- note --> text", "text"),
        ("AT&T &unknown; x", "AT&T &unknown; x"),
        ("<" * 50_000, "<" * 50_000),
        ("", ""),
    ],
)
def test_plain_text(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("Crime &amp; Mystery", "crime-mystery"),
        ("Crime & Mystery", "crime-mystery"),
        ("<b>Sci-Fi</b>", "sci-fi"),
        ("  Children's Books ", "children-s-books"),
        ("Île déserte", "île-déserte"),
        ("文学", "文学"),
        ("!!!", ""),
        ("", ""),
    ],
)
def test_slug(text: str, keyword: str) -> None:
    assert slug(text) == keyword


@given(text=st.text())
def test_a_slug_can_be_typed_into_a_filter(text: str) -> None:
    assert not set(slug(text)) & set(" :\"'<>&\n\t")
