"""The versions of an index: one for each encoder, side by side, and one of them live.

A version is a collection `ALIAS-FINGERPRINT` on a server, where ALIAS is an alias of the live one,
or a folder of the embedded engine. `p4r publish` fills a version that no process reads and then
switches. A reader looks up the live version once and keeps it.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from p4r_qdrant.closing import Closing
from p4r_qdrant.encoder.fingerprint import same_encoder
from p4r_qdrant.errors import IndexMismatchError, InputError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata, today

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Version:
    """One version: its name and its metadata."""

    name: str
    metadata: IndexMetadata


class Versions(Closing):
    """The versions of the index that the settings name; a context manager.

    `alias` is the name under which the live one is found.
    """

    alias: str
    location: str

    @abstractmethod
    def live(self) -> str | None:
        """The name of the live version, or None if there is no index."""

    @abstractmethod
    def all(self) -> list[Version]:
        """All versions, complete or not, the oldest first."""

    @abstractmethod
    def open(self, name: str, made_with: IndexMetadata | None = None) -> PersonaIndex:
        """Open a version. With `made_with`, open it for writing; make it if it does not exist."""

    @abstractmethod
    def switch(self, live: Mapping[str, str], undone: str = "") -> None:
        """Make versions live in one step: alias -> name of the version.

        undone: the version that a rollback takes out of use (see `undone`).
        """

    @abstractmethod
    def undone(self, live: str) -> str:
        """The version that a rollback to `live` took out of use; "" if `live` was published."""

    @abstractmethod
    def unname(self) -> None:
        """Take the alias from the live version, so that it can be dropped."""

    @abstractmethod
    def check_switch(self, name: str) -> None:
        """Raise InputError if `name` cannot be made live."""

    @abstractmethod
    def sole_writer(self, name: str) -> AbstractContextManager[None]:
        """Context manager that gives this process exclusive write access, for long jobs.

        No process can drop the version meanwhile. The access can outlast the opened index. Writing
        single items does not need it. Raises IndexLockedError if another process has the access.
        """

    @abstractmethod
    def begin_publish(self) -> int:
        """Number a publish that reads from now on what it will write.

        Who reads `publishes` after a write, and gets a lower number, has written before.
        """

    @abstractmethod
    def publishes(self, live: str) -> int:
        """The number of the newest publish that has begun; `live` is the version that is used."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Delete a version; not its user vectors (see `users.versions.drop_version`).

        Raises IndexLockedError if the version is in use, or in the making.
        """

    @abstractmethod
    def first(self, fingerprint: str) -> str:
        """The name of the first version of an index."""

    @abstractmethod
    def named(self, fingerprint: str) -> str:
        """The name of an encoder's version."""

    @abstractmethod
    def missing(self) -> str:
        """The part of a sentence that says that there is no index, and where."""

    def close(self) -> None:
        """Close the connection. Closing twice is fine."""

    def open_live(self, made_with: IndexMetadata | None = None) -> PersonaIndex:
        """Open the live version. If there is none, make one with `made_with`."""
        name = self.live()
        if name is None and made_with is None:
            raise self.nothing_live()
        if name is not None or made_with is None:
            return self.open(name or "", made_with)
        index = self.open(self.first(made_with.fingerprint), made_with)
        try:
            name = self.live()
            if name is None:
                self.switch({self.alias: index.version})
        except BaseException:
            index.close()
            raise
        if name in (None, index.version):
            return index
        index.close()  # another process was faster, with another encoder
        return self.open(name, made_with)

    def beside(self, fingerprint: str, taken: Iterable[str] = ()) -> str:
        """A name for one more version of an encoder, beside those that exist or are `taken`."""
        name = self.named(fingerprint)
        held = {one.name for one in self.all()} | {*taken}
        more = (f"{name}-r{number}" for number in itertools.count(2))
        return next(one for one in itertools.chain([name], more) if one not in held)

    def of(self, fingerprint: str) -> str:
        """The name of an encoder's version: of the existing one, else of the one to make.

        A version that is being restored is left to `p4r restore`.
        """
        live = self.live()
        found = [
            one
            for one in self.all()
            if same_encoder(one.metadata.fingerprint, fingerprint) and one.metadata.is_whole
        ]
        found.sort(key=lambda one: one.name != live)
        return found[0].name if found else self.beside(fingerprint)

    def previous(self) -> str | None:
        """The version that was live before the live one; None if it no longer exists."""
        live = self.live()
        known = {one.name: one.metadata for one in self.all()}
        previous = known[live].previous if live in known else ""
        return previous if previous in known else None

    def roll_back(self) -> str:
        """Make the version live that was live before the last publish; returns its name.

        A second call changes nothing: killed and run again, it goes back once.
        """
        live = self.live()
        if live is not None and self.undone(live):
            return live
        previous = self.previous()
        if previous is None:
            raise InputError(
                f"{self.location} has no earlier version to go back to; publish one again"
            )
        self.switch({self.alias: previous}, undone=live or "")
        return previous

    def make_live(self, name: str) -> str | None:
        """Make an existing version live, such as a collection restored from a snapshot.

        If its set of columns was not restored, it loses its collaborative part.

        Returns the version that was live before. Raises IndexMismatchError if it is no index of
        this project, InputError if it cannot be made live.
        """
        self.check_switch(name)
        before = self.live()
        with self.open(name) as index:
            if not index.metadata.is_whole:
                raise InputError(
                    f"{index.location} is not restored to its end; run `p4r restore` again, which "
                    "makes it live"
                )
            index.repair()
            index.check_collaborative()
            if before not in (None, name):
                index.record(previous=before, published_at=today())
        self.switch({self.alias: name})
        return before

    def nothing_live(self) -> IndexMismatchError:
        """The error for a missing live version."""
        waiting = [one.name for one in self.all() if one.metadata.is_whole]
        if not waiting:
            return IndexMismatchError(f"{self.missing()}; make it with `p4r index`")
        return IndexMismatchError(
            f"{self.missing()}, but there are versions that are not live ({', '.join(waiting)}): "
            f"`p4r publish --live {waiting[-1]}` makes one live, once no publish is filling it"
        )

    def old(self) -> list[Version]:
        """All versions except the live and the previous one, the oldest first."""
        kept = {self.live(), self.previous()}
        return [version for version in self.all() if version.name not in kept]


def is_named(name: str, first: str) -> bool:
    """Whether a version has the name that its encoder gives it, or one of `Versions.beside`."""
    return re.fullmatch(rf"{re.escape(first)}(-r\d+)?", name) is not None


def name_part(fingerprint: str) -> str:
    """A fingerprint as a part of a name: itself, or its hash if it has other characters."""
    if _NAME.fullmatch(fingerprint):
        return fingerprint
    return hashlib.sha256(fingerprint.encode(errors="surrogatepass")).hexdigest()[:16]
