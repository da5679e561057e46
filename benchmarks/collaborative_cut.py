"""What is lost if the columns of B are cut to their k largest entries?

    python -m benchmarks.collaborative_cut --reviews REVIEWS --splits SPLITS --artifacts DIR
        [--share 1] [--l2 300] [--decay 0.85] [--k 20 50 200 1000]

NDCG@10 on *validation* items over the whole catalogue, of B as a whole and of cut ones, and the
share of the sums of absolute values that the cut columns keep. The encoder is that of the settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.collaborative.encoding import encoded_personas
from indexer.collaborative.fitting import with_hypothetical
from indexer.collaborative.hypothetical import KEEP, affinities
from indexer.collaborative.weights import exact
from indexer.evaluation.catalogue import Catalogue
from indexer.evaluation.generators.base import item_scores, matrix
from indexer.evaluation.interactions import read_interactions
from indexer.evaluation.truth import read_truth
from indexer.metrics import ndcg
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.loading import load_encoder
from p4r_qdrant.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("reviews", "splits", "artifacts"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--l2", type=float, default=300.0)
    parser.add_argument("--decay", type=float, default=0.85)
    parser.add_argument("--k", type=int, nargs="+", default=[20, 50, 200, 1000])
    given = parser.parse_args()
    refusals = Refusals()
    personas = encoded_personas(
        ArtifactFolder(given.artifacts), load_encoder(Settings.load().encoder), refusals
    )
    truth = read_truth(given.splits, refusals, "valid")
    training = read_interactions(given.reviews, truth.held_out, refusals).with_items(personas.items)
    columns = np.searchsorted(training.items, personas.items)
    hypothetical = affinities(personas, columns, len(training.items), KEEP)
    whole = exact(with_hypothetical(matrix(training), hypothetical, given.share), given.l2)
    position = {user: place for place, user in enumerate(training.users)}
    users = [user for user in truth.items if user in position]
    rows = np.array([position[user] for user in users])
    wanted = [truth.items[user] for user in users]
    catalogue = Catalogue(training)
    print(
        f"{len(training.items):,} items, {len(users):,} users, {len(personas.vectors):,} personas"
    )
    for k in (None, *given.k):
        weights = whole if k is None else cut(whole, k)
        for fitted in item_scores(training, weights, {}):
            if fitted.settings["decay"] == given.decay:
                found = ndcg(catalogue.ranks(fitted, rows, wanted))
                kept = np.abs(weights).sum() / np.abs(whole).sum()
                print(f"k {'all' if k is None else k:>5}: NDCG@10 {found:.4f}, kept {kept:.3f}")


def cut(weights: Floats, k: int) -> Floats:
    """A copy whose columns have their k largest entries only."""
    kept = np.zeros_like(weights)
    if k >= len(weights):
        return weights
    places = np.argpartition(-np.abs(weights), k - 1, axis=0)[:k]
    np.put_along_axis(kept, places, np.take_along_axis(weights, places, axis=0), axis=0)
    return kept


if __name__ == "__main__":
    main()
