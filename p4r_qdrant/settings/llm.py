"""The LLM that reasons offline, and what it may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import Field, model_validator

from p4r_qdrant.settings.section import (
    PLAINTEXT_KEY,
    OptionalSecret,
    OptionalText,
    Section,
    check_address,
    is_this_machine,
)

_SECRET = re.compile("key|token|secret|pass|sig|auth|code", re.I)
"""Names of a query's fields that may hold a secret."""

_OF_ENTRA = "eyJ"
"""How a token of Azure's Entra begins, which is no key."""

OPENAI_HOST = "api.openai.com"
KNOWN_PRICES = {"gpt-4o-mini": (0.15, 0.60)}
"""OpenAI's own prices: US dollars per million tokens, input and output. Settings override them."""

THOUGHT_TOKENS = 8192
"""Tokens for the thought before an answer, once a model has shown that it thinks."""

STEPS = ("summaries", "aspects", "personas", "alignments", "judgments", "peers")
"""Sections of `LLMSettings` that override the model, temperature or prices of one step."""


def section_of(step: str) -> str:
    """The section of a step: its own name, or `peers` for all steps of peers ("peer-letters")."""
    return "peers" if step.startswith("peer-") else step


@dataclass(frozen=True, slots=True)
class StepModel:
    """The model of one step. Prices in US dollars per million tokens; None: not known.

    answer_tokens, thought_tokens: the limits of an answer and of the thought before it; None: the
    step's own limit, and the default for a model that thinks.
    """

    model: str
    temperature: float
    price_input: float | None
    price_output: float | None
    answer_tokens: int | None
    thought_tokens: int | None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Cost in US dollars; None if a price is not known."""
        if self.price_input is None or self.price_output is None:
            return None
        spent = prompt_tokens * self.price_input + completion_tokens * self.price_output
        return spent / 1_000_000


class LLMStepSettings(Section):
    """Model, temperature, limits and prices of one step. Unset: those of the section `llm`."""

    model: OptionalText = Field(None, description="Model of this step.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="Sampling temperature of this step."
    )
    answer_tokens: int | None = Field(
        None,
        ge=1,
        description="Largest number of tokens of an answer of this step, without thought. Unset: "
        "400 (summaries), 500 (aspects, judgments), 1600 (personas), 300 (alignments); peers: what "
        "their answers need.",
    )
    thought_tokens: int | None = Field(
        None, ge=0, description="Largest number of tokens of the thought before an answer."
    )
    price_input: float | None = Field(
        None, ge=0, description="US dollars per million prompt tokens of this step's model."
    )
    price_output: float | None = Field(
        None, ge=0, description="US dollars per million completion tokens of this step's model."
    )


class LLMSettings(Section):
    """The LLM that `p4r reason`, `p4r add` and `p4r judge` ask, and what it may cost."""

    base_url: str = Field(
        f"https://{OPENAI_HOST}/v1",
        description="Address of an OpenAI-compatible endpoint, such as http://localhost:8000/v1. "
        "A query is sent with each call: "
        "https://NAME.openai.azure.com/openai/deployments/NAME?api-version=2024-10-21.",
    )
    api_key: OptionalSecret = Field(None, description="API key of the LLM's endpoint.")
    model: str = Field("gpt-4o-mini", min_length=1, description="Name of the model.")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature.")
    concurrency: int = Field(
        16,
        ge=1,
        le=1000,
        description="Requests that are sent at the same time. Best: an eighth more than the "
        "endpoint works on at once.",
    )
    timeout_s: float = Field(
        120.0, gt=0, description="Seconds that one call may take, from first to last byte."
    )
    retry_for_s: float = Field(
        300.0,
        ge=0,
        description="Seconds for which a failed call (429, 5xx, timeout) is repeated.",
    )
    attempts: int = Field(
        3,
        ge=1,
        le=10,
        description="Largest number of answers that are requested if answers are unusable.",
    )
    thought_tokens: int | None = Field(
        None,
        ge=0,
        description="Largest number of tokens of the thought before an answer. It is added to the "
        f"limit of the answer. Unset: 0, and {THOUGHT_TOKENS:,} for a step in which the model "
        "shows that it thinks.",
    )
    answer_form: Literal["auto", "json_schema", "json_object", "text"] = Field(
        "auto",
        description="How JSON answers are requested. auto: the best form that the endpoint "
        "supports.",
    )
    language: OptionalText = Field(
        None, description="Language of the written texts, such as French. Unset: the reviews'."
    )
    price_input: float | None = Field(
        None,
        ge=0,
        description="US dollars per million prompt tokens. Known for gpt-4o-mini at OpenAI.",
    )
    price_output: float | None = Field(
        None,
        ge=0,
        description="US dollars per million completion tokens. Known for gpt-4o-mini at OpenAI.",
    )
    batch_price_factor: float = Field(
        0.5, ge=0, le=1, description="Price of an answer of the Batch API relative to a live one."
    )
    batch_poll_s: float = Field(
        30.0, gt=0, description="Seconds between two checks of the batches' state."
    )
    batch_requests: int = Field(
        50_000,
        ge=1,
        le=50_000,
        description="Largest number of requests in one batch. A batch also stays below 190 MB.",
    )
    batch_concurrency: int = Field(
        4, ge=1, le=100, description="Batches that are in progress at the same time."
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Largest number of prompt tokens in all batches in progress, for accounts "
        "with such a limit.",
    )
    max_cost_usd: float | None = Field(
        None,
        gt=0,
        description="US dollars that one run may cost, or one process of p4r work or p4r serve. "
        "It stops asking before it is more.",
    )
    max_tokens: int | None = Field(
        None,
        gt=0,
        description="Prompt and completion tokens that one run may use, or one process of p4r work "
        "or p4r serve.",
    )
    ceiling_days: float | None = Field(
        None,
        gt=0,
        le=3650,
        description="Count against both ceilings what the ledger of the folder has recorded in the "
        "last so many days, whichever process has spent it. Unset: each run begins anew.",
    )
    allow_plaintext_key: bool = Field(False, description=PLAINTEXT_KEY)

    summaries: LLMStepSettings = Field(
        default_factory=LLMStepSettings, description="Overrides for summaries (Eq. 1)."
    )
    aspects: LLMStepSettings = Field(
        default_factory=LLMStepSettings, description="Overrides for aspects (Eq. 2)."
    )
    personas: LLMStepSettings = Field(
        default_factory=LLMStepSettings, description="Overrides for personas (Eq. 3)."
    )
    alignments: LLMStepSettings = Field(
        default_factory=LLMStepSettings, description="Overrides for alignments (Eq. 5)."
    )
    judgments: LLMStepSettings = Field(
        default_factory=LLMStepSettings, description="Overrides for `p4r judge`."
    )
    peers: LLMStepSettings = Field(
        default_factory=LLMStepSettings, description="Overrides for `p4r peers`."
    )

    @property
    def address(self) -> tuple[str, dict[str, str]]:
        """The address without its query and without /chat/completions, and the query."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        plain = urlunsplit(parts._replace(path=path, query=""))
        return plain, dict(parse_qsl(parts.query, keep_blank_values=True))

    @property
    def key_headers(self) -> dict[str, str]:
        """The headers that hold the key: Azure's own beside or in place of the usual one."""
        key = self.api_key.get_secret_value() if self.api_key else ""
        if not key:
            return {}
        bearer = {"Authorization": f"Bearer {key}"}
        if "api-version" not in self.address[1] or key.startswith(_OF_ENTRA):
            return bearer
        return {"api-key": key} | ({} if self.host.endswith(".azure.com") else bearer)

    @property
    def host(self) -> str:
        """The endpoint's host name."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is on this machine."""
        return is_this_machine(self.host)

    def of(self, step: str) -> StepModel:
        """Model, temperature and prices of a step: its own, or else those of the section."""
        own = getattr(self, section_of(step), None)
        if not isinstance(own, LLMStepSettings):
            own = LLMStepSettings()
        model = own.model or self.model
        shared = (self.price_input, self.price_output) if model == self.model else (None, None)
        known = KNOWN_PRICES.get(model, (None, None)) if self.host == OPENAI_HOST else (None, None)
        price_input, price_output = (
            next((price for price in prices if price is not None), None)
            for prices in zip((own.price_input, own.price_output), shared, known, strict=True)
        )
        temperature = self.temperature if own.temperature is None else own.temperature
        thought = self.thought_tokens if own.thought_tokens is None else own.thought_tokens
        return StepModel(model, temperature, price_input, price_output, own.answer_tokens, thought)

    @model_validator(mode="after")
    def _check_url(self) -> LLMSettings:
        plain, _, query = self.base_url.partition("?")
        if any(_SECRET.search(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
            raise ValueError("base_url must not contain a key; set P4R_LLM__API_KEY instead")
        check_address(
            plain,
            "base_url",
            "https://host/v1 or http://localhost:8000/v1",
            "LLM",
            key_in_the_clear=bool(self.api_key) and not self.allow_plaintext_key,
        )
        return self

    @model_validator(mode="after")
    def _check_prices(self) -> LLMSettings:
        if self.max_cost_usd is None:
            return self
        for step in STEPS:
            one = self.of(step)
            if one.cost(1, 1) is None:
                raise ValueError(
                    f"max_cost_usd needs the prices of {one.model}: set P4R_LLM__PRICE_INPUT and "
                    "P4R_LLM__PRICE_OUTPUT (US dollars per million tokens; 0 if it is free)"
                )
        return self
