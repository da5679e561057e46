"""The tenants that a service answers for: opened at their first request, up to a limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p4r_qdrant.errors import P4RError, UnknownTenantError, for_log
from p4r_qdrant.index.opening import open_tenants
from p4r_qdrant.service import problems
from p4r_qdrant.service.backend import KEEP_UP_S
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.settings import is_tenant_name

if TYPE_CHECKING:
    from p4r_qdrant.service.state import Service

IDLE_S = 60.0
"""Seconds without a request after which a tenant may be closed to make room for another one."""
FIRST_WAIT_S = 0.5
"""Seconds that the first request of a tenant waits for its encoder, which others may have loaded.
"""

_log = logging.getLogger(__name__)


@dataclass
class _Open:
    """An open tenant. keeping_up: follows its publishes, apart from those of others."""

    service: Service
    keeping_up: asyncio.Task[None]
    last: float = field(default_factory=time.monotonic)

    @property
    def can_close(self) -> bool:
        """Whether nobody uses it, and no write would be missed by a publish that is under way."""
        return time.monotonic() - self.last > IDLE_S and self.service.backend.is_idle


class Tenants:
    """The open tenants of a service. Use it on one event loop."""

    def __init__(self, shared: Service) -> None:
        """shared: the service whose encoders, threads, cache and metrics all tenants share."""
        self._shared = shared
        self._most = shared.backend.settings.service.max_tenants
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._opening: dict[str, asyncio.Task[_Open]] = {}
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for tenants that were dropped."""
        self._watching = asyncio.create_task(self._watch())

    @property
    def services(self) -> list[Service]:
        """Those of all open tenants."""
        return [one.service for one in self._open.values()]

    async def of(self, name: str | None) -> Service:
        """The service of a tenant; None: of the one that the settings name.

        Raises ProblemError: 404 if there is no such tenant, 422 if none is named, 503.
        """
        index = self._shared.backend.settings.index
        if name is None:
            if not index.tenant:
                raise ProblemError(
                    422, "invalid", "name the tenant in the path, as in /tenants/shop-a/v1/rerank"
                )
            return self._shared
        if name and name == index.tenant:
            return self._shared
        if not is_tenant_name(name):
            raise problems.unknown_tenant()
        if name not in self._open:
            if name not in self._opening:
                self._opening[name] = asyncio.create_task(self._opened(name))
            await asyncio.shield(self._opening[name])
        held = self._open[name]
        held.last = time.monotonic()
        self._open.move_to_end(name)
        return held.service

    async def _opened(self, name: str) -> _Open:
        try:
            await self._make_room()
            backend = self._shared.backend.of_tenant(name)
            try:
                if not await self._shared.in_thread(backend.open):
                    raise problems.unavailable("the index is not available now; try again later")
            except UnknownTenantError:
                raise problems.unknown_tenant() from None
            except BaseException:
                backend.close()
                raise
            loading = asyncio.create_task(self._shared.in_thread(backend.load_encoder))
            await asyncio.wait({loading}, timeout=FIRST_WAIT_S)
            keeping_up = asyncio.create_task(backend.keep_up_forever())
            held = self._open[name] = _Open(self._shared.over(backend), keeping_up)
            return held
        finally:
            del self._opening[name]

    async def _make_room(self) -> None:
        if len(self._open) + len(self._opening) <= self._most:
            return
        for name, held in self._open.items():  # the one without a request for longest first
            if held.can_close:
                await self._close(name)
                return
        raise problems.unavailable(
            "too many tenants have requests now (P4R_SERVICE__MAX_TENANTS); try again later"
        )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(KEEP_UP_S)
            try:
                known = await self._shared.in_thread(self._names)
            except P4RError as error:
                _log.warning("the tenants cannot be listed: %s", for_log(error))
                continue
            for name in self._open.keys() - known:
                await self._close(name)

    def _names(self) -> set[str]:
        with open_tenants(self._shared.backend.settings) as tenants:
            return {one.name for one in tenants.all()}

    async def _close(self, name: str) -> None:
        held = self._open.pop(name)
        held.keeping_up.cancel()
        with suppress(asyncio.CancelledError):
            await held.keeping_up
        await asyncio.to_thread(held.service.ranker.close_own)
        await asyncio.to_thread(held.service.backend.close)

    async def close(self) -> None:
        """Close all tenants."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        for name in [*self._open]:
            await self._close(name)
