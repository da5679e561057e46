"""What `benchmarks.service_load` gives to Locust: POST one of many bodies, again and again.

    BODIES=FILE RESULTS=FILE locust -f benchmarks/locustfile.py --headless --host URL --users 8

BODIES: JSON with `path`, `headers` and `bodies`. RESULTS gets a line for each answer: when it came
(seconds since 1970), how long it took (ms), and what it was.
"""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant, events, task

GIVEN = json.loads(Path(os.environ["BODIES"]).read_text())
BODIES = [json.dumps(one) for one in GIVEN["bodies"]]
ANSWERS: list[tuple[float, float, str]] = []


class Asking(FastHttpUser):
    """One connection, kept; asks as soon as it is answered."""

    wait_time = constant(0)
    concurrency = 1
    network_timeout = connection_timeout = 30.0

    @task
    def ask(self) -> None:
        body = random.choice(BODIES)
        start = time.perf_counter()
        with self.client.post(
            GIVEN["path"], data=body, headers=GIVEN["headers"], catch_response=True
        ) as response:
            milliseconds = 1000 * (time.perf_counter() - start)
            ANSWERS.append((time.time(), milliseconds, kind(response)))
            response.success()


def kind(response: Any) -> str:
    """What an answer is worth."""
    if response.status_code != 200:
        again = "" if response.headers is None else response.headers.get("retry-after", "")
        return f"status {response.status_code}{' with Retry-After' if again else ''}"
    answer = json.loads(response.content)
    if "rankings" not in answer:
        return "ok" if answer["result"]["points"] else "empty"
    [ranking] = answer["rankings"]
    if ranking["degraded"]:
        return f"degraded: {ranking['reason']}"
    if not ranking["personalized"] or ranking["items"][0]["score"] is None:
        return "a lie: not personalized, and not said to be degraded"
    return "ok"


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def written(**_: Any) -> None:
    with Path(os.environ["RESULTS"]).open("w") as file:
        for one in ANSWERS:
            file.write(json.dumps(one) + "\n")
