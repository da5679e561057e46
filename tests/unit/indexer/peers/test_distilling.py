"""EXP3RT's student: what it learns from a teacher, and that it learns it."""

import asyncio
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.evaluation.experiment.config import PeerStudent
from indexer.evaluation.experiment.peer_student import FoldedStudents
from indexer.ledger import LEDGER, Ledger
from indexer.llm import Request
from indexer.peers.asking import RequestMaker
from indexer.peers.distilling import check_reasons, distilled, targets
from indexer.peers.generation import written
from indexer.peers.leaks import no_answer
from indexer.peers.local import LocalModel, Messages
from indexer.peers.local_asker import LocalAsker, local_settings
from indexer.peers.material import Material
from indexer.peers.options import PeerOptions
from indexer.peers.protocol import Asker
from indexer.peers.rated import Rated
from indexer.peers.rating_records import RatedPair
from indexer.peers.rating_student import Student
from indexer.peers.rating_study import STEP, RatingStudy, sampled
from indexer.peers.ratings import MARKER, RatingForm
from indexer.peers.recipes import TuningOptions
from indexer.peers.scale import RatingScale
from indexer.peers.trivial_ratings import TrivialPredictors, fold_of_each
from indexer.peers.tuned import RECORD, TeacherRecord, tuned_check
from indexer.peers.tuning import tune_peer
from indexer.peers.tuning_data import Example, TuningData
from indexer.progress import SILENT
from indexer.prompts import Domain
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings
from tests.support.scripted_peers import Planted, Sources, query
from tests.support.tiny_causal_lm import save_tiny_causal_lm

REASONS = "It is calm, as this reader likes it."


def teacher(request: Request) -> Any:
    """Answers all steps; without reasons for the rating 4."""
    if "likes" in str(request.schema):
        return {"likes": [f"Prose of {request.key[:4]}"], "dislikes": []}
    return None if "the rating 4," in request.system else {"text": REASONS}


def lessons(peer: Rated, ask: Any, samples: int | None = None) -> TuningData:
    return asyncio.run(distilled(peer, targets(peer, samples, 0), ask))


# --- what it learns ------------------------------------------------------------------------------


def test_a_teacher_answers_three_steps(sources: Sources, material: Material) -> None:
    peer, ask = Rated(sources(reviews=2)), Planted(teacher)
    data = lessons(peer, ask)
    every = [*data.train, *data.dev]
    kinds = {one.request.template for one in every}
    steps = ("preferences", "user_profile", "item_profile", "reasoned_rating")
    assert kinds == {Domain.load("books").version(f"peer_{one}") for one in steps}
    assert len({one.request.key for one in every}) == len(every), "each question is learned once"
    assert not {one.request.key for one in data.train} & {one.request.key for one in data.dev}
    rated = [one for one in every if MARKER in one.answer]
    given = {(u, i.item_id): i.rating for u in _users(material) for i in material.histories.get(u)}
    held_out = material.folder.held_out()
    for one in rated:
        pair = (one.request.about["user_id"], one.request.about["item_id"])
        assert pair not in held_out
        assert one.answer == f"{REASONS}\n{MARKER} {given[pair]:.0f}"
        assert "the rating" not in one.request.system, "the student does not see it"
    told = [one for one in ask.requests if "the rating" in one.system]
    assert len(told) > len(rated), "without reasons there is no example"


def _users(material: Material) -> list[str]:
    return list(material.histories.users())


def test_the_own_review_is_in_no_question_of_the_student(
    sources: Sources, material: Material
) -> None:
    """Nor does it count in the averages."""
    peer = Rated(sources(averages=True))
    train, dev = targets(peer, None, 0)
    for one in (*train, *dev):
        assert one.item_id not in {review.item_id for review in one.reviews}
        others = [r for r in material.reviews_of_item(one.item_id) if r.user_id != one.user_id]
        mean = material.average_of_item(one.item_id, without=one.user_id)
        assert mean == (sum(r.rating for r in others) / len(others) if others else None)
    data = lessons(peer, Planted(teacher))
    pairs = {(one.user_id, one.item_id) for one in (*train, *dev)}
    for example in (*data.train, *data.dev):
        about = example.request.about
        if len(about) == 2 and MARKER not in example.answer:  # a review's preferences
            owner = (about["user_id"], about["item_id"])
            assert owner not in pairs or example.user_id != owner[0]


def test_few_samples_ask_little(sources: Sources) -> None:
    train, dev = targets(Rated(sources(reviews=1)), 8, 0)
    assert (len(train), len(dev)) == (8, 2)


