"""The user store that the settings ask for."""

from __future__ import annotations

from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.live.loading import history_for_index
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.store import UserStore


def keeps_users(settings: Settings) -> bool:
    """Whether a service has kept users beside the index that the settings name."""
    if settings.qdrant.url is not None:
        from p4r_qdrant.users.qdrant import is_there

        return is_there(settings.qdrant)
    from p4r_qdrant.users.sqlite import file_of

    return file_of(settings.qdrant).exists()


def open_store(settings: Settings, version: str, made_with: IndexMetadata) -> UserStore:
    """The store beside a version of the index, made if it is not there."""
    history = history_for_index(settings, made_with)
    if settings.qdrant.url is not None:
        from p4r_qdrant.users.qdrant import ServerUsers

        return ServerUsers(settings, history, version, made_with.dimension)
    from p4r_qdrant.users.sqlite import EmbeddedUsers

    return EmbeddedUsers(settings, history, made_with.fingerprint)
