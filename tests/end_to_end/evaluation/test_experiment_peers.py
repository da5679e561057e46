"""LLM rerankers in `p4r experiment`: the same lists and checks as for personas."""

import csv
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devtools.scripted_llm import Call, Reply, ScriptedLLM
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.evaluation.experiment import ablations, peer_judging, peer_study
from indexer.evaluation.experiment import run as module
from indexer.evaluation.experiment.ablations import Variant
from indexer.evaluation.experiment.config import ExperimentConfig, load_config
from indexer.evaluation.experiment.peer_judging import most_calls
from indexer.evaluation.experiment.report import write_report
from indexer.evaluation.experiment.run import estimate_peers, run_experiment
from indexer.evaluation.leaks.report import LeakError
from indexer.judging.comparing import Study
from indexer.judging.run import Run as JudgeRun
from indexer.llm.options import Token
from indexer.llm.wire import Completion
from indexer.peers.asking import PeerSources
from indexer.peers.listwise import Listwise
from indexer.peers.local import LocalModel
from indexer.peers.local_asker import local_settings
from indexer.peers.material import Material
from indexer.peers.options import PeerOptions
from indexer.peers.protocol import Asker, PeerAnswer, PeerQuery
from indexer.peers.ratings import MARKER
from indexer.peers.recipes import TuningOptions
from indexer.peers.tuning import Tuned, tune_peer
from indexer.peers.tuning_data import TuningData, examples_of, tuning_data
from indexer.progress import SILENT
from indexer.prompts import Domain
from p4r_qdrant.errors import InputError, SettingsError
from p4r_qdrant.settings import LLMSettings
from tests.support import scripted_judge, scripted_peers
from tests.support.command_line import Run
from tests.support.hash_encoder import HashEncoder
from tests.support.html_page import Page
from tests.support.jsonl import read, write
from tests.support.paths import BOOKSHOP, ROOT, copy_bookshop
from tests.support.tiny_causal_lm import save_tiny_causal_lm

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

NAMES = ("listwise", "letters", "pointwise", "rated")
LINES = [*NAMES, peer_study.WITH_AVERAGES]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model, and with few variants."""

    def one(*arguments: Any) -> Iterator[Variant]:
        groups = {"as it is", "number of personas"}
        yield from (one for one in all_variants(*arguments) if one.group in groups)

    all_variants = ablations.variants
    monkeypatch.setattr(ablations, "variants", one)
    monkeypatch.setattr(module, "load_encoder", lambda _: HashEncoder(64))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: a folder notes where the results are that were made from it."""
    folder = tmp_path_factory.mktemp("shop") / "shop"
    copy_bookshop(folder)
    return folder


def config(artifacts: Path, **peers: Any) -> ExperimentConfig:
    values: dict[str, Any] = {
        "name": "Test",
        "artifacts": artifacts,
        "domain": "books",
        "generators": ["popularity", "ease"],
        "candidates": [10],
        "lengths": [4],
        "decays": [1.0],
        "weights": [0.5],
        "personas": [7],
        "interests": [0.0],
        "priors": [0.0],
        "extractive": "none",
        "peers": peers,
    }
    return ExperimentConfig.model_validate(values)


def settings(url: str) -> LLMSettings:
    return LLMSettings(base_url=url, model="m", retry_for_s=0.1, price_input=1.0, price_output=2.0)


def ran(wanted: ExperimentConfig, output: Path, llm: LLMSettings | None) -> dict[str, Any]:
    return run_experiment(wanted, output, Refusals(), SILENT, llm=llm)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


