"""An audit's figures against fractions computed by hand; each planted defect moves its figure."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.audit.balance import SIMULATIONS, uniform_entropy
from indexer.audit.bootstrap import interval
from indexer.audit.figures import Audit
from indexer.audit.run import audit
from indexer.audit.wording import leak_sentence, sampled, sections
from p4r_qdrant.encoder.lengths import Lengths, guessed_tokens
from p4r_qdrant.errors import InputError
from tests.support.artifact_rows import aligned, aspect_tuple, persona
from tests.support.auditing import Files, catalogue, words
from tests.support.jsonl import write

ROOT_HALF = math.sqrt(0.5)


# --- what is counted -----------------------------------------------------------------------------


def test_aspects(audited: Callable[..., Audit]) -> None:
    figures = audited(catalogue()).aspects
    assert figures
    assert (figures.tuples, figures.users, figures.items) == (7, 5, 2)
    assert figures.nulls == {"taste": pytest.approx(1 / 7), "place": pytest.approx(6 / 7)}
    assert (figures.empty, figures.repeated, figures.held_out) == (1, 0, 1)


def test_a_slot_cannot_reach_the_terminal(audited: Callable[..., Audit]) -> None:
    wild = "\x1b[2Jta\nste" + "x" * 1000
    figures = audited({"aspects": [aspect_tuple("a", "u", **{wild: "tea", "": None})]}).aspects
    assert figures
    assert [len(slot) for slot in figures.nulls] == [80, len("(no name)")]
    assert next(iter(figures.nulls)).startswith("ta stexxx")


def test_personas_and_names(audited: Callable[..., Audit]) -> None:
    figures = audited(catalogue()).personas
    assert figures
    assert (figures.items, figures.personas, figures.mean) == (2, 4, 2)
    assert figures.per_item == {2: 2}
    assert (figures.without.count, figures.without.examples) == (1, ["c"])
    assert (figures.names, figures.shared_names) == (3, 1)
    assert figures.top_names == [("Tea Lover", 2)], "case and spaces do not make another name"
    assert figures.same_name_items.count == 0


def test_evidence(audited: Callable[..., Audit]) -> None:
    found = audited(catalogue())
    figures = found.evidence
    assert figures
    assert figures.missing
    assert figures.cited == 5
    assert figures.held_out.examples == ["a_P2 of a cites u4"]
    assert figures.missing.examples == ["a_P2 of a cites u9"]
    assert (figures.unsupported, figures.unseen) == (1, 0)
    assert figures.coverage == pytest.approx((1 + 1 / 3) / 2)
    assert figures.coverage_of_tuples == pytest.approx(3 / 5)
    assert figures.coverage_of_items
    assert figures.coverage_of_items.counts == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert found.leaks == 2
    assert "LEAK: 1 citation in personas.jsonl and 1 line of alignments.jsonl" in leak_sentence(
        found
    )


def test_alignments(audited: Callable[..., Audit]) -> None:
    figures = audited(catalogue()).alignments
    assert figures
    assert figures.unknown
    assert (figures.alignments, figures.users, figures.items) == (6, 4, 2)
    assert figures.unjustified == 1
    assert figures.unknown.examples == ["u1: b has no persona b_P9"]
    assert figures.held_out.examples == ["u4 is aligned with a"]
    two_of_three = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert figures.evenness == pytest.approx((two_of_three + 1) / 2)
    assert figures.evenness_uniform == pytest.approx((6 / 8 * two_of_three + 1 / 2) / 2)
    assert [(one.chosen, one.expected) for one in figures.positions] == [(3, 2.5), (2, 2.5)]
    assert figures.position_p == 1.0, "nothing of five choices is nearer to even"


def blank(files: Files) -> None:
    files["aspects"][0]["aspects"] = {"taste": None}


def repeat(files: Files) -> None:
    files["aspects"].append(files["aspects"][0])


def hold_out_more(files: Files) -> None:
    files["splits"].append({"user_id": "u1", "test_item": "b", "valid_item": "q"})


def cite_nobody(files: Files) -> None:
    files["personas"][0]["personas"][0]["evidence"] = []


def namesake(files: Files) -> None:
    files["personas"][0]["personas"][1]["name"] = "TEA lover"


def lose_personas(files: Files) -> None:
    files["personas"][1]["personas"] = []


def say_nothing(files: Files) -> None:
    files["alignments"][0]["justification"] = "  "


@pytest.mark.parametrize(
    ("defect", "before", "after"),
    [
        (blank, lambda it: it.aspects.empty == 1, lambda it: it.aspects.empty == 2),
        (
            blank,
            lambda it: it.evidence.missing.count == 1,
            lambda it: it.evidence.missing.count == 2,
        ),
        (repeat, lambda it: it.aspects.repeated == 0, lambda it: it.aspects.repeated == 1),
        (
            hold_out_more,
            lambda it: (it.evidence.held_out.count, it.alignments.held_out.count) == (1, 1),
            lambda it: (it.evidence.held_out.count, it.alignments.held_out.count) == (2, 2),
        ),
        (
            cite_nobody,
            lambda it: (it.evidence.unsupported, it.evidence.coverage_of_tuples) == (1, 3 / 5),
            lambda it: (it.evidence.unsupported, it.evidence.coverage_of_tuples) == (2, 2 / 5),
        ),
        (
            namesake,
            lambda it: it.personas.same_name_items.count == 0,
            lambda it: it.personas.same_name_items.examples == ["a"],
        ),
        (
            lose_personas,
            lambda it: (it.personas.without.count, it.alignments.unknown.count) == (1, 1),
            lambda it: (it.personas.without.count, it.alignments.unknown.count) == (2, 3),
        ),
        (
            say_nothing,
            lambda it: it.alignments.unjustified == 1,
            lambda it: it.alignments.unjustified == 2,
        ),
    ],
)
def test_a_planted_defect_shows(
    audited: Callable[..., Audit],
    defect: Callable[[Files], None],
    before: Callable[[Audit], bool],
    after: Callable[[Audit], bool],
) -> None:
    files = catalogue()
    assert before(audited(files))
    defect(files)
    assert after(audited(files))


def test_a_judge_who_takes_the_first_is_found_out(audited: Callable[..., Audit]) -> None:
    files = catalogue()
    del files["splits"]
    files["alignments"] = [aligned(f"u{n}", "a", f"a_P{1 + n % 2}") for n in range(20)]
    fair = audited(files).alignments
    files["alignments"] = [aligned(f"u{n}", "a", "a_P1") for n in range(20)]
    first = audited(files).alignments
    assert fair
    assert first
    assert fair.position_p == 1.0
    assert first.position_p == pytest.approx(1 / (1 + SIMULATIONS), abs=1e-3)
    assert fair.evenness == pytest.approx(1)
    assert first.evenness == 0


def test_one_alignment_of_an_item_says_nothing_of_balance(audited: Callable[..., Audit]) -> None:
    files = catalogue()
    files["alignments"] = [aligned(f"u{n}", "a", f"a_P{1 + n % 2}") for n in range(4)]
    files["alignments"].append(aligned("u1", "b", "b_P1"))
    found = audited(files).alignments
    assert found
    assert found.evenness == pytest.approx(1)


def test_the_chance_of_a_position_is_that_of_the_binomial(audited: Callable[..., Audit]) -> None:
    files = catalogue()
    files["alignments"] = [aligned(f"u{n}", "a", f"a_P{1 + (n > 2)}") for n in range(4)]
    found = audited(files).alignments
    assert found
    assert found.position_p == pytest.approx(10 / 16, abs=0.02), "3 to 1 or further, of 16 ways"


@given(options=st.integers(2, 4), choices=st.integers(1, 5))
def test_the_entropy_of_uniform_choice_is_that_of_all_ways_to_choose(
    options: int, choices: int
) -> None:
    entropies = []
    for way in product(range(options), repeat=choices):
        shares = [way.count(one) / choices for one in set(way)]
        entropies.append(-sum(share * math.log(share) for share in shares))
    assert uniform_entropy(options, choices) == pytest.approx(sum(entropies) / len(entropies))


# --- what is encoded -----------------------------------------------------------------------------


def test_distinctness(audited: Callable[..., Audit]) -> None:
    """a: tea and book; b: salt and as much tea as salt. Of different items only tea meets tea."""
    found = audited(catalogue(), words()).similarity
    assert found
    figures = found.distinctness
    assert figures
    assert figures.items == 2
    assert figures.mean == figures.maximum == pytest.approx(ROOT_HALF / 2)
    assert figures.others == pytest.approx(ROOT_HALF / 4)
    assert figures.most_alike[0].names == ("Salt Fan", "tea  lover")
    assert sum(figures.means.counts) == sum(figures.maxima.counts) == 2


def test_the_most_alike_of_three(audited: Callable[..., Audit]) -> None:
    """tea, book, and both: similarities 0, and twice the root of one half."""
    files = catalogue()
    files["personas"] = files["personas"][:1]
    files["personas"][0]["personas"].append(persona("a_P3", "Both", ("tea", "book")))
    found = audited(files, words()).similarity
    assert found
    assert found.distinctness
    assert found.distinctness.mean == pytest.approx(2 * ROOT_HALF / 3)
    assert found.distinctness.maximum == pytest.approx(ROOT_HALF)
    assert found.distinctness.others is None, "there is no other item"


def test_twins_show(audited: Callable[..., Audit]) -> None:
    files = catalogue()
    files["personas"][0]["personas"][1] |= {"name": "Other", "description": "tea"}
    files["personas"][0]["personas"][1]["preference_rationale"] = "tea"
    found = audited(files, words()).similarity
    assert found
    assert found.distinctness
    assert found.distinctness.maximum == pytest.approx((1 + ROOT_HALF) / 2)
    assert found.distinctness.most_alike[0].similarity == pytest.approx(1)


def test_grounding(audited: Callable[..., Audit]) -> None:
    """Rationales say what is cited, the book's only half of it; other items say nothing of it."""
    found = audited(catalogue(), words()).similarity
    assert found
    figures = found.rationales
    assert figures
    assert (figures.personas, figures.items) == (3, 2)
    mean = (1 + ROOT_HALF + 1) / 3
    assert figures.cited == figures.difference.mean == pytest.approx(mean)
    assert figures.random == 0
    assert figures.difference.low == pytest.approx((1 + ROOT_HALF) / 2), "a drawn twice"
    assert figures.difference.high == pytest.approx(1), "b drawn twice"
    assert found.worst_grounded[0].name == "Book Lover"
    assert found.worst_grounded[0].similarity == pytest.approx(ROOT_HALF)
    assert found.worst_grounded[0].cited == ["taste: book\nplace: sugar"], "u4 is held out"
    assert found.best_grounded[0].similarity == pytest.approx(1)


