"""Open the user store that the settings name."""

from __future__ import annotations

from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.settings import HistorySettings, Settings
from p4r_qdrant.users.store import UserStore


def keeps_users(settings: Settings) -> bool:
    """Whether users are stored beside the index that the settings name."""
    if settings.qdrant.url is not None:
        from p4r_qdrant.users.qdrant.collections import is_there

        return is_there(settings)
    from p4r_qdrant.users.sqlite import file_of

    return file_of(settings).exists()


def open_store(
    settings: Settings, version: str, made_with: IndexMetadata, history: HistorySettings
) -> UserStore:
    """Open the user store of a version of the index; create it if it does not exist."""
    if settings.qdrant.url is not None:
        return _on_server(settings, version, made_with.dimension, history)
    from p4r_qdrant.users.sqlite import (
        Database,
        SqliteInteractions,
        SqliteJobs,
        SqliteVectors,
        file_of,
    )

    database = Database(file_of(settings))
    return UserStore(
        SqliteInteractions(database),
        SqliteVectors(database, made_with.fingerprint),
        SqliteJobs(database),
        history,
        database,
    )


def _on_server(
    settings: Settings, version: str, dimension: int, history: HistorySettings
) -> UserStore:
    from p4r_qdrant.users.qdrant.collections import Collections
    from p4r_qdrant.users.qdrant.interactions import ServerInteractions
    from p4r_qdrant.users.qdrant.jobs import ServerJobs
    from p4r_qdrant.users.qdrant.vectors import ServerVectors

    collections = Collections(settings, version, dimension)
    return UserStore(
        ServerInteractions(collections),
        ServerVectors(collections),
        ServerJobs(collections),
        history,
        collections,
    )
