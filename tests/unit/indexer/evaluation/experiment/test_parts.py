"""What an experiment computes in NumPy, held against the encoder, the reranker and plain loops."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.evaluation.experiment import cold, learned
from indexer.evaluation.experiment import selection as choices
from indexer.evaluation.experiment.config import load_config
from indexer.evaluation.experiment.embedded import Personas, Profiles, typical_user
from indexer.evaluation.experiment.pool import NOBODY, Pool, read_pool
from indexer.evaluation.experiment.scoring import Scorer
from indexer.evaluation.experiment.selection import Judged
from indexer.evaluation.experiment.vectors import CHUNK, CachedEncoder
from p4r_qdrant import PersonaReranker
from p4r_qdrant.arrays import normalised
from p4r_qdrant.encoder.user_vector import user_vector
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.payload import ItemVectors
from p4r_qdrant.records import Interaction, Persona
from p4r_qdrant.settings import HistorySettings, RerankSettings
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import write
from tests.support.memory_index import MemoryIndex
from tests.support.paths import ROOT
from tests.support.progress import RecordedProgress

DIMENSION = 4


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    # Few different values, so that scores are often equal.
    vectors = rng.integers(-1, 2, (*shape, DIMENSION)).astype(float)
    vectors[..., 0] += 0.5
    return normalised(vectors)


def exact(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Personas along the axes and users between them: scores are exact, and often equal."""
    axes = np.eye(DIMENSION, dtype=np.float32)[rng.integers(0, DIMENSION, shape[0])]
    signs = rng.choice([-1, 1], (shape[0], 1)).astype(np.float32)
    users = rng.choice([-0.5, 0.5], (shape[1], DIMENSION)).astype(np.float32)
    return axes * signs, users


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pool, Personas, np.ndarray, int]:
    """Some users' candidates, personas of most items, and a vector of each user."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    items = [f"i{number}" for number in range(8)]
    users = draw(st.integers(1, 4))
    width = draw(st.integers(1, 6))
    candidates = np.array([rng.permutation(8)[:width] for _ in range(users)])
    scores = -np.sort(-rng.integers(0, 4, (users, width)).astype(float), axis=1)
    for user in range(users):
        shorter = int(rng.integers(1, width + 1))
        candidates[user, shorter:] = -1
        scores[user, shorter:] = np.nan
    counts = [int(rng.integers(0, 4)) for _ in items]
    with_some = [item for item, count in zip(items, counts, strict=True) if count]
    if not with_some:
        counts[0], with_some = 1, items[:1]
    starts = np.cumsum([0, *(count for count in counts if count)])
    persona_vectors, user_vectors = exact(rng, int(starts[-1]), users)
    personas = Personas(with_some, persona_vectors, starts)
    pool = Pool([f"u{n}" for n in range(users)], items, candidates, scores)
    return pool, personas, user_vectors, int(rng.integers(0, 8))


def profiles_of(vectors: np.ndarray) -> Profiles:
    """Users with one interaction each, whose vector is theirs."""
    rows = np.arange(len(vectors)).reshape(-1, 1)
    users = [f"u{n}" for n in range(len(vectors))]
    return Profiles(users, vectors, rows, np.full(rows.shape, np.nan))


@given(cases(), st.sampled_from([None, 0.0, 0.3, 0.6, 1.0]))
def test_numpy_places_items_as_the_reranker_does(
    case: tuple[Pool, Personas, np.ndarray, int], weight: float | None
) -> None:
    pool, personas, vectors, target = case
    index = MemoryIndex(DIMENSION)
    spans = zip(personas.items, personas.starts[:-1], personas.starts[1:], strict=True)
    for item, start, end in spans:
        texts = [
            Persona(persona_id=f"{item}_{n}", name="n", description="d", preference_rationale="r")
            for n in range(end - start)
        ]
        index.load([ItemVectors(item, texts, personas.vectors[start:end])], lambda *_: None)
    settings = (
        RerankSettings() if weight is None else RerankSettings(fusion="weighted", weight=weight)
    )
    reranker = PersonaReranker(index, rerank=settings)
    scores = Scorer().scores(pool, profiles_of(vectors), personas)
    if weight is not None:
        everybody = np.ones(len(pool.users), dtype=bool)
        scores = pool.fused(scores, weight, everybody)
    ranks = pool.ranks(scores, np.full(len(pool.users), target))
    for user, vector in enumerate(vectors):
        own = [
            (pool.items[item], score)
            for item, score in zip(pool.candidates[user], pool.scores[user], strict=True)
            if item >= 0
        ]
        found = reranker.rerank(vector, own).items
        expected = next((one.rank for one in found if one.item_id == pool.items[target]), 0)
        assert ranks[user] == expected


@pytest.mark.parametrize("options", [(0.5, 0.0), (1.0, 0.0), (0.0, 0.5), (0.5, 0.25), (1.0, 1.0)])
def test_numpy_scores_as_the_reranker_does_with_options(options: tuple[float, float]) -> None:
    encoder = HashEncoder(16)
    texts = {
        "sea": ["ships and sails", "a quiet harbour"],
        "oven": ["bread", "long winters"],
        "wood": ["quiet winters in the wood"],
    }
    index = MemoryIndex(16, encoder.fingerprint)
    for item, own in texts.items():
        told = [
            Persona(persona_id=f"{item}{n}", name="n", description="d", preference_rationale="r")
            for n in range(len(own))
        ]
        index.load([ItemVectors(item, told, encoder.encode_texts(own))])
    histories = [
        [Interaction("x", 3, "quiet ships"), Interaction("y", 2, "bread in long winters")],
        [Interaction("z", 1, "a harbour in the wood")],
    ]
    summaries = list(dict.fromkeys(one.summary for own in histories for one in own))
    profiles = Profiles(
        ["u", "v"],
        encoder.encode_texts(summaries),
        np.array([[0, 1], [2, -1]]),
        np.full((2, 2), np.nan),
    )
    personas = Personas.of(list(texts.items()), encoder)
    pool = Pool(["u", "v"], sorted(texts), np.array([[0, 1, 2]] * 2), np.zeros((2, 3)))
    interests, prior = options
    scorer = Scorer(decay=0.7, interests=interests, prior=prior)
    expected = scorer.scores(pool, profiles, personas)
    index.record_typical_user(typical_user(profiles.means(0.7)))
    reranker = PersonaReranker(
        index,
        encoder,
        history=HistorySettings(length=5, decay=0.7),
        rerank=RerankSettings(interests=interests, prior=prior),
    )
    for user, history in enumerate(histories):
        found = {one.item_id: one.score for one in reranker.rerank(history, sorted(texts)).items}
        assert [found[item] for item in sorted(texts)] == pytest.approx(expected[user], abs=1e-6)


def test_somebody_unknown_keeps_the_generators_order() -> None:
    pool = Pool(["u"], ["a", "b"], np.array([[1, 0]]), np.array([[0.5, 0.5]]))
    profiles = Profiles(
        ["u"], np.zeros((0, DIMENSION), np.float32), np.array([[-1]]), np.array([[np.nan]])
    )
    personas = Personas(["a", "b"], unit(np.random.default_rng(0), 2), np.array([0, 1, 2]))
    for scorer in (Scorer(), Scorer(interests=0.5), Scorer(prior=0.5), Scorer(dislikes=0.5)):
        scores = scorer.scores(pool, profiles, personas)
        assert np.isnan(scores).all()
        for one in (scores, pool.fused(scores, 0.5)):
            assert pool.ranks(one, np.array([0])).tolist() == [2]
            assert pool.ranks(one, np.array([1])).tolist() == [1]


def test_user_vectors_are_those_of_the_encoder() -> None:
    rng = np.random.default_rng(3)
    vectors = unit(rng, 6)
    rows = np.array([[0, -1, 1, 2], [3, 4, -1, -1], [-1, -1, -1, -1]])
    profiles = Profiles(["a", "b", "c"], vectors, rows, np.full(rows.shape, np.nan))
    for length in (1, 2, 4):
        means = profiles.newest(length).means(0.7)
        for user in range(3):
            told = [row for row in rows[user, :length] if row >= 0]
            history = [Interaction(str(row), 0) for row in told]
            expected = user_vector(history, vectors[told], 0.7)
            if expected is None:
                assert np.isnan(means[user]).all()
            else:
                assert means[user] == pytest.approx(expected.vector, abs=1e-6)


def test_forms_of_scores_by_hand() -> None:
    rng = np.random.default_rng(4)
    vectors, persona_vectors = unit(rng, 5), unit(rng, 5)
    personas = Personas(["a", "b"], persona_vectors, np.array([0, 2, 5]))
    rows = np.array([[0, 1], [2, -1]])
    profiles = Profiles(["u", "v"], vectors, rows, np.full(rows.shape, np.nan))
    pool = Pool(["u", "v"], ["a", "b", "z"], np.array([[0, 1, 2]] * 2), np.zeros((2, 3)))
    mean = profiles.means(0.5) @ persona_vectors.T
    each = np.stack(
        [(vectors[[0, 1]] @ persona_vectors.T).max(axis=0), vectors[2] @ persona_vectors.T]
    )

    def scored(scorer: Scorer) -> np.ndarray:
        found = scorer.scores(pool, profiles, personas)
        assert np.isnan(found[:, 2]).all(), "z has no personas"
        return found[:, :2]

    def best(near: np.ndarray) -> np.ndarray:
        return np.stack([near[:, :2].max(axis=1), near[:, 2:].max(axis=1)], axis=1)

    assert scored(Scorer(decay=0.5)) == pytest.approx(best(mean), abs=1e-6)
    assert scored(Scorer(decay=0.5, interests=1.0)) == pytest.approx(best(each), abs=1e-6)
    both = best(0.75 * mean + 0.25 * each)
    assert scored(Scorer(decay=0.5, interests=0.25)) == pytest.approx(both, abs=1e-6)
    prior = best(each - 0.5 * mean.mean(axis=0))
    found = scored(Scorer(decay=0.5, interests=1.0, prior=0.5))
    assert found == pytest.approx(prior, abs=1e-6)
    means = np.stack([mean[:, :2].mean(axis=1), mean[:, 2:].mean(axis=1)], axis=1)
    assert scored(Scorer(decay=0.5, aggregation="mean")) == pytest.approx(means, abs=1e-6)
    soft = scored(Scorer(decay=0.5, aggregation="soft", temperature=1e-3))
    assert soft == pytest.approx(best(mean), abs=5e-3), "a cold soft maximum is the maximum"
    warm = scored(Scorer(decay=0.5, aggregation="soft", temperature=100.0))
    assert warm == pytest.approx(means, abs=5e-3), "a hot one is the mean"


def test_what_was_disliked_counts_against() -> None:
    rng = np.random.default_rng(5)
    vectors, persona_vectors = unit(rng, 4), unit(rng, 3)
    personas = Personas(["a", "b", "c"], persona_vectors, np.arange(4))
    profiles = Profiles(
        ["u", "v"], vectors, np.array([[0, 1], [2, 3]]), np.array([[5.0, 1.0], [1.0, 2.0]])
    )
    pool = Pool(["u", "v"], ["a", "b", "c"], np.array([[0, 1, 2]] * 2), np.zeros((2, 3)))
    found = Scorer(decay=0.5, dislikes=0.25, disliked=2.0).scores(pool, profiles, personas)
    expected = (vectors[0] - 0.25 * vectors[1]) @ persona_vectors.T
    assert found[0] == pytest.approx(expected, abs=1e-6)
    as_usual = Scorer(decay=0.5).scores(pool, profiles, personas)
    assert found[1] == pytest.approx(as_usual[1]), "nothing liked: nothing to tell it from"


def test_words_are_compared_beside_the_encoder() -> None:
    pytest.importorskip("sklearn")
    encoder = HashEncoder(8)
    personas = Personas.of(
        [("sea", ["ships and sails", "harbours"]), ("oven", ["bread"]), ("none", ["zzz"])], encoder
    )
    told = ["ships", "bread and ships"]
    profiles = Profiles(
        ["u", "v", "w"],
        encoder.encode_texts(told),
        np.array([[0, -1], [1, 0], [-1, -1]]),
        np.full((3, 2), np.nan),
        told,
    )
    order = np.array([[2, 0, 1]] * 3)
    pool = Pool(["u", "v", "w"], ["none", "oven", "sea"], order, np.zeros((3, 3)))
    words = Scorer(words=1.0).scores(pool, profiles, personas)
    assert words[0, 1] == words[0, 2] == 0, "no word in common"
    assert 0 < words[1, 2] < 1
    assert 0 < words[0, 0] < 1
    dense = Scorer().scores(pool, profiles, personas)
    mixed = Scorer(words=0.5).scores(pool, profiles, personas)
    assert mixed[0, 1] == pytest.approx(dense[0, 1] / 2)
    assert np.isnan(mixed[2]).all(), "somebody unknown"


def test_personas_cut_off_and_merged() -> None:
    vectors = unit(np.random.default_rng(1), 6)
    personas = Personas(["a", "b", "c"], vectors, np.array([0, 3, 4, 6]))
    cut = personas.truncated(2)
    assert cut.starts.tolist() == [0, 2, 3, 5]
    assert (cut.vectors == vectors[[0, 1, 3, 4, 5]]).all()
    merged = personas.merged()
    assert merged.starts.tolist() == [0, 1, 2, 3]
    assert merged.vectors[0] == pytest.approx(normalised(vectors[:3].sum(axis=0)), abs=1e-6)
    assert merged.vectors[1] == pytest.approx(vectors[3], abs=1e-6)


def test_disliked_interactions_are_left_out_unless_there_are_no_others() -> None:
    rows = np.array([[0, 1, 2], [3, 4, -1]])
    ratings = np.array([[5.0, 2.0, np.nan], [1.0, 2.0, np.nan]])
    profiles = Profiles(["a", "b"], unit(np.random.default_rng(0), 5), rows, ratings)
    assert profiles.without(2.0).rows.tolist() == [[0, -1, 2], [3, 4, -1]]
    assert profiles.disliked(2.0).rows.tolist() == [[-1, 1, -1], [-1, -1, -1]]


def test_lists_become_a_pool(tmp_path: Path) -> None:
    rows = [
        {"user_id": "b", "results": [{"item_id": "z", "score": 2}, {"item_id": "a", "score": 1}]},
        {"user_id": "stranger", "results": [{"item_id": "q", "score": 2}]},
        {"user_id": "a", "results": [{"item_id": "m", "score": 2}, {"item_id": "m", "score": 1}]},
    ]
    pool = read_pool(write(tmp_path, "lists.jsonl", rows), ["a", "b", "c"])
    assert pool.items == ["a", "m", "z"]
    assert pool.candidates.tolist() == [[1, -1], [2, 0], [-1, -1]]
    assert pool.scores[1].tolist() == [2, 1]
    targets = pool.targets(["m", "never", None])
    assert targets.tolist() == [1, -1, NOBODY]
    assert pool.generator_ranks(targets).tolist() == [1, 0, 0]
    assert pool.first(1).candidates.tolist() == [[1], [2], [-1]]


def test_lists_without_scores_are_scored_by_place(tmp_path: Path) -> None:
    rows = [
        {"user_id": "a", "results": [{"item_id": "z"}, {"item_id": "m"}]},
        {"user_id": "b", "results": [{"item_id": "z", "score": 2}, {"item_id": "m"}]},
    ]
    pool = read_pool(write(tmp_path, "lists.jsonl", rows), ["a", "b"])
    assert pool.scores.tolist() == [[1, 0.5], [1, 0.5]]


def test_choices_are_of_those_who_have_a_validation_item() -> None:
    pool = Pool(["a", "b"], ["x", "y"], np.array([[0, 1]] * 2), np.array([[1.0, 0.0]] * 2))
    judged = Judged(pool, pool.targets(["y", None]), pool.targets(["x", "x"]))
    scores = np.array([[0.0, 1.0]] * 2)
    assert choices.valid_ndcg(judged, scores) == pytest.approx(1.0)
    assert list(choices.fusion_weight(judged, scores, (0.1, 0.4, 0.7, 0.9))) == pytest.approx(
        [0.7, 1.0]
    )
    assert (
        choices.best([{"valid": 1, "n": 1}, {"valid": 2, "n": 2}, {"valid": 2, "n": 3}])["n"] == 2
    )


def test_the_hybrid_is_chosen_on_validation_items_the_simplest_of_equals() -> None:
    candidates, scores = np.array([[0, 1, 2]] * 2), np.array([[3.0, 2.0, 1.0]] * 2)
    pool = Pool(["a", "b"], ["x", "y", "z"], candidates, scores)
    first = Judged(pool, pool.targets(["x", "y"]), pool.targets([None, None]))
    last = Judged(pool, pool.targets(["z", "z"]), pool.targets([None, None]))
    plain, options = Scorer(), Scorer(prior=0.5)

    def chosen(**values: float) -> choices.Hybrid:
        fusions = {
            choices.Weighed(scorer, "good", 3): choices.Fusion(0.5, values[name])
            for name, scorer in (("plain", plain), ("options", options))
        }
        other = {choices.Weighed(plain, "good", 2): choices.Fusion(0.5, 1.0)}
        choice = choices.Choice(10, (plain, options), fusions | other)
        return choices.hybrid({"bad": last, "good": first}, {"untrained": choice}, 3)

    alone = float((1 + 1 / np.log2(3)) / 2)
    assert chosen(plain=alone, options=0.1)[:3] == ("good", None, False)
    assert chosen(plain=0.9, options=0.1) == ("good", "untrained", False, 0.9)
    assert chosen(plain=0.9, options=0.95) == ("good", "untrained", True, 0.95)


def test_learned_weights_find_the_score_that_tells() -> None:
    rng = np.random.default_rng(0)
    users, width = 200, 6
    pool = Pool(
        [f"u{n}" for n in range(users)],
        [f"i{n}" for n in range(width)],
        np.tile(np.arange(width), (users, 1)),
        -np.sort(-rng.random((users, width)), axis=1),
    )
    targets = rng.integers(0, width, users)
    noise = rng.random((users, width))
    telling = rng.random((users, width)) + 0.7 * (np.arange(width) == targets[:, None])
    targets[:3] = (-1, NOBODY, NOBODY)
    for generator, count in ((False, 2), (True, 4)):
        inputs = learned.features(pool, [noise, telling], generator=generator)
        assert inputs.shape == (users, width, count)
        weights = learned.fit(pool, inputs, targets)
        assert weights.argmax() == 1
        assert abs(weights[0]) < weights[1] / 4
        # At the optimum no small step helps: checked by differences.
        assert _loss(pool, inputs, targets, weights) < min(
            _loss(pool, inputs, targets, weights + step)
            for step in np.vstack([np.eye(count), -np.eye(count)]) * 0.1
        )
        ranks = learned.out_of_fold(pool, inputs, targets)
        assert (ranks[:3] == 0).all()
        assert np.mean(1 / ranks[3:]) > np.mean(1 / pool.ranks(noise, targets)[3:]) + 0.2


def _loss(pool: Pool, inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    total = learned.L2 / 2 * float(weights @ weights)
    for user, target in enumerate(targets):
        if target >= 0:
            likely = np.exp(inputs[user] @ weights)
            total -= float(np.log(likely[target] / likely.sum()))
    return total


# --- what survives a kill ---------------------------------------------------------------------


def test_a_text_is_encoded_once(tmp_path: Path) -> None:
    model = HashEncoder(8)
    texts = [f"text {number}" for number in range(CHUNK + 3)]
    progress = RecordedProgress()
    encoder = CachedEncoder(model, tmp_path, progress)
    first = encoder.encode_texts([*texts, *texts])
    assert len(model.encoded) == len(texts)
    assert progress.counts == [CHUNK, 3]
    assert first[: len(texts)] == pytest.approx(HashEncoder(8).encode_texts(texts))
    encoder.close()
    again = CachedEncoder(model, tmp_path)
    assert (again.encode_texts([*texts, *texts]) == first).all()
    assert again.missing(["text 1", "new", "new"]) == ["new"]
    assert len(model.encoded) == len(texts)
    assert again.encode_texts([]).shape == (0, 8)
    again.close()


@pytest.mark.parametrize("torn", ["texts", "f32", "both"])
def test_half_a_record_is_cut_off(torn: str, tmp_path: Path) -> None:
    def encoded(texts: Sequence[str]) -> np.ndarray:
        encoder = CachedEncoder(HashEncoder(8), tmp_path)
        found = encoder.encode_texts(texts)
        encoder.close()
        return found

    texts = ["one", "two", "three", 'four "quoted"\nlines']
    expected = encoded(texts)
    [lines], [vectors] = list(tmp_path.glob("*.jsonl")), list(tmp_path.glob("*.f32"))
    for path, name in ((lines, "texts"), (vectors, "f32")):
        if torn in (name, "both"):
            path.write_bytes(path.read_bytes()[:-3])
    assert (encoded(texts) == expected).all()
    assert (encoded(texts[::-1]) == expected[::-1]).all()
    assert len(lines.read_text().splitlines()) == 4
    assert vectors.stat().st_size == 4 * 8 * 4


# --- the configuration ------------------------------------------------------------------------


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        'name = "x"\nartifacts = "data"\n[encoder]\nmodel = "m"\nadapter = "a"\n'
        '[lists]\nmine = "mine.jsonl"\n'
    )
    config = load_config(path)
    assert config.lists == {"mine": tmp_path / "mine.jsonl"}
    assert config.artifacts == tmp_path / "data"
    assert config.encoder.adapter == str(tmp_path / "a")
    other = load_config(path, artifacts=Path("/else"), adapter=Path("/trained"))
    assert (other.artifacts, other.encoder.adapter) == (Path("/else"), "/trained")
    assert other.encoder.model == "m"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = ", r"x.toml is no TOML: "),
        ('name = "x"\nartifacts = "a"\nspeed = 3', r"x.toml: speed: Extra inputs"),
        (
            'name = "x"\nartifacts = "a"\ngenerators = ["magic"]',
            r"there is no generator 'magic'; c",
        ),
        ('name = "x"\nartifacts = "a"\ncandidates = []', r"candidates: give at least one value"),
        ('name = "x"\nartifacts = "a"\ncandidates = [0]', r"candidates.0: Input should be greater"),
        ('name = "x"\nartifacts = "a"\nseeds = [1, 1]', r"seeds: give at least one value, and non"),
        ('name = "x"\nartifacts = "a"\ndecays = [1.5]', r"decays.0: Input should be less than"),
        ('name = "x"\nartifacts = "a"\npriors = [3]', r"priors.0: Input should be less than"),
        ('name = "x"\nartifacts = "a"\n[lists]\nbpr = "b"', r"lists.bpr has the name of a gene"),
        ('name = "x"\nartifacts = "a"\n[lists]\n"a b" = "b"', r"lists.a b.*should match"),
        ('name = "x"', r"artifacts: is missing"),
    ],
)
def test_a_configuration_that_cannot_be(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        load_config(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "nowhere.toml")


def test_the_examples_can_be_read() -> None:
    folder = ROOT / "examples"
    names = {load_config(path).name for path in folder.glob("*.toml")}
    assert names == {
        *("Bookshop", "Bookshop, with LLM rerankers", "Magazines", "Magazines, with LLM rerankers"),
        "Musical instruments",
    }
    assert json.dumps(load_config(folder / "bookshop.toml").model_dump(mode="json"))


def test_standardised_scores_have_mean_0_and_what_has_none_is_0() -> None:
    scores = np.array([[1.0, 2.0, -np.inf, 3.0], [5.0, 5.0, 5.0, 5.0]])
    found = cold._standardised(scores)
    assert found[0, [0, 1, 3]] == pytest.approx([-np.sqrt(1.5), 0, np.sqrt(1.5)])
    assert found[0, 2] == 0
    assert found[1].tolist() == [0, 0, 0, 0]
