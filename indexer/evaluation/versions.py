"""Versions of installed packages, for records of how a result was made."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_version = cache(version)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package that is installed."""
    found = {}
    for package in packages:
        try:
            found[package] = _version(package)
        except PackageNotFoundError:
            continue
    return found
