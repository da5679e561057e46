"""Cluster the personas of the live version, and count the users of each segment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import SEGMENTS
from indexer.artifacts.writing import storage_errors
from indexer.indexing.noting import MOST_CATEGORIES, category_of
from indexer.progress import SILENT, Progress
from indexer.reasoning.extractive.terms import Terms
from indexer.segments.audience import write_audience
from indexer.segments.clustering import PersonaKey, clusters, matched
from indexer.segments.mapping import grouped, write_kept, write_map
from indexer.segments.winning import asked_users, count_wins
from p4r_qdrant.arrays import Floats
from p4r_qdrant.artifact_names import HISTORY
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.history import History, PublishRecord, SegmentSize
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.maps import Groups
from p4r_qdrant.index.metadata import today
from p4r_qdrant.index.segments import Example, Segment, to_text
from p4r_qdrant.index.wins import SUFFIX, wins_file
from p4r_qdrant.records import StoredPersona
from p4r_qdrant.settings import HistorySettings
from p4r_qdrant.whole_files import write_whole

EXAMPLES = 5
"""Personas that show a segment: those nearest to its centre."""
AT_ONCE = 256
"""Items or users of one step."""


@dataclass(frozen=True)
class Options:
    """How to make segments.

    count: their number; None: by the size of the catalogue. smallest: users that a segment needs
    for their number to be told. audience: whether audience.csv is written.
    """

    count: int | None = None
    smallest: int = 5
    audience: bool = False


@dataclass(frozen=True)
class Segmented:
    """The segments, the largest first.

    users: those with a vector. left_out: of audience.csv. refusals: the lines of histories that
    cannot be read.
    """

    segments: tuple[Segment, ...]
    users: int = 0
    left_out: int = 0
    refusals: Refusals = field(default_factory=Refusals)


@dataclass(frozen=True)
class _Personas:
    stored: Sequence[StoredPersona]
    points: Sequence[str]
    vectors: Floats


@dataclass
class _Users:
    """The users of the folder that have a vector, and the number of the nearest centre."""

    ids: list[str] = field(default_factory=list)
    vectors: list[Floats] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)

    @classmethod
    def read(
        cls,
        folder: ArtifactFolder,
        encoder: Encoder | None,
        history: HistorySettings,
        centres: Floats,
        progress: Progress,
    ) -> _Users:
        """Encode the histories of the folder's users; nobody without an encoder."""
        own = cls()
        if encoder is None:
            return own
        progress.start("encoding users")
        with Histories(folder, own.refusals) as histories:
            for some in batches(histories.users(), AT_ONCE):
                vectors = encoder.user_vectors(
                    [histories.get(one) for one in some], length=history.length, decay=history.decay
                )
                for user_id, found in zip(some, vectors, strict=True):
                    if found is not None:
                        own.ids.append(user_id)
                        own.vectors.append(found.vector)
                        own.places.append(int(np.argmax(centres @ found.vector)))
                progress.advance(len(some))
        return own


