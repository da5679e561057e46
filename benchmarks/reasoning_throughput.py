"""How much of an LLM endpoint a run uses, and how long a ledger takes to go on from.

    python -m benchmarks.reasoning_throughput                    # some minutes
    python -m benchmarks.reasoning_throughput --requests 3000 --repeat 1

The endpoint is `devtools/scripted_llm.py` in a process of its own: 64 slots, 200 ms an answer.
Its own maximum is slots / latency, 320 answers a second; what is measured is the share of it from
the first request to the last answer on disk, with as many calls at once as it has slots, and with
an eighth more (an endpoint that queues has no gap then between one answer and the next call).
Beside it, in the same run, stands a client that does nothing but keep 64 bare connections busy:
what this machine lets anybody reach.

Then a ledger of 300,000 answers is opened, and a run over 300,000 requests that are all known goes
through it: seconds, and what the process grew by.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from indexer.ledger import Ledger
from indexer.llm import LLM, Request
from indexer.prompts import Prompt
from p4r_qdrant.settings import LLMSettings

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "reasoning_throughput.json"
SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "string"}},
    "required": ["x"],
    "additionalProperties": False,
}
SYSTEM = "Extract the aspects of this review. " * 25
REVIEW = "A sentence of a review of ordinary length. " * 20
VALUE = dict.fromkeys(("a", "b", "c", "d"), "A phrase that a model has written. " * 4)


def requests(count: int) -> Iterator[Request]:
    return (Request("aspects", Prompt(SYSTEM, f"{n}: {REVIEW}"), SCHEMA, "m") for n in range(count))


@contextmanager
def endpoint(slots: int, latency_s: float) -> Iterator[str]:
    command = [sys.executable, "-m", "devtools.scripted_llm"]
    command += ["--slots", str(slots), "--latency", str(latency_s)]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert server.stdin
    assert server.stdout
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(10)


async def through_the_layer(url: str, count: int, concurrency: int) -> float:
    """Answers a second."""
    settings = LLMSettings(base_url=url, concurrency=concurrency)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder)) as ledger:
        async with LLM(settings, ledger) as llm:
            started = time.perf_counter()
            async with aclosing(llm.run(requests(count))) as answers:
                done = [answer.ok async for answer in answers]
            seconds = time.perf_counter() - started
        assert all(done)
        assert ledger.count("aspects") == (count, 0)
    return count / seconds


async def over_bare_connections(url: str, count: int, connections: int) -> float:
    """Answers a second of a client that builds and understands nothing."""
    parts = urlsplit(url)
    one = next(requests(1))
    messages = [{"role": "system", "content": one.system}, {"role": "user", "content": one.user}]
    body = json.dumps({"model": "m", "messages": messages}).encode()
    head = f"POST {parts.path}/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
    left = count

    async def work() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while left > 0:
            left -= 1
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(answer.rpartition("content-length: ")[2].split()[0]))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    return count / (time.perf_counter() - started)


def measure_throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    maximum, slots = arguments.slots / arguments.latency, arguments.slots
    rows: list[dict[str, float]] = []
    medians = {}
    with endpoint(slots, arguments.latency) as url:
        for concurrency in (slots, slots + slots // 8):
            shares = []
            for _ in range(arguments.repeat):
                cpu = time.process_time()
                layer = asyncio.run(through_the_layer(url, arguments.requests, concurrency))
                cpu = (time.process_time() - cpu) / arguments.requests
                bare = asyncio.run(over_bare_connections(url, arguments.requests // 4, slots))
                shares.append(layer / maximum)
                rows.append(
                    {
                        "concurrency": concurrency,
                        "share": layer / maximum,
                        "bare_share": bare / maximum,
                        "cpu_ms_a_call": 1000 * cpu,
                        "load": os.getloadavg()[0],
                    }
                )
                print(
                    f"{concurrency} calls at once: {layer:.1f}/s, {layer / maximum:.1%} of the "
                    f"maximum; bare connections {bare / maximum:.1%}; {1000 * cpu:.2f} ms of CPU "
                    f"a call; load {rows[-1]['load']:.1f}",
                    flush=True,
                )
            medians[str(concurrency)] = median(shares)
    for calls, share in medians.items():
        print(f"median with {calls} calls at once: {share:.1%} of {maximum:.0f}/s")
    return {"maximum_per_s": maximum, "median_share": medians, "rows": rows}


def fill(folder: Path, count: int) -> None:
    with Ledger(folder) as ledger:
        for request in requests(count):
            ledger.put("aspects", request.key, {"answer": VALUE, **_REST})


_REST = {
    "about": {"item_id": "B000000001", "user_id": "A000000000001"},
    "problems": [],
    "model": "m",
    "calls": 1,
    "prompt_tokens": 900,
    "completion_tokens": 120,
    "cost_usd": 0.000207,
    "time": 1_760_000_000,
}


async def resume(folder: Path, count: int) -> dict[str, float]:
    """In a process of its own: open, look every key up, go through it as a run does."""
    known = [request.key for request in requests(count)]
    before = _resident()
    started = time.perf_counter()
    with Ledger(folder) as ledger:
        assert ledger.count("aspects") == (count, 0)
        opened = time.perf_counter() - started
        grown = _resident() - before
        assert all(ledger.has("aspects", key) for key in known)
        del known
        started = time.perf_counter()
        async with (
            LLM(LLMSettings(base_url="http://127.0.0.1:9/v1"), ledger) as llm,
            aclosing(llm.run(requests(count))) as answers,
        ):
            done = 0
            async for answer in answers:
                done += answer.known
        assert done == count
        run = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"open_s": opened, "run_s": run, "open_mb": grown, "peak_mb": peak, "before_mb": before}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def measure_resume(arguments: argparse.Namespace) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        fill(Path(name), arguments.answers)
        filled = time.perf_counter() - started
        size = (Path(name) / "aspects.jsonl").stat().st_size / 1e6
        print(f"ledger of {arguments.answers:,} answers, {size:.0f} MB, written in {filled:.1f} s")
        command = [sys.executable, "-m", "benchmarks.reasoning_throughput", "--answers"]
        command += [str(arguments.answers), "--resume", name]
        for _ in range(arguments.repeat):
            run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            row = json.loads(run.stdout)
            rows.append(row)
            print(
                f"opened in {row['open_s']:.2f} s, +{row['open_mb']:.0f} MB; a run over all of it "
                f"{row['run_s']:.1f} s; peak {row['peak_mb']:.0f} MB "
                f"({row['before_mb']:.0f} MB before, with all keys in a list)"
            )
    return {"answers": arguments.answers, "mb": size, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--answers", type=int, default=300_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.resume:
        print(json.dumps(asyncio.run(resume(arguments.resume, arguments.answers))))
        return
    results = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "throughput": measure_throughput(arguments),
        "resume": measure_resume(arguments),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
