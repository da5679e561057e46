"""Read alignments.jsonl of an audit: how often each persona of an item is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.artifacts.lines import read_lines
from indexer.artifacts.names import ALIGNMENTS
from indexer.audit.balance import evenness, position_bias
from indexer.audit.figures import AlignmentFigures, Found
from indexer.audit.personas import PersonasRead
from indexer.audit.source import Source
from indexer.progress import track
from p4r_qdrant.records import Alignment


@dataclass
class AlignmentsRead:
    """What an audit knows of alignments.jsonl.

    sampled: (user, position of the chosen persona) of the alignments of the sampled items.
    """

    figures: AlignmentFigures
    sampled: dict[str, list[tuple[str, int]]]


def read_alignments(
    source: Source, personas: PersonasRead | None, sample: set[str]
) -> AlignmentsRead:
    """Read alignments.jsonl. Without personas.jsonl nothing is known of the alternatives.

    sample: ids of the sampled items.
    """
    users: set[str] = set()
    items: set[str] = set()
    chosen: dict[str, list[int]] = {}
    sampled: dict[str, list[tuple[str, int]]] = {}
    unknown, leaked = Found(), Found()
    alignments = unjustified = 0
    lines = read_lines(source.folder.file(ALIGNMENTS), Alignment, source.refusals)
    total = source.folder.estimated_lines(ALIGNMENTS)
    for _, _, one in track(source.progress, lines, "reading alignments", total):
        alignments += 1
        users.add(one.user_id)
        items.add(one.item_id)
        unjustified += not one.justification
        if (one.user_id, one.item_id) in source.held_out:
            leaked.add(f"{one.user_id} is aligned with {one.item_id}")
        if personas is None:
            continue
        own = personas.ids.get(one.item_id, [])
        if one.persona_id not in own:
            unknown.add(f"{one.user_id}: {one.item_id} has no persona {one.persona_id}")
            continue
        position = own.index(one.persona_id)
        chosen.setdefault(one.item_id, [0] * len(own))[position] += 1
        if one.item_id in sample:
            sampled.setdefault(one.item_id, []).append((one.user_id, position))
    observed, uniform = evenness(chosen.values())
    positions, p = position_bias(chosen.values(), source.seed)
    figures = AlignmentFigures(
        alignments=alignments,
        users=len(users),
        items=len(items),
        unjustified=unjustified,
        unknown=None if personas is None else unknown,
        held_out=leaked,
        evenness=observed,
        evenness_uniform=uniform,
        positions=positions,
        position_p=p,
    )
    return AlignmentsRead(figures, sampled)