def test_a_teacher_without_reasons_teaches_no_ratings(sources: Sources) -> None:
    peer = Rated(sources(reviews=1))
    data = lessons(peer, Planted(teacher), 8)
    check_reasons(data)
    silent = Planted(lambda one: teacher(one) if "likes" in str(one.schema) else None)
    data = lessons(peer, silent, 8)
    assert data.train, "preferences and profiles"
    with pytest.raises(InputError, match="has given no usable reasons"):
        check_reasons(data)


def test_a_student_is_checked_by_its_teachers_answers(
    sources: Sources, material: Material, tmp_path: Path
) -> None:
    made = sources(reviews=1)
    ask = Planted(teacher)
    data = lessons(Rated(made), ask, 8)
    with Ledger(tmp_path / LEDGER) as ledger:
        for one in ask.requests:
            if (answer := teacher(one)) is not None:
                usage = {"calls": 1, "prompt_tokens": 1, "completion_tokens": 1, "cost_usd": 0.0}
                ledger.put(one.step, one.key, {"answer": answer, "problems": [], **usage})
    record = {
        "peer": "rated",
        "model": "tiny",
        "data": data.hash(),
        "domain": "books",
        "samples": 8,
        "peer_options": made.options.model_dump(),
        "options": {"seed": 0},
        "teacher": TeacherRecord.of(made.llm).model_dump(),
    }
    (tmp_path / RECORD).write_text(json.dumps(record))
    check = tuned_check("rated", tmp_path, material)
    assert (check.looked_at, check.unproven) == (len(data.train), "")
    shutil.rmtree(tmp_path / LEDGER)
    assert "tune it again" in tuned_check("rated", tmp_path, material).unproven


