"""Scripts for ScriptedLLM, and an asker without HTTP, that answer the questions of peers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from devtools.scripted_llm import Call, Reply, chooses, says
from indexer.llm import Answer, Request, Usage
from indexer.peers.asking import PeerSources
from indexer.peers.protocol import PeerCandidate, PeerQuery

_NUMBERED = re.compile(r"^\[(\d+)\] (.*)$", re.MULTILINE)
_LETTERED = re.compile(r"^\(([A-Z])\) (.*)$", re.MULTILINE)

Sources = Callable[..., PeerSources]
"""Makes the sources of peers: for an address, with options."""
Utility = Callable[[str], float]
"""How much a candidate's line in a prompt is liked."""


def planted(line: str) -> float:
    """The utility that is written in a candidate's text."""
    found = re.search(r"utility (\d+)", line)
    return float(found[1]) if found else 0.0


def by_length(line: str) -> float:
    """A utility for texts of real catalogues that is no position."""
    return len(line) + sum(map(ord, line)) / 1e6


def ordered(prompt: str, utility: Utility = planted) -> str:
    """The best order of the numbered candidates in a prompt."""
    found = sorted(_NUMBERED.findall(prompt), key=lambda one: -utility(one[1]))
    return " > ".join(f"[{number}]" for number, _ in found)


def letters_of(prompt: str, utility: Utility = planted) -> dict[str, float]:
    """A probability for each letter in a prompt, the greater the better its candidate."""
    found = sorted(_LETTERED.findall(prompt), key=lambda one: utility(one[1]))
    total = len(found) * (len(found) + 1) / 2
    return {letter: place / total for place, (letter, _) in enumerate(found, start=1)}


def perfect(call: Call, utility: Utility = planted) -> Reply:
    """Answers every question of every peer by the utility of candidates."""
    if call.form != "text":
        return _json(call)
    if call.body.get("logprobs"):
        return _with_options(call.user, utility)
    return says(ordered(call.user, utility))


def realistic(call: Call) -> Reply:
    """`perfect` for the texts of a real catalogue."""
    return perfect(call, by_length)


def reversing(call: Call) -> Reply:
    return perfect(call, lambda line: -planted(line))


def lazy(call: Call) -> Reply:
    """Names one candidate, with words around it."""
    return says("I would say that [2] is the best choice for this reader.")


def malformed(call: Call) -> Reply:
    return says("I am sorry, which list?")


def _with_options(prompt: str, utility: Utility) -> Reply:
    if _LETTERED.search(prompt):
        letters = letters_of(prompt, utility)
        return chooses(max(letters, key=letters.__getitem__), letters)
    offered = re.search(r"(?:Offered: |Description:\n)(.*)", prompt)
    assert offered, "no candidate in the prompt"
    share = 1 / (1 + 2.0 ** ((50 - utility(offered[1])) / 10))
    if "Yes or No" in prompt:
        return chooses("Yes", {"Yes": max(share, 1e-9), "No": max(1 - share, 1e-9)})
    last = re.findall(r"\d", prompt)[-1]
    first = re.findall(r"\d", prompt)[-2]
    ends = {first: max(1 - share, 1e-9), last: max(share, 1e-9)}
    return chooses(
        last, ends, before="It fits. Predicted rating: " if '"Predicted' in prompt else ""
    )


def _json(call: Call) -> Reply:
    schema = call.body["response_format"]["json_schema"]["schema"]
    if "likes" in schema["properties"]:
        number = int(hashlib.sha256(call.user.encode()).hexdigest()[:8], 16)
        return says({"likes": [f"Calm prose, number {number}"], "dislikes": []})
    return says({"text": "You like calm prose, and this has some."})


class Planted:
    """An asker that answers by the planted utility at once, and keeps the requests."""

    def __init__(self, answer: Callable[[Request], Any] | None = None) -> None:
        self.requests: list[Request] = []
        self._answer = answer or (lambda request: ordered(request.user))

    async def __call__(self, request: Request, assumed: Any) -> Answer:
        self.requests.append(request)
        return Answer(request, self._answer(request), Usage(1, 100, 10, 0.5))


def query(utilities: Sequence[int], **more: Any) -> PeerQuery:
    """Candidates whose texts say how much they are liked."""
    candidates = tuple(
        PeerCandidate(f"i{place}", f"Book {place} of 1984", f"It has utility {one}.", -place)
        for place, one in enumerate(utilities)
    )
    return PeerQuery("ann", (), candidates, **more)


def best(utilities: Sequence[int]) -> tuple[str, ...]:
    """The right order of `query`."""
    return tuple(f"i{one}" for one in sorted(range(len(utilities)), key=lambda i: -utilities[i]))
