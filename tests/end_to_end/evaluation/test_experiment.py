"""`p4r experiment`: what it writes, how it resumes, and what it refuses."""

import csv
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.evaluation.candidates import provenance_path
from indexer.evaluation.experiment import ablations, online
from indexer.evaluation.experiment import run as module
from indexer.evaluation.experiment import selection as choices
from indexer.evaluation.experiment.ablations import Variant
from indexer.evaluation.experiment.config import ExperimentConfig, load_config
from indexer.evaluation.experiment.report import write_report
from indexer.evaluation.experiment.run import run_experiment
from indexer.evaluation.experiment.stages import locked
from indexer.evaluation.experiment.wording import form_name
from indexer.evaluation.generators import hybrid
from indexer.evaluation.leaks.poison import MARKER
from indexer.evaluation.leaks.report import LeakError
from indexer.ledger import Ledger
from indexer.training.pairs import read_pairs, training_data
from indexer.updates.erasing.run import erasing
from p4r_qdrant.encoder import loading
from p4r_qdrant.encoder.adapter import AdapterRecord
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.settings import HistorySettings, TrainingSettings
from tests.support import warm
from tests.support.command_line import Run
from tests.support.hash_encoder import HashEncoder
from tests.support.html_page import Page
from tests.support.jsonl import read, write
from tests.support.paths import BOOKSHOP, ROOT, copy_bookshop
from tests.support.stored_words import files_with

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

EXAMPLE = ROOT / "examples" / "bookshop.toml"
ALL_VARIANTS = ablations.variants
SMALLER = {
    "generators": '["popularity", "ease"]\nextractive = "none"',
    "candidates": "[10]",
    "lengths": "[3]",
    "decays": "[1.0]",
}
HELD_OUT = ("bea-k", "winter-interpreter")


class Watched:
    """Progress that keeps the names of the stages, and stops the run when a stage begins."""

    def __init__(self, stop_at: str = "") -> None:
        self.stages: list[str] = []
        self._stop_at = stop_at

    def start(self, what: str, total: int | None = None) -> None:
        self.stages.append(what)
        if self._stop_at and what.startswith(self._stop_at):
            raise KeyboardInterrupt(what)

    def advance(self, count: int = 1) -> None:
        pass


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> HashEncoder:
    encoder = HashEncoder(64)
    monkeypatch.setattr(module, "load_encoder", lambda _: encoder)
    return encoder


