"""`p4r peers` as a command, with a scripted LLM."""

import json
import re
from pathlib import Path

import pytest

from devtools.scripted_llm import ScriptedLLM, says
from tests.support import scripted_peers
from tests.support.command_line import Run
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read, write
from tests.support.paths import BOOKSHOP, ROOT, copy_bookshop
from tests.support.tiny_causal_lm import save_tiny_causal_lm

CANDIDATES = BOOKSHOP / "candidates.jsonl"
SHOP = ("--artifacts", "shop", "--domain", "books", "--candidates", str(CANDIDATES))


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path) -> None:
    """A copy: a folder notes where the results are that were made from it."""
    copy_bookshop(tmp_path / "shop")


def test_rank_counts_asks_and_resumes(p4r: Run, tmp_path: Path) -> None:
    command = ("peers", "rank", *SHOP, "--output", "ranked", "--users", "4", "--set", "words=30")
    with ScriptedLLM(scripted_peers.realistic) as llm:
        url = {"P4R_LLM__BASE_URL": llm.url, "P4R_LLM__MODEL": "m"}
        counted = p4r(*command, "--dry-run", **url)
        assert (counted.code, llm.calls) == (0, [])
        assert not (tmp_path / "ranked").exists()
        ranked = p4r(*command, **url)
        assert ranked.code == 0, ranked.err
        assert len(llm.calls) == 4
        again = p4r(*command, **url)
        assert (again.code, len(llm.calls)) == (0, 4)
    rows = read(tmp_path / "ranked" / "listwise.jsonl")
    given = {one["user_id"]: one["results"] for one in read(CANDIDATES)}
    for row in rows:
        ids = sorted(one["item_id"] for one in row["results"])
        assert ids == sorted(one["item_id"] for one in given[row["user_id"]])
    truth = str(BOOKSHOP / "splits.jsonl")
    ranking = str(tmp_path / "ranked" / "listwise.jsonl")
    assert p4r("evaluate", "--candidates", ranking, "--truth", truth).code == 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--peer", "best"), "there is no peer 'best'"),
        (("--set", "words"), "--set needs NAME=VALUE"),
        (("--set", "words=1"), "--set: words"),
        (("--set", "wordz=1"), "--set: wordz"),
        ((), "P4R_LLM__API_KEY"),
    ],
)
def test_a_mistake_is_one_sentence(
    more: tuple[str, ...], sentence: str, p4r: Run, tmp_path: Path
) -> None:
    result = p4r("peers", "rank", *SHOP, "--output", "ranked", *more)
    assert result.code == 2
    assert sentence in result.sentence
    assert not (tmp_path / "ranked").exists()


@pytest.mark.parametrize("peer", ["listwise", "explained"])
def test_no_usable_answer_is_no_ranking(peer: str, p4r: Run, tmp_path: Path) -> None:
    with ScriptedLLM(says("I cannot do that.")) as llm:
        url = {"P4R_LLM__BASE_URL": llm.url, "P4R_LLM__MODEL": "m"}
        result = p4r("peers", "rank", *SHOP, "--peer", peer, "--output", "r", "--users", "2", **url)
    assert (result.code, result.sentence[:8]) == (1, "none of ")
    assert "without a usable answer: " in result.out
    assert not (tmp_path / "r" / f"{peer}.jsonl").exists()


