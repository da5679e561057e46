"""Candidate generators: what each computes, and what none may see."""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.artifacts.lines import Refusals
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.collaborative.weights import exact
from indexer.evaluation import candidates as module
from indexer.evaluation.candidates import (
    ListInputs,
    ListOptions,
    lists_hash,
    provenance_path,
    write_candidates,
)
from indexer.evaluation.catalogue import Catalogue
from indexer.evaluation.generators import (
    bpr,
    ease,
    hybrid,
    itemknn,
    lightgcn,
    pairwise,
    popularity,
)
from indexer.evaluation.generators.base import (
    DECAYS,
    GENERATORS,
    HYBRID,
    MODELS,
    PERSONAS_EASE,
    READ_PERSONAS,
    Fitted,
    generator_named,
    matrix,
)
from indexer.evaluation.generators.hybrid import UserTexts
from indexer.evaluation.generators.personas_ease import PersonasEase
from indexer.evaluation.interactions import Interactions, read_interactions
from indexer.evaluation.truth import read_truth
from p4r_qdrant.encoder.user_vector import EncodedHistories
from p4r_qdrant.errors import InputError, MissingExtraError
from p4r_qdrant.records import Interaction
from tests.support.artifact_rows import review
from tests.support.jsonl import write

scipy_sparse = pytest.importorskip("scipy.sparse")

TASTES = ("garden", "trains", "pots")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty users, each with six of the eight items of one taste, the last two held out."""
    rng = np.random.default_rng(5)
    reviews, splits = [], []
    for number in range(60):
        user, taste = f"u{number:02}", TASTES[number % 3]
        chosen = [f"{taste}-{item}" for item in rng.permutation(8)[:6]]
        reviews += [review(user, item, timestamp=n) for n, item in enumerate(chosen)]
        splits.append(
            {"user_id": user, "test_item": chosen[5], "valid_item": chosen[4], "tie": False}
        )
    write(tmp_path, "reviews.jsonl", reviews)
    write(tmp_path, "splits.jsonl", splits)
    return tmp_path


@pytest.fixture(autouse=True)
def _small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "EPOCHS", (50, 150))
    for model in (bpr, lightgcn):
        monkeypatch.setattr(model, "DIMENSIONS", (8,))
        monkeypatch.setattr(model, "REGULARIZATION", (0.01, 0.1))
    monkeypatch.setattr(lightgcn, "LAYERS", (2,))
    monkeypatch.setattr(hybrid, "LENGTHS", (3, 20))
    monkeypatch.setattr(hybrid, "DECAYS", (0.85, 1.0))


def made(
    data: Path, model: str, lists: Path | None = None, **options: Any
) -> tuple[dict[str, list[str]], str]:
    """Each user's items, and the file as it was written."""
    output = data / f"{model}.jsonl"
    personas = hypothetical_users() if model in READ_PERSONAS else None
    profiles = user_texts(data) if model == HYBRID else None
    inputs = ListInputs(data / "reviews.jsonl", data / "splits.jsonl", personas, profiles, lists)
    write_candidates(inputs, output, ListOptions(model, **options), Refusals())
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    return {
        row["user_id"]: [one["item_id"] for one in row["results"]] for row in rows
    }, output.read_text()


def hypothetical_users() -> PersonaVectors:
    """Two personas for each item of a taste, near each other; and an item that nobody knows."""
    rng = np.random.default_rng(3)
    items = [f"{taste}-{item}" for taste in TASTES for item in range(8)] + ["trains-new"]
    centres = np.repeat(np.eye(3, 6), [16, 16, 16], axis=0)
    centres = np.vstack([centres, np.eye(3, 6)[[1, 1]]])
    vectors = centres + 0.3 * rng.standard_normal(centres.shape)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return PersonaVectors(items, unit.astype(np.float32), np.arange(0, 2 * len(items) + 1, 2))


def user_texts(data: Path) -> UserTexts:
    """The text of an interaction is the item's id, its vector that of the item's first persona."""
    personas = hypothetical_users()
    histories = [
        [(Interaction(item, at), item) for at, item in enumerate(sorted(items))]
        for items in training(data).values()
    ]
    rows = {item: row for row, item in enumerate(personas.items)}
    encoded = EncodedHistories(histories, rows, personas.vectors[::2])
    return UserTexts([*training(data)], encoded)


