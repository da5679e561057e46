"""What `PersonaReranker.why_not` costs beside a rerank: `python -m benchmarks.why_not`.

Each call asks about an item of the lower half of 100 candidates on an embedded index, with personas
alone and with the one score of all parts. Users are given as what became of their histories, so
that no encoder is timed. Prints the median and the 95th percentile in ms, the ratio of medians in
one run, and how many items could be lifted. Results: docs/how-to/why-not.md.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.hybrid import ALONE, HYBRID, columns, popular
from benchmarks.options import catalogue
from p4r_qdrant import PersonaReranker, Settings, open_index
from p4r_qdrant.arrays import normalised
from p4r_qdrant.encoder.user_vector import user_vector
from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.records import Interaction
from p4r_qdrant.rerank.users import KnownUser

ENTRIES = 200
WHOLE = 20
"""Items of a whole history, of which the newest make the user vector."""


def users(args: argparse.Namespace) -> list[KnownUser]:
    random = np.random.default_rng(1)
    made = []
    for _ in range(args.calls):
        own = [f"item-{one}" for one in popular(random, args.items, WHOLE)]
        random.shuffle(own)
        recent = [Interaction(one, -at) for at, one in enumerate(own[: args.history])]
        rows = normalised(random.standard_normal((len(recent), args.dimension)))
        made.append(KnownUser(user_vector(recent, rows, 0.85), dict.fromkeys(own, "A title")))
    return made


def measure(reranker: PersonaReranker, args: argparse.Namespace) -> None:
    random = np.random.default_rng(2)
    print("| score | rerank, median (p95) | why not, median (p95) | ratio | lifted |")
    print("|---|--:|--:|--:|--:|")
    for name, options in {"personas": ALONE, "all parts": HYBRID}.items():
        times: dict[str, list[float]] = {"rerank": [], "why not": []}
        lifted = 0
        for user in users(args):
            chosen = random.choice(args.items, args.candidates, replace=False)
            scored = [(f"item-{one}", -float(at)) for at, one in enumerate(chosen)]
            began = time.perf_counter()
            ranking = reranker.rerank(user, scored, explain=10, rerank=options)
            times["rerank"].append(time.perf_counter() - began)
            item_id = ranking.items[random.integers(10, args.candidates // 2)].item_id
            began = time.perf_counter()
            found = reranker.why_not(user, item_id, scored, rerank=options)
            times["why not"].append(time.perf_counter() - began)
            lifted += found.change is not None
        middle, high = (
            {what: 1000 * float(np.percentile(own, share)) for what, own in times.items()}
            for share in (50, 95)
        )
        cells = [f"{middle[what]:.2f} ({high[what]:.2f})" for what in times]
        ratio = middle["why not"] / middle["rerank"]
        print(f"| {name} | {' | '.join(cells)} | {ratio:.1f} | {lifted} of {args.calls} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--calls", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(qdrant={"url": None, "path": Path(folder) / "index"})
        with open_index(
            settings, dimension=args.dimension, fingerprint="bench", create=True
        ) as index:
            index.load(catalogue(args.items, args.dimension))
            part = CollaborativePart(1, "", ENTRIES, args.items, args.items)
            index.write_collaborative(part, columns(args.items))
            measure(PersonaReranker(index), args)


if __name__ == "__main__":
    main()
