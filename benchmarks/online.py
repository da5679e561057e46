"""How long a rerank takes: both engines beside the NumPy floor and the fastest raw gRPC query.

    make bench                                     # 10,000 personas
    make bench ARGS="--personas 10000 500000"      # both sizes

Every contender answers the same question in turn, with the same candidates: the best persona of
each candidate, and the texts of the first ten. Ratios are of medians in one run. The server is
the one P4R_QDRANT__URL names, or the binary that docker/fetch-qdrant.sh has fetched.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from p4r_qdrant import ItemVectors, Persona, PersonaIndex, Settings, open_index
from p4r_qdrant.index.payload import point_prefix
from p4r_qdrant.index.server.collection import Collection

DIMENSION = 384
RESULTS = Path(__file__).parent / "results"
CANDIDATES = (20, 100, 1000)
USERS = (1, 10, 100)
ROUNDS = 8
DESIGN_MS = {10_000: {20: 0.23, 100: 0.9, 1000: 11.0}, 500_000: {20: 1.5, 100: 5.3, 1000: 18.0}}
"""What Qdrant Edge alone took (20, 100, 1000 candidates), to be beaten: at 500,000 three times."""

Floats = npt.NDArray[np.float32]
err = Console(stderr=True)


@dataclass
class Catalogue:
    """Synthetic items of 2 to 7 personas, in one matrix of unit rows."""

    matrix: Floats
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, personas: int) -> Catalogue:
        random = np.random.default_rng(0)
        sizes = random.integers(2, 8, personas // 4)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        starts = starts[starts <= personas]
        matrix = random.standard_normal((int(starts[-1]), DIMENSION), dtype=np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        return cls(matrix, starts)

    @property
    def items(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> Iterator[ItemVectors]:
        texts = {
            "item_title": "A title of ordinary length",
            "summary": "What the item is, in two sentences. " * 5,
        }
        for number in range(self.items):
            vectors = self.matrix[self.starts[number] : self.starts[number + 1]]
            personas = [
                Persona(
                    persona_id=f"item-{number}_P{slot}",
                    name=f"Reader {slot}",
                    description="Who this is, in two sentences. " * 6,
                    preference_rationale="Why the item suits them. " * 6,
                )
                for slot in range(len(vectors))
            ]
            yield ItemVectors(f"item-{number}", personas, vectors, texts)


def floor(catalogue: Catalogue, users: Floats, candidates: list[list[str]]) -> Any:
    """Gather and multiply over vectors in memory, the maximum of each item; no texts, no ids."""
    answers = []
    for user, item_ids in zip(users, candidates, strict=True):
        numbers = np.array([int(one[5:]) for one in item_ids])
        starts, ends = catalogue.starts[numbers], catalogue.starts[numbers + 1]
        counts = ends - starts
        first = np.cumsum(counts) - counts
        rows = np.repeat(starts - first, counts) + np.arange(counts.sum())
        # In pieces, or the BLAS threads wait for each other.
        scores = [catalogue.matrix[rows[at : at + 256]] @ user for at in range(0, len(rows), 256)]
        answers.append(np.maximum.reduceat(np.concatenate(scores), first))
    return answers


class Raw:
    """Queries written by hand on the raw gRPC stubs, each as fast as it can be."""

    def __init__(self, settings: Settings) -> None:
        import grpc as transport
        from qdrant_client import grpc

        self.grpc = grpc
        key = settings.qdrant.api_key
        host = (settings.qdrant.url or "").split("//")[1].split(":")[0].split("/")[0]
        channel = transport.insecure_channel(
            f"{host}:{settings.qdrant.grpc_port}",
            options=[("grpc.max_receive_message_length", -1)],
        )
        self.stub: Any = grpc.PointsStub(channel)  # type: ignore[no-untyped-call]
        self.metadata = (("api-key", key.get_secret_value()),) if key else ()
        self.name = settings.qdrant.collection
        self.exact = grpc.SearchParams(exact=True)
        self.nothing = grpc.WithPayloadSelector(enable=False)
        self.everything = grpc.WithPayloadSelector(enable=True)
        self.names = grpc.WithPayloadSelector(
            include=grpc.PayloadIncludeSelector(fields=["item_id", "persona_id"])
        )

    def variants(self) -> dict[str, Callable[[Floats, list[list[str]]], Any]]:
        return {
            "grouped, all texts": lambda users, ids: self.grouped(users, ids, self.everything),
            "grouped, then texts": lambda users, ids: self.grouped(users, ids, self.nothing),
            "flat with ids, then texts": lambda users, ids: self.flat(users, ids, self.names),
            "flat, then texts": lambda users, ids: self.flat(users, ids, self.nothing),
        }

    def grouped(self, users: Floats, candidates: list[list[str]], payload: Any) -> Any:
        answers = []
        for user, item_ids in zip(users, candidates, strict=True):
            message = self.grpc.QueryPointGroups(
                collection_name=self.name,
                group_by="item_id",
                group_size=1,
                limit=len(item_ids),
                with_payload=payload,
                **self._asked(user, item_ids),
            )
            groups = self.stub.QueryGroups(message, metadata=self.metadata, timeout=60).result
            best = {one.id.string_value: one.hits[0] for one in groups.groups}
            found = {item_id: (hit.score, hit.id.uuid) for item_id, hit in best.items()}
            if payload is self.everything:
                texts = [_read(hit.payload) for hit in list(best.values())[:10]]
            else:
                texts = self._texts([point for _, point in list(found.values())[:10]])
            answers.append((found, texts))
        return answers

    def flat(self, users: Floats, candidates: list[list[str]], payload: Any) -> Any:
        messages = [
            self.grpc.QueryPoints(
                collection_name=self.name,
                limit=7 * len(item_ids),
                with_payload=payload,
                **self._asked(user, item_ids),
            )
            for user, item_ids in zip(users, candidates, strict=True)
        ]
        batch = self.grpc.QueryBatchPoints(collection_name=self.name, query_points=messages)
        if len(messages) == 1:
            results = [self.stub.Query(messages[0], metadata=self.metadata, timeout=60)]
        else:
            results = self.stub.QueryBatch(batch, metadata=self.metadata, timeout=60).result
        answers = []
        for one, item_ids in zip(results, candidates, strict=True):
            best: dict[str, tuple[float, str]] = {}
            if payload is self.nothing:  # the id tells whose point it is
                owner = {point_prefix(item_id): item_id for item_id in item_ids}
                for hit in one.result:
                    point = hit.id.uuid
                    best.setdefault(owner[point[:-2]], (hit.score, point))
            else:
                for hit in one.result:
                    best.setdefault(hit.payload["item_id"].string_value, (hit.score, hit.id.uuid))
            answers.append(best)
        shown = [point for best in answers for _, point in list(best.values())[:10]]
        return answers, self._texts(shown)

    def _asked(self, user: Floats, item_ids: list[str]) -> dict[str, Any]:
        grpc = self.grpc
        match = grpc.Match(keywords=grpc.RepeatedStrings(strings=item_ids))
        condition = grpc.Condition(field=grpc.FieldCondition(key="item_id", match=match))
        vector = grpc.VectorInput(dense=grpc.DenseVector(data=user.tolist()))
        return {
            "query": grpc.Query(nearest=vector),
            "filter": grpc.Filter(must=[condition]),
            "params": self.exact,
        }

    def _texts(self, points: list[str]) -> Any:
        message = self.grpc.GetPoints(
            collection_name=self.name,
            ids=[self.grpc.PointId(uuid=point) for point in points],
            with_payload=self.everything,
        )
        answer = self.stub.Get(message, metadata=self.metadata, timeout=60)
        return [_read(one.payload) for one in answer.result]


def _read(payload: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in payload.items()}


@dataclass
class Timing:
    """Milliseconds of one contender's calls."""

    median: float
    p99: float


