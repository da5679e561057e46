"""Files as people have them: packed, in another encoding, or something else than JSON Lines."""

import gzip
import json
import os
from pathlib import Path

import pytest

from indexer.artifacts import opening
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.journal import Journal
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.opening import check_delimited, opened
from indexer.artifacts.writing import rewrite
from indexer.checking import check_files, files_of
from indexer.datasets.stats import dataset_stats
from indexer.evaluation.leaks.content import text_files
from indexer.reasoning.run import gather
from indexer.updates.inbox import incoming
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review
from tests.support.messages import sentence
from tests.support.paths import ROOT

BOOKSHOP = ROOT / "examples" / "bookshop"
ROWS = [{"item_id": f"i{n}", "title": f"Title {n}"} for n in range(3)]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS)


def items(path: Path) -> list[str]:
    refusals = Refusals()
    found = [one.item_id for _, _, one in read_lines(path, Item, refusals)]
    assert not refusals.total
    return found


def test_a_line_without_end_is_refused_and_the_others_are_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MAX_LINE", 40)
    path = tmp_path / "items.jsonl"
    long = json.dumps({"item_id": "long", "title": "x" * 500})
    path.write_text(f"\n{LINES}{long}\n{LINES}{long}")
    refusals = Refusals()
    found = [*read_lines(path, Item, refusals)]
    assert [number for number, _, _ in found] == [2, 3, 4, 6, 7, 8]
    text = path.read_text()
    assert all(
        text[offset:].startswith(json.dumps(ROWS[int(one.item_id[1])])) for _, offset, one in found
    )
    assert refusals.sentences == [f"{path}:{number}: {opening.TOO_LONG}" for number in (5, 9)]


