"""Settings from the environment and p4r.toml, and what is said of wrong ones."""

import re
import tomllib
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from p4r_qdrant import Settings
from p4r_qdrant.errors import SettingsError
from p4r_qdrant.settings import Setting
from p4r_qdrant.settings.loading import known_names
from tests.support.environment import clear_settings

KEY = "s3cr3t-k3y"
BOUND = f"shop-a={KEY}-{KEY}"

FIELDS = "price=float, offers[].stock=bool"
EVERY: dict[str, tuple[str, Any]] = {
    "P4R_QDRANT__URL": ("https://qdrant.example:6333", "https://qdrant.example:6333"),
    "P4R_QDRANT__API_KEY": (KEY, SecretStr(KEY)),
    "P4R_QDRANT__GRPC_PORT": ("7334", 7334),
    "P4R_QDRANT__GRPC_PORTS": ("7334", "7334"),
    "P4R_QDRANT__PATH": ("/tmp/somewhere else", Path("/tmp/somewhere else")),
    "P4R_QDRANT__COLLECTION": ("books-2.v1_x", "books-2.v1_x"),
    "P4R_QDRANT__TIMEOUT_S": ("2.5", 2.5),
    "P4R_QDRANT__READ_CONSISTENCY": ("quorum", "quorum"),
    "P4R_QDRANT__REFRESH_S": ("0.5", 0.5),
    "P4R_QDRANT__TRANSPORT": ("rest", "rest"),
    "P4R_QDRANT__ALLOW_PLAINTEXT_KEY": ("true", True),
    "P4R_INDEX__MAX_PERSONAS": ("12", 12),
    "P4R_INDEX__FIELDS": (FIELDS, FIELDS),
    "P4R_INDEX__DATATYPE": ("float16", "float16"),
    "P4R_INDEX__QUANTIZATION": ("scalar", "scalar"),
    "P4R_INDEX__ON_DISK_VECTORS": ("1", True),
    "P4R_INDEX__ON_DISK_PAYLOAD": ("false", False),
    "P4R_INDEX__HNSW": ("yes", True),
    "P4R_INDEX__SHARDS": ("3", 3),
    "P4R_INDEX__REPLICATION": ("2", 2),
    "P4R_INDEX__WRITE_CONSISTENCY": ("2", 2),
    "P4R_INDEX__READ_FAN_OUT": ("1", 1),
    "P4R_INDEX__TENANTS": ("true", True),
    "P4R_INDEX__TENANT": ("shop-a", "shop-a"),
    "P4R_ENCODER__MODEL": ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
    "P4R_ENCODER__ADAPTER": ("adapter", "adapter"),
    "P4R_ENCODER__QUERY_PROMPT": ("query: ", "query: "),
    "P4R_ENCODER__DOCUMENT_PROMPT": ("passage: ", "passage: "),
    "P4R_ENCODER__MAX_TOKENS": ("256", 256),
    "P4R_ENCODER__ALLOW_MODEL_CODE": ("true", True),
    "P4R_ENCODER__DEVICE": ("cuda:1", "cuda:1"),
    "P4R_ENCODER__DTYPE": ("bfloat16", "bfloat16"),
    "P4R_ENCODER__BATCH_SIZE": ("8", 8),
    "P4R_ENCODER__BACKEND": ("onnx-int8", "onnx-int8"),
    "P4R_ENCODER__ONNX_FOLDER": ("exported", "exported"),
    "P4R_ENCODER__BASE_URL": ("http://localhost:8080/v1", "http://localhost:8080/v1"),
    "P4R_ENCODER__API_KEY": (KEY, SecretStr(KEY)),
    "P4R_ENCODER__TIMEOUT_S": ("7.5", 7.5),
    "P4R_ENCODER__CONCURRENCY": ("3", 3),
    "P4R_ENCODER__CACHE_MB": ("16", 16.0),
    "P4R_ENCODER__ALLOW_PLAINTEXT_KEY": ("true", True),
    "P4R_HISTORY__LENGTH": ("20", 20),
    "P4R_HISTORY__DECAY": ("0.5", 0.5),
    "P4R_TRAINING__EPOCHS": ("3", 3),
    "P4R_TRAINING__PATIENCE": ("5", 5),
    "P4R_TRAINING__BATCH_SIZE": ("36", 36),
    "P4R_TRAINING__MICRO_BATCH_SIZE": ("9", 9),
    "P4R_TRAINING__LEARNING_RATE": ("1e-3", 1e-3),
    "P4R_TRAINING__SCHEDULE": ("cosine", "cosine"),
    "P4R_TRAINING__WARMUP": ("0.25", 0.25),
    "P4R_TRAINING__WEIGHT_DECAY": ("0.5", 0.5),
    "P4R_TRAINING__TEMPERATURE": ("0.02", 0.02),
    "P4R_TRAINING__PROFILE": ("before", "before"),
    "P4R_TRAINING__UNJUDGED": ("similar", "similar"),
    "P4R_TRAINING__UNJUDGED_WEIGHT": ("0.5", 0.5),
    "P4R_TRAINING__SIBLING_WEIGHT": ("0.5", 0.5),
    "P4R_TRAINING__HARD_NEGATIVES": ("4", 4),
    "P4R_TRAINING__MASK_INTERACTED": ("false", False),
    "P4R_TRAINING__LORA_R": ("8", 8),
    "P4R_TRAINING__LORA_ALPHA": ("8", 8),
    "P4R_TRAINING__LORA_DROPOUT": ("0.5", 0.5),
    "P4R_TRAINING__TARGET_MODULES": ("query,key", "query,key"),
    "P4R_TRAINING__LORA_LAYERS": ("2", 2),
    "P4R_TRAINING__CHECKPOINT_STEPS": ("100", 100),
    "P4R_TRAINING__SEED": ("7", 7),
    "P4R_COLLABORATIVE__ENABLED": ("false", False),
    "P4R_COLLABORATIVE__SHARE": ("3", 3.0),
    "P4R_COLLABORATIVE__L2": ("30", 30.0),
    "P4R_COLLABORATIVE__KEEP": ("50", 50),
    "P4R_COLLABORATIVE__COLUMNS": ("1000", 1000),
    "P4R_COLLABORATIVE__DECAY": ("1", 1.0),
    "P4R_COLLABORATIVE__MEMORY_GB": ("0.5", 0.5),
    "P4R_RERANK__FUSION": ("rrf", "rrf"),
    "P4R_RERANK__WEIGHT": ("0.25", 0.25),
    "P4R_RERANK__PERSONA_WEIGHT": ("0.25", 0.25),
    "P4R_RERANK__COLLABORATIVE_WEIGHT": ("2", 2.0),
    "P4R_RERANK__GENERATOR_WEIGHT": ("0", 0.0),
    "P4R_RERANK__RRF_K": ("10", 10),
    "P4R_RERANK__INTERESTS": ("0.5", 0.5),
    "P4R_RERANK__PRIOR": ("0.25", 0.25),
    "P4R_LLM__BASE_URL": ("http://localhost:8000/v1", "http://localhost:8000/v1"),
    "P4R_LLM__API_KEY": (KEY, SecretStr(KEY)),
    "P4R_REASONING__STRATEGY": ("extractive", "extractive"),
    "P4R_REASONING__RULES": ("rules.toml", Path("rules.toml")),
    "P4R_LLM__MODEL": ("small", "small"),
    "P4R_LLM__TEMPERATURE": ("0.25", 0.25),
    "P4R_LLM__THOUGHT_TOKENS": ("4000", 4000),
    "P4R_LLM__CONCURRENCY": ("3", 3),
    "P4R_LLM__TIMEOUT_S": ("7.5", 7.5),
    "P4R_LLM__RETRY_FOR_S": ("9.5", 9.5),
    "P4R_LLM__ATTEMPTS": ("5", 5),
    "P4R_LLM__ANSWER_FORM": ("text", "text"),
    "P4R_LLM__LANGUAGE": ("French", "French"),
    "P4R_LLM__PRICE_INPUT": ("0.5", 0.5),
    "P4R_LLM__PRICE_OUTPUT": ("1.5", 1.5),
    "P4R_LLM__BATCH_PRICE_FACTOR": ("0.25", 0.25),
    "P4R_LLM__BATCH_POLL_S": ("2.5", 2.5),
    "P4R_LLM__BATCH_REQUESTS": ("100", 100),
    "P4R_LLM__BATCH_CONCURRENCY": ("2", 2),
    "P4R_LLM__BATCH_TOKENS": ("9000", 9000),
    "P4R_LLM__MAX_COST_USD": ("10.5", 10.5),
    "P4R_LLM__MAX_TOKENS": ("1000", 1000),
    "P4R_LLM__CEILING_DAYS": ("30", 30.0),
    "P4R_LLM__ALLOW_PLAINTEXT_KEY": ("true", True),
    **{
        f"P4R_LLM__{step}__{field}": value
        for step in ("SUMMARIES", "ASPECTS", "PERSONAS", "ALIGNMENTS", "JUDGMENTS", "PEERS")
        for field, value in {
            "MODEL": ("other", "other"),
            "TEMPERATURE": ("0.5", 0.5),
            "ANSWER_TOKENS": ("900", 900),
            "THOUGHT_TOKENS": ("0", 0),
            "PRICE_INPUT": ("1.5", 1.5),
            "PRICE_OUTPUT": ("2.5", 2.5),
        }.items()
    },
    "P4R_SERVICE__HOST": ("0.0.0.0", "0.0.0.0"),
    "P4R_SERVICE__PORT": ("9000", 9000),
    "P4R_SERVICE__API_KEY": (KEY, SecretStr(KEY)),
    "P4R_SERVICE__REVIEWER_KEY": (KEY, SecretStr(KEY)),
    "P4R_SERVICE__ADMIN_KEY": (KEY, SecretStr(KEY)),
    "P4R_SERVICE__TENANT_KEYS": (BOUND, SecretStr(BOUND)),
    "P4R_SERVICE__TENANT_ADMIN_KEYS": (BOUND, SecretStr(BOUND)),
    "P4R_SERVICE__MAX_TENANTS": ("7", 7),
    "P4R_SERVICE__ALLOW_ANONYMOUS": ("true", True),
    "P4R_SERVICE__DEADLINE_MS": ("250", 250),
    "P4R_SERVICE__WORKERS": ("2", 2),
    "P4R_SERVICE__THREADS": ("3", 3),
    "P4R_SERVICE__MAX_WAITING": ("17", 17),
    "P4R_SERVICE__MAX_BODY_BYTES": ("65536", 65536),
    "P4R_SERVICE__MAX_CONNECTIONS": ("10", 10),
    "P4R_SERVICE__MAX_HEAD_BYTES": ("2048", 2048),
    "P4R_SERVICE__MAX_BODY_VALUES": ("5000", 5000),
    "P4R_SERVICE__RECEIVE_TIMEOUT_S": ("2.5", 2.5),
    "P4R_SERVICE__ROOT_PATH": ("/p4r", "/p4r"),
    "P4R_SERVICE__CORS_ORIGINS": ("https://shop.example", "https://shop.example"),
    "P4R_SERVICE__TELL_BECAUSE": ("false", False),
    "P4R_SERVICE__STUDIO": ("true", True),
    "P4R_SERVICE__MAX_USERS": ("5", 5),
    "P4R_SERVICE__MAX_CANDIDATES": ("50", 50),
    "P4R_SERVICE__MAX_HISTORY": ("12", 12),
    "P4R_SERVICE__BATCH_WINDOW_MS": ("1.5", 1.5),
    "P4R_SERVICE__MAX_WAITING_TEXTS": ("99", 99),
    "P4R_SERVICE__QDRANT_READ_KEY": (KEY, SecretStr(KEY)),
    "P4R_SERVICE__TRACING": ("true", True),
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clear_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)


