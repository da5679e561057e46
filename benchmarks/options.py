"""What several interests and a persona prior cost: `python -m benchmarks.options`.

Both engines on one catalogue of invented vectors; the server is a process of its own, where its
binary is there (docker/fetch-qdrant.sh). Users are given as what became of their histories, so that
no encoder is timed. Results: docs/explanation/options.md.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import own_server, place_of
from p4r_qdrant import PersonaIndex, PersonaReranker, Settings, open_index
from p4r_qdrant.arrays import normalised
from p4r_qdrant.encoder.user_vector import user_vector
from p4r_qdrant.index.payload import ItemVectors
from p4r_qdrant.records import Interaction, Persona
from p4r_qdrant.settings import RerankSettings

PERSONAS = 5
OPTIONS = {
    "Eq. 10": RerankSettings(),
    "persona prior": RerankSettings(prior=0.5),
    "several interests": RerankSettings(interests=0.5),
    "both": RerankSettings(interests=0.5, prior=0.5),
}


def catalogue(items: int, dimension: int) -> Iterator[ItemVectors]:
    random = np.random.default_rng(0)
    for number in range(items):
        personas = [
            Persona(persona_id=f"{number}-{n}", name="n", description="d", preference_rationale="r")
            for n in range(PERSONAS)
        ]
        vectors = random.standard_normal((PERSONAS, dimension))
        yield ItemVectors(f"item-{number}", personas, vectors)


def measure(index: PersonaIndex, args: argparse.Namespace) -> None:
    random = np.random.default_rng(1)
    index.load(catalogue(args.items, args.dimension))
    index.record_typical_user(normalised(random.standard_normal((1, args.dimension)))[0])
    reranker = PersonaReranker(index)
    history = [Interaction(f"past-{n}", -n) for n in range(args.history)]
    shape = (args.calls, args.history, args.dimension)
    users = [user_vector(history, normalised(own), 0.85) for own in random.standard_normal(shape)]
    print(f"\n{index.stats().engine}\n\n| candidates | {' | '.join(OPTIONS)} |")
    print(f"|--:|{'--:|' * len(OPTIONS)}")
    for count in args.candidates:
        lists = [
            [f"item-{n}" for n in random.choice(args.items, count, replace=False)] for _ in users
        ]
        times: dict[str, list[float]] = {name: [] for name in OPTIONS}
        for user, candidates in zip(users, lists, strict=True):
            for name, options in OPTIONS.items():  # side by side: what disturbs one disturbs all
                began = time.perf_counter()
                reranker.rerank(user, candidates, 10, rerank=options)
                times[name].append(1000 * (time.perf_counter() - began))
        cells = [f"{statistics.median(own):.2f}" for own in times.values()]
        print(f"| {count} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--candidates", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--calls", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        places: list[dict[str, Any]] = [{"path": Path(folder) / "index"}]
        if (process := own_server(Path(folder), stack)) is not None:
            places.append(place_of(process))
        for place in places:
            settings = Settings.load(qdrant=place)
            with open_index(
                settings, dimension=args.dimension, fingerprint="bench", create=True
            ) as index:
                measure(index, args)


if __name__ == "__main__":
    main()
