"""Expected ratings, by hand."""

import math

import pytest

from indexer.peers.scale import RatingScale


def test_a_plain_scale_keeps_its_names() -> None:
    scale = RatingScale(1, 5)
    assert scale.digits == ("1", "2", "3", "4", "5")
    found = scale.expected({"4": math.log(0.5), "5": math.log(0.25), "1": math.log(0.05)})
    assert found == pytest.approx((4 * 0.5 + 5 * 0.25 + 1 * 0.05) / 0.8)
    assert scale.shown(3.25) == "3.2"


def test_ten_ratings_are_shifted_to_one_digit() -> None:
    scale = RatingScale(1, 10)
    assert scale.digits == tuple("0123456789")
    assert scale.rating("9") == 10
    assert scale.rating("0") == 1
    assert scale.expected({"6": -700.0, "7": -700.0}) == pytest.approx(7.5), "no underflow"
    assert scale.shown(8.0) == "7.0"


def test_half_stars_are_mapped_on_ten_digits() -> None:
    scale = RatingScale(0.5, 5)
    assert scale.rating("0") == 0.5
    assert scale.rating("9") == 5
