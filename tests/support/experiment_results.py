"""A small results.json of an experiment."""

from typing import Any

from indexer.evaluation.experiment.ablations import SUMMARY_ONLY
from indexer.metrics import metric_names

LINES: list[tuple[str, str | None, bool]] = [
    ("generator alone", None, False),
    ("personas, untrained", "untrained", False),
    ("fused, untrained", "untrained", True),
]


PEERS = [
    ("generator alone", "generator"),
    ("personas, untrained", "personas"),
    ("listwise", "peer"),
    ("rated, with averages", "peer"),
]


def results(text: str = "text", generator: str = "ease") -> dict[str, Any]:
    """Results of two generators; `text` stands wherever a text of others may stand."""
    estimate = {"mean": 0.4, "low": 0.3, "high": 0.5}
    gap = {"generator": "ease", "mean": 0.1, "relative": 0.25, "low": 0.0, "high": 0.2, "p": 0.01}
    both = (generator, "popularity")

    def main(name: str, line: str, encoder: str | None, *, fused: bool) -> dict[str, Any]:
        row = {"generator": name, "candidates": 10, "line": line, "encoder": encoder}
        row |= {"fused": fused, "options": False, "weight": None, "ms_a_user": None}
        row |= {"ceiling": 0.9, "metrics": dict.fromkeys(metric_names(), estimate)}
        if encoder:
            row |= {"own": gap | {"p_holm": 0.02}, "best": gap | {"p_holm": None, "relative": None}}
        return row

    def ablation(group: str, name: str, value: str, *, fused: bool) -> dict[str, Any]:
        row = {"group": group, "name": name, "generator": value, "candidates": 10, "fused": fused}
        row |= {"form": {"prior": 0.5, "aggregation": text}, "valid": 0.3, "weight": None}
        metrics = dict.fromkeys(metric_names(), 0.4)
        return row | estimate | {"difference": estimate, "metrics": metrics}

    def peer(name: str, line: str, kind: str) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "calls": 20,
            "prompt_tokens": 9000,
            "completion_tokens": 300,
            "cost_usd": None,
        }
        asked |= {"repaired": 3, "failed": 1, "failed_share": 0.05, "notes": {text: 2}}
        asked |= {"shuffled_ndcg": 0.3, "tau": estimate}
        row = {"generator": name, "candidates": 10, "line": line, "kind": kind, "ceiling": 0.9}
        row |= {"metrics": dict.fromkeys(metric_names(), estimate)}
        row |= {"own": None if kind == "generator" else gap | {"p_holm": 0.5}}
        return row | {"asked": asked if kind == "peer" else None}

    check = {"name": text, "looked_at": 1200, "leaks": 0, "examples": [], "unproven": ""}
    form = {"interests": 0.5, "prior": 0.25, "weights": {f"{generator}, 10": 0.3}}
    past = {"item": text, "aspects": [text, text]}
    ranked = {"rank": 1, "was": 5, "item": text, "is_truth": True, "persona": text, "reason": text}
    ranked["because"] = [{"item": text, "share": 0.5}]
    segment = {"segment": text, "rule": text, "users": 7, "ceiling": 0.5, "candidates": 10}
    return {
        "name": text,
        "leaking": False,
        "config": {
            "name": text,
            "candidates": [10],
            "lengths": [2, 4],
            "decays": [0.7, 1.0],
            "personas": [1, 7],
            "lists": {text: text},
            "encoder": {"model": text, "adapter": None},
            "leaking": None,
            text: text,
        },
        "environment": {"python": text, "packages": {text: text}, "git": None},
        "data": {
            "path": text,
            "users": 22,
            "users_with_validation": 22,
            "items": 20,
            "training_interactions": 1090,
            "notes": {text: 1},
        },
        "leaks": [check | {"vouched": ""}, check | {"vouched": text}],
        "chosen": {
            "generators": {},
            "settings": {generator: {"share": 1.0, "lists": text}},
            "strongest": {"10": generator},
            "encoders": {
                "untrained": {
                    "name": text,
                    "fingerprint": text,
                    "length": 4,
                    "decay": 0.7,
                    "forms": [form | {"interests": 0.0, "prior": 0.0}, form],
                }
            },
        },
        "cold": [
            {
                "line": line,
                "settings": {"share": 0.3, "l2": 10},
                "hidden_items": 4,
                "users": 5,
                "metrics": {"HR@10": estimate, "NDCG@10": estimate},
            }
            for line in ("personas alone", "both")
        ],
        "primary": [
            {
                "candidates": 10,
                "generator": generator,
                "line": "fused, untrained",
                "valid": 0.41,
                "ndcg": 0.4,
                "ranks": {"ours": [1, 2, 0, 4], "theirs": [2, 3, 0, 4]},
                "against": gap | {"p_holm": 0.02},
            }
        ],
        "main": [
            main(name, line, encoder, fused=fused)
            for name in both
            for line, encoder, fused in LINES
        ],
        "segments": [
            segment | {"generator": name, "line": line} | estimate
            for name in both
            for line, _, _ in LINES
        ],
        "ablations": [
            ablation(group, name, value, fused=fused)
            for group, name in (
                ("number of personas", "at most 1 personas an item"),
                ("number of personas", "at most 7 personas an item"),
                ("texts", SUMMARY_ONLY),
                (text, text),
            )
            for value in both
            for fused in (False, True)
        ],
        "ablations_encoder": "untrained",
        "history": [
            {"length": length, "decay": decay, "valid": length / 10 + decay / 100}
            for length in (2, 4)
            for decay in (0.7, 1.0)
        ],
        "options": [{"encoder": "untrained", "interests": 0.5, "prior": 0.25, "valid": 0.2}],
        "seeds": [{"generator": generator, "candidates": 10, "seed": 3, "generator alone": 0.4}],
        "examples": [
            {
                "user": text,
                "history": [past],
                "truth": text,
                "before": 5,
                "after": 1,
                "ranking": [ranked, ranked | {"is_truth": False, "persona": None, "because": []}],
                "generator": generator,
            }
        ],
        "peers": {
            "users": 20,
            "candidates": 10,
            "model": text,
            "lines": [peer(generator, *one) for one in PEERS],
            "segments": [
                {"generator": generator, "line": line, "segment": text, "rule": text, "users": 7}
                | {"ceiling": 0.5, "hr": 0.5, **estimate}
                for line, _ in PEERS
            ],
        },
        "bench": _bench(text),
        "judged": _judged(text),
        "seconds": {text: 1.25},
    }