def test_every_query_has_a_student(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a user without training interactions, who is in no fold."""
    asked: list[int] = []

    async def student(_: FoldedStudents, fold: int, *__: Any) -> tuple[Asker, Rated]:
        asked.append(fold)
        return no_answer, Rated(sources())

    monkeypatch.setattr(FoldedStudents, "_student", student)
    made = sources()
    known = sorted(made.material.users())
    queries = [replace(query([1, 2]), user_id=one) for one in (*known, "nobody")]

    def load(*_: Any) -> Any:
        raise AssertionError

    folded = FoldedStudents(PeerStudent(folds=3), made, tmp_path, load, SILENT, 0)
    with Ledger(tmp_path / LEDGER) as ledger:
        [answers] = asyncio.run(folded.rank([queries], no_answer, ledger))
        assert asked == [0, 1, 2]
        assert [one.order for one in answers] == [("i0", "i1")] * len(queries)
        assert asyncio.run(folded.rank([[queries[-1]]], no_answer, ledger))[0]
    assert asked == [0, 1, 2, 0]


# --- that it learns it ---------------------------------------------------------------------------

SCALE = RatingScale(1, 5)
HOW = RatingForm(SCALE, reasoning=True)
COLOURS = ["red", "blue", "green"]
WORDS = f"{MARKER} Say. Rate: calm loud {' '.join(COLOURS)} 0 1 2 3 4 5 6 7 8 9 \n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_causal_lm(tmp_path_factory.mktemp("tiny"), WORDS, writes=True)


def planted(count: int, seed: int) -> list[Example]:
    """Five where an item is calm, one where it is loud; the reason names the word."""
    rng, found = random.Random(seed), []
    for number in range(count):
        word = rng.choice(["calm", "loud"])
        words = [rng.choice(COLOURS) for _ in range(3)]
        words[rng.randrange(3)] = word
        request = Request(
            *("peer-rated", None, None, "m"),
            system="Say.",
            user=f"Rate: {' '.join(words)}",
            options=HOW.form.options,
            max_tokens=12,
        )
        digit = 5 if word == "calm" else 1
        found.append(Example(f"u{seed}-{number}", request, f"{word}\n{MARKER} {digit}"))
    return found


def test_a_student_learns_reasons_and_ratings(folder: Path, tmp_path: Path) -> None:
    fast = TuningOptions(
        rank=16, epochs=20, learning_rate=1e-2, batch_size=8, at_once=8, patience=20
    )
    model = LocalModel.load(folder, device="cpu")
    data = TuningData(planted(48, 1), planted(8, 2))
    found = tune_peer(model, "rated", data, tmp_path / "out", fast)
    assert found.before < found.after < 0, "log-likelihoods"
    student, asked = LocalModel.load(folder, tmp_path / "out", device="cpu"), planted(8, 3)

    async def go() -> list[Any]:
        with Ledger(tmp_path / "ledger") as ledger:
            ask = LocalAsker(student, ledger)
            return list(await asyncio.gather(*(ask(one.request, None) for one in asked)))

    for example, answer in zip(asked, asyncio.run(go()), strict=True):
        predicted = HOW.predicted(answer.value)
        assert predicted is not None
        word, _, rest = example.answer.partition("\n")
        assert predicted.reasons == word
        assert predicted.rating == pytest.approx(int(rest[-1]), abs=0.5)


def test_answers_in_a_batch_are_those_of_one_alone(folder: Path) -> None:
    model = LocalModel.load(folder, device="cpu")
    prompts = [model.tokens(Messages("Say.", f"Rate: {' '.join(COLOURS[:n])}")) for n in (1, 3, 2)]
    together = written(model, prompts, 10, 5)
    for prompt, found in zip(prompts, together, strict=True):
        [alone] = written(model, [prompt], 10, 5)
        assert (found.text, found.finish_reason, found.tokens) == (
            alone.text,
            alone.finish_reason,
            alone.tokens,
        )
        assert found.logprobs is not None
        assert "".join(one.text for one in found.logprobs) == found.text
        assert all(len(one.alternatives) <= 5 for one in found.logprobs)


def test_no_example_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    model = LocalModel.load(folder, device="cpu")
    with pytest.raises(InputError, match="there is no example to learn from"):
        tune_peer(model, "rated", TuningData([], []), tmp_path, TuningOptions(rank=2))


def test_examples_too_long_for_the_model_are_left_out(folder: Path, tmp_path: Path) -> None:
    model = LocalModel.load(folder, device="cpu")
    long = Request("peer-rated", None, None, "m", system="Say.", user="calm " * 600)
    data = TuningData([*planted(8, 1), Example("u", long, f"calm\n{MARKER} 5")], planted(8, 2))
    found = tune_peer(model, "rated", data, tmp_path, TuningOptions(rank=2, epochs=1))
    assert (found.examples, found.left_out) == (8, 1)


# --- in folds ------------------------------------------------------------------------------------


def pairs(count: int) -> list[RatedPair]:
    texts = {"user_profile": "calm", "item_description": "red", "item_profile_helpful": "loud"}
    return [
        RatedPair(
            user_id=f"u{n}", item_id="i", rating=n % 10 + 1, user_average=6, item_average=7, **texts
        )
        for n in range(count)
    ]


def test_no_fold_is_predicted_by_a_student_that_saw_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def noted(model: LocalModel, peer: Any, data: TuningData, *rest: Any) -> Any:
        seen.append({one.user_id for one in (*data.train, *data.dev)})
        return tune_peer(model, peer, data, *rest)

    monkeypatch.setattr("indexer.peers.rating_student.tune_peer", noted)
    given = pairs(20)
    predictors = TrivialPredictors(given, [], RatingScale(1, 10))
    make = RequestMaker(STEP, Domain.load("products"), LLMSettings(model="m"))
    options = PeerOptions(highest=10, reasoning=False)
    study = RatingStudy(given, sampled(20, None), predictors, options, "helpful", make)

    def load(adapter: Path | None) -> LocalModel:
        model = LocalModel.load(folder, adapter, device="cpu")
        model.longest = 4000
        return model

    student = Student(study, load, tmp_path / "s", 2, TuningOptions(rank=2, epochs=1))
    with Ledger(tmp_path / "ledger") as ledger:
        rows = list(student.rows(student.told(), ledger, SILENT))
    assert [one.name for one in rows[::2]] == [
        "student, without averages, 2 folds",
        "student, with averages, 2 folds",
    ]
    assert [one.leaks for one in rows] == [False, False, True, True]
    assert [one.invalid for one in rows] == [0, 0, 0, 0]
    fold = fold_of_each(20, 2)
    for number, users in enumerate(seen):
        assert users == {f"u{n}" for n in np.flatnonzero(fold != number % 2)}
    assert student.told()[:2] == ["0", "1"], "on the scale of the digits"


def test_the_reasons_of_a_teacher_are_what_a_student_writes(tmp_path: Path) -> None:
    given = pairs(3)
    make = RequestMaker(STEP, Domain.load("products"), LLMSettings(model="m"))
    study = RatingStudy(
        given,
        sampled(3, None),
        TrivialPredictors(given, [], RatingScale(1, 10)),
        PeerOptions(highest=10),
        "helpful",
        make,
    )
    ask = Planted(lambda one: None if "the rating 1," in one.system else {"text": REASONS})

    def none(_: Path | None) -> LocalModel:
        raise AssertionError

    student = Student(study, none, tmp_path, 2, TuningOptions())
    answers: Sequence[str | None] = asyncio.run(student.lessons(ask))
    assert answers == [f"{REASONS}\n{MARKER} 0", None, f"{REASONS}\n{MARKER} 2"]
    assert "average" not in ask.requests[0].user


def test_a_local_model_asks_in_the_language_of_the_settings(folder: Path) -> None:
    model = LocalModel.load(folder, device="cpu")
    assert local_settings(model, "Czech").language == "Czech"