def interactions(dense: Any) -> Interactions:
    """(n_users, n_items) of ones and zeros; the item with the smallest id is the newest."""
    users, items = np.nonzero(dense)
    ages = np.concatenate([np.arange(count) for count in np.count_nonzero(dense, axis=1)])
    user_names, item_names = (
        [f"{kind}{n:03}" for n in range(count)]
        for kind, count in zip("ui", dense.shape, strict=True)
    )
    return Interactions(user_names, item_names, users, items, ages, frozenset(item_names))


def training(data: Path) -> dict[str, set[str]]:
    splits = [json.loads(line) for line in (data / "splits.jsonl").read_text().splitlines()]
    held_out = {
        (row["user_id"], row[name]) for row in splits for name in ("test_item", "valid_item")
    }
    found: dict[str, set[str]] = {}
    for line in (data / "reviews.jsonl").read_text().splitlines():
        row = json.loads(line)
        if (row["user_id"], row["item_id"]) not in held_out:
            found.setdefault(row["user_id"], set()).add(row["item_id"])
    return found


@pytest.mark.parametrize("model", GENERATORS)
def test_a_list_holds_what_the_user_has_not_best_first(model: str, data: Path) -> None:
    lists, text = made(data, model, top=6)
    had = training(data)
    everything = set().union(*had.values())
    for user, items in lists.items():
        assert len(items) == len(set(items)) == 6
        assert not had[user] & set(items)
        if model not in READ_PERSONAS:
            assert set(items) <= everything, "what has no training interaction cannot be known"
    for line in text.splitlines():
        scores = [one["score"] for one in json.loads(line)["results"]]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("model", [one for one in GENERATORS if one != "popularity"])
def test_it_learns_what_goes_together(model: str, data: Path) -> None:
    lists, _ = made(data, model, top=3)
    tastes = {user: TASTES[int(user[1:]) % 3] for user in lists}
    fitting = [item.startswith(tastes[user]) for user, items in lists.items() for item in items]
    assert np.mean(fitting) > 0.8


def test_packed_lists_have_the_provenance_of_the_same_lists_unpacked(data: Path) -> None:
    """Packed by somebody afterwards, or written so because of the name of the output."""
    _, plain = made(data, "popularity")
    told = provenance_path(data / "popularity.jsonl").read_text()
    packed = data / "popularity.jsonl.gz"
    assert provenance_path(packed) == provenance_path(data / "popularity.jsonl")
    inputs = ListInputs(data / "reviews.jsonl", data / "splits.jsonl", None)
    write_candidates(inputs, packed, ListOptions("popularity"), Refusals())
    assert gzip.decompress(packed.read_bytes()).decode() == plain
    assert provenance_path(packed).read_text() == told
    assert lists_hash(packed) == json.loads(told)["lists"]


@pytest.mark.parametrize("model", GENERATORS)
def test_test_items_are_never_seen(model: str, data: Path) -> None:
    """The same files with every test item put beyond reach: not a byte is different."""
    _, before = made(data, model)
    told = provenance_path(data / f"{model}.jsonl").read_text()
    poison(data)
    _, after = made(data, model)
    assert after == before
    assert provenance_path(data / f"{model}.jsonl").read_text() == told
    assert "marker" not in after + told


def poison(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "splits.jsonl").read_text().splitlines()]
    test = {(row["user_id"], row["test_item"]) for row in rows}
    for row in rows:
        row["test_item"] = f"marker-{row['user_id']}"
    write(data, "splits.jsonl", rows)
    rows = [json.loads(line) for line in (data / "reviews.jsonl").read_text().splitlines()]
    for row in rows:
        if (row["user_id"], row["item_id"]) in test:
            row |= {"item_id": f"marker-{row['user_id']}", "text": "marker"}
    write(data, "reviews.jsonl", rows)


