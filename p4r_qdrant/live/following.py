"""Switch to the version of the index that `p4r publish` makes live."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from p4r_qdrant.errors import IndexMismatchError, for_log
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.live.hotswap import Closable, Current

LONGEST_WAIT_S = 60.0
"""Longest pause between two attempts after failures."""

_log = logging.getLogger(__name__)


class OfVersion(Closable, Protocol):
    """What is opened for one version of the index."""

    @property
    def version(self) -> str:
        """Name of the version."""

    def reread(self) -> None:
        """Read the metadata of the version again: a publish may have changed it."""


Opened = TypeVar("Opened", bound=OfVersion)


class Following(Generic[Opened]):
    """Keeps `current` on the live version. Thread-safe.

    `open_version(name, old)` opens a version and makes it ready to answer; while it runs, `old`
    goes on answering. Every `every_s` seconds `follow` looks for a new version; 0 means never.
    After failures the pauses double, up to LONGEST_WAIT_S.
    """

    def __init__(
        self,
        versions: Versions,
        current: Current[Opened],
        open_version: Callable[[str, Opened], Opened],
        every_s: float = 0.0,
    ) -> None:
        self.problem = ""
        """Why the last `refresh` failed; empty if it did not fail."""
        self._versions = versions
        self._current = current
        self._open_version = open_version
        self._every_s = self._wait_s = every_s or math.inf
        self._due = time.monotonic() + self._wait_s
        self._logged = ""
        self._refreshing = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def refresh(self) -> bool:
        """Switch to the version that is live now. True if it is another one.

        Calls that are running end on the old version, which is closed afterwards. Raises P4RError
        if the new version or its encoder cannot be opened; the old version then stays.
        """
        with self._refreshing:
            try:
                moved = self._refresh()
            except Exception as error:
                self.problem = str(error)
                raise
            self.problem = ""
            return moved

    def _refresh(self) -> bool:
        name, old = self._versions.live(), self._current.now
        if self._closing.is_set():
            return False
        if name == old.version:
            old.reread()
            return False
        if name is None:
            raise IndexMismatchError(f"{self._versions.missing()} any more; publish it again")
        self._current.replace(self._open_version(name, old))
        return True

    def follow(self) -> None:
        """Call `refresh` if the time has come. A failure is logged once and kept in `problem`."""
        if time.monotonic() < self._due:
            return
        try:
            self.refresh()
            self._logged, self._wait_s = "", self._every_s
        except Exception as error:  # whatever it is, the old version goes on answering
            if str(error) != self._logged:
                version = self._current.now.version
                _log.warning("version %s stays live here: %s", version, for_log(error))
            self._logged = str(error)
            self._wait_s = min(2 * self._wait_s, max(self._every_s, LONGEST_WAIT_S))
        self._due = time.monotonic() + self._wait_s

    def start(self) -> None:
        """Call `follow` on a thread of its own, until `close`."""

        def run() -> None:
            while not self._closing.wait(max(0.0, self._due - time.monotonic())):
                self.follow()

        self._thread = threading.Thread(target=run, name="p4r-refresh", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following, and close what is current. Closing twice is fine."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        with self._refreshing:
            self._current.now.close()
            self._versions.close()
