"""`p4r evaluate` as people run it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import Run
from tests.support.jsonl import write
from tests.support.paths import BOOKSHOP, ROOT

FILES = {
    "--candidates": str(BOOKSHOP / "candidates.jsonl"),
    "--truth": str(BOOKSHOP / "splits.jsonl"),
}
PAPER = ROOT.parent / "shared" / "data" / "persona4rec-sample-amazon"


def command(*more: str, **other: Path) -> list[str]:
    files = FILES | {f"--{name}": str(path) for name, path in other.items()}
    return ["evaluate", *(part for pair in files.items() for part in pair), *more]


def test_the_bookshop(p4r: Run, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    done = p4r(*command("--json", str(written), segments=BOOKSHOP / "reviews.jsonl"))
    assert done.code == 0
    figures = json.loads(written.read_text())
    everybody = figures["parts"][0]
    assert everybody["users"] == 22
    assert everybody["ceiling"] == pytest.approx(19 / 22)
    assert f"{everybody['metrics']['NDCG@10']['mean']:.4f}" in done.out
    assert "0.8636" in done.out
    assert "cold users" in done.out
    assert "users whose test and validation item have one time stamp" in done.out


def test_against_itself_reversed(p4r: Run, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (BOOKSHOP / "candidates.jsonl").read_text().splitlines()]
    for row in rows:
        row["results"].reverse()
    other = write(tmp_path, "reversed.jsonl", rows)
    done = p4r(*command(against=other, on=Path("valid")))
    assert done.code == 0
    assert "reversed" in done.out.splitlines()[0]
    assert "lists that are not sorted by score; their order counts" in done.out


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"candidates": "nowhere.jsonl"}, "nowhere.jsonl cannot be read: No such file"),
        ({"truth": "nowhere.jsonl"}, "nowhere.jsonl cannot be read: No such file"),
        ({"truth": str(BOOKSHOP / "items.jsonl")}, "items.jsonl holds no test item; give a split"),
        ({"on": "train"}, "--on must be test or valid, not 'train'"),
    ],
)
def test_one_sentence_for_a_mistake(p4r: Run, other: dict[str, str], sentence: str) -> None:
    done = p4r(*command(**{name: Path(value) for name, value in other.items()}))
    assert done.code == 2
    assert sentence in done.sentence


def test_what_was_refused_is_said_and_the_rest_counts(p4r: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    shutil.copy(BOOKSHOP / "candidates.jsonl", broken)
    with broken.open("a") as file:
        file.write('{"user_id": "bea-k", "results": []}\n{\n')
    done = p4r(*command(candidates=broken))
    assert done.code == 2
    assert "HR@10" in done.out
    assert "refused in all: 1 repeated user, 1 broken record" in done.err


@pytest.mark.skipif(not PAPER.is_dir(), reason=f"the data are not there: {PAPER}")
def test_the_papers_own_lists(p4r: Run) -> None:
    done = p4r(*command(candidates=PAPER / "candidate.jsonl", truth=PAPER / "gt.jsonl"))
    assert done.code == 0
    truth = dict(
        json.loads(line).values() for line in (PAPER / "gt.jsonl").read_text().splitlines()
    )
    hits = 0
    for line in (PAPER / "candidate.jsonl").read_text().splitlines():
        row = json.loads(line)
        hits += truth.get(row["user_id"]) in [one["item_id"] for one in row["results"][:10]]
    assert "46 users" in done.out
    assert "29  entries that are no item" in done.out
    assert f"{hits / 46:.4f}" in next(row for row in done.out.splitlines() if "HR@10" in row)


def test_candidates_of_our_own(p4r: Run, tmp_path: Path) -> None:
    output = tmp_path / "ease.jsonl"
    files = [f"--{name}={BOOKSHOP / f'{name}.jsonl'}" for name in ("reviews", "splits")]
    done = p4r("candidates", *files, "--model", "ease", "--top", "10", "--output", str(output))
    assert done.code == 0, done.err
    assert done.out.startswith("22 lists by ease (l2 ")
    assert "NDCG@10 on validation items" in done.out
    assert (tmp_path / "ease.jsonl.provenance.json").is_file()
    judged = p4r(*command(candidates=output, against=BOOKSHOP / "candidates.jsonl"))
    assert judged.code == 0
    assert "ease: lists of 10 to 10 entries" in judged.out

    done = p4r("candidates", *files, "--model", "magic", "--output", str(tmp_path / "no.jsonl"))
    assert done.code == 2
    assert done.sentence.startswith("there is no generator 'magic'; choose one of bpr, lightgcn")
    assert not (tmp_path / "no.jsonl").exists()
