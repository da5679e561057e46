"""Persona reranking with one change at a time, computed from cached vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from indexer.evaluation import significance
from indexer.evaluation.experiment import learned
from indexer.evaluation.experiment.embedded import Personas, Profiles
from indexer.evaluation.experiment.encoding import Material
from indexer.evaluation.experiment.pool import NOBODY
from indexer.evaluation.experiment.scoring import Scorer
from indexer.evaluation.experiment.selection import Judged, fusion_weight, valid_ndcg
from indexer.metrics import Ranks, metric_names, metric_values, ndcg

if TYPE_CHECKING:
    from indexer.evaluation.experiment.config import ExperimentConfig

SUMMARY_ONLY = "summary-only index: no reviews"
CUTOFF = 10
NDCG = metric_names((CUTOFF,)).index(f"NDCG@{CUTOFF}")
RESAMPLES = 2_000
"""Bootstrap samples; few, because there are hundreds of rows and no decision rests on them."""
TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
PRIORS = (0.25, 0.5, 1.0)
DISLIKES = (0.1, 0.25, 0.5)
WORDS = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Variant:
    """One change. settings: its forms; the best one on validation items is used."""

    group: str
    name: str
    profiles: Profiles
    personas: Personas
    settings: tuple[Scorer, ...]


def variants(
    config: ExperimentConfig, material: Material, length: int, decay: float
) -> Iterator[Variant]:
    """All variants; the first is unchanged persona reranking (Eq. 10)."""
    base = Scorer(decay=decay)
    full, personas = material.full.newest(length), material.personas
    yield Variant("as it is", "Eq. 10", full, personas, (base,))
    for most in config.personas:
        name = f"at most {most} personas an item"
        yield Variant("number of personas", name, full, personas.truncated(most), (base,))
    yield Variant(
        "number of personas", "mean vector of an item's", full, personas.merged(), (base,)
    )
    if "aggregated" in material.others:
        one = material.others["aggregated"]
        yield Variant("number of personas", "one persona of all reviews", full, one, (base,))
    if "extractive" in material.others:
        quoted = material.others["extractive"]
        yield Variant("texts", "extractive personas: no LLM", full, quoted, (base,))
    if material.items.items:
        yield Variant("texts", SUMMARY_ONLY, full, material.items, (base,))
    yield Variant(
        "texts",
        "summaries alone in histories",
        material.summaries.newest(length),
        personas,
        (base,),
    )
    mean, soft = replace(base, aggregation="mean"), replace(base, aggregation="soft")
    yield Variant("score of an item", "mean over its personas", full, personas, (mean,))
    softer = tuple(replace(soft, temperature=one) for one in TEMPERATURES)
    yield Variant("score of an item", "soft maximum", full, personas, softer)
    for longest in config.lengths:
        name = f"{longest} interactions"
        yield Variant("history", name, material.full.newest(longest), personas, (base,))
    for other in config.decays:
        yield Variant("history", f"decay {other:g}", full, personas, (replace(base, decay=other),))
    liked = full.without(config.disliked)
    yield Variant("history", f"without ratings up to {config.disliked:g}", liked, personas, (base,))
    minus = tuple(replace(base, dislikes=one, disliked=config.disliked) for one in DISLIKES)
    name = f"ratings up to {config.disliked:g} count against"
    yield Variant("history", name, full, personas, minus)
    several, both = replace(base, interests=1.0), replace(base, interests=0.5)
    yield Variant("users", "several interests", full, personas, (several,))
    yield Variant("users", "mean and several interests", full, personas, (both,))
    priors = tuple(replace(base, prior=one) for one in PRIORS)
    yield Variant("users", "persona prior taken off", full, personas, priors)
    mixed = tuple(replace(both, prior=one) for one in PRIORS)
    yield Variant("users", "mean and several interests, prior taken off", full, personas, mixed)
    shares = tuple(replace(base, words=one) for one in WORDS)
    yield Variant("words", "encoder and words (TF-IDF)", full, personas, shares)
    yield Variant("words", "words alone", full, personas, (replace(base, words=1.0),))
    if "leaking" in material.others:
        leaking = material.others["leaking"]
        yield Variant("LEAK", "personas that saw held-out reviews", full, leaking, (base,))


def ablations(
    config: ExperimentConfig,
    judged: Mapping[str, Judged],
    material: Material,
    length: int,
    decay: float,
) -> Iterator[dict[str, Any]]:
    """Every variant for every generator (by name) and number of candidates, alone and fused.

    Each row has NDCG@10 on test items, its interval, the paired difference from the first variant,
    and the means of all metrics. valid: NDCG@10 on validation items, which chooses forms and
    weights.
    """
    base: dict[tuple[Any, ...], Ranks] = {}

    def row(about: dict[str, Any], one: Judged, ranks: Ranks) -> dict[str, Any]:
        ranks = ranks[one.test != NOBODY]
        key = tuple(about[name] for name in ("generator", "candidates", "fused"))
        first = base.setdefault(key, ranks)
        return about | _estimate(ranks) | {"difference": _difference(ranks, first)}

    pools = [one.pool for one in judged.values()]
    for variant in variants(config, material, length, decay):
        by_setting = [
            one.scores_of(pools, variant.profiles, variant.personas) for one in variant.settings
        ]
        for (generator, widest), *scores in zip(judged.items(), *by_setting, strict=True):
            for count in config.candidates:
                one = widest.first(count)
                tried = [own[:, :count] for own in scores]
                values = [valid_ndcg(one, own) for own in tried]
                chosen = max(range(len(values)), key=values.__getitem__)
                weight, fused_value = fusion_weight(one, tried[chosen], config.weights)
                about = {
                    "group": variant.group,
                    "name": variant.name,
                    "generator": generator,
                    "candidates": count,
                    "form": _form(variant.settings[chosen]),
                }
                own, fused = tried[chosen], one.pool.fused(tried[chosen], weight)
                alone = {"fused": False, "weight": None, "valid": values[chosen]}
                yield row(about | alone, one, one.pool.ranks(own, one.test))
                with_it = {"fused": True, "weight": weight, "valid": fused_value}
                yield row(about | with_it, one, one.pool.ranks(fused, one.test))
    for about, one, ranks in _learned(config, judged, material, length, decay):
        yield row(about, one, ranks)


def _learned(
    config: ExperimentConfig,
    judged: Mapping[str, Judged],
    material: Material,
    length: int,
    decay: float,
) -> Iterator[tuple[dict[str, Any], Judged, Ranks]]:
    """Four persona scores (and the generator's) with weights that are fitted to validation items.

    valid: measured on users whose validation items were not used for the weights.
    """
    base, full = Scorer(decay=decay), material.full.newest(length)
    forms = (
        base,
        replace(base, interests=1.0),
        replace(base, prior=0.5),
        replace(base, words=1.0),
    )
    pools = [one.pool for one in judged.values()]
    by_form = [one.scores_of(pools, full, material.personas) for one in forms]
    for (generator, widest), *scores in zip(judged.items(), *by_form, strict=True):
        for count in config.candidates:
            one = widest.first(count)
            for fused in (False, True):
                inputs = learned.features(
                    one.pool, [own[:, :count] for own in scores], generator=fused
                )
                weights = learned.fit(one.pool, inputs, one.valid)
                has = one.valid != NOBODY
                about = {
                    "group": "score of an item",
                    "name": "learned weights of four forms",
                    "generator": generator,
                    "candidates": count,
                    "form": {},
                    "fused": fused,
                    "weight": None,
                    "valid": ndcg(learned.out_of_fold(one.pool, inputs, one.valid)[has], CUTOFF),
                }
                yield about, one, one.pool.ranks(inputs @ weights, one.test)


def _form(scorer: Scorer) -> dict[str, Any]:
    """The settings of a scorer that are not the defaults."""
    usual = Scorer(decay=scorer.decay)
    names = ("interests", "prior", "dislikes", "words", "aggregation", "temperature")
    return {
        name: getattr(scorer, name)
        for name in names
        if getattr(scorer, name) != getattr(usual, name)
    }


def _estimate(ranks: Ranks) -> dict[str, Any]:
    low, high = significance.interval(ranks, (CUTOFF,), resamples=RESAMPLES)
    metrics = dict(zip(metric_names(), metric_values(ranks).mean(axis=0).tolist(), strict=True))
    return {
        "mean": ndcg(ranks, CUTOFF),
        "low": float(low[NDCG]),
        "high": float(high[NDCG]),
        "metrics": metrics,
    }


def _difference(ranks: Ranks, against: Ranks) -> dict[str, float]:
    mean, low, high = significance.difference(ranks, against, (CUTOFF,), resamples=RESAMPLES)
    return {"mean": float(mean[NDCG]), "low": float(low[NDCG]), "high": float(high[NDCG])}
