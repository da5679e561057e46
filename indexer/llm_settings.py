"""The section `llm` of the settings: `P4R_LLM__*`, or `[llm]` in p4r.toml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from p4r_qdrant.settings import OptionalSecret, OptionalText, _is_this_machine, _Section

OPENAI_HOST = "api.openai.com"
KNOWN_PRICES = {"gpt-4o-mini": (0.15, 0.60)}
"""US dollars a million tokens, in and out, at OpenAI itself. Prices change: the settings win."""


@dataclass(frozen=True, slots=True)
class StepModel:
    """What one step asks with. Prices in US dollars a million tokens, None where not known."""

    model: str
    temperature: float
    price_input: float | None
    price_output: float | None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """US dollars, None where a price is not known."""
        if self.price_input is None or self.price_output is None:
            return None
        spent = prompt_tokens * self.price_input + completion_tokens * self.price_output
        return spent / 1_000_000


class LLMStepSettings(_Section):
    """What one step does otherwise than the rest; prices belong to its own model."""

    model: OptionalText = None
    temperature: float | None = Field(None, ge=0, le=2)
    price_input: float | None = Field(None, ge=0)
    price_output: float | None = Field(None, ge=0)


class LLMSettings(_Section):
    """The endpoint that reasons offline, and what it may cost."""

    base_url: str = f"https://{OPENAI_HOST}/v1"
    api_key: OptionalSecret = None
    model: str = Field("gpt-4o-mini", min_length=1)
    temperature: float = Field(0.0, ge=0, le=2)
    concurrency: int = Field(16, ge=1, le=1000)
    """Calls under way at once. An endpoint is full with an eighth more than it works on at once."""
    timeout_s: float = Field(120.0, gt=0)
    """For one call, from its first byte sent to the last one received."""
    retry_for_s: float = Field(300.0, ge=0)
    """How long one request is sent again (429, 5xx, timeouts) before it is given up."""
    attempts: int = Field(3, ge=1, le=10)
    """How often one request is asked when its answers cannot be used."""
    answer_form: Literal["auto", "json_schema", "json_object", "text"] = "auto"
    """How JSON is asked for; auto finds out what the endpoint can do."""
    language: OptionalText = None
    """What language the texts are written in; without it, that of the reviews."""
    price_input: float | None = Field(None, ge=0)
    """US dollars a million tokens; known for gpt-4o-mini at OpenAI."""
    price_output: float | None = Field(None, ge=0)
    max_cost_usd: float | None = Field(None, gt=0)
    """What one run may cost."""
    max_tokens: int | None = Field(None, gt=0)
    """How many tokens one run may use, in and out."""
    allow_plaintext_key: bool = False
    """Send the key over plain http to a host that is not this machine."""

    summaries: LLMStepSettings = Field(default_factory=LLMStepSettings)
    aspects: LLMStepSettings = Field(default_factory=LLMStepSettings)
    personas: LLMStepSettings = Field(default_factory=LLMStepSettings)
    alignments: LLMStepSettings = Field(default_factory=LLMStepSettings)

    @property
    def host(self) -> str:
        """The endpoint's host name."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is on this machine."""
        return _is_this_machine(self.host)

    def of(self, step: str) -> StepModel:
        """Model, temperature and prices of a step; those of all where it has none of its own."""
        own = getattr(self, step, None)
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
        return StepModel(model, temperature, price_input, price_output)

    @model_validator(mode="after")
    def _check_url(self) -> LLMSettings:
        if "@" in self.base_url:
            raise ValueError("base_url must not hold a password; set P4R_LLM__API_KEY instead")
        try:
            parts = urlsplit(self.base_url)
            well_formed = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            well_formed = False
        if not well_formed or parts.query or parts.fragment:
            # What stands there may be a key in the wrong place: it is not repeated.
            raise ValueError("base_url must look like https://host/v1 or http://localhost:8000/v1")
        plain = parts.scheme == "http" and not self.is_local
        if self.api_key and plain and not self.allow_plaintext_key:
            raise ValueError(
                f"the API key would travel unencrypted to {self.host}: use https, or set "
                "P4R_LLM__ALLOW_PLAINTEXT_KEY=true on a network you trust"
            )
        return self

    @model_validator(mode="after")
    def _check_prices(self) -> LLMSettings:
        if self.max_cost_usd is None:
            return self
        for step in ("summaries", "aspects", "personas", "alignments"):
            one = self.of(step)
            if one.cost(1, 1) is None:
                raise ValueError(
                    f"max_cost_usd needs the prices of {one.model}: set P4R_LLM__PRICE_INPUT and "
                    "P4R_LLM__PRICE_OUTPUT (US dollars a million tokens; 0 where it costs nothing)"
                )
        return self
