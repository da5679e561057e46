"""Which version is live, while somebody else makes the index."""

from collections.abc import Mapping
from typing import Any

import pytest

from p4r_qdrant import Settings
from p4r_qdrant.errors import AuthenticationError, IndexMismatchError
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.server import register as module
from p4r_qdrant.index.server import versions as versions_module
from p4r_qdrant.index.server.register import AliasRegister
from p4r_qdrant.index.server.versions import ServerVersions
from tests.support.messages import sentence

ALIAS, TARGET = "personas", "personas-abc"


class Register(AliasRegister):
    """A server of which each view is read in turn; the last one stays."""

    def __init__(self, aliases: list[dict[str, str]], exists: bool, names: list[str]) -> None:
        self._alias, self._where = ALIAS, "the index"
        self.aliases, self.exists, self.found = aliases, exists, names

    def _aliases(self) -> dict[str, str]:
        return self.aliases.pop(0) if len(self.aliases) > 1 else self.aliases[0]

    def _exists(self, name: str) -> bool:
        return self.exists

    def _collections(self) -> list[str]:
        return self.found

    def read(self, name: str) -> Mapping[str, Any]:
        if name.endswith("-gone"):
            raise IndexMismatchError("dropped just now")
        return IndexMetadata(name.rpartition("-")[2], 8).to_json()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))


@pytest.mark.parametrize(
    ("aliases", "exists", "names", "live"),
    [
        ([{ALIAS: TARGET}], True, [TARGET], TARGET),
        ([{}], False, [], None),
        ([{}], True, [ALIAS], ALIAS),
        ([{}, {ALIAS: TARGET}], True, [TARGET], TARGET),  # made between the views
        ([{}, {}, {ALIAS: TARGET}], True, [], TARGET),
    ],
)
def test_views_that_disagree_are_read_again(
    aliases: list[dict[str, str]], exists: bool, names: list[str], live: str | None
) -> None:
    assert Register(aliases, exists, names).live() == live


def test_views_that_never_agree_are_a_matter_of_the_key() -> None:
    with pytest.raises(AuthenticationError) as caught:
        Register([{}], exists=True, names=[]).live()
    assert "API key may not see" in sentence(caught)


def test_a_version_that_is_dropped_meanwhile_is_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["personas-abc", "personas-gone", "other", "personas-b-users"]
    register = Register([{ALIAS: "other"}], exists=True, names=names)
    monkeypatch.setattr(versions_module, "register_of", lambda *_: register)
    settings = Settings.load(qdrant={"url": "http://q.test:6333", "transport": "grpc"})
    with ServerVersions(settings) as versions:
        assert [one.name for one in versions.all()] == ["other", "personas-abc"]