def measure(
    contenders: dict[str, Callable[[Floats, list[list[str]]], Any]],
    items: int,
    candidates: int,
    users: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time all contenders on the same random questions, a block of calls each in turn.

    In blocks, for that is how traffic comes; in turn, for what else the machine does meets all.
    clock: gives seconds.
    """
    random = np.random.default_rng(candidates * 1000 + users)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    block = max(1, repeats // ROUNDS)
    for _ in range(ROUNDS):
        vectors = random.standard_normal((block, users, DIMENSION), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        asked = [
            [
                [f"item-{one}" for one in random.choice(items, candidates, replace=False)]
                for _ in range(users)
            ]
            for _ in range(block)
        ]
        for name, contender in contenders.items():
            contender(vectors[0], asked[0])  # warm
            for one, item_ids in zip(vectors, asked, strict=True):
                started = clock()
                contender(one, item_ids)
                times[name].append((clock() - started) * 1e3)
    return {
        name: Timing(float(np.median(each)), float(np.quantile(each, 0.99)))
        for name, each in times.items()
    }


def import_seconds() -> float:
    """Seconds that `import p4r_qdrant` takes in a fresh interpreter: the median of seven."""
    code = "import time; t = time.perf_counter(); import p4r_qdrant; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return float(np.median([float(subprocess.check_output(command)) for _ in range(7)]))


@dataclass
class Row:
    """One line of the table: what was asked, and every contender's timing."""

    personas: int
    candidates: int
    users: int
    timings: dict[str, Timing]

    @property
    def raw(self) -> str | None:
        """The fastest raw query of this line."""
        raws = [name for name in self.timings if name.startswith("raw: ")]
        return min(raws, key=lambda name: self.timings[name].median) if raws else None

    def ratio(self, name: str, base: str | None) -> str:
        if base is None or name not in self.timings:
            return "-"
        return f"{self.timings[name].median / self.timings[base].median:.2f}"


def run(personas: int, server: Settings | None, folder: Path, repeats: int) -> list[Row]:
    """Build both indexes of one size and ask them everything."""
    catalogue = Catalogue.of(personas)
    rows = []
    with ExitStack() as stack:
        embedded = Settings(qdrant={"url": None, "path": folder / f"edge-{personas}"})
        indexes: dict[str, PersonaIndex] = {"embedded": built(embedded, catalogue, stack)}
        contenders: dict[str, Callable[[Floats, list[list[str]]], Any]] = {
            "floor": lambda users, ids: floor(catalogue, users, ids)
        }
        if server is not None:
            named = server.qdrant.model_copy(update={"collection": f"bench-{personas}"})
            there = server.model_copy(update={"qdrant": named})
            indexes["server"] = built(there, catalogue, stack)
            raw = Raw(there)
            contenders |= {f"raw: {name}": query for name, query in raw.variants().items()}
        contenders |= {name: partial(_rerank, index) for name, index in indexes.items()}
        cases = [(number, 1) for number in CANDIDATES] + [(100, users) for users in USERS[1:]]
        for candidates, users in cases:
            times = max(2 * ROUNDS, repeats * 100 // max(100, candidates * users // 4))
            err.print(f"{personas:,} personas, {candidates} candidates, {users} users")
            timings = measure(contenders, catalogue.items, candidates, users, times)
            rows.append(Row(personas, candidates, users, timings))
    return rows


def _rerank(index: PersonaIndex, users: Floats, candidates: list[list[str]]) -> Any:
    return index.best_personas(users, candidates, explain=10)


def built(settings: Settings, catalogue: Catalogue, stack: ExitStack) -> PersonaIndex:
    index = stack.enter_context(
        open_index(settings, dimension=DIMENSION, fingerprint="benchmark", create=True)
    )
    if index.stats().items < catalogue.items:
        with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
            rows = progress.track(
                catalogue.rows(), total=catalogue.items, description=f"filling {index.location}"
            )
            index.load(rows)
    return index


def table(rows: list[Row]) -> Table:
    shown = Table(title="Milliseconds a call, median / p99; ratios of medians")
    for name in ("personas", "cand.", "users", "NumPy floor", "embedded", "to floor", "aim"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name in ("fastest raw gRPC", "", "server", "to raw"):
        shown.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in rows:
        design = DESIGN_MS.get(row.personas, {}).get(row.candidates) if row.users == 1 else None
        goal = design / (3 if row.personas == 500_000 else 1) if design else None
        shown.add_row(
            f"{row.personas:,}",
            str(row.candidates),
            str(row.users),
            _cell(row.timings["floor"]),
            _cell(row.timings["embedded"]),
            row.ratio("embedded", "floor"),
            f"<= {goal:.2f}" if goal else "-",
            _cell(row.timings[row.raw]) if row.raw else "-",
            row.raw.removeprefix("raw: ") if row.raw else "no server",
            _cell(row.timings["server"]) if "server" in row.timings else "-",
            row.ratio("server", row.raw),
        )
    return shown


def _cell(timing: Timing) -> str:
    return f"{timing.median:.2f} / {timing.p99:.2f}"


def plot(rows: list[Row], path: Path) -> None:
    """Median against candidates, one panel for each index size; bars reach to the p99."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = sorted({row.personas for row in rows})
    figure, axes = plt.subplots(1, len(sizes), figsize=(6 * len(sizes), 4.5), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        single = [row for row in rows if row.personas == size and row.users == 1]
        x = [row.candidates for row in single]
        for name in ("floor", "embedded", "server", "fastest raw gRPC"):
            keys = [row.raw if name == "fastest raw gRPC" else name for row in single]
            if any(
                key is None or key not in row.timings for key, row in zip(keys, single, strict=True)
            ):
                continue
            timings = [row.timings[str(key)] for key, row in zip(keys, single, strict=True)]
            medians = [one.median for one in timings]
            above = [one.p99 - one.median for one in timings]
            axis.errorbar(x, medians, [[0] * len(x), above], label=name, marker="o", capsize=3)
        axis.set(xscale="log", yscale="log", xlabel="candidates", title=f"{size:,} personas")
        axis.set_xticks(x, [str(one) for one in x])
        axis.grid(visible=True, alpha=0.3)
    axes[0][0].set_ylabel("ms a call (median, up to p99)")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--personas", type=int, nargs="+", default=[10_000])
    parser.add_argument("--repeats", type=int, default=200, help="calls timed at 20 candidates")
    parser.add_argument("--no-server", action="store_true", help="only the embedded engine")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of JSON and PNG")
    arguments = parser.parse_args()
    seconds = import_seconds()
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p4r-bench-")))
        server = None if arguments.no_server else found_server(folder, stack)
        for personas in arguments.personas:
            rows += run(personas, server, folder, arguments.repeats)
    arguments.output.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": sys.version}
    lines = [
        {
            "personas": row.personas,
            "candidates": row.candidates,
            "users": row.users,
            "ms": {name: vars(timing) for name, timing in row.timings.items()},
        }
        for row in rows
    ]
    report = {"import_s": seconds, **machine, "rows": lines}
    (arguments.output / "online.json").write_text(json.dumps(report, indent=1))
    plot(rows, arguments.output / "online.png")
    console = Console(width=max(Console().width, 160))
    console.print(table(rows))
    console.print(f"import p4r_qdrant: {seconds:.3f} s (aim: within 0.3 s)")
    console.print(f"written: {arguments.output / 'online.json'}, {arguments.output / 'online.png'}")


def found_server(folder: Path, stack: ExitStack) -> Settings | None:
    settings = Settings.load()
    if settings.qdrant.url is not None:
        return settings
    from devtools.qdrant_process import PrivateQdrant, binary

    path = binary()
    if path is None:
        err.print("No server: docker/fetch-qdrant.sh gets one. The embedded engine alone then.")
        return None
    process = PrivateQdrant(path, folder)
    process.start()
    stack.callback(process.kill)
    return Settings.load(
        qdrant={
            "url": process.url,
            "grpc_port": process.grpc_port,
            "api_key": process.api_key,
            "timeout_s": 60,
        }
    )


def linked(server: Settings, collection: str) -> Settings:
    """A collection of its own with a graph, which recommendations of the whole catalogue need."""
    return server.model_copy(
        update={
            "qdrant": server.qdrant.model_copy(update={"collection": collection}),
            "index": server.index.model_copy(update={"hnsw": True}),
        }
    )


def wait_for_links(index: PersonaIndex) -> None:
    """Until a server has linked all points for searches of the whole catalogue."""
    collection: Collection = index.engine._collection  # type: ignore[attr-defined]
    greens = 0
    while greens < 5:  # between two optimizations it is green for a moment
        time.sleep(1)
        is_done = collection.info().status == models.CollectionStatus.GREEN
        greens = greens + 1 if is_done else 0


if __name__ == "__main__":
    main()