def test_evidence_of_others_is_no_grounding(audited: Callable[..., Audit]) -> None:
    files = catalogue()
    files["personas"][0]["personas"][0]["evidence"] = ["u2"]
    files["personas"][0]["personas"][1]["evidence"] = ["u1"]
    found = audited(files, words()).similarity
    assert found
    assert found.rationales
    assert found.rationales.cited == pytest.approx(1 / 3), "only b's is left"


def test_agreement(audited: Callable[..., Audit]) -> None:
    found = audited(catalogue(), words()).similarity
    assert found
    figures = found.agreement
    assert figures
    assert (figures.alignments, figures.items) == (4, 2), "neither the unknown nor the held-out one"
    assert (figures.agreement, figures.chance) == (0.75, 0.5)
    assert figures.difference.mean == 0.25
    files = catalogue()
    files["alignments"][-1]["persona_id"] = "b_P1"
    better = audited(files, words()).similarity
    assert better
    assert better.agreement
    assert better.agreement.agreement == 1


def test_texts_that_the_encoder_cannot_read_whole_are_told(audited: Callable[..., Audit]) -> None:
    encoder = words()
    encoder.lengths = Lengths(4, guessed_tokens)
    said = sampled(audited(catalogue(), encoder))
    assert "texts of personas are longer than the 4 tokens that the encoder reads" in said
    assert "texts of histories are longer than the 4 tokens" in said
    assert "longer" not in sampled(audited(catalogue(), words()))