def test_the_poison_is_found_in_lists_of_a_generator_that_peeks(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(data)
    honest = read_interactions
    monkeypatch.setattr(
        module, "read_interactions", lambda path, _, refusals: honest(path, set(), refusals)
    )
    _, text = made(data, "popularity")
    assert "marker" in text


@pytest.mark.parametrize("model", MODELS)
def test_validation_items_choose_settings_and_nothing_else(model: str, data: Path) -> None:
    generator = generator_named(model)
    seen: list[Any] = []
    honest = generator.fitted

    def spying(items: Any, seed: int) -> Any:
        seen.append(matrix(items).toarray())
        yield from honest(items, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "fitted", spying)
        made(data, model)
    assert seen[0].sum() == 240, "four interactions of each user are for training"
    told = json.loads(provenance_path(data / f"{model}.jsonl").read_text())
    best = max(told["tried"], key=lambda one: one["value"])
    assert told["settings"] == {name: best[name] for name in told["settings"]}
    assert told["interactions"] == 240
    assert len(told["tried"]) >= 1


@pytest.mark.parametrize("model", ["bpr", "lightgcn"])
def test_a_seed_repeats_and_another_does_not(model: str, data: Path) -> None:
    _, one = made(data, model, seed=1)
    where = provenance_path(data / f"{model}.jsonl")
    chosen = json.loads(where.read_text())["settings"]
    _, again = made(data, model, seed=1, settings=chosen)
    told = json.loads(where.read_text())
    assert ([{**chosen, "value": told["tried"][0]["value"]}], chosen) == (
        told["tried"],
        told["settings"],
    )
    _, other = made(data, model, seed=2, settings=chosen)
    assert one == again
    assert one != other


def test_the_order_of_the_file_changes_nothing(data: Path) -> None:
    _, before = made(data, "itemknn")
    lines = (data / "reviews.jsonl").read_text().splitlines()
    write(data, "reviews.jsonl", lines[::-1])
    _, after = made(data, "itemknn")
    assert after == before


def test_equals_by_popularity_then_id(tmp_path: Path) -> None:
    rows = [review(f"u{n}", item) for n, item in enumerate(["b", "a", "c", "c", "d"])]
    write(tmp_path, "reviews.jsonl", [*rows, review("u0", "v"), review("u0", "t")])
    split = {"user_id": "u0", "test_item": "t", "valid_item": "v", "tie": False}
    write(tmp_path, "splits.jsonl", [split])
    lists, text = made(tmp_path, "popularity")
    assert lists == {"u0": ["c", "a", "d"]}
    assert [one["score"] for one in json.loads(text)["results"]] == [2, 1, 1]
    # No item goes together with u0's, all scores are 0.
    lists, _ = made(tmp_path, "itemknn", top=2)
    assert lists == {"u0": ["c", "a"]}


def test_ease_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    dense = (rng.random((12, 5)) < 0.5).astype(np.float32)
    plain = [one for one in ease.fitted(interactions(dense), 0) if one.settings["decay"] == 1]
    for fitted, l2 in zip(plain, ease.L2, strict=True):
        weights = np.linalg.lstsq(dense.astype(float), fitted.scores(np.arange(12)), rcond=None)[0]
        assert fitted.settings == {"l2": l2, "decay": 1}
        assert np.diag(weights) == pytest.approx(np.zeros(5), abs=1e-5)
        # Each column solves ridge regression of an item on the others.
        for item in range(5):
            others = [one for one in range(5) if one != item]
            x, y = dense[:, others].astype(float), dense[:, item].astype(float)
            ridge = np.linalg.solve(x.T @ x + l2 * np.eye(4), x.T @ y)
            assert weights[others, item] == pytest.approx(ridge, abs=1e-5)


def test_ease_says_when_there_are_too_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ease, "MOST_ITEMS", 4)
    with pytest.raises(InputError, match=r"5 items are too many \(at most 4\); choose itemknn"):
        next(ease.fitted(interactions(np.ones((3, 5))), 0))


def test_older_interactions_count_less() -> None:
    dense = np.array([[1, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]])
    by_decay = {
        one.settings["decay"]: one.scores(np.array([0]))[0]
        for one in ease.fitted(interactions(dense), 0)
        if one.settings["l2"] == 1
    }
    single = [next(ease.fitted(interactions(dense), 0)).scores(np.array([0]))[0]]
    weights = exact(matrix(interactions(dense)), 1.0)
    assert by_decay[1.0] == pytest.approx(single[0])
    for decay in DECAYS:
        expected = weights[0] + decay * weights[1] + decay**2 * weights[2]
        assert by_decay[decay] == pytest.approx(expected, abs=1e-6)