def value_of(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.removeprefix("P4R_").lower().split("__"):
        value = getattr(value, part)
    return value


def complaint(**sections: Any) -> str:
    with pytest.raises(SettingsError) as refusal:
        Settings.load(**sections)
    said = str(refusal.value)
    assert "\n" not in said
    whole = "".join(traceback.format_exception(refusal.value))
    assert KEY not in whole.replace(f'KEY = "{KEY}"', "")
    return said


def test_every_name_is_tested_here() -> None:
    known = known_names()
    sections = {name for name in known if any(one.startswith(f"{name}__") for one in known)}
    assert known - sections == set(EVERY)


@pytest.mark.parametrize("setting", Settings.catalogue(), ids=lambda one: one.variable)
def test_the_catalogue_describes_every_setting(setting: Setting) -> None:
    assert re.fullmatch(r"[A-Z].*\.", setting.description)
    assert setting.default == setting.value(Settings())
    assert setting.variable == "__".join(
        ["P4R", *setting.section.split("."), setting.name]
    ).upper().replace("P4R__", "P4R_", 1)


def test_the_catalogue_knows_types_and_limits() -> None:
    known = {one.variable: one for one in Settings.catalogue()}
    port = known["P4R_QDRANT__GRPC_PORT"]
    assert (port.kind, port.limits, port.default) == ("whole number", ">= 1, <= 65535", 6334)
    assert (port.section, port.name) == ("qdrant", "grpc_port")
    assert known["P4R_INDEX__DATATYPE"].choices == ("float32", "float16")
    assert known["P4R_LLM__PERSONAS__MODEL"].section == "llm.personas"
    assert known["P4R_LLM__PRICE_INPUT"].kind == "number"
    assert {one.variable for one in known.values() if one.is_secret} == {
        name for name, (_, value) in EVERY.items() if isinstance(value, SecretStr)
    }


@pytest.mark.parametrize("name", EVERY)
def test_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = EVERY[name]
    assert value_of(Settings.load(), name) != value
    monkeypatch.setenv(name, text)
    assert value_of(Settings.load(), name) == value


@pytest.mark.parametrize("name", EVERY)
def test_lower_case_will_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name.lower(), EVERY[name][0])
    assert value_of(Settings.load(), name) == EVERY[name][1]


