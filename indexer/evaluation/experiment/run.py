"""An experiment from its configuration to results.json, in stages that are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import PERSONAS, REVIEWS, SPLITS, SUMMARIES
from indexer.artifacts.writing import written_whole
from indexer.evaluation.candidates import (
    Provenance,
    lists_hash,
    provenance_path,
    training_hash,
    write_candidates,
)
from indexer.evaluation.evaluate import outside_notes
from indexer.evaluation.experiment import examples, online
from indexer.evaluation.experiment import selection as choices
from indexer.evaluation.experiment.ablations import Material, ablations
from indexer.evaluation.experiment.config import ExperimentConfig
from indexer.evaluation.experiment.data import (
    Data,
    blinded,
    files_hash,
    persona_texts,
    summary_texts,
)
from indexer.evaluation.experiment.embedded import Personas, Profiles, typical
from indexer.evaluation.experiment.environment import environment
from indexer.evaluation.experiment.main_table import Line, main_table, segment_table
from indexer.evaluation.experiment.pool import NOBODY, Pool, read_pool
from indexer.evaluation.experiment.scoring import Scorer
from indexer.evaluation.experiment.selection import Judged
from indexer.evaluation.experiment.stages import Stages, locked
from indexer.evaluation.experiment.vectors import CachedEncoder
from indexer.evaluation.leaks import LeakReport, check_adapter, check_leaks
from indexer.evaluation.metrics import Floats, Ranks, ndcg
from indexer.evaluation.segments import segments
from indexer.progress import Progress
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.errors import InputError, P4RError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.records import Interaction
from p4r_qdrant.settings import EncoderSettings
from p4r_qdrant.texts import interaction_text

RESULTS = "results.json"
UNTRAINED, TRAINED = "untrained", "trained"
SEEDED = ("bpr", "lightgcn")
"""Generators that come out otherwise with another seed."""
DISAGREEMENT = 0.01
"""Share of users whom index and NumPy may place otherwise: float32 sums in another order.

One user always may.
"""


def load_encoder(settings: EncoderSettings) -> Encoder:
    """The model that an experiment encodes with; tests put another one in its place."""
    return PersonaEncoder.from_settings(settings)


def run_experiment(
    config: ExperimentConfig, output: Path, refusals: Refusals, progress: Progress
) -> dict[str, Any]:
    """Do what the configuration says and write `output`/results.json; return what is in it.

    Killed and run again with the same configuration it goes on where it was. Nothing is scored
    before the leak checks are passed: raises LeakError. Lists are made from a copy of the data in
    which no test item is; everything that can be chosen is chosen on validation items.
    """
    with locked(output), ExitStack() as stack:
        experiment = _Experiment(config, output, refusals, progress, stack)
        text = json.dumps(experiment.results(), ensure_ascii=False, indent=1, allow_nan=False)
        with written_whole(output / RESULTS) as write:
            write(text)
    results: dict[str, Any] = json.loads(text)
    return results


@dataclass
class _Coded:
    """All that one encoder made vectors of."""

    name: str
    encoder: CachedEncoder
    material: Material
    length: int = 0
    scorers: list[Scorer] = field(default_factory=list)
    """Eq. 10, and where others are better on validation items, with options."""
    tried: list[dict[str, Any]] = field(default_factory=list)
    tried_options: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[tuple[Scorer, str, int], float] = field(default_factory=dict)

    @property
    def profiles(self) -> Profiles:
        """The users' newest interactions."""
        return self.material.full.newest(self.length)

    def scores(self, scorer: Scorer, pool: Pool) -> Floats:
        """(n_users, n) of a pool's candidates."""
        return scorer.scores(pool, self.profiles, self.material.personas)