def test_the_sample_is_seeded_and_stated(audited: Callable[..., Audit]) -> None:
    files = catalogue()
    files["personas"] += [
        {"item_id": f"i{n}", "personas": [persona(f"i{n}_P1", f"N{n}", ("tea", "tea"))]}
        for n in range(50)
    ]
    encoders = [words() for _ in range(3)]
    seeds = (1, 1, 2)
    first, again, other = (
        audited(files, encoder, sample=10, seed=seed)
        for encoder, seed in zip(encoders, seeds, strict=True)
    )
    assert first == again
    assert encoders[0].encoded == encoders[1].encoded != encoders[2].encoded
    assert first.similarity
    assert (first.similarity.items, first.similarity.of_items) == (10, 52)
    assert "10 of 52 items" in sampled(first)
    assert other.personas == first.personas, "what is counted is counted whole"


def test_each_text_is_encoded_once(audited: Callable[..., Audit]) -> None:
    encoder = words()
    audited(catalogue(), encoder)
    assert "taste: salt" in encoder.encoded
    assert len(set(encoder.encoded)) == len(encoder.encoded)


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=4), min_size=2, max_size=8))
def test_an_interval_lies_among_its_items(items: list[list[float]]) -> None:
    found = interval(items, seed=0)
    assert found.low is not None
    assert found.high is not None
    means = [sum(values) / len(values) for values in items]
    assert min(means) - 1e-9 <= found.low <= found.high <= max(means) + 1e-9