@pytest.mark.parametrize("name", EVERY)
def test_empty_is_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert Settings.load() == Settings()


@pytest.mark.parametrize("section", ["P4R_QDRANT", "P4R_RERANK"])
def test_an_empty_section_is_unset(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(section, "")
    assert Settings.load() == Settings()


@pytest.mark.parametrize("name", EVERY)
def test_the_file(name: str) -> None:
    text, value = EVERY[name]
    section, _, field = name.removeprefix("P4R_").lower().replace("__", ".").rpartition(".")
    number = not isinstance(value, str | Path | SecretStr)
    lines = f"[{section}]\n{field} = {str(value).lower() if number else repr(text)}\n"
    assert tomllib.loads(lines)
    Path("p4r.toml").write_text(lines)
    assert value_of(Settings.load(), name) == value


def test_what_is_passed_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("p4r.toml").write_text("[history]\nlength = 1\ndecay = 0.1\n[rerank]\nrrf_k = 7\n")
    monkeypatch.setenv("P4R_HISTORY__LENGTH", "2")
    monkeypatch.setenv("P4R_RERANK__RRF_K", "")
    settings = Settings.load(rerank={"weight": 0.3})
    assert (settings.history.length, settings.history.decay) == (2, 0.1)
    assert (settings.rerank.weight, settings.rerank.rrf_k) == (0.3, 7)
    assert Settings.load(history={"length": 3}).history.length == 3


def test_empty_texts_in_the_file_are_unset() -> None:
    Path("p4r.toml").write_text("[qdrant]\nurl = ''\napi_key = ''\n[encoder]\nadapter = ''\n")
    settings = Settings.load()
    assert (settings.qdrant.url, settings.qdrant.api_key) == (None, None)
    assert settings.encoder.adapter is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("price", "'price' is no field; write fields as in price=float,genre=keyword"),
        ("a b=float", "'a b=float' is no field"),
        ("price=number", "known are keyword, integer, float, bool"),
    ],
)
def test_fields_to_filter_on(fields: str, said: str) -> None:
    assert said in complaint(index={"fields": fields})
    given = Settings.load(index={"fields": FIELDS}).index
    assert given.field_types == {"price": "float", "offers[].stock": "bool"}


