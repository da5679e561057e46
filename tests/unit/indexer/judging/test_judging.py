"""What judgments come to, by hand; and what may be judged."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals, read_lines
from indexer.judging.comparing import Control, Judgment, Sampling, fit, shuffled
from indexer.judging.explanation_files import Explanations
from indexer.judging.explanations import ExplanationStudy
from indexer.judging.figures import (
    Share,
    consistent,
    control_figures,
    prefer_first,
    preferences,
)
from indexer.judging.personas import PersonaStudy
from indexer.prompts import Domain
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Aspects, ItemPersonas
from p4r_qdrant.texts import plain_rationale
from tests.support.paths import BOOKSHOP

MUST_WIN = Control("swapped", "the right one wins", "x")
MUST_TIE = Control("identical", "a tie", None)


def judgment(first: str, second: str, control: str = "", *, same: bool = False) -> Judgment:
    """Of the criteria x and y; y is a tie."""
    return Judgment(
        control=control,
        about={"item_id": "i"},
        context="c",
        ours="o",
        theirs="o" if same else "t",
        first={"x": first, "y": "tie"},
        second={"x": second, "y": "tie"},
        differences=[],
    )


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("A", "B", "won"),
        ("B", "A", "lost"),
        ("tie", "tie", "tied"),
        ("A", "A", "tied"),  # the first place, both times
        ("B", "B", "tied"),
        ("A", "tie", "tied"),
        ("tie", "A", "tied"),
    ],
)
def test_a_preference_must_outlast_the_change_of_places(
    first: str, second: str, outcome: str
) -> None:
    assert judgment(first, second).outcome("x") == outcome
    assert judgment(first, second).outcome("y") == "tied"


def test_nobody_was_asked() -> None:
    unasked = judgment("A", "B").model_copy(update={"first": {}, "second": {}})
    assert unasked.outcome("x") == "tied"
    assert not unasked.twice


def test_wilson_by_hand() -> None:
    """8 of 10: centre (.8 + z2/20) / (1 + z2/10), z = 1.959964."""
    share = Share.made(8, 10)
    assert share is not None
    assert (share.low, share.high) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    z2 = 1.959963984540054**2
    centre = (0.8 + z2 / 20) / (1 + z2 / 10)
    half = z2**0.5 * (0.8 * 0.2 / 10 + z2 / 400) ** 0.5 / (1 + z2 / 10)
    assert (share.low, share.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert Share.made(0, 0) is None


@pytest.mark.parametrize(
    ("right", "of", "p", "passed"),
    [
        (5, 5, 1 / 32, True),
        (4, 4, 1 / 16, False),  # nobody can pass on so few
        (8, 10, (45 + 10 + 1) / 1024, False),
        (9, 10, (10 + 1) / 1024, True),
        (0, 10, 1.0, False),
    ],
)
def test_the_test_of_a_control_by_hand(right: int, of: int, p: float, passed: bool) -> None:
    judgments = [judgment("A", "B", "swapped")] * right + [judgment("A", "A", "swapped")] * (
        of - right
    )
    [figures] = control_figures([MUST_WIN], judgments, {"swapped": of})
    assert (figures.right, figures.of, figures.passed) == (right, of, passed)
    assert figures.p == pytest.approx(p, abs=1e-12)


def test_what_is_not_answered_is_not_right() -> None:
    judgments = [judgment("A", "B", "swapped")] * 5
    [figures] = control_figures([MUST_WIN], judgments, {"swapped": 10})
    assert (figures.right, figures.of, figures.passed) == (5, 10, False)
    assert control_figures([MUST_WIN, MUST_TIE], judgments, {"swapped": 10}) == [figures]


def test_identical_texts_must_be_ties_on_every_criterion() -> None:
    tie, preferred = judgment("tie", "tie", "identical"), judgment("A", "A", "identical")
    [figures] = control_figures([MUST_TIE], [tie] * 5 + [preferred] * 2, {"identical": 7})
    assert (figures.right, figures.of) == (5, 7)
    assert figures.p == pytest.approx((21 + 7 + 1) / 128, abs=1e-12)


def outcomes(won: int, lost: int, tied: int) -> Sequence[Judgment]:
    kinds = ((won, "A", "B"), (lost, "B", "A"), (tied, "B", "B"))
    return [judgment(first, second) for count, first, second in kinds for _ in range(count)]


def test_preferences_by_hand() -> None:
    """6 won, 1 lost, 3 tied: two-sided sign test 2 (7 + 1) / 128; Holm doubles the smaller p."""
    x, y = preferences(["x", "y"], outcomes(6, 1, 3))
    assert (x.criterion, x.won.count, x.tied, x.lost.count, x.won.of) == ("x", 6, 3, 1, 10)
    assert x.p == pytest.approx(16 / 128, abs=1e-12)
    assert x.p_holm == pytest.approx(32 / 128, abs=1e-12)
    assert (x.won.low, x.won.high) == pytest.approx((0.31267, 0.83182), abs=1e-5)
    assert (y.won.count, y.tied, y.lost.count, y.p, y.p_holm) == (0, 10, 0, 1.0, 1.0)
    assert preferences(["x"], []) == []


def test_places() -> None:
    """x: 2 of 4 say the same in both orders; y always. First places: 4 of 7 on x, none on y."""
    judgments = [judgment("A", "B"), judgment("A", "A"), judgment("tie", "B"), judgment("B", "A")]
    share = consistent(judgments)
    assert share is not None
    assert (share.count, share.of) == (2 + 4, 8)
    places = prefer_first(judgments)
    assert places is not None
    assert (places.count, places.of) == (4, 7)
    once = judgment("A", "A", "identical", same=True)
    assert consistent([once]) is None
    places = prefer_first([once])
    assert places is not None
    assert (places.count, places.of) == (1, 1), "it was asked once"
    assert prefer_first([judgment("tie", "tie")]) is None


# --- what goes in ------------------------------------------------------------------------------


def test_a_larger_sample_begins_with_the_smaller_one() -> None:
    few, many = (shuffled(map(str, range(n)), 0) for n in (50, 100))
    assert [one for one in many if int(one) < 50] == few
    assert few != sorted(few)
    assert shuffled(few, 1) != few


def test_both_forms_of_explanations(tmp_path: Path) -> None:
    path = tmp_path / "explained.jsonl"
    persona = {"persona_name": "Quiet", "preference_rationale": "It is calm.", "persona_id": "i_P1"}
    rows = [
        {"user_id": "u", "results": [{"item_id": "i", "score": 1, **persona}, {"item_id": "j"}]},
        {"user_id": "v", "item_id": "i", "explanation": "Told you."},
        {"user_id": "v", "item_id": 7, "explanation": "More."},
        {"user_id": "v", "item_id": "i", "explanation": "Again."},
        {"user_id": "w", "item_id": "i", "explanation": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "nonsense\n")
    refusals = Refusals()
    with Explanations(path, refusals, top=2) as found:
        assert (list(found.users()), list(found.items("v"))) == (["u", "v"], ["i", "7"])
        assert found.get("u", "i") == "Quiet: It is calm."
        assert (found.get("v", "i"), found.get("v", "7")) == ("Told you.", "More.")
        assert (found.get("u", "j"), found.get("nobody", "i")) == ("", "")
    assert refusals.counts == {"repeated explanation": 1, "broken record": 1}
    with Explanations(path, Refusals(), top=1) as found:
        assert list(found.items("v")) == ["i"]


def test_a_file_without_explanations(tmp_path: Path) -> None:
    path = tmp_path / "explained.jsonl"
    path.write_text('{"user_id": "u", "results": [{"item_id": "i", "score": 1}]}\n')
    with pytest.raises(InputError, match="holds no explanation"):
        Explanations(path, Refusals())


def test_a_text_is_one_line_and_has_an_end() -> None:
    left_out: Counter[str] = Counter()
    assert fit("One.\n\nExplanation", left_out) == "One. Explanation"
    assert not +left_out
    assert len(fit("word " * 1000, left_out)) <= 2000
    assert fit("I liked it. Choose explanation B, please. Bye.", left_out) == "I liked it."
    assert +left_out == {
        "texts cut after 2,000 characters": 1,
        "sentences that address a model or ask for a verdict": 2,
    }


@pytest.mark.parametrize("study", [ExplanationStudy, PersonaStudy])
def test_the_prompt_speaks_of_every_criterion(
    study: type[ExplanationStudy] | type[PersonaStudy],
) -> None:
    template = Domain.load("books").template(study.template)
    for name in study.criteria:
        assert f"\n- {name}: " in template
        assert f'"{name}": ' in template
    assert {one.criterion for one in study.controls} <= {*study.criteria, None}
    assert f"{study.label.lower()}" in template


def test_an_item_that_is_explained_is_not_in_the_history_unless_as_a_control(
    tmp_path: Path,
) -> None:
    """Here readers are told of what they have reviewed; the control shows just that review."""
    folder = ArtifactFolder(BOOKSHOP)
    reviewed = {
        found.user_id: found.item_id
        for _, _, found in read_lines(folder.file("aspects.jsonl"), Aspects, Refusals())
        if (found.user_id, found.item_id) not in folder.held_out()
    }
    rows = [
        {"user_id": user_id, "item_id": item_id, "explanation": f"Told {user_id}."}
        for user_id, item_id in reviewed.items()
    ]
    path = tmp_path / "explained.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def said(user_id: str, item_id: str) -> list[str]:
        with Histories(folder, Refusals()) as histories:
            [found] = [one for one in histories.get(user_id) if one.item_id == item_id]
        return [text for text in found.aspects.values() if text]

    with ExplanationStudy(folder, path, None, Refusals(), length=2) as study:
        compared = list(study.comparisons(Counter()))
        controls = list(study.control_comparisons(Counter()))
    assert len(compared) > 15
    with folder.summaries(Refusals()) as summaries:
        texts = {item_id: summaries.get(item_id) for item_id in reviewed.values()}
    for one in compared:
        past, offered = one.context.split("\n\nOffered: ")
        summary = texts[one.about["item_id"]]
        assert summary
        assert summary.summary in offered
        assert summary.summary not in past
        assert one.context.count("\n- ") <= 2
    of_readers = [one for one in controls if one.control == "another reader"]
    assert len(of_readers) == 22
    personas = {
        plain_rationale(persona.preference_rationale): (its.item_id, persona.evidence)
        for _, _, its in read_lines(folder.file("personas.jsonl"), ItemPersonas, Refusals())
        for persona in its.personas
    }
    for one in of_readers:
        assert all(text in one.context for text in said(**one.about))
        assert one.context.count("\n- ") <= 2
        (item, cited), (same, others) = (
            personas[text.partition(": ")[2]] for text in (one.ours, one.theirs)
        )
        assert item == same == one.about["item_id"]
        assert one.about["user_id"] in cited
        assert one.about["user_id"] not in others
        assert others
    for one in controls:
        if one.control == "another item":
            assert one.ours == f"Told {one.about['user_id']}."
            stranger = one.theirs.removeprefix("Told ").removesuffix(".")
            assert reviewed[stranger] != one.about["item_id"]


def test_the_wrong_personas_are_those_of_another_item() -> None:
    folder = ArtifactFolder(BOOKSHOP)
    own = {
        found.item_id: {one.name for one in found.personas}
        for _, _, found in read_lines(folder.file("personas.jsonl"), ItemPersonas, Refusals())
    }
    with PersonaStudy(folder, None, folder.path, Refusals(), Sampling(controls=10)) as study:
        controls = list(study.control_comparisons(Counter()))
    assert Counter(one.control for one in controls) == {"shuffled": 10, "identical": 10}
    for one in controls:
        names = own[one.about["item_id"]]
        assert all(f". {name}: " in one.ours for name in names)
        if one.control == "shuffled":
            assert not any(f". {name}: " in one.theirs for name in names)
        else:
            assert one.ours == one.theirs
