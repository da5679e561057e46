"""`p4r reason` and `p4r judge` read all input before they write or pay for anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from devtools.scripted_llm import ScriptedLLM, fails
from tests.support.command_line import Run
from tests.support.paths import BOOKSHOP
from tests.support.small_disk import full_disk

ITEMS, REVIEWS = str(BOOKSHOP / "items.jsonl"), str(BOOKSHOP / "reviews.jsonl")
REVIEW = {"user_id": "u", "item_id": "i", "rating": 5, "timestamp": 1, "text": "Good soups."}
ITEM = {"item_id": "i", "title": "Soups"}
OPENAI = {"P4R_LLM__BASE_URL": "https://api.openai.com/v1"}


def command(items: str, reviews: str, *more: str) -> tuple[str, ...]:
    files = ("--items", items, "--reviews", reviews)
    return ("reason", *files, "--domain", "books", "--artifacts", "deep/out", *more)


def lines(*records: Mapping[str, object]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


FIVE = REVIEW | {"rating": "five"}
BROKEN: list[tuple[bytes, bytes, str]] = [
    (lines(ITEM).decode().encode("utf-16"), lines(REVIEW), "items.jsonl is "),
    (lines(ITEM), lines(FIVE, FIVE), "reviews.jsonl:1: rating: "),
    (b"", lines(REVIEW), "items.jsonl is empty"),
    (lines(ITEM), b"\n\n", "reviews.jsonl is empty"),
    (lines(REVIEW), lines(ITEM), "items.jsonl:1 is a review, not an item"),
    (lines(REVIEW), lines(REVIEW), "items.jsonl:1 is a review, not an item"),
    (lines(ITEM), lines(ITEM), "reviews.jsonl:1: user_id: is missing; none of 1 lines is a"),
    (b"item_id,title\ni,Soups\n", b"item_id,title\ni,Soups\n", "items.jsonl is CSV"),
]


@pytest.mark.parametrize(("items", "reviews", "sentence"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_nonsense_is_one_sentence_and_leaves_nothing(
    items: bytes, reviews: bytes, sentence: str, more: tuple[str, ...], p4r: Run, llm: ScriptedLLM
) -> None:
    Path("items.jsonl").write_bytes(items)
    Path("reviews.jsonl").write_bytes(reviews)
    done = p4r(*command("items.jsonl", "reviews.jsonl", *more), P4R_LLM__BASE_URL=llm.url)
    assert done.code == 2
    assert sentence in done.sentence
    assert done.out == ""
    assert not llm.calls
    assert sorted(path.name for path in Path().iterdir()) == ["items.jsonl", "reviews.jsonl"]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_broken_lines_are_told_once_under_their_own_name(
    more: tuple[str, ...], p4r: Run, llm: ScriptedLLM
) -> None:
    Path("my.jsonl").write_bytes(lines(ITEM))
    Path("said.jsonl").write_bytes(lines(REVIEW, FIVE, REVIEW | {"user_id": "v"}))
    done = p4r(*command("my.jsonl", "said.jsonl", *more), P4R_LLM__BASE_URL=llm.url)
    assert done.code == 2
    assert done.err.count("said.jsonl:2: rating: ") == done.err.count("refused: ") == 1
    assert "refused in all: 1 broken record" in done.err
    assert not llm.calls
    assert not Path("deep").exists()


def test_a_dry_run_writes_nothing(p4r: Run, llm: ScriptedLLM) -> None:
    done = p4r(*command(ITEMS, REVIEWS, "--dry-run"), P4R_LLM__BASE_URL=llm.url)
    assert done.code == 0
    assert "summaries" in done.out
    assert list(Path().iterdir()) == []


def test_a_dry_run_counts_what_the_run_asks(p4r: Run, llm: ScriptedLLM) -> None:
    """From the files themselves, without the copies that the run makes."""
    dry = p4r(*command(ITEMS, REVIEWS, "--dry-run"), P4R_LLM__BASE_URL=llm.url)
    counted = {row[0]: row[1] for line in dry.out.splitlines() if (row := line.split())}
    assert p4r(*command(ITEMS, REVIEWS), P4R_LLM__BASE_URL=llm.url).code == 0
    for step in ("summaries", "aspects"):
        assert counted[step] == str(sum(call.step == step for call in llm.calls))


@pytest.mark.parametrize(
    ("arguments", "settings", "code"),
    [
        (command("nothere", REVIEWS), {}, 2),
        (command(ITEMS, "nothere"), {}, 2),
        (command(ITEMS, REVIEWS, "--splits", "nothere"), {}, 2),
        (command(ITEMS, REVIEWS, "--domain", "poems"), {}, 2),
        (command(ITEMS, REVIEWS, "--steps", "poems"), {}, 2),
        (command(ITEMS, REVIEWS, "--steps", "personas"), {}, 2),
        (command(ITEMS, REVIEWS, "--no-wait"), {}, 2),
        (command(ITEMS, REVIEWS, "--profile", "after"), {}, 2),
        (command(ITEMS, REVIEWS), OPENAI, 2),
        (command(ITEMS, REVIEWS), {}, 2),  # the endpoint refuses the key
        (("judge", "personas", "--artifacts", "nothere", "--output", "j"), {}, 2),
        (("judge", "personas", "--artifacts", str(BOOKSHOP), "--output", "j"), OPENAI, 2),
        (("judge", "personas", "--artifacts", str(BOOKSHOP), "--output", "j"), {}, 2),
        (
            ("judge", "personas", "--artifacts", str(BOOKSHOP), "--output", "j", "--dry-run"),
            {},
            0,
        ),
        (("work", "--artifacts", "w", "--once"), OPENAI, 2),
        (("add", "nothere", "--artifacts", "w", "--domain", "poems"), {}, 2),
        (("add", "nothere", "--artifacts", "w"), OPENAI, 2),
    ],
    ids=range(17),
)
def test_a_command_that_fails_leaves_nothing(
    arguments: tuple[str, ...], settings: dict[str, str], code: int, p4r: Run, llm: ScriptedLLM
) -> None:
    llm.script = fails(401)
    done = p4r(*arguments, **{"P4R_LLM__BASE_URL": llm.url} | settings)
    assert done.code == code
    assert list(Path().iterdir()) == []


def test_what_was_there_before_a_failure_stays(p4r: Run, llm: ScriptedLLM) -> None:
    out = Path("deep/out")
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("mine")
    llm.script = fails(401)
    assert p4r(*command(ITEMS, REVIEWS), P4R_LLM__BASE_URL=llm.url).code == 2
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_what_is_paid_for_stays(p4r: Run, llm: ScriptedLLM) -> None:
    answered = llm.script
    llm.script = lambda call: fails(401) if len(llm.calls) > 3 else answered(call)  # type: ignore[operator]
    assert p4r(*command(ITEMS, REVIEWS), P4R_LLM__BASE_URL=llm.url).code == 2
    assert Path("deep/out/ledger/summaries.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(("leave", "kept"), [(30_000, False), (190_000, True)])
def test_a_full_disk_leaves_no_debris(leave: int, kept: bool, p4r: Run, llm: ScriptedLLM) -> None:
    """Full at the copies of the input, or among the answers."""
    with full_disk(Path("disk"), 1) as disk:
        disk.fill(leave)
        arguments = command(ITEMS, REVIEWS)
        arguments = (*arguments[:-1], "disk/out")
        done = p4r(*arguments, P4R_LLM__BASE_URL=llm.url)
        assert done.code == 1
        assert "no space left to write disk/out/" in done.sentence
        left = [str(path) for path in Path("disk").rglob("*")]
        assert Path("disk/out").exists() == kept
        assert not any(path.endswith((".unfinished", ".tmp")) for path in left), left
        hidden = [path for path in left if Path(path).name.startswith(".")]
        assert hidden == (["disk/out/ledger/.lock"] if kept else [])


# --- what belongs to somebody else --------------------------------------------------------------


def copied(*names: str) -> dict[str, bytes]:
    """The bookshop's files in the folder of artifacts, without a ledger: no run made them."""
    out = Path("deep/out")
    out.mkdir(parents=True)
    for name in names:
        shutil.copy(BOOKSHOP / name, out)
    return contents()


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["personas.jsonl", "items.jsonl"])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_files_that_no_run_made_are_replaced_only_with_force(
    name: str, more: tuple[str, ...], p4r: Run, llm: ScriptedLLM
) -> None:
    copied(name)
    Path("deep/out/items.jsonl").write_bytes(lines(ITEM))
    before = contents()
    done = p4r(*command(ITEMS, REVIEWS, *more), P4R_LLM__BASE_URL=llm.url)
    assert done.code == 2
    assert "is there already and this command did not write it; --force" in done.sentence
    assert contents() == before
    assert not llm.calls
    if not more:
        forced = p4r(*command(ITEMS, REVIEWS, "--force"), P4R_LLM__BASE_URL=llm.url)
        assert forced.code == 0
        again = p4r(*command(ITEMS, REVIEWS), P4R_LLM__BASE_URL=llm.url)
        assert again.code == 0, "what a run made, a run may replace"


