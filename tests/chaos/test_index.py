"""`p4r index` by two processes at once, on an embedded folder that does not exist yet."""

from pathlib import Path

from tests.support.campaign import Campaign
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.killing import KILLED, Command
from tests.support.publishing import catalogue_at, check_whole

INDEX = Command(("index", "--artifacts", "catalogue"))


def test_two_at_once(campaign: Campaign, tmp_path: Path) -> None:
    """One makes it; the other works after it or refuses in one sentence. One may be killed."""
    scenario = campaign("p4r index on a new folder, by two at once", "both")
    for attempt in scenario.attempts(3):
        folder = tmp_path / str(attempt.number)
        (folder / "one").mkdir(parents=True)
        catalogue = catalogue_at(folder / "catalogue")
        with attempt:
            with attempt.timed():
                dies = [(attempt.random.randint(1, 20), 0.0), None]
                two = [INDEX.start(folder, dies[attempt.number % 2]), INDEX.start(folder)]
                ended = [INDEX.ended(one, folder) for one in two]
            for one in ended:
                if one.code == KILLED:
                    attempt.killed()
                elif one.code:
                    assert "another process" in one.sentence
            if 0 not in [one.code for one in ended]:
                INDEX.succeed(folder)
            check_whole(embedded(folder / "p4r-index"), catalogue, HashEncoder())