def test_an_item_without_interactions_is_reached_through_its_personas(data: Path) -> None:
    lists, _ = made(data, PERSONAS_EASE, top=9)
    reached = [user for user, items in lists.items() if "trains-new" in items[:5]]
    assert reached
    assert {TASTES[int(user[1:]) % 3] for user in reached} == {"trains"}
    told = json.loads(provenance_path(data / f"{PERSONAS_EASE}.jsonl").read_text())
    assert told["personas"] == hypothetical_users().hash
    assert told["settings"]["share"] > 0


def test_no_share_of_personas_is_ease(data: Path) -> None:
    truth = read_truth(data / "splits.jsonl", Refusals(), "valid")
    found = read_interactions(data / "reviews.jsonl", truth.held_out, Refusals())
    personas = hypothetical_users()
    wider = found.with_items(personas.items)
    known = [wider.items.index(item) for item in found.items]
    users = np.arange(len(found.users))
    without = {"share": 0, "l2": 10, "decay": 1}
    [plain] = [one for one in ease.fitted(found, 0) if one.settings == {"l2": 10, "decay": 1}]
    [same] = [one for one in PersonasEase(personas).fitted(wider, 0) if one.settings == without]
    assert same.scores(users)[:, known] == pytest.approx(plain.scores(users), abs=1e-6)
    assert np.ptp(np.delete(same.scores(users), known, axis=1)) == 0


@pytest.mark.parametrize("model", READ_PERSONAS)
def test_a_generator_that_reads_personas_needs_them(model: str, data: Path) -> None:
    inputs = ListInputs(data / "reviews.jsonl", data / "splits.jsonl")
    with pytest.raises(InputError, match=f"{model} needs personas; name an artifact folder"):
        write_candidates(inputs, data / "out.jsonl", ListOptions(model), Refusals())


def test_hybrid_weighs_both_parts_on_validation_items(data: Path) -> None:
    made(data, HYBRID)
    told = json.loads(provenance_path(data / f"{HYBRID}.jsonl").read_text())
    weighed = [one for one in told["tried"] if "personas" in one]
    assert {one["personas"] for one in weighed} == {tenth / 10 for tenth in range(11)}
    best = max(one["value"] for one in weighed)
    assert best == next(
        one["value"]
        for one in weighed
        if {name: value for name, value in one.items() if name != "value"} == told["settings"]
    )
    alone = max(one["value"] for one in told["tried"] if "personas" not in one)
    together = max(one["value"] for one in weighed if one["personas"] == 0)
    assert together == pytest.approx(alone, abs=0.02)  # the same scores, of what is proposed
    assert told["personas"] == f"{hypothetical_users().hash}-{user_texts(data).hash}"


def test_hybrid_falls_back_on_a_better_generator(data: Path) -> None:
    """Here one that knows the validation items: with all weight on it, its lists are kept."""
    splits = [json.loads(line) for line in (data / "splits.jsonl").read_text().splitlines()]
    others = ["trains-0", "pots-0", "garden-0"]
    rows = [
        {
            "user_id": one["user_id"],
            "results": [{"item_id": item, "score": -at} for at, item in enumerate(own)],
        }
        for one in splits
        for own in [[one["valid_item"], *(item for item in others if item != one["valid_item"])]]
    ]
    found, _ = made(data, HYBRID, write(data, "knowing.jsonl", rows))
    told = json.loads(provenance_path(data / f"{HYBRID}.jsonl").read_text())
    assert told["settings"]["lists"] == "knowing"
    assert told["settings"]["generator"] > 0
    assert [own[0] for own in found.values()] == [one["valid_item"] for one in splits]
    tried = [one for one in told["tried"] if "generator" in one]
    assert {one["generator"] for one in tried} == {tenth / 10 for tenth in range(11)}
    assert max(one["value"] for one in tried) == 1
    useless = [row | {"results": row["results"][1:]} for row in rows]
    made(data, HYBRID, write(data, "useless.jsonl", useless))
    told = json.loads(provenance_path(data / f"{HYBRID}.jsonl").read_text())
    assert "generator" not in told["settings"], "what it finds itself is better"