def make_segments(
    folder: ArtifactFolder,
    index: PersonaIndex,
    encoder: Encoder | None,
    history: HistorySettings,
    options: Options,
    progress: Progress = SILENT,
) -> Segmented:
    """Make the segments of the personas in an index, and record them with its version.

    DIR/segments.json keeps which persona is in which segment, so that a later version's segments
    get the same ids where the clusters are the same. DIR/maps keeps where in the plane they lie,
    and how often each one wins; DIR/history.sqlite the sizes of the segments.
    encoder: of users' histories; None: users are not counted. Memory holds all persona vectors.
    Raises InputError if the index has no personas, IndexMismatchError if the encoder did not make
    it.
    """
    if encoder is not None:
        index.metadata.check(encoder.dimension, encoder.fingerprint, index.location)
    progress.start("reading personas")
    personas = _read(index, progress)
    labels, centres = clusters(personas.vectors, options.count)
    keys = [(one.item_id, one.persona_id) for one in personas.stored]
    groups = [np.flatnonzero(labels == one) for one in range(len(centres))]
    members = [{keys[one] for one in group.tolist()} for group in groups]
    path = folder.path / SEGMENTS
    before, following = _before(path)
    ids = matched(before, members, following)
    names = _names(personas.stored, groups)
    users = _Users.read(folder, encoder, history, centres, progress)
    sizes = Counter(users.places)
    segments = [
        Segment(
            id=ids[place],
            name=names[place],
            personas=len(group),
            items=len({personas.stored[one].item_id for one in group.tolist()}),
            users=sizes[place] if sizes[place] >= options.smallest else None,
            share=sizes[place] / len(users.ids) if sizes[place] >= options.smallest else None,
            examples=_examples(personas, group, centres[place]),
        )
        for place, group in enumerate(groups)
    ]
    left_out = 0
    if options.audience:
        rows = (
            (ids[place], names[place], user)
            for user, place in zip(users.ids, users.places, strict=True)
        )
        left_out = write_audience(folder.path, rows, options.smallest)
    highest = max(following - 1, *(int(one[1:]) for one in ids))
    kept = {"following": highest + 1, "members": dict(zip(ids, map(sorted, members), strict=True))}
    with storage_errors(path, kept="nothing was recorded"):
        write_whole(path, json.dumps(kept, ensure_ascii=False))
    ordered = tuple(sorted(segments, key=lambda one: (-one.personas, one.id)))
    rank = {one.id: number for number, one in enumerate(ordered)}
    ranks = np.array([rank[one] for one in ids], np.uint8)
    of_personas = [category_of(one.fields) for one in personas.stored]
    categories, of_map = grouped(of_personas)
    persona_ids = [one.persona_id for one in personas.stored]
    groups_of_map = Groups(ranks[labels], of_map)
    drawn = write_map(folder.path, personas.vectors, groups_of_map, persona_ids, personas.points)
    won = _write_wins(folder.path, personas, users, ranks, options.smallest, progress)
    index.record(
        segments=to_text(ordered),
        persona_map=drawn,
        map_categories=json.dumps(categories, ensure_ascii=False),
        wins=won,
    )
    mix = Counter(of_personas)
    record = PublishRecord(
        0,
        today(),
        index.version,
        len({item_id for item_id, _ in keys}),
        len(keys),
        dict(mix.most_common(MOST_CATEGORIES)),
        [SegmentSize(one.id, one.name, one.personas) for one in ordered],
    )
    with closing(History(folder.path / HISTORY)) as history_of_folder:
        history_of_folder.note_segments(record)
    return Segmented(ordered, len(users.ids), left_out, users.refusals)


def _write_wins(
    folder: Path,
    personas: _Personas,
    users: _Users,
    ranks: npt.NDArray[np.uint8],
    smallest: int,
    progress: Progress,
) -> str:
    """Write how often personas win; returns `IndexMetadata.wins`, "" without users."""
    if len(users.ids) < smallest:
        return ""
    asked = asked_users(users.ids)
    stored = personas.stored
    starts = [
        place
        for place in range(len(stored))
        if not place or stored[place].item_id != stored[place - 1].item_id
    ]
    own = np.stack([users.vectors[one] for one in asked])
    segments = ranks[[users.places[one] for one in asked]].astype(np.intp)
    found = count_wins(personas.vectors, starts, own, segments, smallest, progress)
    name, content = wins_file(stored, personas.points, *found)
    return f"{write_kept(folder, SUFFIX, name, content)} {len(asked)}"


def _read(index: PersonaIndex, progress: Progress) -> _Personas:
    stored: list[StoredPersona] = []
    points: list[str] = []
    blocks: list[Floats] = []
    for some in batches(index.vectors(), AT_ONCE):
        for item_id, rows in some:
            own = index.get(item_id)
            if len(own) == len(rows):  # else another process replaces it just now
                stored += own
                points += [index.engine.point_id(item_id, place) for place in range(len(own))]
                blocks.append(rows)
        progress.advance(len(some))
    if not blocks:
        raise InputError(f"{index.location} holds no personas; publish some first")
    return _Personas(stored, points, np.concatenate(blocks))


def _before(path: Path) -> tuple[dict[str, set[PersonaKey]], int]:
    """The personas of each segment at the last run, and the number of the next new id."""
    with storage_errors(path, cannot="be read"):
        text = path.read_bytes() if path.is_file() else b""
    if not text:
        return {}, 1
    try:
        stored = json.loads(text)
        members = {
            str(one): {(str(item), str(persona)) for item, persona in own}
            for one, own in stored["members"].items()
        }
        if not all(one[:1] == "s" and one[1:].isdecimal() for one in members):
            raise ValueError
        return members, int(stored["following"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is broken: put it back, or remove it, and all segments get new ids"
        ) from None


def _names(stored: Sequence[StoredPersona], groups: Sequence[npt.NDArray[np.intp]]) -> list[str]:
    texts = [f"{one.name}. {one.description} {one.preference_rationale}" for one in stored]
    return Terms(texts).names([[texts[one] for one in group.tolist()] for group in groups])


def _examples(
    personas: _Personas, group: npt.NDArray[np.intp], centre: Floats
) -> tuple[Example, ...]:
    order = np.argsort(-(personas.vectors[group] @ centre), kind="stable")
    shown = [personas.stored[one] for one in group[order[:EXAMPLES]].tolist()]
    return tuple(
        Example(item_id=one.item_id, persona_id=one.persona_id, name=one.label) for one in shown
    )