# --- names nobody knows ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("P4R_QDRANT__ULR", "P4R_QDRANT__URL"),
        ("P4R_QDRANT_URL", "P4R_QDRANT__URL"),
        ("p4r_qdrant__apikey", "P4R_QDRANT__API_KEY"),
        ("P4R_HISTRY__LENGTH", "P4R_HISTORY__LENGTH"),
        ("P4R_ENCODER__MODEL__NAME", "P4R_ENCODER__MODEL"),
        ("P4R_RERANKS", "P4R_RERANK"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, KEY)
    said = complaint()
    assert name in said
    assert said.endswith(f"did you mean {nearest}?")


def test_a_name_like_no_other_is_to_be_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P4R_XXXXXXXXXXXXXXXXXXXXXXXXXX", "1")
    assert complaint().endswith("is not known; unset it")


def test_an_empty_unknown_name_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P4R_QDRANT__ULR", "")
    assert "P4R_QDRANT__ULR" in complaint()


def test_names_of_the_tests_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P4R_TEST_QDRANT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("P4R_TEST_", "x")
    assert Settings.load() == Settings()


def test_names_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XP4R_QDRANT__ULR", "x")
    monkeypatch.setenv("P4RQDRANT", "x")
    assert Settings.load() == Settings()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[qdrant]\nulr = 'x'", "qdrant.ulr) is not known; did you mean P4R_QDRANT__URL?"),
        ("[qdrnt]\nurl = 'x'", "qdrnt) is not known; did you mean P4R_QDRANT?"),
        ("length = 3", "length) is not known"),
        ("[history.length]\nx = 1", "history.length): Input should be a valid integer"),
        ("qdrant = 5", "qdrant) is a section: set single names in it, not the section"),
    ],
)
def test_an_unknown_name_in_the_file(lines: str, said: str) -> None:
    Path("p4r.toml").write_text(lines)
    assert said in complaint()
    assert "in p4r.toml" in complaint()


