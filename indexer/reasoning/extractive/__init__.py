"""Summaries, aspects and personas without an LLM: sentences of reviews, grouped by an encoder.

    reviews -> sentences (sentences.py) -> vectors, slots, groups (extractor.py, grouping.py)
            -> aspects that quote the review, personas that quote a group (steps.py), named by
               the terms that tell it apart (terms.py)

An extractor answers the requests of these steps as an LLM answers those of the others: its
answers are in the ledger too, and they hold numbers, no text. It costs nothing.
"""

from __future__ import annotations

from p4r_qdrant.errors import MissingExtraError

try:
    import sentencex  # noqa: F401
    import sklearn  # noqa: F401
except ModuleNotFoundError as missing:
    raise MissingExtraError(
        f"the extractive strategy needs {missing.name}: pip install 'p4r-qdrant[indexer,encoder]'"
    ) from None