@pytest.mark.parametrize("role", ["--items", "--splits"])
def test_no_input_is_written_over(role: str, p4r: Run, llm: ScriptedLLM) -> None:
    """An artifact as items, and splits under the name of the reviews."""
    copied("summaries.jsonl", "splits.jsonl")
    out = Path("deep/out")
    Path(out, "splits.jsonl").rename(out / "reviews.jsonl")
    before = contents()
    items = "deep/out/summaries.jsonl" if role == "--items" else ITEMS
    splits = ("--splits", "deep/out/reviews.jsonl")
    done = p4r(*command(items, REVIEWS, "--force", *splits), P4R_LLM__BASE_URL=llm.url)
    assert done.code == 2
    assert "is an input of this command" in done.sentence
    assert contents() == before


def test_results_that_no_judge_wrote_are_kept(p4r: Run, llm: ScriptedLLM) -> None:
    Path("j").mkdir()
    Path("j/rates.csv").write_text("mine")
    arguments = ("judge", "personas", "--artifacts", str(BOOKSHOP), "--output", "j")
    done = p4r(*arguments, P4R_LLM__BASE_URL=llm.url)
    assert done.code == 2
    assert "j/rates.csv is there already" in done.sentence
    assert contents() == {"j/rates.csv": b"mine"}