@pytest.fixture
def packed_shop(tmp_path: Path) -> Path:
    """The bookshop, with every file packed and its name ending in .gz."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for path in BOOKSHOP.glob("*.jsonl"):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder


def test_a_packed_file_is_read_under_any_name(tmp_path: Path) -> None:
    for name in ("items.jsonl", "items.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(LINES.encode()))
        assert items(tmp_path / name) == ["i0", "i1", "i2"]


def test_a_packed_file_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(gzip.compress(LINES.encode() * 100_000)[:-100])
    with pytest.raises(InputError, match="damaged or cut short"):
        items(path)


def test_what_follows_a_packed_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(gzip.compress(b'{"a": 1}\n') + b"\1")
    with pytest.raises(InputError) as caught, opened(path) as file:
        file.read()
    assert "is damaged or cut short" in sentence(caught)


def test_a_packed_artifact_folder_is_as_good_as_another(packed_shop: Path) -> None:
    folder, plain = ArtifactFolder(packed_shop), ArtifactFolder(BOOKSHOP)
    assert folder.estimated_lines("personas.jsonl") == plain.estimated_lines("personas.jsonl")
    assert dataset_stats(folder, Refusals()) == dataset_stats(plain, Refusals())
    assert folder.held_out() == plain.held_out()
    with folder.items(Refusals()) as found, plain.items(Refusals()) as expected:
        for item_id in items(BOOKSHOP / "items.jsonl"):  # by byte offset
            assert found.get(item_id) == expected.get(item_id)
    checked = check_files(files_of(packed_shop, {}), max_personas=99)
    assert checked.broken == 0
    assert len(checked.files) == len(list(packed_shop.iterdir()))
    # A leak check must read what is packed, or it would find nothing in it.
    assert len(list(text_files([packed_shop]))) == len(list(packed_shop.iterdir()))


def test_a_rewritten_file_stays_packed(packed_shop: Path) -> None:
    path = packed_shop / "items.jsonl.gz"
    rewrite(path, Item, lambda one: None if one.item_id == "tin-parliament" else one)
    assert set(items(BOOKSHOP / "items.jsonl")) - set(items(path)) == {"tin-parliament"}
    first = json.loads((BOOKSHOP / "reviews.jsonl").read_text().split("\n")[0])
    reviewed = (first["item_id"], first["user_id"])
    with Journal(ArtifactFolder(packed_shop)) as journal:
        assert journal.review(*reviewed) is not None
    assert not (packed_shop / "items.jsonl").exists()


def test_sources_are_unpacked_when_they_are_copied(packed_shop: Path, tmp_path: Path) -> None:
    items_file, reviews = (packed_shop / f"{name}.jsonl.gz" for name in ("items", "reviews"))
    gather(items_file, reviews, None, tmp_path / "out")
    for name in ("items.jsonl", "reviews.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (BOOKSHOP / name).read_bytes()


def test_arrivals_may_be_packed_unless_they_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_bytes(gzip.compress(LINES.encode()))
    assert b"".join(incoming(path, follow=False)) == LINES.encode()
    with pytest.raises(InputError, match="cannot be followed"):
        next(incoming(path, follow=True))
    path.write_bytes(LINES.encode("utf-16"))
    for follow in (False, True):
        with pytest.raises(InputError, match="UTF-16"):
            next(incoming(path, follow=follow))


PRETTY = json.dumps(ROWS[0], indent=2) + "\n" + json.dumps(ROWS[1], indent=2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LINES.encode("utf-16"), "is UTF-16 text: write it as UTF-8 (iconv -f UTF-16"),
        (LINES.encode("utf-16-le"), "is UTF-16LE text"),
        (LINES.encode("utf-16-be"), "is UTF-16BE text"),
        (LINES.encode("utf-32"), "is UTF-32 text"),
        (json.dumps(ROWS).encode(), "is one JSON array, not JSON Lines"),
        (json.dumps(ROWS, indent=2).encode(), "is one JSON array"),
        (b"[" + LINES.replace("\n", ",\n").rstrip(",\n").encode() + b"]", "is one JSON array"),
        (b"[\n]\n", "is one JSON array"),
        (PRETTY.encode(), "is pretty-printed JSON, not JSON Lines"),
        (json.dumps(ROWS[0], indent=2).encode(), "is pretty-printed JSON"),
        (json.dumps({"a": ["x" * 99] * 999}, indent=2).encode(), "is pretty-printed JSON"),
        (b'{"item_id": "a",\n "title": "T"}\n', "is pretty-printed JSON"),
        (b"item_id,title\na,T\n", "is CSV or the like (its first line: 'item_id,title')"),
        (b"item_id;title\r\na;T\r\n", "is CSV or the like"),
        (b"item_id\ttitle\na\tT\n", "is CSV or the like"),
        (b'"item_id","title"\n"a","T"\n', "is CSV or the like"),
        (b"PK\x03\x04xyz", "is a zip archive or an Excel workbook: give the file"),
        (b"BZh91AY", "is packed with bzip2"),
        (b"x".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive: unpack it"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        (b"<!DOCTYPE html><html>", "is a web page, not the data"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (gzip.compress(LINES.encode("utf-16"), mtime=0), "is UTF-16 text"),
    ],
)
def test_what_is_no_json_lines_is_named_in_one_sentence(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        items(path)
    assert str(raised.value).startswith(f"{path} {said}")
    assert "\n" not in str(raised.value)


def test_the_command_that_converts_a_file_is_told(tmp_path: Path) -> None:
    for name, content, command in (
        ("a b.json", json.dumps(ROWS).encode(), "(jq -c '.[]' < '{}' > new_file)"),
        ("x.gz", gzip.compress(PRETTY.encode()), "(gzip -dc {} | jq -c . > new_file)"),
        ("x.jsonl", LINES.encode("utf-16"), "(iconv -f UTF-16 -t UTF-8 < {} > new_file)"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError) as raised:
            items(path)
        assert str(raised.value).endswith(command.format(path))


@pytest.mark.parametrize("first", ["{", "[]", "17", "{'item_id': 'x'}", '{"item_id": "x"', "x y"])
def test_one_broken_line_at_the_start_is_no_other_kind_of_file(first: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f"{first}\n{LINES}")
    refusals = Refusals()
    assert len(list(read_lines(path, Item, refusals))) == 3
    assert refusals.total == 1


def test_json_where_csv_is_wanted() -> None:
    for content, said in (
        (LINES, "is JSON Lines, not CSV: name it .jsonl"),
        (json.dumps(ROWS), "is one JSON array, not CSV"),
        (PRETTY, "is pretty-printed JSON, not CSV"),
    ):
        with pytest.raises(InputError, match=said):
            check_delimited(Path("x.csv"), content.encode())
    check_delimited(Path("x.csv"), b"a,b\n")


def test_a_pipe_is_read_as_it_comes() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0) as end:
        end.write(b'{"user_id": "u", "item_id": "a", "rating": 5, "timestamp": 1}\n')
        lines = read_lines(Path(f"/dev/fd/{reader}"), Review, Refusals())
        assert next(lines)[2].user_id == "u"  # although the writer has not closed it
    del lines
    os.close(reader)