@pytest.fixture(autouse=True)
def _few_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to see that variants and settings are compared; one test has all variants."""

    def few(*arguments: Any) -> Iterator[Variant]:
        groups = {"as it is", "number of personas", "LEAK"}
        yield from (one for one in ALL_VARIANTS(*arguments) if one.group in groups)

    monkeypatch.setattr(ablations, "variants", few)
    monkeypatch.setattr(hybrid, "LENGTHS", (3, 20))
    monkeypatch.setattr(hybrid, "DECAYS", (0.85, 1.0))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    # A demonstration's results are named in derived.json; they are not this test's.
    copy_bookshop(folder)
    return folder


def config(artifacts: Path, **changes: Any) -> ExperimentConfig:
    values: dict[str, Any] = {
        "name": "Test",
        "artifacts": artifacts,
        "generators": ["popularity", "ease"],
        "candidates": [10],
        "lengths": [2, 4],
        "decays": [0.7, 1.0],
        "weights": [0.3, 0.6],
        "personas": [1, 7],
        "interests": [0.0],
        "priors": [0.0],
        "extractive": "none",
    }
    return ExperimentConfig.model_validate(values | changes)


def ran(wanted: ExperimentConfig, output: Path, stop_at: str = "") -> dict[str, Any]:
    return run_experiment(wanted, output, Refusals(), Watched(stop_at))


def figures_of(results: dict[str, Any]) -> Any:
    """Results without what differs from run to run."""
    kept = {key: value for key, value in results.items() if key not in ("seconds", "environment")}
    kept["main"] = [{k: v for k, v in row.items() if k != "ms_a_user"} for row in kept["main"]]
    return json.loads(json.dumps(kept))


def test_everything_is_there(
    model: HashEncoder, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "variants", ALL_VARIANTS)
    generators = ["popularity", "ease", "personas-ease", "hybrid"]
    results = ran(config(shop, generators=generators, candidates=[5, 10]), tmp_path / "out")
    chosen = results["chosen"]["settings"]
    assert list(chosen) == ["ease", "personas-ease", "hybrid"]
    page = write_report(results, tmp_path / "out").read_text()
    assert form_name(chosen["hybrid"]) in page
    lines = [(row["generator"], row["candidates"], row["line"]) for row in results["main"]]
    assert lines == [
        (generator, count, line)
        for generator in generators
        for count in (5, 10)
        for line in ("generator alone", "personas, untrained", "fused, untrained")
    ]
    for row in results["main"]:
        value = row["metrics"]["HR@10"]
        assert value["low"] <= value["mean"] <= value["high"] <= 1
        assert row["metrics"]["HR@20"]["mean"] == pytest.approx(row["ceiling"])
        if row["encoder"]:
            assert row["own"]["p"] <= row["own"]["p_holm"] <= 1
            assert row["best"]["p"] <= row["best"]["p_holm"] <= 1
            assert row["ms_a_user"] > 0
    alone = next(row for row in results["main"] if row["generator"] == "ease")
    again = next(row for row in results["main"] if row["line"] == "personas, untrained")
    assert "own" not in alone
    assert "personas-ease" not in results["chosen"]["strongest"].values()
    tried = {
        name: json.loads(provenance_path(tmp_path / "out/lists" / f"{name}-0.jsonl").read_bytes())
        for name in generators
    }
    [third] = {one["lists"] for one in tried["hybrid"]["tried"] if "lists" in one}
    assert third in {f"{name}-0" for name in results["chosen"]["strongest"].values()}
    best = {name: max(one["value"] for one in own["tried"]) for name, own in tried.items()}
    assert best["hybrid"] >= max(best["popularity"], best["ease"]), (
        "it falls back on them by itself"
    )
    hypothetical = [row for row in results["main"] if row["generator"] == "personas-ease"]
    assert all(row["best"]["p_holm"] >= row["best"]["p"] for row in hypothetical)
    by_line = {(row["generator"], row["candidates"], row["line"]): row for row in results["main"]}
    for row in results["primary"]:
        ours = by_line[row["generator"], row["candidates"], row["line"]]
        theirs = by_line[row["against"]["generator"], row["candidates"], "generator alone"]
        values = [one["metrics"]["NDCG@10"]["mean"] for one in (ours, theirs)]
        assert row["ndcg"] == pytest.approx(values[0])
        assert row["against"]["mean"] == pytest.approx(values[0] - values[1])
    assert [row["candidates"] for row in results["primary"]] == [5, 10]
    nothing, *cold = results["cold"]
    assert nothing["metrics"]["HR@10"]["mean"] == 0
    assert [row["line"] for row in cold] == [
        "personas alone",
        "personas as hypothetical users",
        "both",
    ]
    assert {row["hidden_items"] for row in cold} == {4}
    assert again["ceiling"] == results["main"][0]["ceiling"], "no order gets beyond it"
    assert {row["segment"] for row in results["segments"]} >= {"head items", "tail items"}
    names = {row["name"] for row in results["ablations"]}
    assert names >= {
        "Eq. 10",
        "at most 1 personas an item",
        "mean vector of an item's",
        "summary-only index: no reviews",
        "mean over its personas",
        "soft maximum",
        "2 interactions",
        "decay 1",
        "without ratings up to 2",
        "ratings up to 2 count against",
        "several interests",
        "persona prior taken off",
        "encoder and words (TF-IDF)",
        "words alone",
        "learned weights of four forms",
    }
    [seven, as_it_is] = [
        row["mean"]
        for name in ("at most 7 personas an item", "Eq. 10")
        for row in results["ablations"]
        if (row["name"], row["generator"], row["candidates"], row["fused"])
        == (name, "ease", 10, False)
    ]
    assert seven == pytest.approx(as_it_is), "no book has more than seven"
    [through_the_index] = [
        row["metrics"]["NDCG@10"]["mean"]
        for row in results["main"]
        if (row["generator"], row["candidates"], row["line"]) == ("ease", 10, "personas, untrained")
    ]
    assert through_the_index == pytest.approx(as_it_is, abs=0.02)
    assert len(results["history"]) == 4
    assert len(results["examples"]) == 3
    assert all(check["leaks"] == 0 for check in results["leaks"])
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())


def test_choices_are_made_without_a_look_at_test_items(
    model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    """Other test items, other results; but the same lists, settings, weights and generator."""
    first = ran(config(shop), tmp_path / "one")
    splits = [json.loads(line) for line in (shop / "splits.jsonl").read_text().splitlines()]
    test = {(row["user_id"], row["test_item"]) for row in splits}
    other = {row["user_id"]: f"unseen-{row['user_id']}" for row in splits}
    write(shop, "splits.jsonl", [row | {"test_item": other[row["user_id"]]} for row in splits])
    reviews = [json.loads(line) for line in (shop / "reviews.jsonl").read_text().splitlines()]
    moved = [
        row | {"item_id": other[row["user_id"]]}
        if (row["user_id"], row["item_id"]) in test
        else row
        for row in reviews
    ]
    write(shop, "reviews.jsonl", moved)
    second = ran(config(shop), tmp_path / "two")
    assert second["chosen"] == first["chosen"]
    assert second["history"] == first["history"]
    for name in ("popularity-0", "ease-0"):
        lists = [(tmp_path / run / "lists" / f"{name}.jsonl").read_text() for run in ("one", "two")]
        assert lists[0] == lists[1]
    assert all(row["ceiling"] == 0 for row in second["main"])
    assert first["main"][0]["ceiling"] > 0


def test_killed_in_stage_after_stage_it_ends_the_same(
    model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    expected = ran(config(shop), tmp_path / "whole")
    encoded = len(model.encoded)
    for stage in ("tuning ease", "encoding", "choosing", "reranking", "ablations"):
        with pytest.raises(KeyboardInterrupt, match=stage):
            ran(config(shop), tmp_path / "killed", stop_at=stage)
    resumed = ran(config(shop), tmp_path / "killed")
    assert figures_of(resumed) == figures_of(expected)
    assert len(model.encoded) == 2 * encoded, "no text is encoded twice in one folder"


@pytest.mark.parametrize(
    "deaths",
    [
        (("encoding", 1), ("reranking", 70)),
        pytest.param(
            (("encoding", 1), ("writing", 3), ("reranking", 70), ("ablations", 0)),
            marks=pytest.mark.long,
        ),
    ],
    ids=["two", "four"],
)
def test_sigkill_again_and_again(deaths: tuple[tuple[str, int], ...], tmp_path: Path) -> None:
    """Killed in the middle of stages in one folder, it ends as one that never was."""

    examples = shutil.copytree(EXAMPLE.parent, tmp_path / "examples")
    if len(deaths) == 2:
        text = EXAMPLE.read_text()
        for name, values in SMALLER.items():
            text = re.sub(f"^{name} = .*", f"{name} = {values}", text, flags=re.MULTILINE)
        (examples / EXAMPLE.name).write_text(text)

    def process(output: str, *death: str) -> int:
        example = str(examples / EXAMPLE.name)
        command = [sys.executable, "-m", "tests.support.experiment_process", example]
        return warm.run([*command, str(tmp_path / output), *death], cwd=ROOT).returncode

    assert process("whole") == 0
    for stage, steps in deaths:
        assert process("killed", stage, str(steps)) == -signal.SIGKILL, stage
        assert not (tmp_path / "killed" / "results.json").exists()
    assert process("killed") == 0
    whole, killed = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed")
    )
    assert figures_of(killed) == figures_of(whole)
    [texts] = (tmp_path / "killed" / "vectors").glob("*.texts.jsonl")
    lines = texts.read_text().splitlines()
    assert len(lines) == len(set(lines)), "no text is encoded twice"


def test_what_is_done_is_not_done_again(model: HashEncoder, shop: Path, tmp_path: Path) -> None:
    results = ran(config(shop), tmp_path)
    encoded, made = len(model.encoded), (tmp_path / "lists" / "ease-0.jsonl").stat().st_mtime_ns
    again = ran(config(shop), tmp_path)
    assert figures_of(again) == figures_of(results)
    assert again["seconds"] == results["seconds"], "the stages were kept"
    assert len(model.encoded) == encoded
    assert (tmp_path / "lists" / "ease-0.jsonl").stat().st_mtime_ns == made
    other = ran(config(shop, decays=[0.9]), tmp_path)
    assert {row["decay"] for row in other["history"]} == {0.9}


def test_what_is_kept_of_people_is_private_and_can_be_erased(
    model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    results = ran(config(shop), output)
    write_report(results, output)
    user = results["examples"][0]["user"]
    said = next(one["aspects"][0] for one in results["examples"][0]["history"] if one["aspects"])
    theirs = {Path(one) for word in (user, said) for one in files_with(word, output)}
    assert {one.name for one in theirs} >= {"reviews.jsonl", "results.json", "report.html"}
    assert {oct(one.stat().st_mode & 0o077) for one in theirs} == {"0o0"}
    folder = ArtifactFolder(shop)
    with Ledger(shop / "ledger") as ledger, erasing(folder, ledger, [user], Refusals()) as erased:
        assert [one.where for one in erased.places] == [str(shop), str(output)]
    assert files_with(user, output, shop) == []
    assert files_with(said, output) == []
    assert (output / "lists" / "ease-0.jsonl").is_file()


def test_two_runs_do_not_share_a_folder(model: HashEncoder, shop: Path, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another experiment is writing to"):
        ran(config(shop), tmp_path)


def test_it_refuses_where_something_leaks(model: HashEncoder, shop: Path, tmp_path: Path) -> None:
    leak = {
        "user_id": HELD_OUT[0],
        "item_id": HELD_OUT[1],
        "persona_id": f"{HELD_OUT[1]}_P1",
        "justification": "",
    }
    with (shop / "alignments.jsonl").open("a") as file:
        file.write(json.dumps(leak) + "\n")
    with pytest.raises(LeakError, match=r"alignments.jsonl:65 is of user 'bea-k'"):
        ran(config(shop), tmp_path / "out")
    assert model.encoded == [], "nothing was made"
    assert not (tmp_path / "out" / "results.json").exists()


def test_lists_that_were_changed_are_made_again(
    model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        ran(config(shop), tmp_path, "choosing")
    path = tmp_path / "lists" / "ease-0.jsonl"
    honest = path.read_text()
    path.write_text(honest.replace("salt-orchard", "tin-parliament"))
    ran(config(shop), tmp_path)
    assert path.read_text() == honest


def test_a_leaking_line_says_so_everywhere(model: HashEncoder, shop: Path, tmp_path: Path) -> None:
    leaking = tmp_path / "leaking"
    leaking.mkdir()
    rows = [json.loads(line) for line in (shop / "personas.jsonl").read_text().splitlines()]
    for row in rows:
        row["personas"][0]["evidence"] += [HELD_OUT[0]]
    write(leaking, "personas.jsonl", rows)
    results = ran(config(shop, leaking=leaking), tmp_path / "out")
    assert [row["group"] for row in results["ablations"]].count("LEAK") == 4
    assert {row["encoder"] for row in results["main"]} == {None, "untrained"}
    page = write_report(results, tmp_path / "out").read_text()
    assert page.count("It is not a result.") >= 3
    for name in ("main", "segments", "ablations", "history"):
        rows = list(csv.DictReader((tmp_path / "out" / f"{name}.csv").read_text().splitlines()))
        assert all(row["leaking"] == "True" for row in rows), name
    honest = ran(config(shop), tmp_path / "honest")
    assert "It is not a result." not in write_report(honest, tmp_path / "honest").read_text()


def test_extractive_personas_are_a_line_beside_those_of_the_folder(
    model: HashEncoder, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "variants", ALL_VARIANTS)
    results = ran(config(shop, extractive="line"), tmp_path / "out")
    names = [row["name"] for row in results["ablations"]]
    assert "extractive personas: no LLM" in names
    quoted = read(tmp_path / "out" / "extractive" / "personas.jsonl")
    assert all(one["extractive"] for item in quoted for one in item["personas"])
    assert (shop / "personas.jsonl").read_bytes() == (BOOKSHOP / "personas.jsonl").read_bytes()
    checked = [check["name"] for check in results["leaks"]]
    assert checked.count("evidence of personas") == 2


def test_an_experiment_needs_no_artifacts_when_all_are_extractive(
    model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    for name in ("summaries", "aspects", "personas", "alignments"):
        (shop / f"{name}.jsonl").unlink()
    wanted = config(shop, extractive="all")
    results = ran(wanted, tmp_path / "out")
    assert results["data"]["path"] == str(tmp_path / "out" / "extractive")
    assert results["leaks"]
    assert "(extractive)" in json.dumps(results["examples"])
    encoded = len(model.encoded)
    assert figures_of(ran(wanted, tmp_path / "out")) == figures_of(results)
    assert len(model.encoded) == encoded


def test_an_aggregated_persona_is_checked_and_compared(
    model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    single = tmp_path / "single"
    single.mkdir()
    rows = [json.loads(line) for line in (shop / "personas.jsonl").read_text().splitlines()]
    write(single, "personas.jsonl", [row | {"personas": row["personas"][:1]} for row in rows])
    results = ran(config(shop, aggregated=single), tmp_path / "out")

    def value(name: str) -> list[float]:
        return [row["mean"] for row in results["ablations"] if row["name"] == name]

    assert value("one persona of all reviews") == value("at most 1 personas an item")
    leaky = next(row for row in rows if row["item_id"] == HELD_OUT[1])
    leaky["personas"][0]["evidence"] = [HELD_OUT[0]]
    write(single, "personas.jsonl", rows)
    with pytest.raises(LeakError, match="rests on the held-out review of user 'bea-k'"):
        ran(config(shop, aggregated=single), tmp_path / "out")


def test_a_trained_encoder_has_lines_of_its_own(
    monkeypatch: pytest.MonkeyPatch, shop: Path, tmp_path: Path
) -> None:
    adapter = adapter_of(shop, tmp_path / "adapter")
    models = {None: HashEncoder(64), str(adapter): HashEncoder(32, fingerprint="trained-1")}
    monkeypatch.setattr(
        module,
        "load_encoder",
        lambda settings: models[settings.adapter and str(settings.adapter)],
    )
    encoder = {"model": "m", "adapter": str(adapter)}
    results = ran(config(shop, encoder=encoder), tmp_path / "out")
    lines = [row["line"] for row in results["main"] if row["generator"] == "ease"]
    assert lines == [
        "generator alone",
        "personas, untrained",
        "fused, untrained",
        "personas, trained",
        "fused, trained",
    ]
    assert results["ablations_encoder"] == "trained"
    assert results["chosen"]["encoders"]["trained"]["fingerprint"] == "trained-1"


def adapter_of(artifacts: Path, folder: Path) -> Path:
    """The record of an adapter that was trained on a folder's interactions, as they are now."""
    training, history = TrainingSettings(unjudged="any"), HistorySettings()
    with training_data(ArtifactFolder(artifacts), Refusals()) as data:
        pairs = read_pairs(data, training, history, Refusals())
    folder.mkdir()
    record = AdapterRecord(
        base="m",
        base_fingerprint="f",
        run="r",
        data_hash=pairs.hash(),
        examples=len(pairs.examples),
        settings={"training": training.model_dump(), "history": history.model_dump()},
        validation="v",
        metrics={},
        created_at="now",
    )
    (folder / "p4r.json").write_text(record.model_dump_json())
    return folder