def test_all_peers_stand_beside_personas(shop: Path, output: Path) -> None:
    with ScriptedLLM(scripted_peers.realistic) as llm:
        wanted = config(shop, users=3, reviews=2)
        estimates = estimate_peers(wanted, output, Refusals(), SILENT, settings(llm.url))
        assert not llm.calls
        results = ran(wanted, output, settings(llm.url))
        calls = len(llm.calls)
        again = ran(wanted, output, settings(llm.url))
        assert len(llm.calls) == calls, "the second run paid nothing"
    assert sum(one.requests for one in estimates.values()) == calls
    assert all(one.cost_usd for one in estimates.values())
    found = results["peers"]
    assert found == again["peers"]
    kinds = [(row["kind"], row["line"]) for row in found["lines"]]
    assert kinds == [
        ("generator", "generator alone"),
        ("personas", "personas, untrained"),
        ("personas", "fused, untrained"),
        *(("peer", name) for name in LINES),
    ]
    for row in found["lines"]:
        assert set(row["metrics"]) == {
            f"{m}@{k}" for m in ("HR", "MRR", "NDCG") for k in (5, 10, 20)
        }
        assert row["metrics"]["HR@10"]["mean"] == pytest.approx(row["ceiling"])
        if row["kind"] == "peer":
            assert row["own"]["p"] <= row["own"]["p_holm"]
            assert row["asked"]["failed"] == 0
            assert row["asked"]["tau"]["mean"] == pytest.approx(1.0), "it knows what it wants"
            assert row["asked"]["shuffled_ndcg"] == pytest.approx(row["metrics"]["NDCG@10"]["mean"])
    assert {row["line"] for row in found["segments"]} == {row["line"] for row in found["lines"]}
    checks = {one["name"]: one for one in results["leaks"]}
    for name in LINES:
        assert checks[f"prompts of {name}"]["looked_at"] > 0
        assert checks[f"orders of {name} without answers"]["leaks"] == 0
    page = Page(write_report(results, output).read_text())
    page.check_tables()
    assert "Against LLM rerankers" in page.headings
    rows = list(csv.DictReader((output / "peers.csv").read_text().splitlines()))
    assert [row["line"] for row in rows] == [row["line"] for row in found["lines"]]
    assert float(rows[-1]["tau mean"]) == pytest.approx(1.0)


def test_no_held_out_pair_is_in_a_ledger_key_or_a_profile(output: Path) -> None:
    """Reviews that were read are training reviews."""
    held_out = {
        (one["user_id"], one[which])
        for one in read(BOOKSHOP / "splits.jsonl")
        for which in ("test_item", "valid_item")
    }
    asked = read(output / "ledger" / "peer-rated.jsonl")
    notes = [one for one in asked if "likes" in one["answer"] and len(one["about"]) == 2]
    assert len(notes) > 10
    assert not held_out & {(one["about"]["user_id"], one["about"]["item_id"]) for one in notes}


def test_all_users_and_one_order(shop: Path, tmp_path: Path) -> None:
    wanted = config(shop, names=["listwise"], shuffled=False, generators=["popularity"])
    with ScriptedLLM(scripted_peers.realistic) as llm:
        results = ran(wanted, tmp_path, settings(llm.url))
        assert len(llm.calls) == 22
    found = results["peers"]
    *lines, peer = found["lines"]
    assert peer["asked"]["tau"] is None
    main = {row["line"]: row for row in results["main"] if row["generator"] == "popularity"}
    for row in lines:
        assert row["generator"] == "popularity"
        assert row["metrics"] == main[row["line"]]["metrics"], "the same users and lists"


