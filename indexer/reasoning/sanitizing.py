"""Texts from outside on their way into a prompt, and texts from an LLM on their way out.

In: what people cannot see is taken out, a text ends where it begins to address a model rather than
a reader, sizes are bounded at the ends of sentences. Out: an answer is refused that
repeats its prompt, points to somewhere else, or speaks as a model does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import Item

PART_LENGTH = 6000
"""Characters of a review in one prompt; longer reviews are asked in parts."""
MOST_PARTS = 12
METADATA_LENGTH = 6000

_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Cn"}
_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?]+[\"')\]]*|\n+|$)\s*")
_ADDRESSES_A_MODEL = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|prompt|rule|direction|"
    r"above|previous|prior|everything|context)"
    r"|\b(?:system|developer|hidden|initial|original)\s+(?:prompt|message|instruction)"
    r"|\byou\s+are\s+(?:now|no\s+longer|an?\s+(?:ai|assistant|language\s+model))\b"
    r"|\bas\s+an?\s+(?:ai|language\s+model|assistant)\b"
    r"|\b(?:respond|reply|answer|output|return|print|say|write)\b.{0,30}"
    r"\b(?:only|exactly|verbatim|json|the\s+following|instead)\b"
    r"|\b(?:reveal|repeat|leak|show|print)\b.{0,30}\b(?:prompt|instructions?|secret|api\s*key)"
    r"|</?\s*(?:system|assistant|user|instruction|material|inst)\b|\[/?INST\]|<\|[^|]{1,30}\|>"
    r"|#{2,}\s*(?:system|instruction|new\s+task)|\bnew\s+(?:task|instructions?)\s*:"
    r"|\b(?:jailbreak|prompt\s+injection|dan\s+mode)\b",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_ASKS_FOR_A_VERDICT = re.compile(
    r"\b(?:explanation|personas|option|candidate|answer|response|verdict|choice)\s+(?-i:[AB])\b"
    r"|\bexplanation\s+(?:[12]|one|two)\b"
    r"|\b(?:prefer|choose|pick|select|favou?r|vote\s+for|rank|rate|score|judge|award)\b.{0,40}"
    r"\b(?:explanation|personas|verdict)\b"
    r"|\b(?:this|the\s+(?:other|first|second))\s+explanation\s+(?:wins?|loses?|must|should|deserves?"
    r"|is\s+(?:the\s+)?(?:better|best|winner|preferred|worse|worst))\b"
    r"|\b(?:dear|attention|note\s+to)\W+(?:the\s+)?(?:judge|evaluator|grader|annotator|rater)s?\b",
    re.IGNORECASE | re.DOTALL,
)
_ELSEWHERE = re.compile(r"https?://|www\.|\b[\w.+-]+@[\w-]+\.\w|\b\w+\.(?:com|net|org|io|ru|xyz)\b")
_FORM = re.compile(r"```|[{}<>|]|\$\{|\\[nux]")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Cleaned:
    """A text that is safe for a prompt, and how many sentences were removed."""

    text: str
    removed: int = 0


def cleaned(text: str, *, judged: bool = False) -> Cleaned:
    """A text from outside without invisible characters, cut where it starts to address a model.

    The rest is cut as well, since an order often has several sentences. If the text is `judged`,
    a sentence that asks for a verdict also counts.
    """
    seen = unicodedata.normalize("NFC", text)
    hidden = [one for one in {*seen} - {*"\n\t"} if unicodedata.category(one) in _INVISIBLE]
    seen = seen.translate(dict.fromkeys(map(ord, hidden)))
    seen = re.sub(r"[ \t]+", " ", re.sub(r"\n{3,}", "\n\n", seen)).strip()
    patterns = (_ADDRESSES_A_MODEL, _ASKS_FOR_A_VERDICT) if judged else (_ADDRESSES_A_MODEL,)
    orders = [order.start() for pattern in patterns if (order := pattern.search(seen))]
    if not orders:
        return Cleaned(seen)
    sentences = [one for one in _SENTENCE.finditer(seen) if one.group()]
    kept = [one for one in sentences if one.end() <= min(orders)]
    return Cleaned("".join(one.group() for one in kept).strip(), len(sentences) - len(kept))


cleaned_once = lru_cache(maxsize=8192)(cleaned)
"""`cleaned`, which remembers its last answers: for texts that are in many prompts."""


def parts(text: str, length: int = PART_LENGTH, most: int = MOST_PARTS) -> list[str]:
    """A long text in parts of at most `length` characters, cut between sentences.

    Of more than `most` parts the first, the last and evenly spaced ones between are kept: reviews
    open with what the item is and close with a conclusion.
    """
    pieces: list[str] = []
    for sentence in _sentences(text, length):
        if pieces and len(pieces[-1]) + len(sentence) <= length:
            pieces[-1] += sentence
        else:
            pieces.append(sentence)
    if len(pieces) > most:
        step = (len(pieces) - 1) / (most - 1)
        pieces = [pieces[round(number * step)] for number in range(most)]
    return [piece.strip() for piece in pieces if piece.strip()]


def _sentences(text: str, length: int) -> Iterator[str]:
    """Sentences; a sentence longer than `length` is cut between words if possible."""
    for found in _SENTENCE.finditer(text):
        sentence = found.group()
        while len(sentence) > length:
            cut = sentence.rfind(" ", length // 2, length) + 1 or length
            yield sentence[:cut]
            sentence = sentence[cut:]
        if sentence:
            yield sentence


def metadata(item: Item) -> Cleaned:
    """The metadata of an item, one field per line, without HTML; empty if there is none."""
    known = {
        "title": item.title,
        "by": item.brand,
        "categories": ", ".join(item.categories),
        **{
            name.replace("_", " "): str(value)
            for name, value in (item.model_extra or {}).items()
            if isinstance(value, (str, int, float)) and not isinstance(value, bool)
        },
        "description": item.description,
    }
    lines = [f"{name}: {plain_text(value)}" for name, value in known.items() if plain_text(value)]
    whole = cleaned("\n".join(lines))
    first = parts(whole.text, METADATA_LENGTH, most=2)[:1]
    return Cleaned(first[0] if first else "", whole.removed)


def suspicion(text: str) -> str | None:
    """Why a text for readers may come from an injection; None if nothing says so."""
    if _ELSEWHERE.search(text):
        return "holds an address"
    if _FORM.search(text):
        return "holds markup"
    if _ADDRESSES_A_MODEL.search(text):
        return "speaks of instructions rather than of taste"
    return None


def problem_with(text: str, prompt: str, *, most_words: int) -> str | None:
    """What is wrong with a text of an answer, for the model to correct; None if nothing is.

    prompt: the system message; eight of its words in a row are a leak.
    """
    words = _WORD.findall(text.lower())
    if not words:
        return "is empty"
    if len(words) > most_words:
        return f"has {len(words)} words, at most {most_words} are wanted"
    if problem := suspicion(text):
        return problem
    asked = _WORD.findall(prompt.lower())
    runs = {tuple(asked[at : at + 8]) for at in range(len(asked) - 7)}
    if any(tuple(words[at : at + 8]) in runs for at in range(len(words) - 7)):
        return "repeats the instructions"
    return None