def _bench(text: str) -> dict[str, Any]:
    cell = {"peer": text, "measured": True, "requests": 5, "cold_s": 2.0, "p50_s": 0.5, "note": ""}
    cell |= {"p95_s": 1.5, "wall_s": 1.0, "calls": 1.0, "prompt_tokens": 900.0, "cost_usd": None}
    cell |= {"completion_tokens": 20.0, "failed_share": 0.0}
    unknown = dict.fromkeys(("cold_s", "p50_s", "p95_s", "wall_s"))
    slow = cell | unknown | {"peer": "listwise", "measured": False, "requests": 0, "note": text}
    sizes = [{"users": users, "candidates": count} for users in (1, 10) for count in (20, 50)]
    return {
        "model": text,
        "cells": [one | size for one in (cell, slow) for size in sizes],
        "process_bytes": 800_000_000,
        "llm_bytes": None,
        "device_bytes": 2_000_000_000,
        "offline": {"usage": {"calls": 1}, "paid": True},
        "earned_back": {text: 10.0},
    }


def _judged(text: str) -> list[dict[str, Any]]:
    won, lost = ({"count": n, "of": 10, "low": 0.1, "high": 0.9} for n in (6, 3))
    found = {"criterion": text, "won": won, "tied": 1, "lost": lost, "p": 0.5, "p_holm": 0.5}
    control = {"name": text, "right": 3, "of": 9, "p": 0.91, "passed": False}
    right = control | {"right": 9, "p": 0.002, "passed": True}
    fit = {"model": text, "passed": True, "controls": [right], "preferences": [found]}
    unfit = {"model": text, "passed": False, "controls": [control], "preferences": []}
    one = {"study": "explanations", "against": text, "problem": ""}
    return [
        one | {"result": fit},
        one | {"result": None, "problem": text},
        one | {"study": "personas", "result": unfit},
    ]