def test_itemknn_scores_as_implicit_recommends() -> None:
    from implicit.nearest_neighbours import BM25Recommender

    rng = np.random.default_rng(1)
    items = scipy_sparse.csr_matrix((rng.random((30, 20)) < 0.2).astype(np.float32))
    model = BM25Recommender(K=20)
    with pytest.warns(Warning, match="CSR"):
        model.fit(items, show_progress=False)
    wanted = {"weights": "bm25", "neighbours": 20, "decay": 1}
    [fitted] = [
        one for one in itemknn.fitted(interactions(items.toarray()), 0) if one.settings == wanted
    ]
    for user in range(30):
        ids, scores = model.recommend(user, items[user], N=5)
        ours = fitted.scores(np.array([user]))[0]
        assert ours[ids[scores > 0]] == pytest.approx(scores[scores > 0], rel=1e-5)
        liked = items[user].indices
        assert np.delete(ours, liked).max() == pytest.approx(scores[0], rel=1e-5)


def test_popularity_counts_users() -> None:
    [fitted] = popularity.fitted(interactions(np.array([[1, 0], [1, 1]])), 0)
    assert fitted.scores(np.array([1])).tolist() == [[2, 1]]


def test_what_is_compared_with_is_not_the_users() -> None:
    rng = np.random.default_rng(0)
    known = np.array([0, 1, 2, 5])  # user 0 has items 0, 1, 2 of 4; user 1 has item 1
    drawn = pairwise._not_theirs(np.array([0] * 50 + [1] * 50), known, 4, rng)
    assert set(drawn[:50].tolist()) == {3}
    assert set(drawn[50:].tolist()) == {0, 2, 3}
    everything = pairwise._not_theirs(np.array([0]), np.array([0, 1, 2, 3]), 4, rng)
    assert everything[0] in range(4)


def test_ranks_are_places_in_the_list(data: Path) -> None:
    """Tuning counts places without writing lists; they are those of the lists."""
    truth = read_truth(data / "splits.jsonl", Refusals(), "valid")
    found = read_interactions(data / "reviews.jsonl", truth.held_out, Refusals())
    catalogue = Catalogue(found)
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 4, (len(found.users), len(found.items))).astype(float)
    fitted = Fitted({}, lambda users: coarse[users])
    rows = np.arange(len(found.users))
    wanted = [truth.items[user] for user in found.users]
    for items, item, rank in zip(
        catalogue.lists(fitted, rows, 100),
        wanted,
        catalogue.ranks(fitted, rows, wanted),
        strict=True,
    ):
        names = [name for name, _ in items]
        assert rank == (names.index(item) + 1 if item in names else 0)


def test_users_who_cannot_be_served(data: Path) -> None:
    with (data / "splits.jsonl").open("a") as file:
        file.write('{"user_id": "new", "test_item": "pots-1", "valid_item": "pots-2"}\n')
        file.write('{"user_id": "u00", "test_item": "pots-1", "valid_item": "pots-2"}\n')
    refusals = Refusals()
    provenance = write_candidates(
        ListInputs(data / "reviews.jsonl", data / "splits.jsonl"),
        data / "out.jsonl",
        ListOptions("popularity"),
        refusals,
    )
    assert provenance.users == 60
    assert provenance.users_without_training == 1
    assert refusals.counts == {"repeated user": 1}


def test_no_validation_items_no_tuning(data: Path) -> None:
    write(data, "splits.jsonl", [{"user_id": "u00", "test_item": "x", "valid_item": None}])
    with pytest.raises(InputError, match="holds no valid item"):
        made(data, "ease")
    write(data, "splits.jsonl", [{"user_id": "zoe", "test_item": "x", "valid_item": "y"}])
    with pytest.raises(InputError, match=r"no user of .*splits.jsonl has a training interaction"):
        made(data, "ease")
    assert not (data / "ease.jsonl").exists()


def test_lists_go_into_a_file(data: Path) -> None:
    inputs = ListInputs(data / "reviews.jsonl", data / "splits.jsonl")
    with pytest.raises(InputError, match="lists go into a file"):
        write_candidates(inputs, Path("-"), ListOptions("popularity"), Refusals())


def test_generators_that_are_not_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no generator 'magic'; choose one of bpr, lightgcn"):
        made(data, "magic")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "geo" in name else True)
    with pytest.raises(MissingExtraError, match=r"needs torch_geometric: pip install .*candidates"):
        made(data, "lightgcn")
