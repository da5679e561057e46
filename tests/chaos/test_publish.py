"""`p4r publish`, killed at random moments while others read: one encoder for each answer."""

from pathlib import Path

from p4r_qdrant import PersonaReranker, Settings
from tests.support.campaign import Attempt, Campaign
from tests.support.engines import NewIndex
from tests.support.hash_encoder import HashEncoder
from tests.support.killing import Command, Ended
from tests.support.polling import wait_until
from tests.support.publishing import (
    Truths,
    by_fingerprint,
    catalogue_at,
    check_whole,
    hammered,
    live,
    names,
    previous,
    refreshing,
    run,
    version,
)
from tests.support.service_process import environment_of

KILLS = 2
OLD, NEW, NEWEST = (HashEncoder(salt=salt) for salt in ("old", "new", "newest"))
"""Of one dimension: a mixture of their vectors would not be noticed by the index."""


class Publisher:
    """`p4r publish` for one index, in a folder with a catalogue."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings

    def command(self, what: str, encoder: HashEncoder = OLD) -> Command:
        options = ("--artifacts", "catalogue") if what == "publish" else (f"--{what}",)
        salt = {"MORTAL_ENCODER": encoder.salt.decode()}
        return Command(("publish", *options), environment_of(self.settings) | salt)

    def live(self) -> HashEncoder:
        """The encoder of what is live."""
        name = live(self.settings)
        [encoder] = [one for one in (OLD, NEW, NEWEST) if version(self.settings, one) == name]
        return encoder


def undisturbed(folder: Path, settings: Settings) -> dict[str, int]:
    """The steps of each command."""
    run(catalogue_at(folder / "catalogue"), OLD, settings)
    publisher = Publisher(folder, settings)
    done: dict[str, Ended] = {}
    for what, encoder in (
        ("publish", NEW),
        ("rollback", OLD),
        ("publish", NEWEST),
        ("drop-old", OLD),
    ):
        done[what] = publisher.command(what, encoder).succeed(folder)
    return {what: one.steps for what, one in done.items()}


def test_killed_under_readers(campaign: Campaign, new_index: NewIndex, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    steps = undisturbed(folder, new_index(-1))
    truths = Truths(folder / "catalogue", [OLD, NEW, NEWEST])
    scenario = campaign(f"p4r publish, {new_index.engine}: kill -9 under readers", "a publish")
    for attempt in scenario.attempts(1):
        own = Publisher(folder, new_index(attempt.number))
        run(folder / "catalogue", OLD, own.settings)
        with attempt:
            with (
                PersonaReranker.from_settings(
                    refreshing(own.settings, 0.05), load_encoder=by_fingerprint(OLD, NEW, NEWEST)
                ) as reranker,
                hammered(reranker, truths, 1) as answered,
            ):
                published(attempt, own, steps, answered)
                assert reranker.problem == ""
            check_whole(own.settings, folder / "catalogue", NEWEST)


def published(
    attempt: Attempt, own: Publisher, steps: dict[str, int], answered: dict[str, int]
) -> None:
    """Each step once more after a kill; readers follow, and check what they get."""

    def follow(*allowed: HashEncoder) -> HashEncoder:
        encoder = own.live()
        assert encoder in allowed
        before = answered[encoder.fingerprint]
        wait_until(lambda: answered[encoder.fingerprint] > before + 1)
        return encoder

    for _ in range(KILLS):
        own.command("publish", NEW).killed(own.folder, attempt, steps["publish"])
        if follow(OLD, NEW) is NEW:  # an embedded version is not published to under its reader
            break
    else:
        with attempt.timed():
            own.command("publish", NEW).succeed(own.folder)
    follow(NEW)
    own.command("rollback").killed(own.folder, attempt, steps["rollback"])
    if follow(OLD, NEW) is NEW:
        own.command("rollback").succeed(own.folder)
    follow(OLD)
    own.command("publish", NEWEST).succeed(own.folder)
    own.command("drop-old").killed(own.folder, attempt, steps["drop-old"])
    follow(NEWEST)
    own.command("drop-old").succeed(own.folder)
    assert names(own.settings) == {live(own.settings), previous(own.settings)}
    follow(NEWEST)
