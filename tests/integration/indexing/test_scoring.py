"""From `p4r tune` over a publish to the reranker: the same scores and the same order."""

from pathlib import Path

import pytest

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ASPECTS, CANDIDATES, REVIEWS, SPLITS
from indexer.artifacts.tuned import Tuned, TunedFit, write_tuned
from indexer.collaborative.encoding import encoded_personas
from indexer.evaluation.generators.personas_ease import PersonasEase
from indexer.evaluation.interactions import interactions_in
from indexer.evaluation.truth import read_truth
from indexer.tuning.cases import Scores, catalogue_cases, list_cases, mean_user
from p4r_qdrant import PersonaReranker, Settings, open_index
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Ranking
from p4r_qdrant.rerank.scoring import Scoring, Weights
from p4r_qdrant.rerank.users import KnownUser, items_of
from p4r_qdrant.settings import CollaborativeSettings, HistorySettings, RerankSettings
from tests.support.hash_encoder import HashEncoder
from tests.support.paths import copy_bookshop
from tests.support.publishing import run

ENCODER = HashEncoder(24)
FIT = TunedFit(share=0.5, l2=20.0, decay=0.85)
HISTORY = HistorySettings(length=4, decay=0.85)
LISTS = Weights(personas=0.3, collaborative=0.5, generator=0.2)
CATALOGUE = Weights(personas=0.6, collaborative=0.4, generator=0)
SCORING = Scoring(candidates=LISTS, catalogue=CATALOGUE)


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactFolder:
    path = tmp_path / "books"
    copy_bookshop(path)
    return ArtifactFolder(path)


def tuned(
    folder: ArtifactFolder, fingerprint: str = ENCODER.fingerprint, scoring: Scoring = SCORING
) -> None:
    found = Tuned(fingerprint=fingerprint, history=HISTORY, collaborative=FIT, scoring=scoring)
    write_tuned(folder, found)


def in_form(weights: Weights, form: RerankSettings) -> Weights:
    return weights.model_copy(update={"interests": form.interests, "prior": form.prior})


def place_of(ranking: Ranking, item_id: str) -> int:
    ids = [one.item_id for one in ranking.items]
    return ids.index(item_id) + 1 if item_id in ids else 0


@pytest.mark.parametrize(
    "form", [RerankSettings(), RerankSettings(interests=0.5, prior=0.25)], ids=["plain", "form"]
)
def test_the_reranker_orders_as_tuning_did(
    index_settings: Settings, folder: ArtifactFolder, form: RerankSettings
) -> None:
    """Also in the form of the persona score that was chosen with the weights."""
    scoring = Scoring(candidates=in_form(LISTS, form), catalogue=in_form(CATALOGUE, form))
    tuned(folder, scoring=scoring)
    report = run(folder.path, ENCODER, index_settings, training_only=True)
    assert report.weights == scoring.described()
    truth = read_truth(folder.file(SPLITS), Refusals(), "valid")
    personas = encoded_personas(folder, ENCODER, Refusals())
    files = [folder.file(name) for name in (REVIEWS, ASPECTS)]
    training = interactions_in(files, truth.held_out, Refusals()).with_items(personas.items)
    [model] = [
        one
        for one in PersonasEase(personas, [FIT.share], [FIT.l2]).fitted(training, 0)
        if one.settings["decay"] == FIT.decay
    ]
    held = {one.user_id: one for one in read_candidates(folder.file(CANDIDATES), Refusals())}
    lists = [held[user] for user in truth.items if user in held]
    users = [one.user_id for one in lists]
    with Histories(folder, Refusals()) as histories:
        known = [histories.get(user) for user in users]
    vectors = ENCODER.user_vectors(known, length=HISTORY.length, decay=HISTORY.decay)
    typical = mean_user(vectors)
    assert typical is not None
    scores = Scores(training, personas, model, form, typical)
    of_lists = [*list_cases(scores, lists, vectors, truth.items)]
    of_catalogue = [*catalogue_cases(scores, users, vectors, truth.items)]
    with open_index(index_settings) as index:
        assert (index.metadata.typical is not None) == bool(form.prior), "a publish records it"
        index.record_typical_user(typical)
        reranker = PersonaReranker(index)
        told = [
            KnownUser(vector, items_of(history))
            for vector, history in zip(vectors, known, strict=True)
        ]
        rankings = reranker.rerank_many(told, [one.results for one in lists])
        for user, ranking, case in zip(users, rankings, of_lists, strict=True):
            assert place_of(ranking, truth.items[user]) == case.rank(LISTS)
        for user, one, case in zip(users, told, of_catalogue, strict=True):
            ranking = reranker.recommend(one, 200)
            assert place_of(ranking, truth.items[user]) == case.rank(CATALOGUE)
        assert len(users) > 15
        plain = RerankSettings(interests=0.0, prior=0.0)
        others = reranker.rerank_many(told, [one.results for one in lists], rerank=plain)
        assert (others == rankings) == (form == RerankSettings()), "what a call sets counts"
        near = reranker.rerank(told[0], lists[0].results, rerank=RerankSettings(fusion="none"))
        assert near == PersonaReranker(index, rerank=RerankSettings(fusion="none")).rerank(
            told[0], lists[0].results
        ), "persona scores alone keep the form that is set"


def test_settings_that_are_set_come_before_the_tuned_ones(
    index_settings: Settings, folder: ArtifactFolder
) -> None:
    tuned(folder)
    own = CollaborativeSettings(l2=50.0)
    run(folder.path, ENCODER, index_settings.model_copy(update={"collaborative": own}))
    with open_index(index_settings) as index:
        assert index.collaborative is not None
        fit = index.collaborative.settings
        assert (fit["share"], fit["l2"], fit["decay"]) == (FIT.share, 50.0, FIT.decay)


def test_weights_of_another_encoder_are_not_recorded(
    index_settings: Settings, folder: ArtifactFolder
) -> None:
    tuned(folder)
    run(folder.path, ENCODER, index_settings)
    tuned(folder, "another")
    report = run(folder.path, ENCODER, index_settings)
    assert "run p4r tune again" in report.weights
    with open_index(index_settings) as index:
        assert index.metadata.scoring == ""
        assert index.collaborative is not None
        assert index.collaborative.settings["l2"] == FIT.l2


def test_a_broken_choice_is_found_before_anything_is_written(
    index_settings: Settings, folder: ArtifactFolder
) -> None:
    (folder.path / "tuned.json").write_text("{}")
    with pytest.raises(InputError, match="run p4r tune again"):
        run(folder.path, ENCODER, index_settings)


def test_somebody_unknown_gets_the_most_popular_items(
    index_settings: Settings, folder: ArtifactFolder
) -> None:
    run(folder.path, ENCODER, index_settings)
    with open_index(index_settings) as index:
        popular = PersonaReranker(index).recommend(None, 5)
    counts = interactions_in([folder.file(REVIEWS)], [], Refusals())
    most = sorted(zip(-counts.item_counts(), counts.items, strict=True))[:5]
    assert [one.item_id for one in popular.items] == [item for _, item in most]
    assert not popular.personalized