def test_an_adapter_of_extractive_personas_is_taken_where_all_are_extractive(
    p4r: Run, model: HashEncoder, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was trained on what `p4r reason` makes of the same reviews; no other one."""
    monkeypatch.setattr(loading, "load_encoder", lambda _: model)
    quoted = tmp_path / "quoted"
    files = [
        text
        for name in ("items", "reviews", "splits")
        for text in (f"--{name}", str(shop / f"{name}.jsonl"))
    ]
    done = p4r("reason", "--strategy", "extractive", *files, "--artifacts", str(quoted))
    assert done.code == 0, done.err
    output, other = tmp_path / "out", adapter_of(shop, tmp_path / "other")
    encoder = {"model": "m", "adapter": str(other)}
    with pytest.raises(LeakError, match=r"other was trained on other data than the training"):
        ran(config(shop, extractive="all", encoder=encoder), output)
    encoder = {"model": "m", "adapter": str(adapter_of(quoted, tmp_path / "adapter"))}
    for name in ("summaries", "aspects", "personas", "alignments"):
        (shop / f"{name}.jsonl").unlink()
    wanted = config(shop, extractive="all", encoder=encoder)
    with pytest.raises(KeyboardInterrupt):  # what comes after the check of the adapter
        ran(wanted, output, stop_at="encoding texts, untrained")


def test_an_adapter_of_other_data_is_refused(
    model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    """One whose training set held a test item, and one that says nothing."""
    splits = (shop / "splits.jsonl").read_text()
    rows = [json.loads(line) for line in splits.splitlines()]
    write(shop, "splits.jsonl", [row for row in rows if row["user_id"] != HELD_OUT[0]])
    leaking = adapter_of(shop, tmp_path / "leaking")
    (shop / "splits.jsonl").write_text(splits)
    encoder = {"model": "m", "adapter": str(leaking)}
    with pytest.raises(LeakError, match=r"leaking was trained on other data than the training"):
        ran(config(shop, encoder=encoder), tmp_path / "out")
    (leaking / "p4r.json").unlink()
    with pytest.raises(LeakError, match=r"leaking has no record of what it was trained on"):
        ran(config(shop, encoder=encoder), tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()


def test_options_have_lines_where_they_are_better(
    model: HashEncoder, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better on validation items, that is; and through the index, as ever."""

    def half(*_: Any) -> list[dict[str, float]]:
        return [
            {"interests": 0.0, "prior": 0.0, "valid": 0.1},
            {"interests": 0.5, "prior": 0.25, "valid": 0.2},
        ]

    monkeypatch.setattr(choices, "options", half)
    results = ran(config(shop), tmp_path / "out")
    lines = [row["line"] for row in results["main"] if row["generator"] == "ease"]
    assert lines == [
        "generator alone",
        "personas, untrained",
        "fused, untrained",
        "personas, untrained, options",
        "fused, untrained, options",
    ]
    ranks = {row["line"]: row["metrics"] for row in results["main"] if row["generator"] == "ease"}
    assert ranks["personas, untrained"] != ranks["personas, untrained, options"]
    page = write_report(results, tmp_path / "out").read_text()
    assert "single interests 0.5 and persona prior 0.25" in page


def test_lists_made_elsewhere(model: HashEncoder, shop: Path, tmp_path: Path) -> None:
    ran(config(shop), tmp_path / "out")
    mine = tmp_path / "mine.jsonl"
    made = (tmp_path / "out" / "lists" / "ease-0.jsonl").read_text()
    mine.write_text(made)
    results = ran(config(shop, lists={"mine": mine}), tmp_path / "out")
    value = {
        (row["generator"], row["line"]): row["metrics"]["NDCG@10"]["mean"]
        for row in results["main"]
    }
    for line in ("generator alone", "personas, untrained", "fused, untrained"):
        assert value["mine", line] == value["ease", line]
    page = write_report(results, tmp_path / "out").read_text()
    assert page.count("mine.jsonl was made elsewhere") == 2, "above and below"
    rows = [json.loads(line) for line in made.splitlines()]
    rows[3]["results"][0]["item_id"] = MARKER
    write(tmp_path, "mine.jsonl", rows)
    with pytest.raises(LeakError, match=r"mine.jsonl:4 holds the marker"):
        ran(config(shop, lists={"mine": mine}), tmp_path / "out")
    valid = {
        (row["user_id"], row["valid_item"])
        for row in map(json.loads, (shop / "splits.jsonl").read_text().splitlines())
    }
    rows = [json.loads(line) for line in made.splitlines()]
    for row in rows:
        row["results"] = [
            one for one in row["results"] if (row["user_id"], one["item_id"]) not in valid
        ]
    write(tmp_path, "mine.jsonl", rows)
    with pytest.raises(InputError, match=r"mine.jsonl holds its user's validation item"):
        ran(config(shop, lists={"mine": mine}), tmp_path / "out")
    with pytest.raises(InputError, match=r"nothing.jsonl does not exist"):
        ran(config(shop, lists={"mine": tmp_path / "nothing.jsonl"}), tmp_path / "out")


def test_an_index_that_ranks_otherwise_is_found_out(
    model: HashEncoder, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = online.ranks

    def backwards(*arguments: Any) -> Any:
        return honest(*arguments)[::-1]

    monkeypatch.setattr(online, "ranks", backwards)
    with pytest.raises(P4RError, match="reranker and NumPy rank the held-out items"):
        ran(config(shop), tmp_path / "out")


def test_the_page_holds_all_and_trusts_nobody(
    model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script>"
    items = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()]
    write(shop, "items.jsonl", [row | {"title": f"{row['title']} & {evil}"} for row in items])
    personas = [json.loads(line) for line in (shop / "personas.jsonl").read_text().splitlines()]
    for row in personas:
        for persona in row["personas"]:
            persona["name"] = f"{evil} {persona['name']}"
    write(shop, "personas.jsonl", personas)
    results = ran(config(shop, name=evil), tmp_path / "out")
    page = write_report(results, tmp_path / "out").read_text()
    assert evil not in page
    assert "&lt;script&gt;" in page
    found = Page(page)
    found.check_harmless()
    found.check_tables()
    assert "<img" not in page, "charts are drawn in the colours of the page"
    for name in ("main", "personas", "history", "segments"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "out" / "main.csv").read_text().splitlines()))
    assert len(rows) == len(results["main"])
    assert float(rows[0]["NDCG@10"]) == pytest.approx(
        results["main"][0]["metrics"]["NDCG@10"]["mean"]
    )


