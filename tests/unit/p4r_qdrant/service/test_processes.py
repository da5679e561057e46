"""Several processes of the service: what is refused before one of them starts."""

import socket
import tempfile
from typing import Any

import pytest

pytest.importorskip("fastapi")

from p4r_qdrant import Settings
from p4r_qdrant.errors import InputError
from p4r_qdrant.service.processes import serve_together
from p4r_qdrant.service.run import check_workers
from tests.support.messages import sentence


def test_workers_need_a_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with socket.socket() as listening, pytest.raises(InputError) as refused:
        serve_together(Settings.load(service={"workers": 2}), listening)
    assert "No space left on device" in sentence(refused)


def test_workers_need_a_server_and_no_work_of_their_own() -> None:
    server = {"url": "http://localhost:6333"}
    several = {"workers": 2}
    check_workers(Settings.load(qdrant=server, service=several))
    check_workers(Settings.load(), has_background=True)
    with pytest.raises(InputError, match="embedded index"):
        check_workers(Settings.load(service=several))
    with pytest.raises(InputError, match="p4r work"):
        check_workers(Settings.load(qdrant=server, service=several), has_background=True)
    studio: dict[str, Any] = several | {"studio": True}
    check_workers(Settings.load(qdrant=server, service=studio | {"admin_key": "key"}))
    with pytest.raises(InputError, match="sessions of the studio"):
        check_workers(Settings.load(qdrant=server, service=studio))
