"""Which versions a restore fills: new ones, or those that a killed restore has begun."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from indexer.backups.manifest import Manifest
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.metadata import UNFINISHED, IndexMetadata
from p4r_qdrant.index.versions import Version, Versions
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.opening import keeps_users


@dataclass(frozen=True)
class PlannedVersion:
    """A version to fill. place: its position in the backup. metadata: while it is filled.

    Once it is whole, its metadata lose the mark UNFINISHED of `restored`.
    """

    place: int
    name: str
    metadata: IndexMetadata


def plan_of(
    versions: Versions, manifest: Manifest, settings: Settings, *, force: bool, in_place: bool
) -> list[PlannedVersion]:
    """The versions to fill, the live one last; the same again after a kill.

    `restored` of a version is `BACKUP ATTEMPT PLACE`. force, in_place: see `restore`. Raises
    InputError if there is data, or if a version cannot be made live.
    """
    attempt = _pending(versions, manifest, in_place=in_place)
    if not attempt:
        if not force and not in_place:
            check_empty(versions, settings)
        attempt = secrets.token_hex(4)
    begun = {one.metadata.restored.removesuffix(UNFINISHED): one.name for one in versions.all()}
    order = [one for one in range(len(manifest.source.versions)) if one != manifest.live]
    order.append(manifest.live)
    marks = {place: f"{manifest.id} {attempt} {place}" for place in order}
    made = {place: manifest.source.versions[place].made_with() for place in order}
    names: dict[int, str] = {}
    for place in order:
        new = versions.beside(made[place].fingerprint, names.values())
        names[place] = begun.get(marks[place], new)
        if not in_place:
            versions.check_switch(names[place])
    same = {manifest.source.versions[place].name: names[place] for place in order}
    before = versions.live()
    planned = []
    for place in order:
        previous = same.get(made[place].previous, "")
        stays = before is not None and before not in names.values() and not in_place
        if place == manifest.live and stays:
            previous = before or ""  # for `p4r publish --rollback`
        metadata = replace(
            made[place], previous=previous, publish="", restored=marks[place] + UNFINISHED
        )
        planned.append(PlannedVersion(place, names[place], metadata))
    return planned


def is_restored(versions: Versions, manifest: Manifest) -> bool:
    """Whether the live version came from this backup, which a killed process cannot have said."""
    live = versions.live()
    marks = [one.metadata.restored for one in versions.all() if one.name == live]
    return any(mark.startswith(f"{manifest.id} ") for mark in marks)


def check_empty(versions: Versions, settings: Settings) -> None:
    """Raise InputError if there is data. What a killed restore has left counts as none."""
    held = [one.name for one in versions.all() if one.metadata.is_whole]
    if held or versions.live() is not None:
        raise InputError(
            f"{versions.location} holds versions already ({', '.join(held)}): restore to another "
            "place, or with --force, which keeps them for `p4r publish --rollback`"
        )
    if keeps_users(settings):
        raise InputError(
            f"users are stored beside {versions.location}: restore to another place, or with "
            "--force, which keeps them and adds those of the backup"
        )


def _pending(versions: Versions, manifest: Manifest, *, in_place: bool) -> str:
    """The attempt to restore this backup that ended before its switch; "" if there is none."""
    attempts: dict[str, dict[str, Version]] = {}
    for one in versions.all():
        mark = one.metadata.restored.removesuffix(UNFINISHED).split()
        if len(mark) == 3 and mark[0] == manifest.id:
            attempts.setdefault(mark[1], {})[mark[2]] = one
    live = versions.live()
    for attempt, own in attempts.items():
        last = own.get(str(manifest.live))
        if last is None or not last.metadata.is_whole:
            return attempt
        if last.name != live and (in_place or live in (None, last.metadata.previous)):
            return attempt
    return ""