def test_bench_measures_peers_and_personas(
    p4r: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p4r_qdrant.encoder.loading.load_encoder", lambda _: HashEncoder(32))
    command = ("peers", "bench", *SHOP, "--output", "b", "--peers", "listwise,letters")
    with ScriptedLLM(scripted_peers.realistic) as llm:
        url = {"P4R_LLM__BASE_URL": llm.url, "P4R_LLM__MODEL": "m"}
        result = p4r(*command, "--users", "1,2", "--depths", "5,10", "--minutes", "1", **url)
        assert result.code == 0, result.err
    found = json.loads((tmp_path / "b" / "bench.json").read_text())
    peers = ["listwise", "letters", "personas", "personas, stored user vectors"]
    assert [one["peer"] for one in found["cells"]] == [name for name in peers for _ in range(4)]
    assert all(one["measured"] for one in found["cells"])
    assert found["earned_back"]["listwise"] > 1
    assert found["earned_back"]["personas"] is None
    assert "has cost as much after" in result.out
    wrong = p4r(*command, "--users", "none")
    assert "--users needs whole numbers with commas" in wrong.sentence
    wrong = p4r(*command, "--depths", "100", **url)
    assert "name smaller --depths" in wrong.sentence


def test_a_tuned_local_model_ranks(p4r: Run, tmp_path: Path) -> None:
    words = " ".join(path.read_text() for path in (ROOT / "prompts" / "products").glob("peer_*.md"))
    model = save_tiny_causal_lm(tmp_path / "model", f"{words} Yes No", positions=4000)
    tuned = p4r(
        *("peers", "tune", "--peer", "pointwise", "--local-model", str(model), "--domain", "books"),
        *("--artifacts", "shop", "--output", "tuned", "--epochs", "1", "--samples", "8"),
    )
    assert tuned.code == 0, tuned.err
    assert "dev examples" in tuned.out
    command = ("peers", "rank", *SHOP, "--peer", "pointwise", "--users", "2", "--output", "ranked")
    ranked = p4r(*command, "--local-model", str(model), "--adapter", "tuned")
    assert ranked.code == 0, ranked.err
    rows = read(tmp_path / "ranked" / "pointwise.jsonl")
    assert [one["failed"] for one in rows] == [0, 0]
    assert all(0 < item["score"] < 1 for one in rows for item in one["results"])
    wrong = p4r(*command, "--adapter", "tuned")
    assert wrong.sentence.endswith("--adapter needs --local-model")


def test_a_student_learns_from_a_teacher_and_ranks(p4r: Run, tmp_path: Path) -> None:
    words = " ".join(path.read_text() for path in (ROOT / "prompts" / "products").glob("peer_*.md"))
    model = str(save_tiny_causal_lm(tmp_path / "model", f"{words} 1 2 3 4 5", positions=4000))
    command = (
        *("peers", "tune", "--peer", "rated", "--local-model", model, "--artifacts", "shop"),
        *("--domain", "books", "--output", "tuned", "--samples", "8", "--set", "reviews=1"),
        *("--set", "words=20", "--rank", "2", "--epochs", "1"),
    )
    with ScriptedLLM(scripted_peers.realistic) as llm:
        url = {"P4R_LLM__BASE_URL": llm.url, "P4R_LLM__MODEL": "m"}
        counted = p4r(*command, "--dry-run", **url)
        assert (counted.code, llm.calls) == (0, []), counted.err
        assert not (tmp_path / "tuned").exists()
        tuned = p4r(*command, **url)
        assert tuned.code == 0, tuned.err
        calls = len(llm.calls)
        assert calls > 20
        assert p4r(*command, **url).code == 0
        assert len(llm.calls) == calls, "the teacher is paid once"
    assert "log-likelihood of a token" in tuned.out
    rank = ("peers", "rank", *SHOP, "--peer", "rated", "--users", "1", "--depth", "1")
    adapter = (
        "--local-model",
        model,
        "--adapter",
        "tuned",
        "--set",
        "reviews=1",
        "--set",
        "words=20",
    )
    ranked = p4r(*rank, *adapter, "--output", "ranked", "--set", "reasoning=false")
    assert ranked.code == 0, ranked.err
    [row] = read(tmp_path / "ranked" / "rated.jsonl")
    assert all(1 <= one["score"] <= 5 for one in row["results"])
    missing = p4r(*command, "--output", "other")
    assert missing.code == 2
    assert "P4R_LLM__API_KEY" in missing.err
    assert not (tmp_path / "other").exists()


def test_rate_prints_a_table_and_resumes(p4r: Run, tmp_path: Path) -> None:
    texts = {"user_profile": "calm", "item_description": "A film.", "item_profile_helpful": "light"}
    averages = {"user_average": 6.0, "item_average": 7.0}
    pairs = [{"user_id": f"u{n}", "item_id": "i", "rating": n % 10 + 1} for n in range(24)]
    write(tmp_path, "r.jsonl", [one | texts | averages for one in pairs])
    write(tmp_path, "i.jsonl", [{"user_id": f"u{n}", "item_id": "j"} for n in range(24)])
    command = ("peers", "rate", "--ratings", "r.jsonl", "--interactions", "i.jsonl")
    with ScriptedLLM(scripted_peers.realistic) as llm:
        url = {"P4R_LLM__BASE_URL": llm.url, "P4R_LLM__MODEL": "m"}
        counted = p4r(*command, "--output", "rated", "--dry-run", **url)
        assert (counted.code, llm.calls) == (0, [])
        found = p4r(*command, "--output", "rated", **url)
        assert found.code == 0, found.err
        calls = len(llm.calls)
        assert p4r(*command, "--output", "rated", **url).code == 0
        assert len(llm.calls) == calls == 2, "equal prompts are asked once"
    rows = json.loads((tmp_path / "rated" / "ratings.json").read_text())["rows"]
    valid = [one["name"] for one in rows if one["invalid"] == 0]
    assert valid[0] == "zero-shot, without averages"
    assert "leaks: its averages include test ratings" in found.out
    words = " ".join(path.read_text() for path in (ROOT / "prompts" / "products").glob("peer_*.md"))
    words += " 0 1 2 3 4 5 6 7 8 9"
    model = str(save_tiny_causal_lm(tmp_path / "model", words, positions=2000))
    local = ("--output", "local", "--local-model", model, "--set", "reasoning=false")
    student = ("--student", model, "--folds", "2", "--epochs", "1", "--rank", "2")
    counted = p4r(*command, *local, *student, "--dry-run")
    assert (counted.code, (tmp_path / "local").exists()) == (0, False)
    taught = p4r(*command, *local, *student)
    assert taught.code == 0, taught.err
    names = [
        one["name"] for one in json.loads((tmp_path / "local/ratings.json").read_text())["rows"]
    ]
    assert "student, without averages, 2 folds" in names
    alone = p4r(*command, "--output", "alone", "--trivial")
    assert alone.code == 0
    assert not (tmp_path / "alone" / "ledger").exists()


def test_compare_and_verdicts(p4r: Run, tmp_path: Path) -> None:
    rank = ("peers", "rank", *SHOP, "--output", "ranked", "--users", "5", "--depth", "3")
    with ScriptedLLM(scripted_peers.realistic) as llm:
        url = {"P4R_LLM__BASE_URL": llm.url, "P4R_LLM__MODEL": "m"}
        for peer in ("explained", "rated"):
            assert p4r(*rank, "--peer", peer, "--set", "reviews=1", **url).code == 0
    files = [
        f"{name}=ranked/{peer}.jsonl" for name, peer in (("xrec", "explained"), ("x", "rated"))
    ]
    command = ("peers", "compare", "--artifacts", "shop", "--output", "compared", "--raters", "2")
    options = [text for one in files for text in ("--explanations", one)]
    made = p4r(*command, *options, "--blind")
    assert made.code == 0, made.err
    assert "5 examples of xrec, x" in made.out
    page = (tmp_path / "compared" / "explanations.html").read_text()
    assert "It fits." in page
    assert "xrec" not in page
    for rater in (1, 2):
        path = tmp_path / "compared" / f"rater-{rater}.csv"
        head, *rows = path.read_text().splitlines()
        path.write_text("\n".join([head, *(re.sub(",,,,$", "A,A,A,tie,B", row) for row in rows)]))
    found = p4r("peers", "verdicts", "--folder", "compared")
    assert found.code == 0, found.err
    assert "Krippendorff" in found.out
    record = json.loads((tmp_path / "compared" / "verdicts.json").read_text())
    assert record["criteria"][0]["criterion"] == "intuitiveness"
    filled = [(tmp_path / "compared" / f"rater-{rater}.csv").read_text() for rater in (1, 2)]
    again = p4r(*command, *options, "--blind")
    assert "raters have filled rater-1.csv, rater-2.csv in compared" in again.sentence
    kept = [(tmp_path / "compared" / f"rater-{rater}.csv").read_text() for rater in (1, 2)]
    assert kept == filled
    (tmp_path / "compared" / "rater-2.csv").unlink()
    assert "has no such file: rater-2.csv" in p4r("peers", "verdicts", "--folder", "compared").out
    wrong = p4r(*command, "--explanations", "xrec")
    assert "--explanations needs NAME=FILE" in wrong.sentence
