"""A script for ScriptedLLM that does the reasoning steps and obeys every order it reads.

Its answers are made from the prompt. Where the material holds `<<...>>`, that text is its answer.
"""

from __future__ import annotations

import re
from typing import Any

from devtools.scripted_llm import Call, Reply, says

_OBEY = re.compile(r"<<(.*?)>>", re.DOTALL)
_MATERIAL = re.compile(r"<material-\w+>\n(.*)\n</material-\w+>", re.DOTALL)


def material(call: Call) -> str:
    found = _MATERIAL.search(call.user)
    assert found, "the material is not between its marks"
    return found.group(1)


def obliging(call: Call) -> Reply:
    """The answer to one prompt of any step."""
    text = material(call)
    order = _OBEY.search(text)
    said = order.group(1) if order else ""
    step = call.body["response_format"]["json_schema"]["name"]
    value: dict[str, Any] = {
        "summaries": _summary,
        "aspects": _aspects,
        "personas": _personas,
        "alignments": _alignment,
    }[step](text, call, said)
    return says(value)


def _words(text: str, count: int) -> str:
    return " ".join(re.findall(r"\w+", text)[:count])


def _summary(text: str, _: Call, said: str) -> dict[str, Any]:
    return {"summary": said or f"About {_words(text, 12)}."}


def _aspects(text: str, call: Call, said: str) -> dict[str, Any]:
    slots = call.body["response_format"]["json_schema"]["schema"]["required"]
    review = text.partition("\n\n")[2]
    words = re.findall(r"\w+", review)
    found: dict[str, Any] = dict.fromkeys(slots)
    if len(words) > 4:
        found[slots[0]] = said or " ".join(words[:6])
        found[slots[-1]] = " ".join(words[-5:])
    return found


def _personas(text: str, _: Call, said: str) -> dict[str, Any]:
    notes = re.findall(r"^(R\d+) \(rated [\d.]+ of 5\): (.*)$", text, re.MULTILINE)
    if not notes:
        about = _words(text.removeprefix("Description: "), 9)
        one = {"description": f"Looks for {about}.", "preference_rationale": f"It has {about}."}
        return {"personas": [{"name": said or "Curious Newcomer", **one}]}
    personas = [
        {
            "name": said or f"Voice {_words(told, 2)} {label}",
            "description": f"Cares about {told}.",
            "preference_rationale": f"It meets {told[:120]}.",
            "evidence": [label],
        }
        for label, told in notes[:4]
    ]
    return {"personas": personas}


def _alignment(text: str, _: Call, said: str) -> dict[str, Any]:
    labels = re.findall(r"^([A-Z])\. ", text.partition("Options:")[2], re.MULTILINE)
    return {"choice": labels[-1], "justification": said or "The history speaks of the same things."}
