"""What `PersonaReranker.why_not` costs beside a rerank: `python -m benchmarks.why_not`.

Each call asks about an item of the lower half of 100 candidates on an embedded index, with personas
alone and with the one score of all parts. Users are given as what became of their histories, so
that no encoder is timed. Prints medians (95th percentiles) in ms by the clock and by the processor
time of the thread, which other processes disturb less, the ratio of medians in one run, and how
many items could be lifted. Results: docs/how-to/why-not.md.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
    print("| score | rerank | why not | ratio | processor alone: rerank | why not | lifted |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, options in {"personas": ALONE, "all parts": HYBRID}.items():
        times: list[npt.NDArray[np.float64]] = []
        lifted = 0
        for user in users(args):
            chosen = random.choice(args.items, args.candidates, replace=False)
            scored = [(f"item-{one}", -float(at)) for at, one in enumerate(chosen)]
            began = clocks()
            ranking = reranker.rerank(user, scored, explain=10, rerank=options)
            between = clocks()
            item_id = ranking.items[random.integers(10, args.candidates // 2)].item_id
            found = reranker.why_not(user, item_id, scored, rerank=options)
            times += [between - began, clocks() - between]
            lifted += found.change is not None
        own = 1000 * np.array(times).reshape(-1, 2, 2)  # (calls, rerank and why not, both clocks)
        middle, high = np.median(own, axis=0), np.percentile(own, 95, axis=0)
        cells = [[f"{middle[n, k]:.2f} ({high[n, k]:.2f})" for n in (0, 1)] for k in (0, 1)]
        ratio = middle[1, 0] / middle[0, 0]
        print(
            f"| {name} | {' | '.join(cells[0])} | {ratio:.1f} | {' | '.join(cells[1])} "
            f"| {lifted} of {args.calls} |"
        )


def clocks() -> npt.NDArray[np.float64]:
    """The time of day and the processor time of this thread, in s: (2,)."""
    return np.array([time.perf_counter(), time.thread_time()])


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
