"""Local models: one forward pass, tuning, and what goes wrong; with a model of two layers."""

import asyncio
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils
from transformers.trainer_utils import validate_quantization_for_training

from indexer.ledger import Ledger
from indexer.llm import Options, Request
from indexer.llm.wire import Completion
from indexer.peers import registry
from indexer.peers.held_orders import written_orders
from indexer.peers.local import (
    LocalModel,
    LocalModelError,
    Messages,
    by_length,
    last_logits,
    padded,
)
from indexer.peers.local_asker import LocalAsker
from indexer.peers.options import TunablePeer
from indexer.peers.protocol import PeerAnswer
from indexer.peers.recipes import TuningOptions, tunable
from indexer.peers.running import rank_all
from indexer.peers.tuning import tune_peer
from indexer.peers.tuning_data import (
    Example,
    TuningData,
    examples_of,
    tuning_data,
)
from indexer.peers.tuning_rows import auc, dev_value
from p4r_qdrant.encoder import hub
from p4r_qdrant.errors import InputError
from tests.support.jsonl import read
from tests.support.paths import ROOT
from tests.support.scripted_peers import Sources, query
from tests.support.tiny_causal_lm import save_tiny_causal_lm

YES_NO = Options(("Yes", "No"))
WORDS = ["red", "blue", "green", "yellow", "tall", "short", "wide", "round"]
TEXTS = " ".join(path.read_text() for path in (ROOT / "prompts" / "products").glob("peer_*.md"))
LETTERS = " ".join("ABCDEFGHIJKLMNOPQRST")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = f"{TEXTS} {LETTERS} Yes No calm loud utility book reader {' '.join(WORDS)}"
    return save_tiny_causal_lm(tmp_path_factory.mktemp("tiny"), words, positions=600)


@pytest.fixture
def model(folder: Path) -> LocalModel:
    return LocalModel.load(folder, device="cpu")


def planted(count: int, seed: int, *, rule: bool = True) -> list[Example]:
    """Yes where a candidate is calm, No where it is loud; without the rule, at random."""
    rng, found = random.Random(seed), []
    for number in range(count):
        liked = rng.random() < 0.5
        words = [rng.choice(WORDS) for _ in range(6)]
        words[rng.randrange(6)] = "calm" if liked else "loud"
        answer = liked if rule else rng.random() < 0.5
        user = f"Offered: {' '.join(words)}. Yes or No?"
        request = Request(
            "peer-pointwise", None, None, "m", system="Say.", user=user, options=YES_NO
        )
        found.append(Example(f"u{seed}-{number}", request, "Yes" if answer else "No"))
    return found


# --- one forward pass ---------------------------------------------------------------------------


def test_padding_and_batches_change_nothing(model: LocalModel) -> None:
    prompts = [
        model.tokens(Messages("Say.", f"Offered: {' '.join(WORDS[:n])}.")) for n in (1, 8, 3)
    ]
    together = model.option_logprobs(prompts, YES_NO)
    for prompt, found in zip(prompts, together, strict=True):
        with torch.inference_mode():
            logits = model.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        for text in YES_NO.texts:
            [token] = model.tokenizer.encode(text, add_special_tokens=False)
            assert found[text] == pytest.approx(float(logits[token]), abs=1e-4)


def test_batches_are_alike_in_length_and_within_the_limit() -> None:
    lengths = [5, 100, 7, 90, 300, 6]
    found = list(by_length(lengths, 200))
    assert sorted(place for batch in found for place in batch) == list(range(6))
    assert found == [[4], [1, 3], [2, 5, 0]]


def ranked(model: LocalModel, sources: Sources, names: Sequence[str], folder: Path) -> Any:
    async def go() -> list[PeerAnswer]:
        with Ledger(folder) as ledger:
            ask = LocalAsker(model, ledger)
            found = []
            for name in names:
                peer = registry.made(name, sources(words=20))
                found += await rank_all(peer, [query([1, 2, 3]), query([3, 1])], ask)
            return found

    return asyncio.run(go())