@pytest.mark.parametrize(
    "content",
    [
        b"[qdrant]\nurl=",
        b"[qdrant",
        b"\xff\xfe\x00",
        b"url = 'x",
        f"[qdrant]\napi_key = '{KEY}".encode(),
    ],
)
def test_a_broken_file(content: bytes) -> None:
    Path("p4r.toml").write_bytes(content)
    assert complaint().startswith("p4r.toml cannot be read: ")


def test_a_byte_order_mark_before_the_file_is_no_fault() -> None:
    Path("p4r.toml").write_bytes(b"\xef\xbb\xbf[history]\nlength = 7\n")
    assert Settings.load().history.length == 7


def test_a_file_nobody_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("p4r.toml").write_text("")

    def refuse(self: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert complaint().startswith("p4r.toml cannot be read: ")


def test_several_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("p4r.toml").write_text("[history]\ndecay = 2.0\n[rerank]\nfusion = 'sum'\n")
    monkeypatch.setenv("P4R_QDRANT__TIMEOUT_S", "soon")
    said = complaint()
    for name in ("P4R_HISTORY__DECAY", "P4R_RERANK__FUSION", "P4R_QDRANT__TIMEOUT_S"):
        assert name in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("P4R_QDRANT__GRPC_PORT", "0"),
        ("P4R_QDRANT__GRPC_PORT", "65536"),
        ("P4R_QDRANT__COLLECTION", "a b"),
        ("P4R_QDRANT__COLLECTION", "../x"),
        ("P4R_QDRANT__COLLECTION", "x" * 256),
        ("P4R_QDRANT__TIMEOUT_S", "0"),
        ("P4R_QDRANT__TIMEOUT_S", "inf"),
        ("P4R_QDRANT__TIMEOUT_S", "nan"),
        ("P4R_INDEX__MAX_PERSONAS", "0"),
        ("P4R_INDEX__TENANT", "../x"),
        ("P4R_INDEX__MAX_PERSONAS", "257"),
        ("P4R_INDEX__DATATYPE", "uint8"),
        ("P4R_ENCODER__BATCH_SIZE", "-1"),
        ("P4R_HISTORY__LENGTH", "0"),
        ("P4R_HISTORY__DECAY", "0"),
        ("P4R_HISTORY__DECAY", "1.01"),
        ("P4R_RERANK__WEIGHT", "-0.1"),
        ("P4R_RERANK__WEIGHT", KEY),
        ("P4R_RERANK__FUSION", KEY),
        ("P4R_QDRANT__ALLOW_PLAINTEXT_KEY", "perhaps"),
    ],
)
def test_a_wrong_value_is_told_by_its_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert complaint().startswith(f"{name} (in p4r.toml: ")


# --- secrets -----------------------------------------------------------------------------------


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P4R_QDRANT__API_KEY", KEY)
    settings = Settings.load()
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(vars(settings))):
        assert KEY not in shown
    assert settings.qdrant.api_key is not None
    assert settings.qdrant.api_key.get_secret_value() == KEY


