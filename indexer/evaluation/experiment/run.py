"""An experiment from its configuration to results.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.artifacts.derived import noted
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.artifacts.writing import written_whole
from indexer.evaluation.candidates import lists_hash
from indexer.evaluation.evaluate import outside_notes
from indexer.evaluation.experiment import selection
from indexer.evaluation.experiment.cold import encode_histories
from indexer.evaluation.experiment.config import EXTRACTIVE, ExperimentConfig
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.data import Data
from indexer.evaluation.experiment.encoding import Encoded, EncoderName, encoded
from indexer.evaluation.experiment.environment import environment
from indexer.evaluation.experiment.examples import example_users
from indexer.evaluation.experiment.extracting import extracted
from indexer.evaluation.experiment.generating import Generated, chosen_settings, write_lists
from indexer.evaluation.experiment.leak_checks import check_files, check_made, check_trained
from indexer.evaluation.experiment.main_table import Line, main_table, primary_table, segment_table
from indexer.evaluation.experiment.peer_bench import peer_bench
from indexer.evaluation.experiment.peer_judging import PeerJudging
from indexer.evaluation.experiment.peer_study import PeerStudy
from indexer.evaluation.experiment.peer_tables import peer_tables
from indexer.evaluation.experiment.seeds import seed_table
from indexer.evaluation.experiment.selection import Choice, Judged, read_judged
from indexer.evaluation.experiment.stages import RESULTS, locked
from indexer.evaluation.experiment.steps import Steps
from indexer.evaluation.generators.base import READ_PERSONAS
from indexer.evaluation.leaks.report import LeakReport
from indexer.evaluation.segments import segments
from indexer.progress import Progress
from indexer.reasoning.run import Estimate
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.errors import SettingsError
from p4r_qdrant.settings import EncoderSettings, LLMSettings

Values = dict[str, dict[str, float]]
"""NDCG@10 on validation items, by number of candidates and generator."""


def load_encoder(settings: EncoderSettings) -> Encoder:
    """The model that an experiment encodes with; tests replace it."""
    return PersonaEncoder.from_settings(settings)


def run_experiment(
    config: ExperimentConfig,
    output: Path,
    refusals: Refusals,
    progress: Progress,
    *,
    llm: LLMSettings | None = None,
) -> dict[str, Any]:
    """Run an experiment, write `output`/results.json and return its content.

    A killed run resumes where it stopped when it is started with the same configuration. Nothing
    is scored before the leak checks pass: raises LeakError. Lists are made from a copy of the data
    without test items; all settings are chosen on validation items.

    llm: what the configuration's peers ask; needed only with these.
    """
    with _prepared(config, output, refusals, progress) as (context, stack):
        results = _results(context, stack, llm)
        text = json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False)
        with written_whole(output / RESULTS) as write:
            write(text)
    found: dict[str, Any] = json.loads(text)
    return found


def estimate_peers(
    config: ExperimentConfig,
    output: Path,
    refusals: Refusals,
    progress: Progress,
    llm: LLMSettings | None,
) -> dict[str, Estimate]:
    """What the peers of an experiment would ask, from its lists, which are made; nothing is asked.

    Raises LeakError as `run_experiment` does.
    """
    with _prepared(config, output, refusals, progress) as (context, stack):
        lists = _lists(context, stack)
        study = _peer_study(context, stack, lists, llm)
        return {} if study is None else study.estimates()


@contextmanager
def _prepared(
    config: ExperimentConfig, output: Path, refusals: Refusals, progress: Progress
) -> Iterator[tuple[Context, ExitStack]]:
    """The catalogue, read, and the folder of results, locked."""
    progress.start("reading the catalogue")
    data = Data.read(_artifacts(config, output, progress), refusals)
    with locked(output), ExitStack() as stack:
        stack.enter_context(noted(config.artifacts, output))
        histories = stack.enter_context(Histories(data.folder, Refusals()))
        yield Context(config, output, data, histories, progress), stack


@dataclass(frozen=True)
class _Lists:
    """The lists of all generators, after the leak checks on all that they are made from."""

    encoded: list[Encoded]
    paths: dict[Generated, Path]
    leaks: LeakReport
    judged: dict[str, Judged]
    generators: Values
    strongest: dict[str, str]


def _lists(context: Context, stack: ExitStack) -> _Lists:
    """Check for leaks, encode, make the lists, and check again. Raises LeakError."""
    config, data = context.config, context.data
    check_files(context, elsewhere=list(config.lists.values())).require_clean()
    models = [
        (name, _loaded(name, settings, context.progress))
        for name, settings in _encoders(config.encoder)
    ]
    trained = check_trained(context, models[0][1])
    trained.require_clean()
    if config.extractive == "line" and data.folder.has(ITEMS):
        made = context.output / EXTRACTIVE
        extracted(data.folder, config.domain, made, models[0][1], context.progress)
    all_encoded = [stack.enter_context(encoded(name, one, context)) for name, one in models]
    encode_histories(all_encoded[-1], context)
    lists = write_lists(context, all_encoded[-1])
    leaks = check_made(context, list(lists.values()), all_encoded) + trained
    leaks.require_clean()
    judged = {
        generator: read_judged(path, context)
        for (generator, seed), path in lists.items()
        if seed == config.seeds[0]
    }
    strongest, generators = _generators(judged, config.candidates)
    return _Lists(all_encoded, lists, leaks, judged, generators, strongest)


def _peer_study(
    context: Context, stack: ExitStack, made: _Lists, llm: LLMSettings | None
) -> PeerStudy | None:
    """The peers of the configuration, if any."""
    if context.config.peers is None:
        return None
    if llm is None and context.config.peers.asks:
        raise SettingsError("the experiment has peers, which ask an LLM: give its settings")
    return stack.enter_context(
        PeerStudy(context.config.peers, context, made.judged, made.strongest, llm)
    )


def _results(context: Context, stack: ExitStack, llm: LLMSettings | None) -> dict[str, Any]:
    """All steps in order; only the steps after `choices` look at test items."""
    config, data = context.config, context.data
    made = _lists(context, stack)
    all_encoded, lists, judged, strongest = made.encoded, made.paths, made.judged, made.strongest
    leaks, study = made.leaks, _peer_study(context, stack, made, llm)
    if study is not None:
        leaks = leaks + study.check()
        leaks.require_clean()
    steps = Steps(context, judged, [lists_hash(path) for path in lists.values()])
    choices = [steps.choice(one) for one in all_encoded]
    lines = [*_generator_lines(judged, config.candidates)]
    for one, choice in zip(all_encoded, choices, strict=True):
        lines += steps.reranked_lines(one, choice)
    order = list(judged)
    lines.sort(key=lambda line: (order.index(line.generator), line.candidates))
    by_encoder = {one.name: own for one, own in zip(all_encoded, choices, strict=True)}
    hybrids = {count: selection.hybrid(judged, by_encoder, int(count)) for count in strongest}
    found_segments = segments(data.test, data.training)
    main, choice = all_encoded[-1], choices[-1]
    count = config.candidates[0]
    shown = strongest[str(count)]
    listed = lists[Generated(shown, config.seeds[0])]
    bench = peer_bench(context, steps.stages, listed, main, choice, llm)
    peers = None if study is None else peer_tables(study, study.run(), lines, found_segments)
    return {
        "name": config.name,
        "leaking": config.leaking is not None,
        "config": config.model_dump(mode="json"),
        "environment": environment(),
        "data": _data_record(data),
        "leaks": leaks.record(),
        "chosen": {
            "generators": made.generators,
            "settings": chosen_settings(lists, config.seeds[0]),
            "strongest": strongest,
            "encoders": {
                one.name: {"name": one.encoder.name, "fingerprint": one.encoder.fingerprint}
                | own.record()
                for one, own in zip(all_encoded, choices, strict=True)
            },
        },
        "primary": primary_table(lines, strongest, hybrids),
        "main": main_table(lines, strongest),
        "segments": list(segment_table(lines, found_segments)),
        "peers": peers,
        "bench": bench,
        "judged": _judged(context, study, main, choice, llm),
        "cold": steps.cold(main, choice),
        "ablations": steps.ablations(main, choice),
        "ablations_encoder": main.name,
        "history": steps.histories[main.name],
        "options": [
            {"encoder": name} | row for name, rows in steps.options.items() for row in rows
        ],
        "seeds": seed_table(lists, main, choice, context),
        "examples": example_users(main, choice, judged[shown].first(count), shown, context),
        "seconds": steps.stages.seconds,
    }


def _judged(
    context: Context,
    study: PeerStudy | None,
    encoded: Encoded,
    choice: Choice,
    llm: LLMSettings | None,
) -> list[dict[str, Any]] | None:
    """What a judge says of explanations and personas; None if none is wanted."""
    peers = context.config.peers
    if study is None or llm is None or peers is None or peers.judge is None:
        return None
    return PeerJudging(peers.judge, context, study, llm).run(encoded, choice)


def _encoders(settings: EncoderSettings) -> list[tuple[EncoderName, EncoderSettings]]:
    """The encoder without its adapter, then, if it has one, with it."""
    found: list[tuple[EncoderName, EncoderSettings]] = [
        ("untrained", settings.model_copy(update={"adapter": None}))
    ]
    if settings.adapter:
        found.append(("trained", settings))
    return found


def _loaded(name: EncoderName, settings: EncoderSettings, progress: Progress) -> Encoder:
    progress.start(f"loading the encoder, {name}")
    return load_encoder(settings)


def _artifacts(config: ExperimentConfig, output: Path, progress: Progress) -> Path:
    """The folder of the configuration, or the extractive artifacts that are made from it.

    With an adapter they have alignments, too, which say what it must have been trained on.
    """
    if config.extractive != "all":
        return config.artifacts
    source = ArtifactFolder(config.artifacts)
    for name in (ITEMS, REVIEWS, SPLITS):
        source.file(name)  # raises before a folder is made
    with locked(output), noted(config.artifacts, output):
        [(name, settings), *_] = _encoders(config.encoder)
        model = _loaded(name, settings, progress)
        made, aligned = output / EXTRACTIVE, bool(config.encoder.adapter)
        return extracted(source, config.domain, made, model, progress, aligned=aligned)


def _generators(
    judged: Mapping[str, Judged], counts: Sequence[int]
) -> tuple[dict[str, str], Values]:
    """The strongest generator on validation items, by number of candidates; and all values.

    A generator that reads personas is no baseline, unless there is no other.
    """
    values = {str(count): selection.generator_values(judged, count) for count in counts}
    rivals = [name for name in judged if name not in READ_PERSONAS] or list(judged)
    strongest = {count: max(rivals, key=lambda name: own[name]) for count, own in values.items()}
    return strongest, values


def _generator_lines(judged: Mapping[str, Judged], counts: Sequence[int]) -> list[Line]:
    return [
        Line(name, count, None, False, None, one.pool.generator_ranks(one.test))
        for name, widest in judged.items()
        for count in counts
        for one in [widest.first(count)]
    ]


def _data_record(data: Data) -> dict[str, Any]:
    notes = data.test.notes + outside_notes(data.test, data.training)
    return {
        "path": str(data.folder.path),
        "users": len(data.users),
        "users_with_validation": len(data.valid.items),
        "items": len(data.training.items),
        "training_interactions": len(data.training.user_of),
        "notes": dict(notes),
    }
