"""Open the index that the settings ask for."""

from __future__ import annotations

from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import IndexMetadata, today
from p4r_qdrant.index.tenants import Tenants
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.settings import Settings


def open_index(
    settings: Settings,
    *,
    dimension: int | None = None,
    fingerprint: str | None = None,
    encoder: Encoder | str = "",
    create: bool = False,
) -> PersonaIndex:
    """Open the index the settings ask for: a Qdrant server with `qdrant.url`, else embedded.

    If there are several versions, the live one is opened (see `index.versions`). It stays the same
    version while it is open. dimension, fingerprint: what the index must have been made with; None
    accepts any. An Encoder as `encoder` sets both. create: make the index if it does not exist,
    with the encoder in its metadata; then both must be known.

    Raises IndexMismatchError if the index does not exist, or was made with another encoder.
    """
    made_with: IndexMetadata | None = None
    if isinstance(encoder, Encoder):
        made_with = IndexMetadata.of(encoder)
        dimension, fingerprint = encoder.dimension, encoder.fingerprint
    elif dimension is not None and fingerprint is not None:
        made_with = IndexMetadata(fingerprint, dimension, encoder, today())
    if create and made_with is None:
        raise InputError("a new index needs the encoder's dimension and fingerprint")
    with open_versions(settings) as versions:
        index = versions.open_live(made_with if create else None)
    try:
        index.metadata.check(dimension, fingerprint, index.location)
    except BaseException:
        index.close()
        raise
    return index


def open_versions(settings: Settings) -> Versions:
    """The versions on a Qdrant server with `qdrant.url`, else those of the embedded engine.

    With tenants, those of the one that the settings name. Raises InputError if they name none.
    """
    if settings.qdrant.url is not None:
        from p4r_qdrant.index.server.versions import ServerVersions

        return ServerVersions(settings)
    from p4r_qdrant.index.edge.tenants import EdgeTenants
    from p4r_qdrant.index.edge.versions import EdgeVersions

    if tenant := settings.index.owner:
        EdgeTenants(settings).check(tenant)
    else:
        EdgeTenants(settings).check_none()
    return EdgeVersions(settings)


def open_tenants(settings: Settings) -> Tenants:
    """The tenants of the index that the settings name.

    Raises InputError if the settings say that there are none.
    """
    if not settings.index.tenants:
        raise InputError("P4R_INDEX__TENANTS is not set: there are no tenants; set it to true")
    if settings.qdrant.url is not None:
        from p4r_qdrant.index.server.tenants import ServerTenants

        return ServerTenants(settings)
    from p4r_qdrant.index.edge.tenants import EdgeTenants

    return EdgeTenants(settings)
