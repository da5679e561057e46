"""The collaborative part of a published version: fitted again if what it rests on has changed."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ITEMS, SPLITS
from indexer.collaborative.finished import finished_parts
from indexer.collaborative.fitting import Inputs, fitted_columns, method_for
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.evaluation.interactions import (
    Interactions,
    files_of_interactions,
    interactions_in,
    training_hash,
)
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import IndexLockedError, MissingExtraError
from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.metadata import today
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.records import Id
from p4r_qdrant.settings import CollaborativeSettings, Settings

TYPICAL_PERSONAS = 5
"""Personas of an item, for an estimate of memory."""
_FITTED = ("share", "l2", "keep", "decay")
"""The settings of a fit that its record holds."""


class _Named(BaseModel):
    model_config = ConfigDict(extra="ignore")

    item_id: Id


@dataclass(frozen=True)
class Fitting:
    """The fit that a publish makes. Made before anything is encoded or written.

    folder: the artifacts; a killed fit leaves its finished parts there. interactions: those of the
    folder. held_out: how many of them splits.jsonl holds out.
    """

    folder: Path
    interactions: Interactions
    held_out: int
    in_catalogue: frozenset[str]
    settings: CollaborativeSettings
    training_only: bool = False

    @classmethod
    def planned(
        cls,
        folder: ArtifactFolder,
        settings: CollaborativeSettings,
        refusals: Refusals,
        *,
        shape: tuple[int, int],
        training_only: bool = False,
        progress: Progress = SILENT,
    ) -> Fitting | None:
        """Read the interactions of a folder; None if the settings switch the fit off.

        shape: about how many items have personas, and the dimension of their vectors.
        training_only: without those that splits.jsonl holds out. Raises InputError if the items
        need more memory than the settings allow, MissingExtraError without SciPy.
        """
        if not settings.enabled:
            return None
        if importlib.util.find_spec("scipy") is None:
            raise MissingExtraError(
                "the collaborative part needs scipy: pip install 'p4r-qdrant[indexer]', or publish "
                "with --no-collaborative"
            )
        held_out = folder.held_out()
        files = files_of_interactions(folder)
        without = held_out if training_only else set[tuple[str, str]]()
        found = interactions_in(files, without, refusals, progress)
        own = set(zip(found.user_of.tolist(), found.item_of.tolist(), strict=True))
        users = {name: place for place, name in enumerate(found.users)}
        items = {name: place for place, name in enumerate(found.items)}
        used = sum((users.get(user), items.get(item)) in own for user, item in held_out)
        named = frozenset[str]()
        if folder.has(ITEMS):
            lines = read_lines(folder.at(ITEMS), _Named, Refusals())  # refused elsewhere
            named = frozenset(line.item_id for _, _, line in lines)
        with_personas, dimension = shape
        vectors = (TYPICAL_PERSONAS * with_personas, dimension)
        method_for(max(len(found.items), with_personas), len(found.user_of), vectors, settings)
        return cls(folder.path, found, used, named, settings, training_only)

    def fit(self, index: PersonaIndex, known: Mapping[str, int], next_number: int) -> str:
        """Fit B and write it, unless the index has a part of the same inputs.

        known, next_number: the numbers of items so far, and the next free one.
        Returns: what was done, as a part of a sentence.
        """
        personas = stored_personas(index)
        interactions = self.interactions.with_items(personas.items)
        catalogue = self.in_catalogue.union(personas.items)
        numbers = dict(known)
        for item_id in interactions.items:
            if item_id not in numbers:
                numbers[item_id] = next_number
                next_number += 1
        inputs = Inputs(
            interactions,
            personas,
            numbers,
            catalogue,
            self.settings,
            self.held_out,
            self.training_only,
            training_hash(self.interactions),
        )
        before, digest = index.collaborative, inputs.hash
        size = f"{len(interactions.items):,} items, {len(interactions.user_of):,} interactions"
        if not len(interactions.user_of) and not self.settings.share:
            index.drop_collaborative()
            return "none, there are no interactions and the personas' share is 0"
        if before is not None and before.inputs == digest:
            same = dataclasses.replace(before, settings=inputs.description)
            if same != before:
                index.record(collaborative=same.to_text())
            return f"unchanged ({size})"
        part = CollaborativePart(
            set=0,
            fitted_at=today(),
            k=self.settings.columns,
            items=0,
            next_number=next_number,
            inputs=digest,
            settings=inputs.description,
        )
        with finished_parts(self.folder, digest) as finished:
            index.write_collaborative(part, fitted_columns(inputs, finished))
        index.remove_columns(sorted({*personas.items} - {*index.item_ids()}))  # deleted meanwhile
        written = index.collaborative
        count = written.items if written else 0
        how = f"{self._of_them()}{inputs.method}"
        return f"fitted on {size} ({how}); {count:,} items can be recommended"

    def _of_them(self) -> str:
        return f"{self.held_out:,} of them held out by {SPLITS}, " if self.held_out else ""


def fitted(
    fitting: Fitting | None, versions: Versions, index: PersonaIndex, progress: Progress = SILENT
) -> str:
    """Fit the collaborative part of a version, or take it out if there is no fit.

    Returns: what was done, as a part of a sentence.
    """
    if fitting is None:
        index.drop_collaborative()
        return "none, it is switched off"
    progress.start("fitting the collaborative part")
    return fitting.fit(index, *known_numbers(versions, index))


def refitted(folder: ArtifactFolder, settings: Settings, refusals: Refusals) -> dict[str, str]:
    """Fit the collaborative part of every version again, as it was fitted, without its encoder.

    The sets of columns before are deleted. Returns: what was done, as a part of a sentence, by the
    name of the version; without those that have no such part. Raises P4RError.
    """
    done = {}
    with open_versions(settings) as versions:
        for name in [one.name for one in versions.all() if one.metadata.collaborative]:
            with versions.open(name) as index, versions.sole_writer(name):
                if (part := index.collaborative) is not None:
                    own = {one: part.settings[one] for one in _FITTED if one in part.settings}
                    own["columns"] = part.k
                    fitting = Fitting.planned(
                        folder,
                        settings.collaborative.model_copy(update={**own, "enabled": True}),
                        refusals,
                        shape=(index.stats().items, index.metadata.dimension),
                        training_only=bool(part.settings.get("training_only")),
                    )
                    done[name] = fitted(fitting, versions, index)
                    index.drop_columns_before()
    return done


def stored_personas(index: PersonaIndex) -> PersonaVectors:
    """The vectors of all personas of an index."""
    items, blocks = list[str](), []
    for item_id, vectors in index.vectors():
        items.append(item_id)
        blocks.append(vectors)
    starts = np.cumsum([0, *map(len, blocks)], dtype=np.int64)
    empty = np.zeros((0, index.metadata.dimension), np.float32)
    return PersonaVectors(items, np.concatenate([empty, *blocks]), starts)


def known_numbers(versions: Versions, index: PersonaIndex) -> tuple[dict[str, int], int]:
    """The numbers of items in a version, or else in the live one; and the next free number."""
    part = index.collaborative
    if part is not None:
        return index.item_numbers(), part.next_number
    live = versions.live()
    if live is not None and live != index.version:
        with suppress(IndexLockedError), versions.open(live) as opened:
            if (part := opened.collaborative) is not None:
                return opened.item_numbers(), part.next_number
    return {}, 0
