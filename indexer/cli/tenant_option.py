"""The option --tenant of the commands that use an index."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

_OPTION = Annotated[
    str | None,
    typer.Option("--tenant", metavar="NAME", help="Whose catalogue: see `p4r tenant`."),
]


def of_tenant(command: Callable[..., None]) -> Callable[..., None]:
    """A command for Typer with the option --tenant: settings that it loads mean that tenant."""

    @wraps(command)
    def run(*, tenant: str | None, **values: Any) -> None:
        from p4r_qdrant.settings import naming_tenant

        if tenant is None:
            command(**values)
            return
        with naming_tenant(tenant):
            command(**values)

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter(
        "tenant", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_OPTION
    )
    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()
    ]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*parameters, option], return_annotation=None
    )
    run.__annotations__ = {one.name: one.annotation for one in [*parameters, option]}
    return run