def test_peers_ask_a_local_model_and_its_ledger(
    model: LocalModel, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ranked(model, sources, ["letters", "pointwise"], tmp_path)
    assert [len(one.order) for one in found] == [3, 2, 3, 2]
    for one in found:
        assert one.failed == 0
        assert list(one.order) == sorted(one.scores, key=lambda item: -one.scores[item])
        assert one.usage.cost_usd == 0
    monkeypatch.setattr(LocalModel, "option_logprobs", None)
    assert [one.order for one in ranked(model, sources, ["letters", "pointwise"], tmp_path)] == [
        one.order for one in found
    ]


def test_an_order_is_held_to_its_form(model: LocalModel, sources: Sources, tmp_path: Path) -> None:
    model.longest = 4000
    for one in ranked(model, sources, ["listwise"], tmp_path):
        assert (one.failed, one.repaired) == (0, 0)
    [known, *_] = read(tmp_path / "peer-listwise.jsonl")
    assert re.fullmatch(r"(\[[123]\] > ){2}\[[123]\]", known["answer"])


def test_a_held_order_is_that_of_greedy_decoding(model: LocalModel) -> None:
    """Numbers of several tokens; several prompts at once, without what is known already."""
    characters = {one: 20 + at for at, one in enumerate("[]>0123456789")}

    def encode(text: str, **_: Any) -> list[int]:
        return [characters[one] for one in text.replace(" ", "")]

    model.tokenizer = SimpleNamespace(encode=encode, pad_token_id=0)
    prompts = [[5, 6, 7], [8] * 40, [9, 10] * 7]
    found = [one.text for one in written_orders(model, prompts, 12)]
    assert found == [_greedy(model, prompt, 12, encode) for prompt in prompts]
    assert len(set(found)) == 3
    for one in found:
        assert sorted(map(int, re.findall(r"\d+", one))) == list(range(1, 13))


def _greedy(model: LocalModel, prompt: list[int], count: int, encode: Any) -> str:
    """The same, character by character, each from the whole text."""
    left, order, number = {str(one) for one in range(1, count + 1)}, "[", ""
    while left:
        allowed = {one[len(number)] for one in left if one.startswith(number) and one != number}
        allowed |= {"]"} if number in left else set()
        inputs = padded([prompt + encode(order)], 0)
        logits = last_logits(model.model, inputs)[0, -1].detach()
        chosen = max(sorted(allowed), key=lambda one: float(logits[encode(one)[0]]))
        order += chosen
        number += chosen
        if chosen == "]":
            left.remove(number[:-1])
            number = ""
            order += " > [" if left else ""
    return order


def test_a_prompt_that_is_too_long_gets_smaller_windows(
    model: LocalModel, sources: Sources, tmp_path: Path
) -> None:
    model.longest = len(model.tokens(Messages("", "x"))) + 150

    async def go() -> PeerAnswer:
        with Ledger(tmp_path) as ledger:
            peer = registry.made("letters", sources())
            [answer] = await rank_all(peer, [query(range(16))], LocalAsker(model, ledger))
            return answer

    found = asyncio.run(go())
    assert sorted(found.order) == sorted(f"i{one}" for one in range(16))
    assert found.notes["windows made smaller"] > 0


# --- what goes wrong -----------------------------------------------------------------------------


def test_an_answer_that_cannot_be_used_is_kept_and_not_asked_again(
    model: LocalModel, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[int]] = []

    def unsure(_: LocalModel, prompts: Sequence[Sequence[int]], *__: int) -> list[Completion]:
        asked.extend(prompts)
        return [Completion(("Who knows?",), "", "stop", "", (9, 3), 0) for _ in prompts]

    model.longest = 4000
    monkeypatch.setattr("indexer.peers.local_asker.written_orders", unsure)
    for _ in range(2):
        found = ranked(model, sources, ["listwise"], tmp_path)
        assert [(one.order, one.failed) for one in found] == [
            (("i0", "i1", "i2"), 1),
            (("i0", "i1"), 1),
        ]
    assert len(asked) == 2


def test_what_is_no_causal_lm_is_one_sentence(tmp_path: Path) -> None:
    for config in ('{"model_type": "vit"}', "[1]", "[" * 100_000, None):
        source = tmp_path if config is not None else tmp_path / "nothing"
        (tmp_path / "config.json").write_text(config or "")
        with pytest.raises(InputError, match="is no causal language model") as caught:
            LocalModel.load(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="there is no file"):
        LocalModel.load(tmp_path / "x.gguf")


def test_a_model_that_is_not_here_is_one_sentence_without_a_hub(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The hub's own client says every try."""
    monkeypatch.setattr(hub, "why_unreachable", lambda: "no network")
    with pytest.raises(InputError, match=r"cannot be asked for it: no network$"):
        LocalModel.load("of-nobody/nothing")
    assert capfd.readouterr() == ("", "")


def test_an_adapter_that_does_not_fit_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no adapter for this model"):
        LocalModel.load(folder, tmp_path)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
)
def test_too_little_memory_is_one_sentence(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(LocalModelError, match="does not fit into the memory of this machine"):
        LocalModel.load(folder)


def test_an_option_without_a_token_is_one_sentence(model: LocalModel) -> None:
    with pytest.raises(InputError, match="has no single token for 'Perhaps'"):
        model.option_logprobs([[1]], Options(("Perhaps",)))


# --- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["letters", "pointwise"])
def test_examples_are_training_interactions_in_the_peers_prompts(
    name: TunablePeer, sources: Sources, material: Any
) -> None:
    held_out = material.folder.held_out()
    made = sources()
    every = list(examples_of(name, made, 0))
    assert len(every) > 15
    assert [one.answer for one in every] == [one.answer for one in examples_of(name, made, 0)]
    titles = {item: material.candidate(item).title for item in material.items()}
    for one in every:
        assert one.request.options is not None
        assert one.answer in one.request.options.texts
        chosen, _, offered = one.request.user.partition("Offered:")
        for item in (item for user, item in held_out if user == one.user_id):
            assert titles[item] not in chosen, "a held-out item in a history"
        if name == "letters":
            [line] = re.findall(rf"^\({one.answer}\) (.*)$", offered, re.MULTILINE)
            right = {i.item_id for i in material.histories.get(one.user_id)}
            assert any(titles[item] in line for item in right)
        else:
            assert (one.user_id, one.request.about["item_id"]) not in held_out
    answers = {one.answer for one in every}
    assert len(answers) > 1


def test_dev_users_are_others_and_too_few_are_one_sentence() -> None:
    found = tuning_data(planted(50, 0), 20, 0)
    assert (len(found.train), len(found.dev)) == (20, 10)
    assert not {one.user_id for one in found.train} & {one.user_id for one in found.dev}
    with pytest.raises(InputError, match="there are 4 examples to train on, and 8 are needed"):
        tuning_data(planted(5, 0), None, 0)


def test_what_cannot_be_tuned_is_one_sentence() -> None:
    with pytest.raises(InputError, match="the peer 'listwise' cannot be tuned: choose of letters"):
        tunable("listwise")


# --- tuning --------------------------------------------------------------------------------------

FAST = TuningOptions(epochs=10, learning_rate=1e-2, batch_size=8, at_once=8, patience=10)


@pytest.mark.parametrize("rule", [True, False])
def test_a_planted_rule_is_learned_and_noise_is_not(
    rule: bool, model: LocalModel, folder: Path, tmp_path: Path
) -> None:
    """64 examples, as in TALLRec; measured on users that chose nothing."""
    data = TuningData(planted(64, 1, rule=rule), planted(40, 2, rule=rule))
    found = tune_peer(model, "pointwise", data, tmp_path / "out", FAST)
    tuned = LocalModel.load(folder, tmp_path / "out", device="cpu")
    value = dev_value(tuned, "pointwise", planted(100, 3, rule=rule))
    assert found.measure == "AUC"
    assert value > 0.9 if rule else 0.35 < value < 0.65
    assert tuned.name != LocalModel.load(folder, device="cpu").name
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert (
        json.loads((tmp_path / "out" / "peer.json").read_text())["result"]["after"] == found.after
    )


def test_a_killed_run_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TuningData(planted(16, 1), planted(10, 2))
    short = TuningOptions(epochs=3, learning_rate=1e-2, batch_size=8, at_once=8)

    def tuned(output: Path) -> Any:
        model = LocalModel.load(folder, device="cpu")
        tune_peer(model, "pointwise", data, output, short)
        return (output / "adapter_model.safetensors").read_bytes()

    whole = tuned(tmp_path / "whole")
    calls = []

    def killed(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return dev_value(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("indexer.peers.tuning.dev_value", killed)
        with pytest.raises(KeyboardInterrupt):
            tuned(tmp_path / "killed")
    assert tuned(tmp_path / "killed") == whole
    with monkeypatch.context() as patch:
        patch.setattr("indexer.peers.tuning.dev_value", None)
        assert tuned(tmp_path / "killed") == whole, "a run that has ended is not repeated"
    with pytest.raises(InputError, match="holds another tuned peer"):
        tune_peer(
            LocalModel.load(folder, device="cpu"), "letters", data, tmp_path / "killed", short
        )


def test_auc_by_hand() -> None:
    import numpy as np

    assert auc(np.array([3.0, 1.0, 2.0]), [True, False, True]) == 1.0
    assert auc(np.array([1.0, 1.0]), [True, False]) == 0.5


def test_the_reader_of_gguf_files_draws_no_bar(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    LocalModel.load(folder, device="cpu")
    assert list(modeling_gguf_pytorch_utils.tqdm([1], desc="converting")) == [1]
    assert capfd.readouterr().err == ""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_bundled_gguf_file_is_dequantised(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    model = LocalModel.load(None)
    assert "quantizing" not in capfd.readouterr().err
    validate_quantization_for_training(model.model)
    prompts = [
        model.tokens(Messages("Answer Yes or No.", f"Is a {one} an animal?"))
        for one in ("horse", "chair")
    ]
    horse, chair = model.option_logprobs(prompts, YES_NO)
    assert all(-30 < one < 0 for own in (horse, chair) for one in own.values())
    assert horse["Yes"] - horse["No"] > chair["Yes"] - chair["No"]