def test_one_item_gives_no_interval() -> None:
    found = interval([[0.5, 0.7]], seed=0)
    assert found.mean == pytest.approx(0.6)
    assert found.low is found.high is None


# --- folders as they come ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aspects", "personas", "alignments"])
def test_one_file_alone(audited: Callable[..., Audit], name: str) -> None:
    found = audited({name: catalogue()[name]}, words())
    absent = {one.name for one in sections(found) if not one.rows}
    there = {
        "aspects": {"aspects"},
        "personas": {"personas", "evidence", "distinctness"},
        "alignments": {"alignments"},
    }[name]
    assert {one.name for one in sections(found)} - absent == there
    assert all(one.absent for one in sections(found) if one.name in absent)
    assert leak_sentence(found) == ""


@pytest.mark.parametrize("name", ["aspects", "alignments", "splits", "items"])
def test_an_empty_file(audited: Callable[..., Audit], name: str) -> None:
    found = audited(catalogue() | {name: []}, words())
    assert json.loads(json.dumps(asdict(found), allow_nan=False))
    assert len(sections(found)) == 7


def test_no_item_has_personas(audited: Callable[..., Audit]) -> None:
    with pytest.raises(InputError, match=r"personas.jsonl is empty: no item has personas"):
        audited(catalogue() | {"personas": []}, words())


def test_nothing_to_audit(tmp_path: Path) -> None:
    write(tmp_path, "items.jsonl", [])
    with pytest.raises(InputError, match="nothing to audit"):
        audit(ArtifactFolder(tmp_path), None, Refusals())


def test_broken_lines_are_refused_and_counted(tmp_path: Path) -> None:
    for name, rows in catalogue().items():
        more = [] if name == "splits" else ["{", "[]", '"x"']
        write(tmp_path, f"{name}.jsonl", [*rows, *more])
    write(tmp_path, "personas.jsonl", [*catalogue()["personas"], catalogue()["personas"][0]])
    refusals = Refusals()
    found = audit(ArtifactFolder(tmp_path), words, refusals)
    assert found.personas
    assert found.personas.items == 2
    assert refusals.counts == {"broken record": 9, "repeated item": 1}


TEXT = st.sampled_from(["", " ", "tea", "salt book", "<b>", "é\u202e", "null"])
IDS = st.sampled_from(["u1", "u2", "a", "b", "a_P1"])
WILD_ASPECTS = st.builds(
    lambda item, user, slots: aspect_tuple(item, user) | {"aspects": slots},
    IDS,
    IDS,
    st.dictionaries(TEXT, st.one_of(st.none(), TEXT), max_size=3),
)
WILD_PERSONAS = st.builds(
    lambda item, own: {"item_id": item, "personas": own},
    IDS,
    st.lists(st.builds(lambda i, who: persona(i, "N", ("D", "R"), *who), IDS, st.lists(IDS))),
)
WILD_ALIGNMENTS = st.builds(aligned, IDS, IDS, IDS, TEXT)
WILD_SPLITS = st.builds(lambda u, t, v: {"user_id": u, "test_item": t, "valid_item": v}, *[IDS] * 3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"aspects": st.lists(WILD_ASPECTS, max_size=8)},
        optional={
            "personas": st.lists(WILD_PERSONAS, min_size=1, max_size=5),
            "alignments": st.lists(WILD_ALIGNMENTS, max_size=8),
            "splits": st.lists(WILD_SPLITS, max_size=3),
        },
    )
)
def test_whatever_comes_every_figure_is_one(audited: Callable[..., Audit], files: Files) -> None:
    found = audited(files, words())
    figures = json.loads(json.dumps(asdict(found), allow_nan=False))
    shares = [*figures["aspects"]["nulls"].values()]
    if found.evidence:
        shares += [figures["evidence"]["coverage"], figures["evidence"]["coverage_of_tuples"]]
    if found.alignments:
        shares += [figures["alignments"]["evenness"], figures["alignments"]["position_p"]]
    assert all(share is None or -1e-9 <= share <= 1 + 1e-9 for share in shares)
    assert all(row.value for section in sections(found) for row in section.rows)
