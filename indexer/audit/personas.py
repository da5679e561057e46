"""Read personas.jsonl of an audit: how many personas each item has, and their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from indexer.artifacts.lines import read_lines
from indexer.artifacts.names import ITEMS, PERSONAS
from indexer.audit.aspects import AspectsRead
from indexer.audit.evidence import Evidence
from indexer.audit.figures import EvidenceFigures, Found, PersonaFigures
from indexer.audit.formats import label
from indexer.audit.source import Source
from indexer.progress import track
from p4r_qdrant.records import Item, ItemPersonas

_TOP_NAMES = 10


@dataclass
class PersonasRead:
    """What an audit knows of personas.jsonl, without the texts.

    ids: the persona ids of each item, in order. offsets: the byte offset of each item's line.
    """

    figures: PersonaFigures
    evidence: EvidenceFigures
    ids: dict[str, list[str]]
    offsets: dict[str, int]


def read_personas(source: Source, aspects: AspectsRead | None) -> PersonasRead:
    """Read personas.jsonl and compare it with the ids in items.jsonl and aspects.jsonl."""
    path = source.folder.file(PERSONAS)
    ids: dict[str, list[str]] = {}
    offsets: dict[str, int] = {}
    extractive = 0
    names = _Names()
    evidence = Evidence(source.held_out, aspects.offsets if aspects else None)
    lines = read_lines(path, ItemPersonas, source.refusals)
    total = source.folder.estimated_lines(PERSONAS)
    for number, offset, one in track(source.progress, lines, "reading personas", total):
        if one.item_id in ids:
            source.refusals.add(
                f"{path}:{number}: item {one.item_id!r} is already in this file; keep one",
                "repeated item",
            )
            continue
        ids[one.item_id] = [persona.persona_id for persona in one.personas]
        offsets[one.item_id] = offset
        extractive += sum(persona.extractive for persona in one.personas)
        names.add(one)
        evidence.add(one)
    per_item = Counter(len(own) for own in ids.values() if own)
    items, personas = per_item.total(), sum(count * n for count, n in per_item.items())
    without = Found()
    for item_id in _known_items(source, aspects, ids):
        if not ids.get(item_id):
            without.add(item_id)
    figures = PersonaFigures(
        items=items,
        personas=personas,
        extractive=extractive,
        per_item=dict(sorted(per_item.items())),
        mean=personas / items if items else None,
        without=without,
        names=len(names.items),
        same_name_items=names.within,
        shared_names=sum(count > 1 for count in names.items.values()),
        top_names=names.top(),
    )
    return PersonasRead(figures, evidence.figures(), ids, offsets)


def _known_items(
    source: Source, aspects: AspectsRead | None, with_personas: Iterable[str]
) -> dict[str, None]:
    """Each item of items.jsonl, aspects.jsonl and personas.jsonl once, in this order."""
    known: dict[str, None] = {}
    if source.folder.has(ITEMS):
        lines = read_lines(source.folder.at(ITEMS), Item, source.refusals)
        known.update((item.item_id, None) for _, _, item in lines)
    known.update(dict.fromkeys(aspects.offsets if aspects else ()))
    known.update(dict.fromkeys(with_personas))
    return known


class _Names:
    """Counts the names of personas; case and spaces make no difference."""

    def __init__(self) -> None:
        self.items: Counter[str] = Counter()
        self.within = Found()
        self._spelled: dict[str, str] = {}

    def add(self, one: ItemPersonas) -> None:
        own: dict[str, str] = {}
        for persona in one.personas:
            name = label(persona.name)
            own.setdefault(name.casefold(), name)
        if len(own) < len(one.personas):
            self.within.add(one.item_id)
        self.items.update(own.keys())
        for name, spelled in own.items():
            self._spelled.setdefault(name, spelled)

    def top(self) -> list[tuple[str, int]]:
        """The names of most items; ties by name."""
        most = sorted(self.items.items(), key=lambda one: (-one[1], one[0]))[:_TOP_NAMES]
        return [(self._spelled[name], count) for name, count in most if count > 1]