@pytest.mark.parametrize(
    "url",
    [
        KEY,
        f"//user:{KEY}@host",
        f"http://user:{KEY}@host",
        f"https://{KEY}@host:6333",
        f"user:{KEY}@host",
        f"{KEY}://host",
        f"http://host:{KEY}",
        f"http://[{KEY}",
        f"https:///{KEY}",
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P4R_QDRANT__URL", url)
    assert "url must" in complaint()


@pytest.mark.parametrize(
    "url",
    [
        *("host:6333", "http://", "ftp://host", "http://host:0", "http://host:99999"),
        *("http://ho st", "http://a..b", f"http://{'x' * 64}", "http://*", "http://host\n.de"),
    ],
)
def test_a_wrong_url(url: str) -> None:
    assert "url must look like http://host:6333" in complaint(qdrant={"url": url})


def test_an_address_has_one_form() -> None:
    settings = Settings.load(qdrant={"url": "http://one:6333/ , http://two:6333"})
    assert settings.qdrant.url == "http://one:6333,http://two:6333"
    assert "names an address twice" in complaint(qdrant={"url": "http://one,http://one/"})


@pytest.mark.parametrize("text", [f'{{"api_key": "{KEY}", ', "[1", KEY])
def test_a_section_that_is_no_json(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P4R_QDRANT", text)
    said = complaint()
    assert "P4R_QDRANT" in said
    assert "p4r.toml cannot be read" not in said


def test_a_section_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P4R_QDRANT", f'{{"url": "https://host", "api_key": "{KEY}"}}')
    assert Settings.load().qdrant.url == "https://host"
    monkeypatch.setenv("P4R_QDRANT", f'{{"ulr": "{KEY}"}}')
    assert "did you mean P4R_QDRANT__URL?" in complaint()


@pytest.mark.parametrize(
    "url",
    [
        "http://qdrant:6333",
        "http://10.0.0.1:6333",
        "http://localhost.example",
        "http://[2001:db8::1]",
    ],
)
@pytest.mark.parametrize(("section", "name"), [("qdrant", "url"), ("encoder", "base_url")])
def test_a_key_does_not_travel_unencrypted(section: str, name: str, url: str) -> None:
    said = complaint(**{section: {name: url, "api_key": KEY}})
    assert "unencrypted" in said
    assert f"P4R_{section.upper()}__ALLOW_PLAINTEXT_KEY" in said
    Settings.load(**{section: {name: url}})
    Settings.load(**{section: {name: url, "api_key": KEY, "allow_plaintext_key": True}})
    Settings.load(**{section: {name: url.replace("http", "https"), "api_key": KEY}})


def test_an_encoder_behind_an_address_takes_no_adapter() -> None:
    said = complaint(encoder={"base_url": "http://localhost:8080/v1", "adapter": "nightly"})
    assert "unset base_url" in said


@pytest.mark.parametrize(
    "other", [{"device": "cuda"}, {"dtype": "bfloat16"}, {"base_url": "http://localhost:8080/v1"}]
)
def test_onnx_runs_a_model_in_this_process_on_the_cpu(other: dict[str, str]) -> None:
    said = complaint(encoder={"backend": "onnx-int8", **other})
    assert "set backend to torch" in said


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "[::1]"])
def test_a_key_may_be_sent_to_this_machine(host: str) -> None:
    Settings.load(qdrant={"url": f"http://{host}:6333", "api_key": KEY})


def test_a_file_that_everybody_can_write_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for mode, warnings in ((0o644, 0), (0o666, 1)):
        folder = tmp_path / str(mode)
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / "p4r.toml").write_text("[service]\nport = 1\n")
        (folder / "p4r.toml").chmod(mode)
        caplog.clear()
        assert [Settings.load().service.port for _ in range(2)] == [1, 1]
        assert len(caplog.records) == warnings
        assert all("chmod o-w p4r.toml" in one.getMessage() for one in caplog.records)


def test_the_replicas_that_confirm_a_write() -> None:
    def confirming(replication: int, asked: int) -> int:
        index = {"replication": replication, "write_consistency": asked}
        return Settings.load(index=index).index.confirming_replicas

    assert [confirming(replication, 0) for replication in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert [confirming(3, asked) for asked in (1, 2, 3, 9)] == [1, 2, 3, 3]
