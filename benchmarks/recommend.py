"""How long a recommendation of a whole catalogue takes on a server, beside its two queries alone.

    python -m benchmarks.recommend [--items 100000] [--personas 2]

Items have `--personas` personas of 384 dimensions and columns of B of up to 200 entries; users have
20 items. The contenders take turns: `recommend` by the one score (the ten best with texts, reasons
and the user's own items left out), and on the raw stubs the nearest personas and the largest sums
of columns, 120 each, one query after the other. Ratios are of medians in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from qdrant_client import grpc

from benchmarks import hybrid
from benchmarks.engines import built, err, found_server, linked, wait_for_links
from benchmarks.online import RESULTS
from benchmarks.synthetic import DIMENSION, Catalogue
from benchmarks.timing import measure
from p4r_qdrant import PersonaIndex
from p4r_qdrant.arrays import Floats
from p4r_qdrant.index.columns import CollaborativePart, Weights
from p4r_qdrant.index.server.collection import Collection
from p4r_qdrant.index.server.columns import ServerColumns

PROPOSED = 120


class Small(Catalogue):
    """Items of so many personas each, with short texts."""

    description = "Who this is."
    rationale = "Why the item suits them."
    texts: ClassVar = {"item_title": "A title"}

    @classmethod
    def with_items(cls, items: int, personas: int) -> Small:
        matrix = np.random.default_rng(0).standard_normal(
            (items * personas, DIMENSION), dtype=np.float32
        )
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        return cls(matrix, np.arange(0, len(matrix) + 1, personas))


def raw(index: PersonaIndex, histories: Iterator[dict[str, str]], users: Floats, _: Any) -> Any:
    """Both queries, as little as they can be."""
    columns: Any = index._columns()
    assert isinstance(columns, ServerColumns)
    personas: Collection = index.engine._collection  # type: ignore[attr-defined]
    found = []
    for user in users:
        dense = grpc.VectorInput(dense=grpc.DenseVector(data=user.tolist()))
        nearest = grpc.QueryPoints(
            collection_name=personas.name,
            query=grpc.Query(nearest=dense),
            limit=PROPOSED,
            with_payload=grpc.WithPayloadSelector(enable=False),
        )
        history = next(histories)
        weights = Weights.of(dict.fromkeys(history, 1.0), columns.numbers(history))
        found.append((personas.ask("Query", nearest), columns.nearest(weights, PROPOSED)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--personas", type=int, default=2, help="of each item")
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=1, help="how often all of it is timed")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p4r-bench-")))
        server = found_server(folder, stack)
        if server is None:
            return
        catalogue = Small.with_items(arguments.items, arguments.personas)
        settings = linked(server, f"recommend-{arguments.items}")
        index = built(settings, catalogue, stack)
        err.print(f"writing {catalogue.items:,} columns")
        part = CollaborativePart(
            1, "", hybrid.ENTRIES, catalogue.items, catalogue.items, settings={"decay": 0.95}
        )
        index.write_collaborative(part, hybrid.columns(catalogue.items))
        wait_for_links(index)
        ways = hybrid.recommending(index, catalogue.items, "server")
        ways["raw queries"] = partial(raw, index, hybrid.histories(catalogue.items))
        rows = []
        for _ in range(arguments.rounds):
            timings = measure(ways, catalogue.items, 1, 1, arguments.repeats)
            ratio = timings["server: hybrid"].median / timings["raw queries"].median
            load = os.getloadavg()[0]
            row = {name: vars(one) for name, one in timings.items()}
            rows.append({"items": catalogue.items, "ratio": ratio, "load": load} | row)
            texts = [f"{name} {one.median:.1f} / {one.p99:.1f} ms" for name, one in timings.items()]
            err.print(f"{', '.join(texts)}; to raw {ratio:.2f} (load {load:.0f})")
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "recommend.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