class _Experiment:
    def __init__(
        self,
        config: ExperimentConfig,
        output: Path,
        refusals: Refusals,
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        self.config = config
        self.output = output
        self.progress = progress
        self.stages = Stages(output / "stages")
        progress.start("reading the catalogue", None)
        self.data = Data.read(config.artifacts, refusals)
        self.histories: Histories = stack.enter_context(Histories(self.data.folder, Refusals()))
        self.stack = stack
        self.inputs: list[Any] = [
            self.data.hash(),
            config.model_dump(mode="json", exclude={"name"}),
        ]
        for extra in (config.aggregated, config.leaking):
            self.inputs.append(files_hash([extra / PERSONAS, extra / SUMMARIES]) if extra else None)

    def results(self) -> dict[str, Any]:
        """All stages, in the order in which one may look at things."""
        self._check_leaks(elsewhere=list(self.config.lists.values())).require_clean()
        lists = self._lists()
        self.inputs.append([lists_hash(path) for path in lists.values()])
        coded = self._encode()
        made = [one.encoder.texts_path for one in coded]
        told = [path for path in lists.values() if provenance_path(path).is_file()]
        elsewhere = [path for path in lists.values() if path not in told]
        adapters = []
        if self.config.encoder.adapter:
            adapter = Path(self.config.encoder.adapter)
            made.append(adapter)
            adapters.append(check_adapter(self.data.folder, adapter, coded[0].encoder))
        report = self._check_leaks(told, made, elsewhere) + LeakReport(adapters)
        report.require_clean()
        judged = {
            name: self._judged(path)
            for name, path in lists.items()
            if name.endswith(f"-{self.config.seeds[0]}")
        }
        judged = {name.rsplit("-", 1)[0]: one for name, one in judged.items()}
        chosen = self._choose(coded, judged)
        lines = self._lines(coded, judged)
        main = coded[-1]
        return {
            "name": self.config.name,
            "leaking": self.config.leaking is not None,
            "config": self.config.model_dump(mode="json"),
            "environment": environment(),
            "data": self._data_record(),
            "leaks": report.record(),
            "chosen": chosen,
            "main": main_table(lines, chosen["strongest"]),
            "segments": list(segment_table(lines, segments(self.data.test, self.data.training))),
            "ablations": self._ablations(main, judged),
            "ablations_encoder": main.name,
            "history": main.tried,
            "options": [{"encoder": one.name} | row for one in coded for row in one.tried_options],
            "seeds": self._seeds(lists, main),
            "examples": self._examples(main, judged, chosen["strongest"]),
            "seconds": self.stages.seconds,
        }

    # --- before scoring -----------------------------------------------------------------------

    def _check_leaks(
        self,
        lists: Sequence[Path] = (),
        made: Sequence[Path] = (),
        elsewhere: Sequence[Path] = (),
    ) -> LeakReport:
        """The checks, on the files of the catalogue and on what was made of them so far."""
        folder, progress = self.data.folder, self.progress
        report = check_leaks(
            folder.path, candidates=lists, elsewhere=elsewhere, made=made, progress=progress
        )
        if self.config.aggregated is not None:
            report = report + check_leaks(
                self.config.aggregated,
                reviews=folder.file(REVIEWS),
                splits=folder.file(SPLITS),
                progress=progress,
            )
        return report

    def _lists(self) -> dict[str, Path]:
        """Every generator's lists, by name and seed; made from data without test items."""
        reviews, splits = blinded(self.data, self.output / "blinded")
        folder = self.output / "lists"
        folder.mkdir(exist_ok=True)
        top = max(100, *self.config.candidates)
        found = {}
        for model in self.config.generators:
            for seed in self.config.seeds if model in SEEDED else self.config.seeds[:1]:
                path = folder / f"{model}-{seed}.jsonl"
                found[f"{model}-{seed}"] = path
                if not self._are_there(path, model, seed, top):
                    write_candidates(
                        reviews,
                        splits,
                        path,
                        Refusals(),
                        model=model,
                        top=top,
                        seed=seed,
                        progress=self.progress,
                    )
        return found | {
            f"{name}-{self.config.seeds[0]}": path for name, path in self.config.lists.items()
        }

    def _are_there(self, path: Path, model: str, seed: int, top: int) -> bool:
        try:
            told = Provenance(**json.loads(provenance_path(path).read_bytes()))
            same = lists_hash(path) == told.lists
        except (OSError, ValueError, TypeError):
            return False
        fitted_to = training_hash(self.data.training)
        return same and (told.model, told.seed, told.top, told.training) == (
            model,
            seed,
            top,
            fitted_to,
        )

    def _encode(self) -> list[_Coded]:
        """All texts of users and items, by each encoder: first untrained, then with the adapter."""
        settings = self.config.encoder
        both = [(UNTRAINED, settings.model_copy(update={"adapter": None}))]
        if settings.adapter:
            both.append((TRAINED, settings))
        return [self._coded(name, load_encoder(one)) for name, one in both]

    def _coded(self, name: str, model: Encoder) -> _Coded:
        def cached(where: str) -> CachedEncoder:
            encoder = CachedEncoder(model, self.output / where, self.progress)
            self.stack.callback(encoder.close)
            return encoder

        encoder = cached("vectors")
        users, longest = self.data.users, max(self.config.lengths)
        folder = self.data.folder
        others: dict[str, Personas] = {}
        with folder.summaries(Refusals()) as summaries:
            texts = persona_texts(folder.file(PERSONAS), summaries)
            if self.config.aggregated is not None:
                path = ArtifactFolder(self.config.aggregated).file(PERSONAS)
                others["aggregated"] = Personas.of(persona_texts(path, summaries), encoder)
            if self.config.leaking is not None:
                path = ArtifactFolder(self.config.leaking).file(PERSONAS)
                # What leaks is kept apart from what is searched for leaks.
                apart = cached("vectors-leaking")
                others["leaking"] = Personas.of(persona_texts(path, summaries), apart)
        items = summary_texts(folder.path / SUMMARIES)
        told = [text for kind in (texts, items) for _, own in kind for text in own]
        told += [
            text(one)
            for user in users
            for one in newest_first(self.histories.get(user), longest)
            for text in (interaction_text, summary_of)
            if text(one)
        ]
        self.progress.start(f"encoding texts, {name}", len(encoder.missing(told)))
        profiles = [
            Profiles.of(self.histories, users, encoder, text, longest)
            for text in (interaction_text, summary_of)
        ]
        return _Coded(
            name,
            encoder,
            Material(
                full=profiles[0],
                summaries=profiles[1],
                personas=Personas.of(texts, encoder),
                items=Personas.of(items, encoder),
                others=others,
            ),
        )

    # --- on validation items ------------------------------------------------------------------

    def _judged(self, path: Path) -> Judged:
        pool = read_pool(path, self.data.users).first(max(self.config.candidates))
        valid, test = (pool.targets(self.data.wanted(on)) for on in ("valid", "test"))
        if not (pool.generator_ranks(valid) > 0).any():
            raise InputError(
                f"no list of {path} holds its user's validation item, so that nothing can be "
                "chosen by them; make the lists from training interactions alone"
            )
        return Judged(pool, valid, test)

    def _choose(self, coded: list[_Coded], judged: dict[str, Judged]) -> dict[str, Any]:
        """History, weights and the strongest generator, by NDCG@10 on validation items."""
        widths = self.config.candidates
        alone = {
            str(count): {name: _alone(one.first(count)) for name, one in judged.items()}
            for count in widths
        }
        strongest = {count: max(own, key=lambda name: own[name]) for count, own in alone.items()}
        chosen: dict[str, Any] = {"generators": alone, "strongest": strongest, "encoders": {}}
        for one in coded:
            self.progress.start(f"choosing on validation items, {one.name}", None)
            one.tried = self.stages.result(
                f"history-{one.name}",
                [*self.inputs, one.encoder.fingerprint],
                partial(
                    choices.history,
                    [every.first(widths[0]) for every in judged.values()],
                    one.material.full,
                    one.material.personas,
                    self.config.lengths,
                    self.config.decays,
                ),
            )
            best = choices.best(one.tried)
            one.length = best["length"]
            one.scorers = [Scorer(decay=best["decay"])]
            self._choose_options(one, [every.first(widths[0]) for every in judged.values()])
            for scorer in one.scorers:
                for name, every in judged.items():
                    scores = one.scores(scorer, every.pool)
                    for count in widths:
                        one.weights[scorer, name, count], _ = choices.weight(
                            every.first(count), scores[:, :count], self.config.weights
                        )
            chosen["encoders"][one.name] = {
                "name": one.encoder.name,
                "fingerprint": one.encoder.fingerprint,
                "length": one.length,
                "decay": best["decay"],
                "forms": [
                    {
                        "interests": scorer.interests,
                        "prior": scorer.prior,
                        "weights": {
                            f"{name}, {n}": weight
                            for (which, name, n), weight in one.weights.items()
                            if which == scorer
                        },
                    }
                    for scorer in one.scorers
                ],
            }
        return chosen

    def _choose_options(self, one: _Coded, judged: list[Judged]) -> None:
        """Options of the reranker, with the length and decay that are best without them."""
        [plain] = one.scorers
        one.tried_options = self.stages.result(
            f"options-{one.name}",
            [*self.inputs, one.encoder.fingerprint, one.length, plain.decay],
            partial(
                choices.options,
                judged,
                one.profiles,
                one.material.personas,
                plain.decay,
                self.config.interests,
                self.config.priors,
            ),
        )
        best = choices.best(one.tried_options)
        if best["interests"] or best["prior"]:
            options = {"interests": best["interests"], "prior": best["prior"]}
            one.scorers.append(replace(plain, **options))

    # --- on test items ------------------------------------------------------------------------

    def _lines(self, coded: list[_Coded], judged: dict[str, Judged]) -> list[Line]:
        """The main table: the index and the reranker that serve, for each generator."""
        lines = [
            Line(name, count, None, False, None, one.pool.generator_ranks(one.test))
            for name, widest in judged.items()
            for count in self.config.candidates
            for one in [widest.first(count)]
        ]
        for one in coded:
            passes = 2 * len(one.scorers) * len(judged) * len(self.config.candidates)
            self.progress.start(f"reranking, {one.name}", passes * len(self.data.users))
            kept = self.stages.result(
                f"main-{one.name}",
                [*self.inputs, one.encoder.fingerprint],
                partial(self._reranked_lines, one, judged),
            )
            lines += [
                Line(**(row | {"ranks": np.array(row["ranks"], dtype=np.int64)})) for row in kept
            ]
        order = {name: place for place, name in enumerate(judged)}
        return sorted(lines, key=lambda line: (order[line.generator], line.candidates))

    def _reranked_lines(self, one: _Coded, judged: dict[str, Judged]) -> list[dict[str, Any]]:
        rows = []
        with self._index(one) as index:
            for scorer, (name, widest), count in product(
                one.scorers, judged.items(), self.config.candidates
            ):
                own = widest.first(count)
                scores = one.scores(scorer, own.pool)
                for weight in (None, one.weights[scorer, name, count]):
                    watch = online.Stopwatch()
                    rankings = online.reranked(
                        index,
                        one.encoder,
                        self.histories,
                        own.pool,
                        length=one.length,
                        scorer=scorer,
                        weight=weight,
                        progress=self.progress,
                    )
                    ranks = online.ranks(rankings, self.data.users, self.data.wanted("test"))
                    expected = scores if weight is None else own.pool.fused(scores, weight)
                    _check_agreement(ranks, own.pool.ranks(expected, own.test))
                    rows.append(
                        {
                            "generator": name,
                            "candidates": count,
                            "encoder": one.name,
                            "fused": weight is not None,
                            "weight": weight,
                            "ranks": ranks.tolist(),
                            "ms_a_user": watch.ms_a_user(len(ranks)),
                            "options": scorer is not one.scorers[0],
                        }
                    )
        return rows

    def _ablations(self, one: _Coded, judged: dict[str, Judged]) -> list[dict[str, Any]]:
        self.progress.start("ablations", None)
        found: list[dict[str, Any]] = self.stages.result(
            "ablations",
            [*self.inputs, one.encoder.fingerprint],
            lambda: list(
                ablations(self.config, judged, one.material, one.length, one.scorers[0].decay)
            ),
        )
        return found

    def _seeds(self, lists: dict[str, Path], one: _Coded) -> list[dict[str, Any]]:
        """NDCG@10 of each seed of the generators that have one: alone, personas, fused."""
        if len(self.config.seeds) < 2:
            return []
        rows = []
        for name, path in lists.items():
            model, seed = name.rsplit("-", 1)
            if model not in SEEDED:
                continue
            widest = self._judged(path)
            scores = one.scores(one.scorers[0], widest.pool)
            for count in self.config.candidates:
                own = widest.first(count)
                weight, _ = choices.weight(own, scores[:, :count], self.config.weights)
                fused = own.pool.fused(scores[:, :count], weight)
                rows.append(
                    {
                        "generator": model,
                        "candidates": count,
                        "seed": int(seed),
                        "generator alone": ndcg(own.pool.generator_ranks(own.test)),
                        f"personas, {one.name}": ndcg(own.pool.ranks(scores[:, :count], own.test)),
                        f"fused, {one.name}": ndcg(own.pool.ranks(fused, own.test)),
                    }
                )
        return rows

    def _examples(
        self, one: _Coded, judged: dict[str, Judged], strongest: dict[str, str]
    ) -> list[dict[str, Any]]:
        """Some users of the strongest generator."""
        count = self.config.candidates[0]
        name = strongest[str(count)]
        own = judged[name].first(count)
        scorer = one.scorers[0]
        scores = one.scores(scorer, own.pool)
        with (
            self._index(one) as index,
            self.data.folder.items(Refusals()) as items,
            self.data.folder.summaries(Refusals()) as summaries,
        ):
            labels = examples.Labels(items, summaries)
            rankings = online.reranked(
                index,
                one.encoder,
                self.histories,
                own.pool,
                length=one.length,
                scorer=scorer,
                users=examples.spread(own, scores, self.config.examples),
                explain=examples.SHOWN,
            )
            found = {
                user: examples.example(
                    user, self.data.test.items[user], ranking, self.histories.get(user), labels
                )
                | {"generator": name}
                for user, ranking in rankings
            }
        return [found[user] for user in examples.spread(own, scores, self.config.examples)]

    @contextmanager
    def _index(self, one: _Coded) -> Iterator[PersonaIndex]:
        path = self.output / "index" / one.encoder.fingerprint
        path.parent.mkdir(exist_ok=True)
        domain = self.config.domain
        with online.indexed(self.data.folder, path, one.encoder, domain, Refusals()) as index:
            index.record_typical_user(typical(one.profiles.means(one.scorers[0].decay)))
            yield index

    def _data_record(self) -> dict[str, Any]:
        training = self.data.training
        notes = self.data.test.notes + outside_notes(self.data.test, training)
        return {
            "path": str(self.data.folder.path),
            "users": len(self.data.users),
            "users_with_validation": len(self.data.valid.items),
            "items": len(training.items),
            "training_interactions": len(training.user_of),
            "notes": dict(notes),
        }


def summary_of(interaction: Interaction) -> str:
    """An interaction as its item's summary alone."""
    return interaction.summary or interaction.title


def _alone(one: Judged) -> float:
    return ndcg(one.pool.generator_ranks(one.valid)[one.valid != NOBODY])


def _check_agreement(ranks: Ranks, expected: Ranks) -> None:
    differing = int(np.sum(ranks != expected))
    if differing > max(1, DISAGREEMENT * len(ranks)):
        raise P4RError(
            f"the reranker places the held-out items of {differing} of {len(ranks)} users "
            "otherwise than the same scores computed in NumPy do; please report this"
        )
