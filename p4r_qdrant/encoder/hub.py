"""The model hub: whether it can be asked, and where its files lie on this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import httpx

from p4r_qdrant.encoder.border import reason_of

_PATIENCE_S = 5.0
_ORGANISATION = "sentence-transformers"  # of a name without one


def why_unreachable() -> str:
    """Why the model hub cannot be asked; "" if it can.

    Its own client tries each of some ten files for seconds.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        httpx.head(constants.ENDPOINT, timeout=_PATIENCE_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return reason_of(error)
    return ""


def folder_of(model: str) -> Path | None:
    """The folder of a model, given by its folder or its name on the hub; None if none is here."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    for name in (model, f"{_ORGANISATION}/{model}"):
        for file in ("modules.json", "config.json"):
            place = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
            with suppress(ValueError):  # no name of the hub
                found = try_to_load_from_cache(name, file, cache_dir=place)
                if isinstance(found, str):
                    return Path(found).parent
        if "/" in model:
            break
    return None
