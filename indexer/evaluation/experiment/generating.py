"""The candidate lists of an experiment: from its generators and from other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from indexer.artifacts.lines import Refusals
from indexer.evaluation.candidates import (
    ListInputs,
    ListOptions,
    Provenance,
    lists_hash,
    provenance_path,
    write_candidates,
)
from indexer.evaluation.experiment.blinding import blinded
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.encoding import Encoded
from indexer.evaluation.generators.base import HYBRID, READ_PERSONAS, SEEDED
from indexer.evaluation.generators.hybrid import UserTexts
from indexer.evaluation.interactions import training_hash


class Generated(NamedTuple):
    """A generator (or the name of lists made elsewhere) and the seed of its lists."""

    generator: str
    seed: int


def write_lists(context: Context, encoded: Encoded) -> dict[Generated, Path]:
    """The file of each generator and seed, then of lists made elsewhere.

    encoded: the personas and the histories of generators that read them.

    Generators read data without test items. The settings of the first seed, chosen on validation
    items, are those of the others. Existing lists are kept if their provenance matches.
    """
    config = context.config
    reviews, splits = blinded(context.data, context.output / "blinded")
    folder = context.output / "lists"
    folder.mkdir(exist_ok=True)
    top = max(100, *config.candidates)
    profiles = None
    if HYBRID in config.generators:
        users, histories = context.data.users, context.histories
        profiles = UserTexts.of(users, histories.get, encoded.encoder)
    found: dict[Generated, Path] = {}
    for model in sorted(config.generators, key=HYBRID.__eq__):  # hybrid last: it reads other lists
        chosen: dict[str, Any] | None = None
        for seed in config.seeds if model in SEEDED else config.seeds[:1]:
            path = folder / f"{model}-{seed}.jsonl"
            found[Generated(model, seed)] = path
            options = ListOptions(model, top, seed, chosen)
            inputs = ListInputs(
                reviews,
                splits,
                encoded.material.personas if model in READ_PERSONAS else None,
                profiles if model == HYBRID else None,
                _strongest(found, config.seeds[0]) if model == HYBRID else None,
            )
            if not _is_there(path, context, inputs, options):
                write_candidates(inputs, path, options, Refusals(), context.progress)
            chosen = chosen or _provenance(path).settings
    return found | {Generated(name, config.seeds[0]): path for name, path in config.lists.items()}


def chosen_settings(lists: Mapping[Generated, Path], seed: int) -> dict[str, dict[str, Any]]:
    """The settings of each generator that is tuned, as its lists with this seed record them."""
    found = {
        one.generator: _provenance(path).settings
        for one, path in lists.items()
        if one.seed == seed and provenance_path(path).is_file()
    }
    return {generator: settings for generator, settings in found.items() if settings}


def _strongest(lists: Mapping[Generated, Path], seed: int) -> Path | None:
    """The lists of the generator without personas that is the best one on validation items."""
    rivals = [
        path
        for one, path in lists.items()
        if one.seed == seed and one.generator not in READ_PERSONAS
    ]
    return max(rivals, key=_valid, default=None)


def _valid(lists: Path) -> float:
    """The figure on validation items that the settings of lists were chosen by."""
    return max(float(one["value"]) for one in _provenance(lists).tried)


def _is_there(path: Path, context: Context, inputs: ListInputs, options: ListOptions) -> bool:
    try:
        provenance = _provenance(path)
        same = lists_hash(path) == provenance.lists
    except (OSError, ValueError, TypeError):
        return False
    settings = None if options.settings is None else provenance.settings
    made = ListOptions(provenance.model, provenance.top, provenance.seed, settings)
    training = training_hash(context.data.training)
    fitted_to = (provenance.training, provenance.personas)
    return same and made == options and fitted_to == (training, inputs.texts_hash)


def _provenance(path: Path) -> Provenance:
    return Provenance(**json.loads(provenance_path(path).read_bytes()))
