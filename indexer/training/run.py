"""`p4r train` from the artifact folder to the adapter, and `p4r tune`.

The adapter's folder appears when it is complete. Until then a folder beside it holds the
checkpoints, and a killed run resumes from them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments, set_seed

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.writing import written_whole
from indexer.training.output import CURVES, draw_curves, write_record
from indexer.training.pairs import Pairs, read_pairs, training_data
from indexer.training.tower import tower
from indexer.training.trainer import (
    PersonaTrainer,
    best_checkpoint,
    is_finished,
    last_checkpoint,
    log_history,
    training_arguments,
)
from indexer.training.tune import tune, tuned
from indexer.training.validation import Validation
from p4r_qdrant.encoder.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterRecord
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.errors import InputError, StorageFullError
from p4r_qdrant.settings import Settings

RUN = "run.json"
_NOT_OF_THE_RESULT = {"micro_batch_size", "checkpoint_steps"}


@dataclass(frozen=True)
class Trained:
    """The result of `train`. `fresh` is False if the same run was complete before.

    too_long: sentences about texts that are longer than the encoder reads.
    """

    adapter: Path
    record: AdapterRecord
    left_out: Mapping[str, int]
    too_long: Sequence[str] = ()
    fresh: bool = True

    @property
    def is_better(self) -> bool:
        """Whether NDCG@10 of reranking is higher than with the untrained base."""
        return self.record.metrics["ndcg"] > self.record.metrics["untrained_ndcg"]


def train(
    folder: ArtifactFolder,
    output: Path,
    settings: Settings,
    refusals: Refusals,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    tensorboard: Path | None = None,
) -> Trained | None:
    """Train an adapter on a folder's alignments. A killed run resumes when it is started again.

    output: the adapter's folder, which must not hold another adapter. tensorboard: a folder for
    logs. Under torchrun only the first process returns a result.

    Raises InputError if the data, the settings or `output` are wrong, TrainingError if the loss is
    not finite or memory does not suffice, StorageFullError if the disk is full.
    """
    base = _encoder(settings)
    pairs, validation = _read(folder, settings, refusals, base)
    run = _identity(base, pairs, validation, settings)
    work = output.with_name(f"{output.name}.training")
    if (finished := _finished(output, run)) is not None:
        _remove_checkpoints(work, run)  # a kill may have left them
        return Trained(output, finished, pairs.left_out, _too_long(base, pairs), fresh=False)
    arguments = training_arguments(work, len(pairs.examples), settings, tensorboard=tensorboard)
    with arguments.main_process_first(local=False):
        untrained = _begin(work, run, base, validation, settings)
    _fit(base, pairs, validation, arguments, settings, callbacks)
    if arguments.process_index:
        return None
    record = AdapterRecord(
        base=base.name,
        base_fingerprint=base.fingerprint,
        run=run,
        data_hash=pairs.hash(),
        examples=len(pairs.examples),
        settings=_settings(settings),
        validation=validation.what,
        metrics=untrained,
        created_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    try:
        record = _write_adapter(work, output, record, validation, settings)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFullError(
                f"no space left for {output}; make room and run it again"
            ) from None
        raise
    return Trained(output, record, pairs.left_out, _too_long(base, pairs))


def _encoder(settings: Settings, adapter: Path | None = None) -> PersonaEncoder:
    """The base encoder in float32, alone or with an adapter."""
    changed = {"adapter": None if adapter is None else str(adapter), "dtype": "float32"}
    return PersonaEncoder.from_settings(settings.encoder.model_copy(update=changed))


def _read(
    folder: ArtifactFolder,
    settings: Settings,
    refusals: Refusals,
    base: PersonaEncoder,
) -> tuple[Pairs, Validation]:
    with training_data(folder, refusals) as data:
        pairs = read_pairs(data, settings.training, settings.history, refusals, encoder=base)
        validation = Validation.read(data, Refusals(), settings.training.seed)
    return pairs, validation


def _too_long(base: PersonaEncoder, pairs: Pairs) -> list[str]:
    """Sentences about the texts of the examples that are too long, each text counted once."""
    if base.lengths is None:
        return []
    lengths = base.lengths.fresh()
    said = {text for example in pairs.examples for text in example.texts}
    lengths.of_histories(base.query_prompt, list(said))
    lengths.of_personas([base.document_prompt + text for text in set(pairs.catalogue.texts)])
    return lengths.said()


def _settings(settings: Settings) -> dict[str, Any]:
    return {
        "training": settings.training.model_dump(),
        "history": settings.history.model_dump(),
    }


def _identity(
    base: PersonaEncoder, pairs: Pairs, validation: Validation, settings: Settings
) -> str:
    """A hash of everything that determines the result."""
    chosen = _settings(settings)
    chosen["training"] = {
        name: value for name, value in chosen["training"].items() if name not in _NOT_OF_THE_RESULT
    }
    parts = [base.fingerprint, pairs.hash(), repr(validation.cases), chosen]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _finished(output: Path, run: str) -> AdapterRecord | None:
    """The record of `output` if the same run made it; None if there is no such folder.

    Raises InputError if the folder holds something else: an adapter can be in use and is kept.
    """
    if not output.exists():
        if not output.absolute().parent.is_dir():
            raise InputError(
                f"{output} cannot be written: there is no folder {output.absolute().parent}"
            )
        return None
    record = AdapterRecord.read(output) if output.is_dir() else None
    if record is None or record.run != run:
        what = "an adapter of other data or settings" if record else "something else"
        raise InputError(f"{output} holds {what}; name another --output, or remove it")
    return record


def _begun(work: Path) -> dict[str, Any]:
    """The note of the run that made a folder of checkpoints; empty if there is none."""
    try:
        note: dict[str, Any] = json.loads((work / RUN).read_bytes())
    except (OSError, ValueError):
        return {}
    return note


def _remove_checkpoints(work: Path, run: str) -> None:
    """Remove the folder of checkpoints of this run; its note last, which says whose it is."""
    if _begun(work).get("run") != run:
        return
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != RUN:
            path.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def _begin(
    work: Path, run: str, base: PersonaEncoder, validation: Validation, settings: Settings
) -> dict[str, float]:
    """Prepare the folder of checkpoints; return the metrics of the untrained base.

    Checkpoints of another run (other data, other settings) are removed. Raises InputError if the
    folder holds something else.
    """
    begun = _begun(work)
    if begun.get("run") == run:
        untrained: dict[str, float] = begun["untrained"]
        return untrained
    if not begun and work.exists():
        strangers = [one.name for one in work.iterdir() if not one.name.startswith(f".{RUN}")]
        if strangers:
            raise InputError(
                f"{work} is where checkpoints go, and holds something else ({min(strangers)}); "
                "name another --output"
            )
    found = validation.measure(base, settings.history.length, settings.history.decay)
    untrained = {"untrained_ndcg": found.ndcg, "untrained_mrr": found.mrr}
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    with written_whole(work / RUN) as write:
        write(json.dumps({"run": run, "untrained": untrained}))
    return untrained


def _fit(
    base: PersonaEncoder,
    pairs: Pairs,
    validation: Validation,
    arguments: TrainingArguments,
    settings: Settings,
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Train from the last checkpoint, if there is one; return at once if the run is complete."""
    training = settings.training
    checkpoint = last_checkpoint(Path(arguments.output_dir))
    if checkpoint is not None and is_finished(checkpoint, training.patience):
        return
    set_seed(training.seed)  # LoRA begins with random numbers
    learning = tower(base, training)
    trainer = PersonaTrainer(learning, pairs, validation, arguments, settings, callbacks)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _write_adapter(
    work: Path, output: Path, record: AdapterRecord, validation: Validation, settings: Settings
) -> AdapterRecord:
    """Make the adapter's folder from the best checkpoint; measure it with the serving code."""
    best, last = best_checkpoint(work), last_checkpoint(work)
    unfinished = work / "adapter"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(best / name, unfinished / name)
    history = log_history(last or best)
    draw_curves(
        history,
        {name: record.metrics[f"untrained_{name}"] for name in ("ndcg", "mrr")},
        unfinished / CURVES,
    )
    encoder = _encoder(settings, unfinished)
    encoded = validation.encoded(encoder)
    found = encoded.measure(settings.history.length, settings.history.decay)
    epochs = [one for one in history if "eval_ndcg" in one]
    record = record.model_copy(
        update={
            "metrics": record.metrics
            | {"ndcg": found.ndcg, "mrr": found.mrr}
            | {
                "epochs": float(len(epochs)),
                "best_epoch": max(epochs, key=lambda one: one["eval_ndcg"])["epoch"],
            }
        }
    )
    record = tuned(record, validation, tune(encoded)[0])
    write_record(unfinished, record)
    unfinished.rename(output)
    _remove_checkpoints(work, record.run)
    return record
