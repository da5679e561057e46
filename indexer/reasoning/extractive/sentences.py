"""Texts from outside as sentences that may be quoted: cleaned, cut, and bounded in number."""

from __future__ import annotations

import re
from collections import Counter
from textwrap import wrap

from sentencex import segment

from indexer.reasoning.sanitizing import cleaned, metadata, problem_with
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import Item, Review

LENGTH = 300
"""Characters of a sentence; a longer one is cut between words."""
LEAST_WORDS = 3
MOST_OF_A_REVIEW = 12
"""Sentences of one review. An encoder reads about as many: 256 tokens are some 200 words."""

_LANGUAGE = "en"
"""Decides about abbreviations alone; the ends of sentences are those of all scripts."""
_LABEL = re.compile(r"^(?:title|description): ")
_CODE = re.compile(r"(?!title: |description: )[^:]+: (?:[\d.,]+|.{1,3})$")
"""A line of metadata that says nothing in words: a price, the code of a language."""
_ENDS = (".", "!", "?", ":", ";", "…", "。", "\uff01", "\uff1f", '"', "”", ")")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
"""A word; in scripts without spaces, a character."""


def sentences(text: str, left_out: Counter[str], *, least_words: int = LEAST_WORDS) -> list[str]:
    """The sentences of a text that may be quoted, each once; the others are counted by reason.

    HTML is removed. The text ends where it begins to address a model.
    """
    plain = cleaned("\n".join(map(plain_text, text.splitlines())))
    left_out["sentences that address a model"] += plain.removed
    found: dict[str, None] = {}
    for line in plain.text.splitlines():
        for sentence in segment(_LANGUAGE, line):
            for piece in wrap(sentence, LENGTH):
                if len(_WORD.findall(piece)) < least_words:
                    left_out[f"sentences of fewer than {least_words} words"] += 1
                elif problem_with(piece, "", most_words=LENGTH):
                    left_out["sentences with an address or markup"] += 1
                else:
                    found.setdefault(piece)
    return list(found)


def review_sentences(review: Review, left_out: Counter[str]) -> list[str]:
    """At most `MOST_OF_A_REVIEW` sentences of a review.

    Of more, the first, the last and evenly spaced ones between are kept, as in
    `sanitizing.parts`: reviews open with what the item is and close with a conclusion.
    """
    found = sentences(f"{review.title}\n{review.text}", left_out)
    left_out["sentences of long reviews"] += max(0, len(found) - MOST_OF_A_REVIEW)
    return evenly(found, MOST_OF_A_REVIEW)


def metadata_sentences(item: Item, left_out: Counter[str]) -> list[str]:
    """The sentences of an item's metadata; title, maker and categories come first."""
    known = metadata(item)
    left_out["sentences that address a model"] += known.removed
    lines = (_LABEL.sub("", line) for line in known.text.splitlines() if not _CODE.match(line))
    found = sentences("\n".join(lines), left_out, least_words=1)
    return [ended(one[0].upper() + one[1:]) for one in found]


def ended(sentence: str) -> str:
    """A sentence with a full stop if it has no end of its own."""
    return sentence if sentence.endswith(_ENDS) else f"{sentence}."


def evenly(texts: list[str], most: int) -> list[str]:
    """At most `most` texts, evenly spaced from the first to the last, in their order."""
    if len(texts) <= most:
        return texts
    step = (len(texts) - 1) / (most - 1)
    return [texts[round(number * step)] for number in range(most)]


def first_words(texts: list[str], most: int) -> list[str]:
    """The first texts, as many as have at most `most` words together, but at least one."""
    kept: list[str] = []
    words = 0
    for text in texts:
        words += len(_WORD.findall(text))
        if kept and words > most:
            break
        kept.append(text)
    return kept
