"""What the results of an experiment say, in sentences that are computed from its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from indexer.evaluation.experiment.wording import generator_name, line_name, variant_name

Results = Mapping[str, Any]

SURE = 0.05
"""Corrected p values below this are beyond chance."""


def is_beyond_chance(gap: Mapping[str, Any] | None) -> bool:
    """Whether a line is better than what it is compared with, by the corrected test."""
    if gap is None or gap["p_holm"] is None:
        return False
    return bool(gap["mean"] > 0 and gap["p_holm"] < SURE)


def overall(results: Results) -> Iterator[str]:
    """The main finding, the most important sentence first."""
    encoder = results["ablations_encoder"]
    yield from primary(results)
    for fused, what in (
        (False, "Personas alone are"),
        (True, "Generator and personas together are"),
    ):
        gaps = [
            row["own"]
            for row in results["main"]
            if row["encoder"] == encoder and row["fused"] is fused and not row["options"]
        ]
        better = sum(gap["mean"] > 0 for gap in gaps)
        yield (
            f"{what} better than the generator alone in {better} of {len(gaps)} comparisons, "
            f"beyond chance (corrected p below {SURE}) in {sum(map(is_beyond_chance, gaps))}."
        )
    for count, strongest in results["chosen"]["strongest"].items():
        own = {
            row["line"]: row
            for row in results["main"]
            if str(row["candidates"]) == count and row["generator"] == strongest
        }
        alone = own["generator alone"]["metrics"]["NDCG@10"]["mean"]
        personas, both = (_reached(own[f"{line}, {encoder}"]) for line in ("personas", "fused"))
        yield (
            f"With {count} candidates of the strongest generator, {generator_name(strongest)}: "
            f"NDCG@10 is {alone:.3f} in the generator's own order, {personas} in the order of the "
            f"personas, {both} in the order of both."
        )


def primary(results: Results) -> Iterator[str]:
    """A sentence for each comparison that was fixed before a test item was looked at."""
    yield from map(_primary, results["primary"])


def _primary(row: Mapping[str, Any]) -> str:
    gap = row["against"]
    ours = f"{line_name(row['line'])} of {generator_name(row['generator'])}"
    if row["line"] == "generator alone":
        ours = generator_name(row["generator"])
    start = f"With {row['candidates']} candidates, {ours} is chosen on validation items"
    if row["line"] == "generator alone" and row["generator"] == gap["generator"]:
        return f"{start}: personas add nothing to it there."
    return (
        f"{start}. Its NDCG@10 on test items is {row['ndcg']:.4f}; against the strongest "
        f"generator, {generator_name(gap['generator'])}, that is {gain(gap)}."
    )


def gain(gap: Mapping[str, Any]) -> str:
    """A difference, its interval and its corrected p."""
    change = "" if gap["relative"] is None else f", {gap['relative']:+.1%}"
    sure = "beyond chance" if is_beyond_chance(gap) else "not beyond chance"
    return (
        f"{gap['mean']:+.4f}{change} ({sure}: 95% interval {gap['low']:+.4f} to "
        f"{gap['high']:+.4f}, corrected p {gap['p_holm']:.4f})"
    )


def main(results: Results) -> str:
    """How many lines of the main table beat the generators, and which line is the best."""
    own = [row["own"] for row in results["main"] if row.get("own")]
    best = max(results["main"], key=lambda row: row["metrics"]["NDCG@10"]["mean"])
    return (
        f"{sum(map(is_beyond_chance, own))} of {len(own)} reranked lines beat their own generator "
        f"beyond chance. The highest NDCG@10, {best['metrics']['NDCG@10']['mean']:.3f}, comes from "
        f"{line_name(best['line'])} with {best['candidates']} candidates of "
        f"{generator_name(best['generator'])}."
    )


def _reached(row: Mapping[str, Any]) -> str:
    gap = row["own"]
    change = "" if gap["relative"] is None else f"{gap['relative']:+.0%}, "
    return f"{row['metrics']['NDCG@10']['mean']:.3f} ({change}corrected p {gap['p_holm']:.2f})"


def trust(results: Results) -> str:
    """What the checks for leaks found."""
    checks = results["leaks"]
    leaks = sum(check["leaks"] for check in checks)
    vouched = sum(bool(check["vouched"]) for check in checks)
    text = f"{len(checks)} checks found {leaks or 'no'} held-out interactions in what was made."
    if vouched:
        lists = "1 list" if vouched == 1 else f"{vouched} lists"
        text += f" {lists} made elsewhere could not be checked."
    return text


def segments(results: Results) -> str:
    """Where personas change the order of the strongest generator most; empty without segments."""
    count = results["config"]["candidates"][0]
    generator = results["chosen"]["strongest"][str(count)]
    values: dict[str, dict[str, float]] = {}
    for row in results["segments"]:
        if row["candidates"] == count and row["generator"] == generator:
            values.setdefault(row["line"], {})[row["segment"]] = row["mean"]
    alone = values.get("generator alone", {})
    personas = values.get(f"personas, {results['ablations_encoder']}", {})
    gains = {name: personas[name] - alone[name] for name in alone if name in personas}
    if not gains:
        return ""
    most, least = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    return (
        f"Personas change the NDCG@10 of {generator_name(generator)} ({count} candidates) by "
        f"{gains[least]:+.3f} to {gains[most]:+.3f}: best for {most}, worst for {least}."
    )


def peers(results: Results) -> list[str]:
    """The best line of each kind against LLM rerankers, for each generator; empty without peers."""
    found = results["peers"]
    if not found:
        return []
    sentences = []
    for generator in dict.fromkeys(row["generator"] for row in found["lines"]):
        best: dict[str, tuple[float, str]] = {}
        for row in found["lines"]:
            if row["generator"] == generator:
                value = row["metrics"]["NDCG@10"]["mean"]
                if row["kind"] not in best or value > best[row["kind"]][0]:
                    best[row["kind"]] = (value, row["line"])
        values = ", ".join(f"{value:.3f} by {line_name(line)}" for value, line in best.values())
        sentences.append(f"{generator_name(generator)}: the best NDCG@10 is {values}.")
    rivals = [row for row in found["lines"] if row["kind"] == "peer"]
    better = [line_name(row["line"]) for row in rivals if is_beyond_chance(row["own"])]
    sentences.append(
        "LLM rerankers that are better than their generator beyond chance (corrected p below "
        f"0.05): {', '.join(better) or 'none'}. That is said of the models that were asked here, "
        "and not of LLM rerankers as such."
    )
    blind = [
        line_name(row["line"])
        for row in rivals
        if row["asked"]["tau"] and row["asked"]["tau"]["low"] <= 0
    ]
    if blind:
        sentences.append(
            f"The orders of {', '.join(blind)} depend on the order of the prompt and not "
            "measurably on the items: tau is 0 within its interval. From a list in the "
            "generator's order, such a reranker only keeps or spoils what the generator knows."
        )
    return sentences


def cold(results: Results) -> str:
    """How often items without interactions are found; empty where none was hidden."""
    if not results["cold"]:
        return ""
    best = max(results["cold"], key=lambda row: row["metrics"]["HR@10"]["mean"])
    return (
        f"Of {best['users']} users whose test item lost all its interactions, "
        f"{best['metrics']['HR@10']['mean']:.0%} have it among the first ten of the catalogue by "
        f"{best['line']}. A generator that reads interactions alone cannot find it."
    )


def ablations(results: Results) -> str:
    """Which single changes help and harm most, for personas alone; empty without a variant."""
    count = results["config"]["candidates"][0]
    generator = results["chosen"]["strongest"][str(count)]
    gaps = {
        row["name"]: row["difference"]
        for row in results["ablations"]
        if (row["candidates"], row["generator"], row["fused"]) == (count, generator, False)
        and row["group"] != "LEAK"
    }
    if not gaps:
        return ""
    best = max(gaps, key=lambda name: gaps[name]["mean"])
    worst = min(gaps, key=lambda name: gaps[name]["mean"])
    return " ".join(
        f"The change that {what} most is '{variant_name(name)}': {_interval(gaps[name])}."
        for what, name in (("helps", best), ("harms", worst))
    )


def _interval(gap: Mapping[str, float]) -> str:
    return f"{gap['mean']:+.3f} (95% interval {gap['low']:+.3f} to {gap['high']:+.3f})"


def history(results: Results) -> str:
    """The history that is best on validation items."""
    best = max(results["history"], key=lambda row: row["valid"])
    return (
        f"On validation items a history of {best['length']} interactions with decay "
        f"{best['decay']:g} is best: NDCG@10 {best['valid']:.4f}."
    )
