"""`p4r tenant drop` and `promote`, killed at random moments: nothing of another tenant changes."""

from pathlib import Path

import pytest

from p4r_qdrant import Settings
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_tenants
from tests.support.campaign import Campaign
from tests.support.engines import NewIndex, on_server
from tests.support.hash_encoder import HashEncoder
from tests.support.killing import Command
from tests.support.private_qdrant import private_cluster
from tests.support.service_process import environment_of
from tests.support.tenants import DIMENSION, Shop, add, bytes_of, tenant

KILLS = 3
OLDER = HashEncoder(DIMENSION, salt="-older")


def filled(settings: Settings) -> Settings:
    """A new tenant that has everything, and a version for a rollback."""
    add(settings)
    shop = Shop(settings, "apple")
    with shop.opened() as one:
        one.fill()
        name = one.versions.of(OLDER.fingerprint)
        with one.versions.open(name, IndexMetadata.of(OLDER)) as older:
            older.load([shop.item("ships")])
        one.index.record(previous=name)
    return settings


def drop(settings: Settings) -> Command:
    own = environment_of(settings) | {"P4R_INDEX__TENANTS": "true"}
    return Command(("tenant", "drop", settings.index.tenant, "--yes"), own)


def names(settings: Settings) -> list[str]:
    with open_tenants(settings) as tenants:
        return [one.name for one in tenants.all()]


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_killed_and_run_again(campaign: Campaign, new_index: NewIndex, tmp_path: Path) -> None:
    index = new_index(0)
    kept, gone = (filled(tenant(index, name)) for name in ("kept", "gone"))
    before = bytes_of(kept)
    steps = drop(gone).succeed(tmp_path).steps
    scenario = campaign(f"p4r tenant drop, {new_index.engine}: kill -9", "the run after the last")
    for attempt in scenario.attempts(2):
        filled(gone)
        with attempt:
            for _ in range(KILLS):
                drop(gone).killed(tmp_path, attempt, steps)
                assert bytes_of(kept) == before
            with attempt.timed():
                last = drop(gone).run(tmp_path)
            if last.code:  # a killed run was done
                assert "there is no tenant 'gone'" in last.sentence
            assert bytes_of(gone) == {}
            assert bytes_of(kept) == before
            assert names(kept) == ["kept"]


def promote(settings: Settings) -> Command:
    own = environment_of(settings) | {"P4R_INDEX__TENANTS": "true"}
    return Command(("tenant", "promote", settings.index.tenant), own)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_promoted_killed_and_run_again(campaign: Campaign, tmp_path: Path) -> None:
    """Between kills and afterwards the tenant reads what it had, and another one has its bytes."""
    scenario = campaign("p4r tenant promote: kill -9", "the run after the last")
    (folder := tmp_path / "run").mkdir()
    with private_cluster(tmp_path, 1) as [node]:

        def index(name: str) -> Settings:
            return on_server(node.server, name)

        steps = promote(filled(tenant(index("whole"), "large"))).succeed(folder).steps
        for attempt in scenario.attempts(1):
            kept, large = (
                filled(tenant(index(f"try-{attempt.number}"), name)) for name in ("kept", "large")
            )
            with attempt:
                before = bytes_of(kept)
                with Shop(large, "apple").opened() as one:
                    seen = one.seen()
                    for _ in range(KILLS):
                        promote(large).killed(folder, attempt, steps)
                        assert one.seen() == seen
                    with attempt.timed():
                        assert promote(large).succeed(folder).out.count("points of large") >= 4
                    assert one.seen() == seen
                assert bytes_of(kept) == before
