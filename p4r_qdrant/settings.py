"""Settings: `P4R_*` environment variables over an optional `p4r.toml`.

`P4R_QDRANT__URL` is `settings.qdrant.url`; in p4r.toml that is `url` under `[qdrant]`. Unknown
names are refused with the nearest known one. `P4R_TEST_*` is reserved for the tests.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic_settings
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from p4r_qdrant.errors import SettingsError

PREFIX = "P4R_"
RESERVED = "P4R_TEST_"
CONFIG_FILE = "p4r.toml"


def _empty_is_unset(value: Any) -> Any:
    """An empty text in p4r.toml means: not set. In the environment it always does."""
    return None if value == "" else value


OptionalText = Annotated[str | None, BeforeValidator(_empty_is_unset)]


def _check_secret(value: SecretStr | None) -> SecretStr | None:
    """A key travels in a header: it is printable ASCII. What it is is not repeated."""
    secret = value.get_secret_value() if value else ""
    if not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        raise ValueError("a key has no spaces around it, no line breaks and no letters but ASCII")
    return value


OptionalSecret = Annotated[
    SecretStr | None, BeforeValidator(_empty_is_unset), AfterValidator(_check_secret)
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QdrantSettings(_Section):
    """Where the persona index lives. Without `url`: embedded, in the folder `path`."""

    url: OptionalText = None
    api_key: OptionalSecret = None
    grpc_port: int = Field(6334, ge=1, le=65535)
    path: Path = Path("p4r-index")
    collection: str = Field("personas", min_length=1, max_length=255, pattern=r"^[\w.-]+$")
    timeout_s: float = Field(10.0, gt=0)
    refresh_s: float = Field(0.0, ge=0)
    """How often a reranker looks for what was published; 0: only when told to."""
    allow_plaintext_key: bool = False
    """Send the key over plain http to a host that is not this machine."""

    @model_validator(mode="after")
    def _check_url(self) -> QdrantSettings:
        if self.url is None:
            return self
        _check_address(
            self.url,
            "url",
            "http://host:6333 or https://host:6333",
            "QDRANT",
            key_in_the_clear=bool(self.api_key) and not self.allow_plaintext_key,
        )
        return self


class IndexSettings(_Section):
    """How a new collection is made, and what an item may have. See docs/past-memory.md."""

    max_personas: int = Field(7, ge=1, le=256)
    datatype: Literal["float32", "float16"] = "float32"
    quantization: Literal["none", "scalar", "binary"] = "none"
    on_disk_vectors: bool = False
    on_disk_payload: bool = True
    hnsw: bool = False
    """HNSW links: only retrieval from the whole catalogue needs them, reranking never does."""
    shards: int = Field(1, ge=1)
    replication: int = Field(1, ge=1)


class EncoderSettings(_Section):
    """The text encoder: a sentence-transformers model and, trained, a LoRA adapter.

    With `base_url` it is the model of that name behind an OpenAI-compatible address.
    """

    model: str = Field("BAAI/bge-m3", min_length=1)
    adapter: OptionalText = None
    device: str = "auto"
    """cpu, cuda, mps ...; several with commas between them, for large batches: cuda:0,cuda:1."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch_size: int = Field(64, ge=1)
    base_url: OptionalText = None
    api_key: OptionalSecret = None
    timeout_s: float = Field(60.0, gt=0)
    """For one batch of texts, with all attempts at it."""
    concurrency: int = Field(8, ge=1, le=1000)
    """Batches under way at once."""
    allow_plaintext_key: bool = False
    """Send the key over plain http to a host that is not this machine."""

    @model_validator(mode="after")
    def _check_endpoint(self) -> EncoderSettings:
        if self.base_url is None:
            return self
        _check_address(
            self.base_url,
            "base_url",
            "https://host/v1 or http://localhost:8080/v1",
            "ENCODER",
            key_in_the_clear=bool(self.api_key) and not self.allow_plaintext_key,
        )
        if self.adapter is not None:
            raise ValueError("an adapter is for a model in this process; serve it under base_url")
        return self


class HistorySettings(_Section):
    """The user vector (Eq. 7): how many interactions (L) and their decay (g)."""

    length: int = Field(10, ge=1)
    decay: float = Field(0.85, gt=0, le=1)


