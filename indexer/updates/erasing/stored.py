"""Erase from the index and the stored users: from every version, also those kept for a rollback.

A persona that rested on the users alone goes from the live version, where readers still need the
others. In the other versions the items go whose personas may rest on the users: nobody reasons on
them again there. Other versions also lose their collaborative part, unless it is fitted again at
once: a publish fits that of the live version only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass

from indexer.artifacts.outdated import persona_digest
from indexer.updates.erasing.report import Place
from p4r_qdrant.errors import IndexUnavailableError, P4RError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.opening import open_tenants, open_versions
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.live.loading import history_for_index
from p4r_qdrant.records import StoredPersona
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.opening import keeps_users, open_store
from p4r_qdrant.users.store import UserStore

NOT_REFITTED = (
    "the collaborative part counts what they had until it is fitted again: by the next "
    "p4r publish; an erasure with --refit does it itself"
)
NOT_LIVE = "there are stored users, but no live index to open them with: make one, and erase again"


@dataclass(frozen=True)
class Stored:
    """The index and the stored users that the settings name.

    writer, users: those of the live version, if this process has them open. purges: take what was
    erased out of the files now; else `purge` does. refits: the caller fits the collaborative parts
    of all versions again.
    """

    settings: Settings
    writer: PersonaIndex | None = None
    users: UserStore | None = None
    purges: bool = True
    refits: bool = False

    def knows(self, user_id: str) -> bool:
        """Whether a user is stored. Raises P4RError."""
        with self._opened_users() as users:
            return users is not None and users.knows(user_id)

    def erase(
        self, users: Collection[str], items: Collection[str], lost: Collection[str]
    ) -> list[Place]:
        """Erase from the stored users and from every version.

        items: whose personas may rest on the users. lost: `persona_digest` of those that rested on
        them alone.
        """
        return [*self._erase_users(users), *self._erase_items(items, lost)]

    def check_tenant(self) -> None:
        """Raise InputError if the settings name a tenant that does not exist, before a file goes.

        An index that cannot be reached is left to `erase`, which says so after the rest is done.
        """
        if self.settings.index.tenants:
            with suppress(IndexUnavailableError), open_tenants(self.settings) as tenants:
                tenants.check(self.settings.index.owner)

    def purge(self) -> list[Place]:
        """Take what was erased out of the files of all of them."""
        places = []
        with self._opened_users() as store:
            if store is not None:
                place = Place("users", self._where_users())
                places.append(place)
                with _noted(place):
                    place.remains += store.purge()
        return [*places, *self._in_versions(lambda index, _: index.purge())]

    def _erase_users(self, users: Collection[str]) -> list[Place]:
        place = Place("users", self._where_users())
        with _noted(place), self._opened_users() as store:
            if store is None:
                place.remains += [NOT_LIVE] if keeps_users(self.settings) else []
                return [place] if place.remains else []
            place.removed["interactions"] += sum(map(store.erase_here, users))
            if self.purges:
                place.remains += store.purge()
        return [place]

    def _erase_items(self, items: Collection[str], lost: Collection[str]) -> list[Place]:
        def is_lost(persona: StoredPersona) -> bool:
            return persona_digest(persona) in lost

        def erase(index: PersonaIndex, is_live: bool) -> list[str]:
            unwanted = is_lost if is_live else lambda _: True
            dropped[index.version] = index.drop_personas(items, unwanted)
            remains = index.purge() if self.purges and dropped[index.version] else []
            if index.collaborative is None or self.refits:
                return remains
            if is_live:
                return [NOT_REFITTED, *remains]
            index.drop_collaborative()
            index.drop_columns_before()
            parts.add(index.version)
            return remains

        dropped: dict[str, int] = {}
        parts = set[str]()
        places = self._in_versions(erase)
        for place in places:
            place.removed["personas"] += dropped.get(place.where, 0)
            place.removed["collaborative part"] += place.where in parts
        return places

    def _in_versions(self, work: Callable[[PersonaIndex, bool], list[str]]) -> list[Place]:
        """A place for each version; `work` gets it opened, and whether it is live."""
        places = []
        listing = Place("index", f"the index {self.settings.qdrant.collection!r}")
        with _noted(listing), open_versions(self.settings) as versions:
            live = versions.live() if self.writer is None else self.writer.version
            names = [one.name for one in versions.all()]
            for name in dict.fromkeys([*names, live]):
                if name is None:
                    continue
                place = Place("index", name)
                places.append(place)
                with _noted(place), self._opened(versions, name) as index:
                    place.remains += work(index, name == live)
        return places if listing.problem is None else [listing]

    @contextmanager
    def _opened(self, versions: Versions, name: str) -> Iterator[PersonaIndex]:
        """A version, while no publish writes to it: that may have read what is erased."""
        own = self.writer if self.writer is not None and self.writer.version == name else None
        with nullcontext(own) if own else versions.open(name) as index, versions.sole_writer(name):
            yield index

    @contextmanager
    def _opened_users(self) -> Iterator[UserStore | None]:
        """The stored users; None where there are none."""
        if self.users is not None:
            yield self.users
            return
        with ExitStack() as stack:
            store = None
            if keeps_users(self.settings):
                versions = stack.enter_context(open_versions(self.settings))
                known = {one.name: one.metadata for one in versions.all()}
                name = versions.live()
                if name in known:
                    history = history_for_index(self.settings, known[name])
                    store = open_store(self.settings, name, known[name], history)
                    stack.callback(store.close)
            yield store

    def _where_users(self) -> str:
        return f"the stored users of {self.settings.qdrant.collection!r}"


@contextmanager
def _noted(place: Place) -> Iterator[None]:
    """Note an error of the block in the place, and go on."""
    try:
        yield
    except P4RError as error:
        place.problem = error
