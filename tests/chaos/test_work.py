"""What does the work, killed at random: everything is done, paid once, and erased for good."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devtools.qdrant_process import PrivateQdrant
from devtools.scripted_llm import ScriptedLLM
from p4r_qdrant import Settings
from tests.support.campaign import LONG, Attempt, Campaign
from tests.support.engines import embedded, on_server
from tests.support.killing import Command, files, paid_again
from tests.support.obliging_llm import obliging
from tests.support.polling import wait_until
from tests.support.service_process import address_of, environment_of, served, wait_until_ready
from tests.support.serving import AS_ADMIN, make_app, make_index, running, with_service

KILLS = 2
USERS = 6
KETTLES = 2
LEAVES, STAYS = "u0", "u1"


OPTIONS = ("--artifacts", "artifacts", "--domain", "books")


class Shop:
    """A service with jobs in its index, and the worker that does them."""

    def __init__(self, folder: Path, settings: Settings, llm: ScriptedLLM, client: Any) -> None:
        self.folder, self.llm, self.client = folder, llm, client
        own = {"P4R_LLM__BASE_URL": llm.url, "P4R_LLM__CONCURRENCY": "1"}
        self.environment = environment_of(settings) | own
        self.worker = Command(("work", *OPTIONS, "--once"), self.environment)

    def act(self) -> None:
        """Users tell what they like, and kettles arrive with reviews."""
        for number in range(USERS):
            text = f"Ship number {number} was a joy to sail on all winter long."
            body = {"item_id": "ships", "timestamp": number, "text": text, "rating": 5}
            self.send("POST", f"/v1/users/u{number}/interactions", body)
        for number in range(KETTLES):
            said = {
                LEAVES: f"Carried kettle {number} up every hill and made tea on the way.",
                STAYS: f"Gave {number} of these to a neighbour who never sleeps at night.",
            }
            reviews = [
                {"user_id": user_id, "rating": 5, "timestamp": 1, "text": text}
                for user_id, text in said.items()
            ]
            body = {"title": f"Kettle {number}", "description": "A kettle, as it is."}
            self.send("PUT", f"/v1/items/kettle-{number}", {**body, "reviews": reviews})

    def send(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.client.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def work(self, attempt: Attempt, steps: int) -> None:
        """Killed again and again, then to the end."""
        for _ in range(KILLS):
            self.worker.killed(self.folder, attempt, steps)
        with attempt.timed():
            self.worker.succeed(self.folder)

    def personas(self) -> dict[str, list[dict[str, Any]]]:
        """Those of the kettles, as the service has them."""
        paths = {f"kettle-{number}": f"/v1/items/kettle-{number}/personas" for number in range(2)}
        return {item_id: self.send("GET", path)["personas"] for item_id, path in paths.items()}

    def check_read(self, kills: int) -> None:
        """All reviews are read, and none was paid for once more than there were kills."""
        assert self.send("GET", "/v1/jobs")["waiting"] == 0
        for number in range(USERS):
            [one] = self.send("GET", f"/v1/users/u{number}")["history"]
            assert one["has_aspects"]
        prompts = [call.user for call in self.llm.calls]
        assert paid_again(prompts) <= kills, "paid for an answer it had"

    def check_gone(self) -> None:
        """Nothing of the user who leaves is in the folder; of the other one there is."""
        kept = b"".join(files(self.folder / "artifacts", "*").values())
        assert b"Carried kettle" not in kept
        assert f'"{LEAVES}"'.encode() not in kept
        assert f'"{STAYS}"'.encode() in kept


@contextmanager
def shop(folder: Path, settings: Settings) -> Iterator[Shop]:
    folder.mkdir()
    make_index(settings)
    with (
        ScriptedLLM(obliging) as llm,
        running(make_app(with_service(settings))) as address,
        httpx2.Client(base_url=address, headers=AS_ADMIN, timeout=30) as client,
    ):
        opened = Shop(folder, settings, llm, client)
        opened.act()
        yield opened


def test_killed_and_run_again(
    campaign: Campaign, private_qdrant: PrivateQdrant, tmp_path: Path
) -> None:
    private_qdrant.start()
    with shop(tmp_path / "whole", on_server(private_qdrant.server, "whole")) as undisturbed:
        steps = undisturbed.worker.succeed(undisturbed.folder).steps
        personas = undisturbed.personas()
        assert {len(one) for one in personas.values()} == {2}
        undisturbed.send("DELETE", f"/v1/users/{LEAVES}")
        erasing = undisturbed.worker.succeed(undisturbed.folder).steps
        left = undisturbed.personas()
        assert {len(one) for one in left.values()} == {1}
    reading = campaign("p4r work: kill -9 while it reads", "the run after the last kill")
    leaving = campaign("p4r work: kill -9 while it erases", "the run after the last kill")
    for attempt, last in zip(reading.attempts(1), leaving.attempts(1), strict=True):
        settings = on_server(private_qdrant.server, f"personas-{attempt.number}")
        with shop(tmp_path / str(attempt.number), settings) as own:
            with attempt:
                own.work(attempt, steps)
                assert own.personas() == personas
                own.check_read(KILLS)
            with last:
                own.send("DELETE", f"/v1/users/{LEAVES}")
                own.work(last, erasing)
                assert own.personas() == left, "a persona that rests on erased reviews is served"
                own.check_gone()


@contextmanager
def serving(own: Shop) -> Iterator[Any]:
    """`p4r serve --artifacts`, which does the work itself; killed at the end."""
    with served(own.folder, "--port", "0", *OPTIONS, **own.environment) as process:
        address = address_of(process)
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        wait_until_ready(address)
        with httpx2.Client(base_url=address, headers=AS_ADMIN, timeout=30) as own.client:
            yield process


@pytest.mark.skipif(not LONG, reason="make chaos ROUNDS=2 or more: the worker is the same")
def test_a_service_that_does_the_work_itself(campaign: Campaign, tmp_path: Path) -> None:
    """On the embedded engine, killed while it reads and while it erases."""
    scenario = campaign("p4r serve --artifacts: kill -9 while it works", "the run after the last")

    def opened(name: str, llm: ScriptedLLM) -> Shop:
        settings = embedded(tmp_path / name / "index")
        (tmp_path / name).mkdir()
        make_index(settings)
        return Shop(tmp_path / name, settings, llm, None)

    def killed(own: Shop, attempt: Attempt, act: Any) -> None:
        for number in range(KILLS):
            with serving(own) as process:
                if not number:
                    act()
                time.sleep(attempt.random.random() / 2)
                process.kill()
                attempt.killed()

    for attempt in scenario.attempts(1):
        with attempt, ScriptedLLM(obliging) as llm:
            own = opened(str(attempt.number), llm)
            killed(own, attempt, own.act)
            with serving(own), attempt.timed():
                wait_until(lambda: not own.send("GET", "/v1/jobs")["waiting"], 60)  # noqa: B023
                own.check_read(KILLS)
                assert {len(one) for one in own.personas().values()} == {2}
            killed(own, attempt, lambda: own.send("DELETE", f"/v1/users/{LEAVES}"))  # noqa: B023
            with serving(own):
                wait_until(lambda: {len(one) for one in own.personas().values()} == {1}, 60)  # noqa: B023
                own.check_gone()