class TrainingSettings(_Section):
    """How `p4r train` trains the encoder (Eq. 9). `history` gives the user side its length and
    decay, `encoder` the base model.
    """

    epochs: int = Field(10, ge=1)
    patience: int = Field(3, ge=1)
    """Epochs without a better NDCG@10 on the validation items before it stops."""
    batch_size: int = Field(72, ge=2)
    """Users whose personas are each other's negatives, over all processes together."""
    micro_batch_size: int = Field(32, ge=1)
    """Texts whose activations are in memory at once. The gradients are those of the whole batch,
    whatever it is; only the draws of dropout differ."""
    learning_rate: float = Field(2e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)
    temperature: float = Field(0.05, gt=0)
    profile: Literal["before", "others"] = "others"
    """The user side of an interaction: what came before it, or all others."""
    unjudged: Literal["none", "similar", "any"] = "none"
    """Interactions without an alignment: left out, aligned with the item's persona that the base
    encoder finds nearest, or with any of the item's personas."""
    unjudged_weight: float = Field(1.0, gt=0)
    """What such an interaction counts beside one with an alignment."""
    sibling_weight: float = Field(0.0, ge=0)
    """Other personas of the target item as negatives: 0 masks them, 1 counts them as any other."""
    hard_negatives: int = Field(0, ge=0)
    """So many of the user's candidates, best first, that are not in the history: their personas
    are negatives."""
    mask_interacted: bool = True
    """Personas of the user's other items are no negatives."""
    lora_r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: OptionalText = None
    """Names of the layers that LoRA adapts, separated by commas; without it, what peft knows to
    suit the model; all-linear is every linear layer. head is one layer behind the model: each text
    is encoded once, and an epoch takes seconds without a GPU."""
    lora_layers: int | None = Field(None, ge=1)
    """Only so many of the last layers; those below cost no way back, and no memory for it."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """A checkpoint each so many steps, beside the one each epoch."""
    seed: int = Field(0, ge=0)


class RerankSettings(_Section):
    """How users and personas are compared, and fusion with the generator's scores: as it is, the
    persona score is Eq. 10, and nothing is fused. See docs/options.md.
    """

    fusion: Literal["none", "weighted", "rrf"] = "none"
    weight: float = Field(0.6, ge=0, le=1)
    """Share of the persona score in weighted fusion; the generator has the rest."""
    rrf_k: int = Field(60, ge=1)
    interests: float = Field(0.0, ge=0, le=1)
    """Share of a user's single interactions, of which the nearest counts; the mean of all (Eq. 7)
    has the rest."""
    prior: float = Field(0.0, ge=0, le=2)
    """How much of a persona's mean similarity to all users is taken off its score: some please
    everybody. `p4r index` and `p4r publish` note it with the index where this is set."""


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
    batch_price_factor: float = Field(0.5, ge=0, le=1)
    """What part of the prices an answer costs that came with a batch."""
    batch_poll_s: float = Field(30.0, gt=0)
    """How often batches are looked at."""
    batch_requests: int = Field(50_000, ge=1, le=50_000)
    """The most requests in one batch; it is also kept under 190 MB."""
    batch_concurrency: int = Field(4, ge=1, le=100)
    """Batches under way at once."""
    batch_tokens: int | None = Field(None, ge=1)
    """The most prompt tokens in batches under way, as some accounts have it."""
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
    judgments: LLMStepSettings = Field(default_factory=LLMStepSettings)

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
        _check_address(
            self.base_url,
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
        for step in ("summaries", "aspects", "personas", "alignments", "judgments"):
            one = self.of(step)
            if one.cost(1, 1) is None:
                raise ValueError(
                    f"max_cost_usd needs the prices of {one.model}: set P4R_LLM__PRICE_INPUT and "
                    "P4R_LLM__PRICE_OUTPUT (US dollars a million tokens; 0 where it costs nothing)"
                )
        return self


class ServiceSettings(_Section):
    """`p4r serve`: where it listens, who may ask, and how much at once."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65535)
    """0 takes a free one."""
    api_key: OptionalSecret = None
    """May rerank and read the catalogue."""
    admin_key: OptionalSecret = None
    """May do everything: write items and users, and read users."""
    allow_anonymous: bool = False
    """Ask nobody for a key; on this machine only."""
    deadline_ms: int = Field(1000, ge=1)
    """After so long a rerank is answered with the generator's order."""
    threads: int = Field(8, ge=1, le=256)
    """Rankings under way at once."""
    max_waiting: int = Field(256, ge=1)
    """Rankings that may wait for a thread; one more gets the generator's order at once."""
    max_body_bytes: int = Field(4 << 20, ge=1024)
    max_users: int = Field(64, ge=1)
    """Users of one request."""
    max_candidates: int = Field(1000, ge=1, le=10_000)
    """Candidates of one user."""
    max_history: int = Field(200, ge=1)
    """Interactions of one inline history."""
    batch_window_ms: float = Field(3.0, ge=0)
    """How long an idle encoder waits for more histories to encode together."""
    max_waiting_texts: int = Field(2000, ge=1)
    """Texts that may wait for the encoder; beyond, requests get 429 and Retry-After."""
    qdrant_read_key: OptionalSecret = None
    """A read-only Qdrant key (or JWT) for the reranking path; without it, P4R_QDRANT__API_KEY."""
    tracing: bool = False
    """OpenTelemetry spans, sent where OTEL_EXPORTER_OTLP_ENDPOINT says."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return _is_this_machine(self.host)


class Settings(BaseSettings):
    """All settings. `Settings.load()` is how to get them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        toml_file=CONFIG_FILE,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    qdrant: QdrantSettings = Field(default_factory=QdrantSettings)
    index: IndexSettings = Field(default_factory=IndexSettings)
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    history: HistorySettings = Field(default_factory=HistorySettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    rerank: RerankSettings = Field(default_factory=RerankSettings)
    llm: LLMSettings = Field(default_factory=LLMSettings)
    service: ServiceSettings = Field(default_factory=ServiceSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """First what was passed, then the environment, then p4r.toml."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @classmethod
    def load(cls, **sections: dict[str, Any]) -> Settings:
        """Read the environment and p4r.toml; `sections` (`qdrant={"url": ...}`) win over both.

        Raises SettingsError, naming every setting that is wrong and never its value.
        """
        _refuse_unknown_names()
        try:
            return cls(**sections)  # type: ignore[arg-type]
        except ValidationError as error:
            raise SettingsError(_sentence(error)) from None
        except pydantic_settings.SettingsError:  # a whole section as one variable
            names = ", ".join(f"{PREFIX}{name}".upper() for name in cls.model_fields)
            raise SettingsError(
                f"one of {names} is set and is no JSON; set single values, such as P4R_QDRANT__URL"
            ) from None
        except (OSError, ValueError) as error:  # p4r.toml that is no TOML, or no UTF-8
            raise SettingsError(f"{CONFIG_FILE} cannot be read: {error}") from None


def _check_address(
    url: str, field: str, example: str, section: str, *, key_in_the_clear: bool
) -> None:
    """Raise ValueError unless `url` is an address that a key may be sent to.

    `key_in_the_clear`: there is a key, and no leave to send it unencrypted to another machine.
    """
    if "@" in url:
        raise ValueError(
            f"{field} must not hold a password; set {PREFIX}{section}__API_KEY instead"
        )
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # no number for a port, half an IPv6 address
        well_formed = False
    if not well_formed or not parts.hostname or parts.query or parts.fragment:
        # What stands there may be a key in the wrong place: it is not repeated.
        raise ValueError(f"{field} must look like {example}")
    if key_in_the_clear and parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise ValueError(
            f"the API key would travel unencrypted to {parts.hostname}: use https, or set "
            f"{PREFIX}{section}__ALLOW_PLAINTEXT_KEY=true on a network you trust"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _known_names(model: type[BaseModel] = Settings, prefix: str = PREFIX) -> Iterator[str]:
    for name, field in model.model_fields.items():
        full = f"{prefix}{name}".upper()
        yield full
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_names(field.annotation, f"{full}__")


def _refuse_unknown_names() -> None:
    known = set(_known_names())
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper.startswith(RESERVED) or upper in known:
            continue
        raise SettingsError(f"the environment variable {name} is not known{_nearest(upper, known)}")


def _nearest(name: str, known: set[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else "; unset it"


def _sentence(error: ValidationError) -> str:
    """Every problem of a validation error, by the name the user gave, without the value."""
    problems = []
    for problem in error.errors(include_input=False, include_url=False):
        path = [str(part) for part in problem["loc"]]
        name = PREFIX + "__".join(path).upper()
        where = f"{name} (in {CONFIG_FILE}: {'.'.join(path)})"
        if problem["type"] == "extra_forbidden":
            problems.append(f"{where} is not known{_nearest(name, set(_known_names()))}")
        elif problem["type"] == "model_type":
            problems.append(f"{where} is a section: give it names and values, not one value")
        else:
            problems.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)
