"""`p4r studio`: where it listens, whom it lets in, what it prints, and what it quotes."""

import webbrowser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from p4r_qdrant.service import run as service_run
from p4r_qdrant.settings import Settings
from tests.support.command_line import in_process
from tests.support.paths import BOOKSHOP


class Started:
    """Stands for the service: keeps what it was started with, and says that it listens."""

    settings: Settings
    options: dict[str, Any]

    def __call__(self, settings: Settings, **options: Any) -> None:
        self.settings, self.options = settings, options
        options["listening_at"]("http://127.0.0.1:7")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    monkeypatch.chdir(tmp_path)
    started = Started()
    monkeypatch.setattr(service_run, "serve", started)
    return started


def test_on_this_machine_without_a_key(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("P4R_SERVICE__HOST", "0.0.0.0")
    result = in_process(monkeypatch, capsys, ("studio", "--artifacts", str(BOOKSHOP)))
    assert (result.code, result.out) == (0, "http://127.0.0.1:7/studio\n")
    own = started.settings.service
    assert (own.host, own.studio, own.allow_anonymous) == ("127.0.0.1", True, True)
    assert opened == [], "the output is no terminal"
    assert in_process(monkeypatch, capsys, ("studio", "--browser")).code == 0
    assert opened == ["http://127.0.0.1:7/studio"]
    assert started.options["evidence"] is None


def test_with_the_keys_of_the_service(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("P4R_SERVICE__ADMIN_KEY", "secret")
    result = in_process(monkeypatch, capsys, ("studio", "--port", "0"))
    assert result.code == 0
    assert "secret" not in result.out + result.err
    assert (started.settings.service.allow_anonymous, started.settings.service.port) == (False, 0)


def test_the_reviews_that_are_quoted(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(monkeypatch, capsys, ("studio", "--artifacts", str(BOOKSHOP))).code == 0
    assert started.options["artifacts"] == BOOKSHOP
    evidence = started.options["evidence"]
    quotes = evidence("salt-orchard")["salt-orchard_P1"]
    assert [one.rating for one in quotes] == [5, 4]
    assert quotes[0].text.startswith("The best evening we have had\nI run the Wednesday book club")
    assert evidence("no such item") == {}


def test_a_folder_that_is_not_there(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = in_process(monkeypatch, capsys, ("studio", "--artifacts", "nowhere"))
    assert result.code == 2
    assert not hasattr(started, "settings")
