"""What all sections of the settings share: the base class, optional texts and keys, addresses."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr

PREFIX = "P4R_"
PLAINTEXT_KEY = "Send the API key over unencrypted http to another machine."
"""Description of every `allow_plaintext_key`."""


class Section(BaseModel):
    """Base class of the sections: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _empty_is_unset(value: Any) -> Any:
    """Read an empty text in p4r.toml as "not set"; the environment does so by itself."""
    return None if value == "" else value


def _check_secret(value: SecretStr | None) -> SecretStr | None:
    """Raise ValueError unless the key fits into an HTTP header; the message omits its value."""
    secret = value.get_secret_value() if value else ""
    if not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        raise ValueError("a key has only printable ASCII characters and no spaces around it")
    return value


OptionalText = Annotated[str | None, BeforeValidator(_empty_is_unset)]
OptionalSecret = Annotated[
    SecretStr | None, BeforeValidator(_empty_is_unset), AfterValidator(_check_secret)
]


def check_address(
    url: str, field: str, example: str, section: str, *, key_in_the_clear: bool
) -> None:
    """Raise ValueError unless `url` is a well-formed address that a key may be sent to.

    key_in_the_clear: a key is set, and `allow_plaintext_key` is not.
    """
    if "@" in url:
        raise ValueError(
            f"{field} must not contain a password; set {PREFIX}{section}__API_KEY instead"
        )
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and parts.port != 0
        well_formed &= url.isprintable() and _is_host(parts.hostname or "")
    except ValueError:  # a port that is not a number, half an IPv6 address
        well_formed = False
    if not well_formed or not parts.hostname or parts.query or parts.fragment:
        # The text may be a key in the wrong place, so the message does not repeat it.
        raise ValueError(f"{field} must look like {example}")
    if key_in_the_clear and parts.scheme == "http" and not is_this_machine(parts.hostname):
        raise ValueError(
            f"the API key would travel unencrypted to {parts.hostname}: use https, or set "
            f"{PREFIX}{section}__ALLOW_PLAINTEXT_KEY=true on a network you trust"
        )


def _is_host(name: str) -> bool:
    """Whether a name can be that of a host: letters, digits, ".", "-", "_"; or an IPv6 address."""
    if ":" in name:
        return True  # urlsplit has checked it
    name.encode("idna")  # raises ValueError for a part that is empty or too long
    return re.fullmatch(r"[\w.-]+", name) is not None


def is_this_machine(host: str) -> bool:
    """Whether a host name or IP address is the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
