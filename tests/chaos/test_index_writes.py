"""Acknowledged writes of an index outlive kill -9: of the server, of the process that writes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devtools.qdrant_process import PrivateQdrant
from p4r_qdrant import open_index
from p4r_qdrant.errors import IndexUnavailableError
from tests.support.campaign import Campaign
from tests.support.edge_runner import check_versions, process
from tests.support.engines import embedded, on_server, opened
from tests.support.polling import retry
from tests.support.server_writes import Progress, check_progress, write_until_it_fails

KILLS = 3


def test_a_server_that_is_killed(campaign: Campaign, private_qdrant: PrivateQdrant) -> None:
    """The client goes on by itself; only what was being written may be in either version."""
    scenario = campaign("Qdrant: kill -9 under writes", "until all is checked")
    private_qdrant.start()
    progress = Progress()
    with opened(on_server(private_qdrant.server, "personas")) as index:
        for attempt in scenario.attempts(KILLS):
            with attempt, ThreadPoolExecutor(1) as pool:
                progress.enough.clear()
                first = attempt.number * 1_000_000
                writer = pool.submit(write_until_it_fails, index, first, progress)
                assert progress.enough.wait(60)
                threading.Event().wait(attempt.random.random() / 5)
                private_qdrant.kill()
                attempt.killed()
                assert isinstance(writer.result(), IndexUnavailableError), writer.result()
                with attempt.timed():
                    private_qdrant.start()
                    retry(index.repair, IndexUnavailableError)
                    # The gRPC channel finds the server again a moment later than REST does.
                    retry(lambda: check_progress(index, progress), IndexUnavailableError)


@pytest.mark.parametrize("task", ["replace", "load"])
def test_a_process_with_an_embedded_index_that_is_killed(
    campaign: Campaign, tmp_path: Path, task: str
) -> None:
    scenario = campaign(f"embedded index: kill -9 under {task}", "until all is checked")
    folder, held = tmp_path / "index", dict[str, int]()
    for attempt in scenario.attempts(KILLS):
        with attempt:
            with process(folder, task, attempt.number * 1_000_000) as writer:
                assert writer.read("done", attempt.random.randrange(1, 400)), writer.last
                threading.Event().wait(attempt.random.random() / 50)
                writer.kill()
                attempt.killed()
            assert not (folder / "rows.json").exists(), "rows that nobody has saved"
            with attempt.timed(), opened(embedded(folder)) as index:
                held = check_versions(index, writer.begun, held | writer.done)
                assert index.repair() == 0
            assert (folder / "rows.json").exists()
            with open_index(embedded(folder)) as index:
                assert check_versions(index, {}, held) == held
