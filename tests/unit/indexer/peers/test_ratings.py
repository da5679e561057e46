"""Ratings: trivial predictors by hand and on EXP3RT's data, and an LLM that is asked for them."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.artifacts.lines import Refusals
from indexer.llm import Request
from indexer.peers.asking import RequestMaker
from indexer.peers.options import PeerOptions
from indexer.peers.rating_records import RatedPair, item_profile, read_ratings, read_trained
from indexer.peers.rating_study import STEP, RatingStudy, sampled
from indexer.peers.scale import RatingScale
from indexer.peers.trivial_ratings import TrivialPredictors, fitted, rating_error
from indexer.prompts import Domain
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings
from tests.support.jsonl import write
from tests.support.paths import ROOT
from tests.support.scripted_peers import Planted

IMDB = ROOT.parent / "shared" / "data" / "imdb-exp3rt"
SCALE = RatingScale(1, 10)


def pair(user: str, item: str, rating: float, averages: tuple[float, float]) -> RatedPair:
    return RatedPair(
        user_id=user,
        item_id=item,
        rating=rating,
        user_average=averages[0],
        item_average=averages[1],
        user_profile="[Like]\n- calm films",
        item_description=f"A film of {item}.",
        item_profile_helpful="[Like]\n- the light",
        item_profile_similar="[Like]\n- the sound",
    )


PAIRS = [pair("u", "i", 9, (6.0, 7.0)), pair("v", "i", 5, (6.0, 7.0))]
TRAINED = [("u", "a"), ("u", "b"), ("v", "a"), ("v", "c"), ("w", "i"), ("x", "i")]


def study(pairs: list[RatedPair] = PAIRS, **options: Any) -> RatingStudy:
    return RatingStudy(
        pairs,
        sampled(len(pairs), None),
        TrivialPredictors(pairs, TRAINED, SCALE, folds=2),
        PeerOptions(highest=10, **options),
        "helpful",
        RequestMaker(STEP, Domain.load("products"), LLMSettings(model="m")),
    )


def test_trivial_predictors_by_hand() -> None:
    found = TrivialPredictors(PAIRS, TRAINED, SCALE, folds=2)
    # u: 6 * 3 - 9 = 9 over two training ratings; v: 6 * 3 - 5 = 13 over two.
    assert found.mean == pytest.approx(22 / 4)
    values = {one.name: one.values for one in found.all()}
    assert values["user + item - mean as printed"].tolist() == [7.5, 7.5]
    user = (9 - 11) / 7, (13 - 11) / 7
    item = (7 * 4 - 14 - 11) / 7
    clean = values["the same, test ratings taken out, shrunk by 5"]
    assert clean.tolist() == pytest.approx([5.5 + one + item for one in user])
    leaking = [one.name for one in found.all() if one.leaks]
    assert "item average as printed" in leaking
    assert not any("taken out" in name for name in leaking)


def test_errors_by_hand() -> None:
    found = rating_error(np.array([1.0, 5.0]), np.array([4.0, 9.0]))
    assert found.rmse == pytest.approx(math.sqrt(12.5))
    assert found.mae == 3.5
    assert found.rmse_interval[0] <= found.rmse <= found.rmse_interval[1]


def test_a_fit_never_sees_its_own_fold() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(60, 1))
    assert fitted(inputs, 3 + 2 * inputs[:, 0], 5) == pytest.approx(3 + 2 * inputs[:, 0])
    noise = rng.normal(size=60)
    assert np.corrcoef(fitted(inputs, noise, 5), noise)[0, 1] < 0.3


@pytest.mark.skipif(not IMDB.is_dir(), reason="EXP3RT's data are not here")
def test_trivial_predictors_on_the_imdb_data() -> None:
    refusals = Refusals()
    pairs = read_ratings(IMDB / "ratings_test.jsonl", refusals)
    trained = read_trained(IMDB / "interactions_org.jsonl", refusals)
    predictors = TrivialPredictors(pairs, trained, SCALE)
    assert (len(pairs), refusals.total) == (2073, 0)
    errors = {one.name: rating_error(one.values, predictors.truth) for one in predictors.all()}
    expected = {
        "constant 7.2": (2.314, 1.804),
        "user average as printed": (1.949, 1.478),
        "item average as printed": (2.016, 1.545),
        "user + item - mean as printed": (1.756, 1.313),
        "the same, test ratings taken out, shrunk by 5": (1.887, 1.423),
    }
    for name, (rmse, mae) in expected.items():
        assert errors[name].rmse == pytest.approx(rmse, abs=1e-3)
        assert errors[name].mae == pytest.approx(mae, abs=1e-3)


def test_an_llm_is_asked_without_and_with_averages() -> None:
    def answer(request: Request) -> Any:
        if request.about["user_id"] == "v" and "average of its ratings" not in request.user:
            return None
        return {"text": "8", "options": {"8": math.log(0.5), "7": math.log(0.5)}}

    ask = Planted(answer)
    rows = asyncio.run(study().asked_rows(ask))
    assert [one.name for one in rows] == [
        "zero-shot, without averages",
        "zero-shot, without averages, scaled in folds",
        "zero-shot, with averages",
        "zero-shot, with averages, scaled in folds",
    ]
    assert [one.invalid for one in rows] == [0.5, 0.5, 0.0, 0.0]
    assert [one.leaks for one in rows] == [False, False, True, True]
    # 8.5 for u; the mean, 5.5, for the invalid answer.
    assert rows[0].error.rmse == pytest.approx(math.sqrt((0.5**2 + 0.5**2) / 2))
    assert rows[2].error.mae == pytest.approx((0.5 + 3.5) / 2)
    texts = [one.user for one in ask.requests]
    assert "average" not in texts[0]
    assert "The average of this person's ratings is 5.0" in texts[2], "on the scale of the digits"
    order = [texts[0].index(one) for one in ("calm films", "A film of i", "the light")]
    assert order == sorted(order)


def test_wrong_inputs_are_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "r.jsonl", [{"user_id": "u", "item_id": "i", "rating": "x"}])
    with pytest.raises(InputError, match="holds no rated pair with averages"):
        read_ratings(tmp_path / "r.jsonl", Refusals())
    with pytest.raises(InputError, match="choose helpful or similar"):
        item_profile("best")
    assert json.dumps(sampled(5, 3).tolist()) == json.dumps(sorted(sampled(5, 3).tolist()))
