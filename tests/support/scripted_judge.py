"""Judges for ScriptedLLM: each is a rule that says, of two texts in a context, which is better.

with ScriptedLLM(judge(knowing(study))) as llm: ...
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from devtools.scripted_llm import Call, Reply, says
from indexer.judging.comparing import Study
from tests.support.obliging_llm import material, obliging

_ASKED = re.compile(r"(.*)\n\n(Explanation|Personas) A:\n(.*)\n\n\2 B:\n(.*)", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """One question, as the judge reads it."""

    context: str
    a: str
    b: str
    criterion: str = ""


Rule = Callable[[Asked], str]


def asked(call: Call) -> Asked:
    found = _ASKED.fullmatch(material(call))
    assert found, "two texts are compared"
    return Asked(found[1], found[3], found[4])


def judge(rule: Rule) -> Callable[[Call], Reply]:
    """A script that judges by the rule, criterion by criterion, and writes personas as well."""

    def script(call: Call) -> Reply:
        if call.step != "judgments":
            reply = obliging(call)
            if "exactly one persona" in call.system:
                return says({"personas": json.loads(reply.content or "")["personas"][:1]})
            return reply
        one = asked(call)
        _, *criteria = call.body["response_format"]["json_schema"]["schema"]["required"]
        verdicts = {name: rule(Asked(one.context, one.a, one.b, name)) for name in criteria}
        difference = "" if one.a == one.b else "The one says more of the sea."
        return says({"difference": difference} | verdicts)

    return script


def knowing(study: Study, otherwise: Rule = lambda _: "tie") -> Rule:
    """Right in all control comparisons of the study."""
    right = {(one.context, one.ours, one.theirs) for one in study.control_comparisons(Counter())}

    def rule(one: Asked) -> str:
        if one.a == one.b:
            return "tie"
        if (one.context, one.a, one.b) in right:
            return "A"
        return "B" if (one.context, one.b, one.a) in right else otherwise(one)

    return rule


def dice(one: Asked) -> str:
    """Random, but the same for the same question."""
    return "AB"[hashlib.sha256(repr(one).encode()).digest()[0] % 2]


def dice_with_ties(one: Asked) -> str:
    return ("A", "B", "tie")[hashlib.sha256(repr(one).encode()).digest()[0] % 3]


def first(_: Asked) -> str:
    return "A"


def nothing(_: Asked) -> str:
    """Always a tie."""
    return "tie"


def longer(one: Asked) -> str:
    return "A" if len(one.a) > len(one.b) else "B" if len(one.b) > len(one.a) else "tie"
