"""The tables of an experiment as CSV files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_AGAINST = ("generator", "mean", "relative", "low", "high", "p", "p_holm")


def csv_tables(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(file name, content) of every table; each row of a leaking experiment says `leaking`."""
    tables = {
        "primary.csv": [_primary_row(row) for row in results["primary"]],
        "main.csv": [_main_row(row) for row in results["main"]],
        "segments.csv": results["segments"],
        "cold.csv": [_cold_row(row) for row in results["cold"]],
        "ablations.csv": [_ablation_row(row) for row in results["ablations"]],
        "history.csv": results["history"],
        "options.csv": results["options"],
    }
    if results["peers"]:
        tables |= {
            "peers.csv": [_peer_row(row) for row in results["peers"]["lines"]],
            "peers_segments.csv": results["peers"]["segments"],
        }
    leaking = {"leaking": True} if results["leaking"] else {}
    for name, rows in tables.items():
        yield name, _csv([row | leaking for row in rows])


def _primary_row(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key not in ("against", "ranks")}
    return flat | {f"against {key}": row["against"][key] for key in _AGAINST}


def _main_row(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key not in ("metrics", "own", "best")}
    for name, one in row["metrics"].items():
        flat |= {name: one["mean"], f"{name} low": one["low"], f"{name} high": one["high"]}
    for against in ("own", "best"):
        found = row.get(against) or {}
        flat |= {f"{against} {key}": found.get(key) for key in _AGAINST}
    return flat


def _peer_row(row: Mapping[str, Any]) -> dict[str, Any]:
    asked = row["asked"] or {}
    flat = {key: value for key, value in row.items() if key not in ("metrics", "own", "asked")}
    for name, one in row["metrics"].items():
        flat |= {name: one["mean"], f"{name} low": one["low"], f"{name} high": one["high"]}
    flat |= {f"own {key}": (row["own"] or {}).get(key) for key in _AGAINST[1:]}
    flat |= {key: value for key, value in asked.items() if key not in ("tau", "notes")}
    tau = asked.get("tau") or {}
    return flat | {f"tau {key}": tau.get(key) for key in ("mean", "low", "high")}


def _cold_row(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key not in ("metrics", "settings")}
    for name, one in row["metrics"].items():
        flat |= {name: one["mean"], f"{name} low": one["low"], f"{name} high": one["high"]}
    return flat | {"settings": json.dumps(row["settings"])}


def _ablation_row(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key not in ("difference", "metrics")}
    flat |= row["metrics"]
    flat |= {f"difference {key}": value for key, value in row["difference"].items()}
    return flat | {"form": json.dumps(row["form"])}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().removesuffix("\n")
