"""How long a rerank takes: both engines beside the NumPy floor and the fastest raw gRPC query.

    python -m benchmarks.online                                  # 10,000 personas
    python -m benchmarks.online --personas 10000 500000          # both sizes

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
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.engines import built, err, found_server
from benchmarks.raw_queries import Raw
from benchmarks.synthetic import Catalogue
from benchmarks.timing import ROUNDS, Contender, Timing, measure
from p4r_qdrant import PersonaIndex, Settings
from p4r_qdrant.arrays import Floats

RESULTS = Path(__file__).parent / "results"
CANDIDATES = (20, 100, 1000)
USERS = (1, 10, 100)
DESIGN_MS = {10_000: {20: 0.23, 100: 0.9, 1000: 11.0}, 500_000: {20: 1.5, 100: 5.3, 1000: 18.0}}
"""What Qdrant Edge alone took (20, 100, 1000 candidates), to be beaten: at 500,000 three times."""


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
        contenders: dict[str, Contender] = {
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


if __name__ == "__main__":
    main()
