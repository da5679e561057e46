"""A version of the index that a command makes, and deletes again if nothing came into it."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

from p4r_qdrant.errors import P4RError
from p4r_qdrant.index.versions import Versions


class FreshVersion(AbstractContextManager["FreshVersion"]):
    """Context manager: a version that was made in it, and is empty at its end, is deleted.

    name: the version; None is the live one, and the one that the block makes live.
    is_ours: whether this process may delete it. Set it once nobody else can write to the version.
    """

    def __init__(self, versions: Versions, name: str | None = None) -> None:
        self._versions = versions
        self._name = name
        self._before = {one.name for one in versions.all()}
        self.is_ours = False

    def __exit__(self, *_: object) -> None:
        if not self.is_ours:
            return
        with suppress(P4RError):  # an error that is under way says more
            name = self._name or self._versions.live()
            if name is None or name in self._before:
                return
            with self._versions.open(name) as index:
                holds = index.stats().items
            if holds:
                return
            if name == self._versions.live():
                self._versions.unname()
            self._versions.drop(name)