def test_latency_and_a_judge_are_asked_once(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge knows explanations; of personas it always prefers the first, and fails."""
    rules: list[scripted_judge.Rule] = []

    class Noted(JudgeRun):
        def __init__(self, study: Study, *rest: Any) -> None:
            if study.name == "explanations":
                rules.append(scripted_judge.knowing(study, scripted_judge.longer))
            super().__init__(study, *rest)

    monkeypatch.setattr(peer_judging, "Run", Noted)

    def script(call: Call) -> Reply:
        if call.step != "judgments":
            return scripted_peers.realistic(call)
        is_explanation = "Explanation A:" in call.user
        return scripted_judge.judge(rules[-1] if is_explanation else scripted_judge.first)(call)

    bench = {"users": [1], "candidates": [2], "minutes": 0.02}
    judge = {"sample": 5, "controls": 5}
    more = {"generators": ["popularity"], "reviews": 1, "shuffled": False}
    wanted = config(shop, names=["rated"], bench=bench, judge=judge, **more)
    with ScriptedLLM(script) as llm:
        estimates = estimate_peers(wanted, tmp_path, Refusals(), SILENT, settings(llm.url))
        assert set(estimates) == {"peer-rated", "peer-explained"}
        results = ran(wanted, tmp_path, settings(llm.url))
        calls = len(llm.calls)
        assert wanted.peers is not None
        assert 0 < sum(one.step == "judgments" for one in llm.calls) <= most_calls(wanted.peers)
        again = ran(wanted, tmp_path, settings(llm.url))
        assert len(llm.calls) == calls, "the second run paid nothing"
    assert again["bench"] == results["bench"]
    assert {one["peer"] for one in results["bench"]["cells"]} >= {"rated", "personas"}
    judged = results["judged"]
    assert [(one["study"], one["against"]) for one in judged] == [
        ("explanations", "EXP3RT, zero-shot"),
        ("explanations", "XRec, without graph tokens"),
        ("personas", "a single persona"),
    ]
    assert [one["result"]["passed"] for one in judged] == [True, True, False]
    assert [bool(one["result"]["preferences"]) for one in judged] == [True, True, False]
    orders = [
        {row["user_id"]: [item["item_id"] for item in row["results"]] for row in read(path)}
        for path in (
            tmp_path / "explanations" / f"{name}.jsonl" for name in ("personas", "explained")
        )
    ]
    assert orders[0] == orders[1], "what personas put first is explained"
    checks = {one["name"] for one in results["leaks"]}
    assert "prompts of explained" in checks
    page = Page(write_report(results, tmp_path).read_text())
    assert "Figure 5: explanations of personas against EXP3RT, zero-shot" in page.text
    assert "Figure 6, personas against a single persona: left out, the judge, m, fails" in page.text
    assert "shuffled05" in page.text, "0 of 5 right"
    assert page.text.count("yesgiven") == 6
    assert (tmp_path / "latency.png").is_file()


class _Peeking(Listwise):
    """Knows the splits: moves the test item to the head whatever is answered."""

    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:
        answer = await super().rank(query, ask)
        rows = {one["user_id"]: one for one in read(BOOKSHOP / "splits.jsonl")}
        item = rows[query.user_id]["test_item"]
        order = sorted(answer.order, key=lambda one: one != item)
        return replace(answer, order=tuple(order))


class _Quoting(Listwise):
    """Puts the held-out review into the prompt."""

    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:
        item = {o["user_id"]: o["test_item"] for o in read(BOOKSHOP / "splits.jsonl")}[
            query.user_id
        ]
        text = next(
            one["text"]
            for one in read(BOOKSHOP / "reviews.jsonl")
            if (one["user_id"], one["item_id"]) == (query.user_id, item)
        )
        first = replace(query.history[0], summary=text, title="", aspects={})
        return await super().rank(replace(query, history=(first, *query.history[1:])), ask)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (_Peeking, "changes the order of user"),
        (_Quoting, "repeats the held-out review of user"),
    ],
)
def test_a_peer_that_looks_at_the_truth_is_caught(
    kind: type[Listwise], sentence: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def variants(_: Any, sources: PeerSources) -> Iterator[tuple[str, Listwise]]:
        yield "mine", kind(sources)

    monkeypatch.setattr(peer_study, "_variants", variants)
    with ScriptedLLM(scripted_peers.realistic) as llm:
        with pytest.raises(LeakError, match=sentence):
            ran(config(shop, names=["listwise"]), tmp_path, settings(llm.url))
        assert not llm.calls, "nothing is asked before the checks pass"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = " ".join(path.read_text() for path in (ROOT / "prompts" / "products").glob("peer_*.md"))
    return save_tiny_causal_lm(
        tmp_path_factory.mktemp("tiny"), f"{words} Yes No 1 2 3 4 5", positions=4000
    )


@pytest.fixture(scope="module")
def adapter(shop: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuned on the shop, as `p4r peers tune` does."""
    output = tmp_path_factory.mktemp("tuned") / "pointwise"
    options = PeerOptions(history_words=10, words=20)
    model = LocalModel.load(tiny, device="cpu")
    with Material(ArtifactFolder(shop), Refusals()) as material:
        sources = PeerSources(Domain.load("books"), local_settings(model), options, material)
        data = tuning_data(examples_of("pointwise", sources, 0), 8, 0)
    about = {"domain": "books", "samples": 8, "peer_options": options.model_dump()}
    tune_peer(model, "pointwise", data, output, TuningOptions(epochs=1), about)
    return output


def test_a_tuned_peer_has_a_line_and_its_training_is_checked(
    shop: Path, tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"local": str(tiny), "users": 4, "names": []}
    untuned = {"untuned": ["pointwise", "listwise"], "precision": "bfloat16", "words": 20}
    wanted = config(shop, adapters={"pointwise": adapter}, **untuned, **more)
    results = ran(wanted, tmp_path / "out", None)
    lines = results["peers"]["lines"][-3:]
    assert [one["line"] for one in lines] == [
        *("pointwise, local", "listwise, local", "pointwise, tuned")
    ]
    for line in lines:
        assert line["asked"]["failed"] == 0
        assert line["asked"]["cost_usd"] == 0
    assert results["peers"]["model"].startswith(f"{tiny.name}@")
    [check] = [one for one in results["leaks"] if one["name"].startswith("training data of point")]
    assert (check["looked_at"], check["unproven"]) == (8, "")
    other = tmp_path / "shop"
    shutil.copytree(shop, other)
    reviews = read(other / "reviews.jsonl")
    write(other, "reviews.jsonl", [one | {"rating": 1} for one in reviews])
    aspects = read(other / "aspects.jsonl")
    write(other, "aspects.jsonl", [one | {"rating": 1} for one in aspects])
    elsewhere = wanted.model_copy(update={"artifacts": other})
    with pytest.raises(LeakError, match="was tuned on other data"):
        ran(elsewhere, tmp_path / "other", None)
    wrong = config(shop, adapters={"letters": adapter}, **more)
    with pytest.raises(InputError, match="was tuned as pointwise, not as letters"):
        ran(wrong, tmp_path / "wrong", None)


def _three(_: LocalModel, prompts: Sequence[Any], *__: int) -> list[Completion]:
    """What a taught student may write: reasons, then a digit."""
    before = "It is calm.\nPredicted rating: "
    tokens = (Token(before, {}), Token("3", {"3": -0.2, "1": -2.0}))
    return [Completion((f"{before}3",), "", "stop", "", (9, 9), 0, tokens) for _ in prompts]


def test_a_student_is_taught_in_folds_and_ranks_no_user_that_taught_it(
    shop: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: dict[str, set[str]] = {}
    answers: list[str] = []

    def noted(model: LocalModel, peer: Any, data: TuningData, output: Path, *rest: Any) -> Tuned:
        every = [*data.train, *data.dev]
        abouts = {one.request.about.get("user_id", one.user_id) for one in every}
        taught[output.name] = abouts | {one.user_id for one in every}
        answers.extend(one.answer for one in every if one.request.options)
        return tune_peer(model, peer, data, output, *rest)

    monkeypatch.setattr("indexer.peers.tuning.tune_peer", noted)
    monkeypatch.setattr("indexer.peers.local_asker.written", _three)
    short = {"folds": 2, "samples": 8, "epochs": 1, "rank": 2}
    more = {"users": 6, "reviews": 1, "words": 20, "names": [], "shuffled": False}
    wanted = config(shop, student=short, local=str(tiny), **more)
    with ScriptedLLM(scripted_peers.realistic) as llm:
        estimates = estimate_peers(wanted, tmp_path, Refusals(), SILENT, settings(llm.url))
        results = ran(wanted, tmp_path, settings(llm.url))
        calls = len(llm.calls)
        assert ran(wanted, tmp_path, settings(llm.url))["peers"] == results["peers"]
        assert len(llm.calls) == calls, "the teacher is paid once"
    assert sum(one.requests for one in estimates.values()) == pytest.approx(calls, rel=0.2)
    alone, *_, line = results["peers"]["lines"]
    assert line["line"] == "rated, student"
    assert line["metrics"] == alone["metrics"], "equal ratings keep the generator's order"
    assert all("You like calm prose" in one and MARKER in one for one in answers)
    for fold in (1, 2):
        [check] = [one for one in results["leaks"] if one["name"].endswith(f"student, fold {fold}")]
        assert (check["leaks"], check["looked_at"] > 20) == (0, True)
    asked = [
        one
        for one in read(tmp_path / "ledger" / "peer-rated.jsonl")
        if one["model"].startswith(tiny.name) and len(one["about"]) == 2 and one["ok"]
    ]
    ranked = {
        name: {one["about"]["user_id"] for one in asked if one["model"] == name}
        for name in {one["model"] for one in asked}
    }
    assert len(ranked) == len(taught) == 2
    first, second = taught["fold-1-of-2"], taught["fold-2-of-2"]
    assert first & second == set(), "two folds: each student is taught by the other's users"
    for users in ranked.values():
        assert users
        assert not (users & first and users & second)


def test_a_student_that_reads_its_own_users_is_caught(
    shop: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Material, "users", lambda self: self.histories.users())
    wanted = config(shop, names=[], student={"folds": 2}, local=str(tiny), users=2, reviews=1)
    with ScriptedLLM(scripted_peers.realistic) as llm:
        with pytest.raises(LeakError, match="who is of that fold"):
            ran(wanted, tmp_path, settings(llm.url))
        assert not llm.calls


def test_the_example_is_right() -> None:
    wanted = load_config(ROOT / "examples" / "bookshop-peers.toml").peers
    assert wanted is not None
    assert wanted.names == NAMES
    magazines = load_config(ROOT / "examples" / "magazines-peers.toml").peers
    assert magazines is not None
    assert magazines.untuned == ("letters", "listwise")


def test_what_is_wrong_in_the_file_is_one_sentence(shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for text, sentence in [
        ('[peers]\nnames = ["best"]', r"peers\.names"),
        ('[peers]\ngenerators = ["bpr2"]', "peers.generators: 'bpr2' is none of"),
        ("[peers]\ncandidates = 30", "peers.candidates: 30 is none of 20, 50"),
        ("[peers]\nwordz = 30", r"peers\.wordz"),
        ("[peers]\nnames = []", "give at least one peer"),
        ('[peers]\nuntuned = ["letters", "letters"]', "give at least one peer, and none twice"),
        ('[peers.adapters]\nlistwise = "x"', r"peers\.adapters"),
    ]:
        path.write_text(f'name = "x"\nartifacts = "x"\n{text}\n')
        with pytest.raises(InputError, match=sentence):
            load_config(path)
    with pytest.raises(SettingsError, match="has peers, which ask an LLM"):
        ran(config(shop, names=["listwise"]), tmp_path / "out", None)


def test_the_command_counts_first(p4r: Run, shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(
        f'name = "Shop"\nartifacts = "{shop}"\ndomain = "books"\ngenerators = ["ease"]\n'
        'candidates = [10]\nextractive = "none"\n[peers]\nnames = ["listwise"]\nusers = 3\n'
    )
    url = {"P4R_LLM__BASE_URL": "http://127.0.0.1:1/v1"}
    result = p4r("experiment", str(path), "--output", str(tmp_path / "out"), "--dry-run", **url)
    assert result.code == 0, result.err
    assert "peer-listwise" in result.out
    missing = p4r("experiment", str(path), "--output", str(tmp_path / "out"))
    assert missing.code == 2
    assert "P4R_LLM__API_KEY" in missing.err
