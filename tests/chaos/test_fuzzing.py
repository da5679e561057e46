"""Wild inputs: filters, and the answers of an LLM."""

import json
from typing import Any

from hypothesis import strategies as st

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, as_line
from indexer.llm.answers import Attempt
from indexer.llm.capabilities import Capabilities, RequestFormat, RetryPrompt
from indexer.llm.errors import TransientError
from indexer.llm.request import Usage
from indexer.llm.wire import completion_of, error_body, read_json
from indexer.prompts import Domain
from indexer.reasoning.personas import Personas
from indexer.reasoning.step import Sources
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.edge.queries import condition
from p4r_qdrant.index.filters import indexed, parse
from p4r_qdrant.index.server.queries import condition_message
from p4r_qdrant.records import ItemPersonas
from p4r_qdrant.settings import LLMSettings
from tests.support.campaign import Campaign
from tests.support.messages import check_sentence
from tests.support.paths import BOOKSHOP
from tests.support.wild import JSON, SCALARS, changed, damaged, encoded

FIELDS = {"language": "keyword", "stock": "integer", "price": "float", "sale": "bool"}
GOOD_FILTER = {"language": ["en", "de"], "stock": {"gt": 0, "not": [3]}, "sale": True, "price": {}}


def test_filters(campaign: Campaign) -> None:
    """Each is refused in one sentence, or both engines take its conditions."""

    def check(wanted: Any) -> None:
        try:
            conditions = indexed(parse(wanted), FIELDS)
        except InputError as error:
            check_sentence(error)
            return
        for one in conditions:
            condition(one)
            assert condition_message(one).SerializeToString()

    names = st.sampled_from([*FIELDS, "deep.inner[]", "stock[0]"])
    values = SCALARS | st.dictionaries(st.sampled_from(["gt", "lte", "not", "x"]), SCALARS | JSON)
    wild = changed(GOOD_FILTER) | st.dictionaries(names, values, max_size=3) | JSON
    campaign("fuzz: filters", "one filter").fuzz(wild, check)


# --- an LLM --------------------------------------------------------------------------------------


def test_answers_of_an_llm(campaign: Campaign) -> None:
    """Each becomes a whole record of personas, or a problem that the model is shown."""
    step = Personas(
        Sources(ArtifactFolder(BOOKSHOP), Domain.load("books"), LLMSettings()), Refusals()
    )
    question = next(iter(step.questions()))
    [request] = question.requests
    persona = {
        "name": "A Reader.",
        "description": "Likes ships.",
        "preference_rationale": "It has ships.",
        "evidence": ["R1"],
    }
    good = {"personas": [persona, {**persona, "name": "Another"}]}
    message = {"role": "assistant", "content": json.dumps(good), "refusal": None}
    whole = {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }

    def check(body: bytes) -> None:
        attempt = Attempt(request, RetryPrompt(request.max_tokens))
        error_body(body.decode(errors="replace"))
        try:
            parsed = read_json(body)
            error_body(parsed)
            completion = completion_of(parsed)
        except TransientError as error:
            check_sentence(error)
            return
        answer = attempt.validate(
            completion, Usage(), Capabilities(RequestFormat("json_schema"), fixed_form=True)
        )
        if answer is None:
            assert attempt.problems or attempt.hopeless
            return
        record = step.record(question.about, [answer.value])
        assert record is not None
        assert ItemPersonas.model_validate_json(as_line(record)) == record

    def said(answer: Any) -> bytes:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return encoded({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    texts = damaged(json.dumps(good).encode()).map(lambda data: data.decode(errors="replace"))
    wild = changed(whole).map(encoded) | (changed(good) | texts).map(said) | damaged(encoded(whole))
    campaign("fuzz: answers of an LLM", "one answer").fuzz(wild, check)