@pytest.mark.parametrize("missing", ["splits.jsonl", "personas.jsonl", "reviews.jsonl"])
def test_a_folder_without_what_is_needed(
    missing: str, model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    (shop / missing).unlink()
    with pytest.raises(InputError, match=f"holds no {missing}"):
        ran(config(shop), tmp_path / "out")


def test_the_command(
    p4r: Run,
    model: HashEncoder,
    tmp_path: Path,
) -> None:
    done = p4r("experiment", str(EXAMPLE), "--output", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert "generator alone" in done.out
    assert f"report: {tmp_path / 'out' / 'report.html'}" in done.out
    assert (tmp_path / "out" / "report.html").is_file()
    done = p4r("experiment", "nowhere.toml", "--output", str(tmp_path / "no"))
    assert (done.code, done.sentence) == (
        2,
        "nowhere.toml cannot be read: No such file or directory",
    )
    assert not (tmp_path / "no").exists()


def test_several_experiments_by_one_command(
    p4r: Run, model: HashEncoder, shop: Path, tmp_path: Path
) -> None:
    small = 'artifacts = "shop"\ngenerators = ["ease"]\ncandidates = [10]\nlengths = [4]\n'
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\n{small}')
    files = [str(tmp_path / f"{name}.toml") for name in ("one", "two")]
    output = tmp_path / "out"
    done = p4r("experiment", *files, "--output", str(output))
    assert done.code == 0, done.err
    assert f"all together: {output / 'report.html'}" in done.out
    assert "Over all 44 users, with 10 candidates, NDCG@10 is " in " ".join(done.out.split())
    Page((output / "report.html").read_text()).check_harmless("one/report.html", "two/report.html")
    assert (output / "two" / "primary.csv").is_file()
    refused = p4r("experiment", *files, "--artifacts", str(shop), "--output", str(output))
    assert "are for one experiment; name them in the files" in refused.sentence
    refused = p4r("experiment", files[0], files[0], "--output", str(output))
    assert (refused.code, "have the same file name" in refused.sentence) == (2, True)


SMALL = f"""
name = "Bookshop"
artifacts = "{BOOKSHOP}"
domain = "books"
generators = ["popularity"]
candidates = [5]
lengths = [5]
decays = [0.7]
extractive = "none"

[encoder]
model = "all-MiniLM-L6-v2"
"""


@pytest.mark.parametrize("config", ["small", pytest.param("example", marks=pytest.mark.long)])
def test_the_command_with_the_real_model(
    p4r: Run,
    remembering_encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
) -> None:
    monkeypatch.setattr(module, "load_encoder", lambda _: remembering_encoder)
    path = EXAMPLE if config == "example" else tmp_path / "small.toml"
    if config == "small":
        path.write_text(SMALL)
    done = p4r("experiment", str(path), "--output", str(tmp_path / "out"))
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["chosen"]["encoders"]["untrained"]["name"] == "all-MiniLM-L6-v2"
    by_line: dict[str, list[float]] = {}
    for row in results["main"]:
        by_line.setdefault(row["line"], []).append(row["metrics"]["NDCG@10"]["mean"])
    assert sum(by_line["personas, untrained"]) > sum(by_line["generator alone"])
    assert load_config(EXAMPLE).name == results["name"]


def test_a_folder_of_somebody_else_is_left_alone(p4r: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "results.json").write_text("mine")
    result = p4r("experiment", str(EXAMPLE), "--output", str(folder))
    assert (result.code, result.sentence.startswith("no experiment wrote")) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["results.json"]
    assert (folder / "results.json").read_text() == "mine"


def test_without_a_catalogue_nothing_is_made(p4r: Run, tmp_path: Path) -> None:
    arguments = ("--artifacts", "nothere", "--output", "out")
    assert p4r("experiment", str(EXAMPLE), *arguments).code == 2
    assert not any(tmp_path.iterdir())
