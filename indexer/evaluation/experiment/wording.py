"""Readable names for the fields and values of an experiment's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAKING = (
    "One variant of this experiment (group LEAK) uses personas that were made from held-out "
    "reviews, to show how much a leak inflates the figures. It is not a result."
)

_GENERATORS = {
    "popularity": "popularity",
    "bpr": "BPR-MF",
    "lightgcn": "LightGCN",
    "itemknn": "item-kNN",
    "ease": "EASE",
    "personas-ease": "EASE with personas as hypothetical users",
    "hybrid": "the one score (hybrid)",
}

_LINES = {
    "generator alone": "generator alone",
    "personas": "personas alone",
    "fused": "generator and personas",
}

_FIELDS = {
    "name": "name",
    "artifacts": "artifact folder",
    "domain": "domain",
    "generators": "candidate generators",
    "lists": "lists made elsewhere",
    "candidates": "candidates per user",
    "seeds": "random seeds",
    "encoder": "encoder",
    "encoder.model": "encoder: model",
    "encoder.adapter": "encoder: trained adapter",
    "encoder.device": "encoder: device",
    "encoder.dtype": "encoder: number type",
    "encoder.batch_size": "encoder: texts per batch",
    "encoder.base_url": "encoder: endpoint",
    "encoder.api_key": "encoder: API key",
    "encoder.timeout_s": "encoder: time limit in seconds",
    "encoder.concurrency": "encoder: requests at the same time",
    "encoder.allow_plaintext_key": "encoder: send the API key without TLS",
    "lengths": "history lengths tried",
    "decays": "decays tried",
    "weights": "fusion weights tried",
    "interests": "shares of single interests tried",
    "priors": "persona priors tried",
    "personas": "personas per item tried",
    "cold": "share of items with hidden interactions",
    "disliked": "highest rating that is a dislike",
    "aggregated": "folder with one persona per item",
    "extractive": "extractive personas",
    "leaking": "folder with leaking personas",
    "examples": "example users shown",
    "peers": "LLM rerankers",
    "python": "Python",
    "system": "operating system",
    "cpus": "processor cores",
    "git": "git revision",
}
"""Settings of an experiment and properties of its machine, nested ones joined by a dot."""

_VARIANTS = {
    "as it is": "unchanged",
    "Eq. 10": "Eq. 10 of the paper",
    "at most 1 personas an item": "at most 1 persona per item",
    "mean vector of an item's": "one mean vector per item",
    "extractive personas: no LLM": "extractive personas, made without an LLM",
    "one persona of all reviews": "one persona made from all reviews",
    "summary-only index: no reviews": "item summaries in place of personas",
    "summaries alone in histories": "item summaries only in histories",
    "persona prior taken off": "minus the persona prior",
    "mean and several interests, prior taken off": "mean and several interests, minus the prior",
    "words": "word overlap",
    "words alone": "word overlap (TF-IDF) only",
    "encoder and words (TF-IDF)": "encoder and word overlap (TF-IDF)",
}
"""Variants and their groups; others keep the name they have."""

_FORM = {
    "interests": "share of single interests",
    "prior": "persona prior",
    "dislikes": "weight of dislikes",
    "words": "share of words",
    "lexical": "share of words",
    "aggregation": "score of an item",
    "temperature": "temperature",
}
"""What a variant may set in the score."""


def generator_name(generator: str) -> str:
    """A candidate generator's usual name; others keep the name they have."""
    return _GENERATORS.get(generator, generator)


def line_name(line: str) -> str:
    """A line of the main table: "fused, trained" becomes "generator and personas (trained)"."""
    kind, *rest = line.split(", ")
    rest = ["with options" if one == "options" else one for one in rest]
    return _LINES.get(kind, kind) + (f" ({', '.join(rest)})" if rest else "")


def variant_name(name: str) -> str:
    """A variant, or a group of variants, as readers know it."""
    return _VARIANTS.get(name, name.replace(" personas an item", " personas per item"))


def form_name(form: Mapping[str, Any]) -> str:
    """The settings of a variant: "persona prior 0.5, temperature 0.1"."""
    return ", ".join(f"{_FORM.get(name, _words(name))} {value}" for name, value in form.items())


def named_values(values: Mapping[str, Any], within: str = "") -> list[tuple[str, str]]:
    """(name, value) of every setting as text; nested mappings become rows of their own."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        field = f"{within}{key}"
        if isinstance(value, Mapping) and value:
            rows += named_values(value, f"{field}.")
        else:
            rows.append((_FIELDS.get(field, _words(field)), _value(value)))
    return rows


def _words(field: str) -> str:
    prefix, _, name = field.rpartition(".")
    if prefix == "packages":
        return name
    return (f"{prefix}: {name}" if prefix else name).replace("_", " ")


def _value(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_value(one) for one in value)
    return str(value)
