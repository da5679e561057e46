"""Where the persona index is, and how a new one is made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from p4r_qdrant.errors import InputError
from p4r_qdrant.settings.section import (
    PLAINTEXT_KEY,
    OptionalSecret,
    OptionalText,
    Section,
    check_address,
)


def _ports(text: str) -> list[int]:
    return [int(one) for one in text.split(",") if one.strip()]


def _check_ports(text: str) -> str:
    try:
        are_ports = all(1 <= one <= 65535 for one in _ports(text))
    except ValueError:
        are_ports = False
    if not are_ports:
        raise ValueError("grpc_ports must be port numbers with commas between, as in 6334,6344")
    return text


def _without_slashes(url: str | None) -> str | None:
    """The addresses without the slash at the end, so that an address has one form."""
    return url and ",".join(one.strip().rstrip("/") for one in url.split(","))


class QdrantSettings(Section):
    """Where the persona index is: on a Qdrant server, or embedded in a folder."""

    url: Annotated[OptionalText, AfterValidator(_without_slashes)] = Field(
        None,
        description="Address of the Qdrant server, such as http://localhost:6333; of a cluster, of "
        "several nodes, separated by commas. Unset: the index is embedded in the folder `path`.",
    )
    api_key: OptionalSecret = Field(None, description="API key of the Qdrant server.")
    grpc_port: int = Field(6334, ge=1, le=65535, description="Port of the Qdrant server for gRPC.")
    grpc_ports: Annotated[str, AfterValidator(_check_ports)] = Field(
        "",
        description="Ports for gRPC of the addresses in `url`, in their order, separated by "
        "commas, if they differ. Empty: `grpc_port` for all.",
    )
    path: Path = Field(Path("p4r-index"), description="Folder of the embedded index.")
    collection: str = Field(
        "personas",
        min_length=1,
        max_length=255,
        pattern=r"^[\w.-]+$",
        description="Name of the index on the server: an alias of the collection in use.",
    )
    timeout_s: float = Field(
        10.0, gt=0, description="Seconds that one call to the Qdrant server may take."
    )
    read_consistency: Literal["one", "quorum", "majority", "all"] = Field(
        "one",
        description="Replicas that must agree when a write looks at what is there, such as the "
        "replacement of an item and its repair. one: the node that this process writes to. quorum: "
        "more than half; a node that is cut off is refused. majority, all: every node must be "
        "there. Rankings read one replica.",
    )
    refresh_s: float = Field(
        0.0,
        ge=0,
        description="Seconds between two checks for a newly published index. 0: check only when "
        "`refresh()` is called; `p4r serve` and `p4r work` then use 5.",
    )
    transport: Literal["auto", "grpc", "rest"] = Field(
        "auto",
        description="How queries reach the Qdrant server. auto: over gRPC, or over REST alone if "
        "the gRPC port does not answer. REST is slower.",
    )
    allow_plaintext_key: bool = Field(False, description=PLAINTEXT_KEY)

    @model_validator(mode="after")
    def _check_url(self) -> QdrantSettings:
        if self.url is None:
            return self
        for url in self._urls:
            check_address(
                url,
                "url",
                "http://host:6333 or https://host:6333, or several of them with commas between",
                "QDRANT",
                key_in_the_clear=bool(self.api_key) and not self.allow_plaintext_key,
            )
        if len(set(self._urls)) < len(self._urls):
            raise ValueError("url names an address twice")
        if self._ports and len(self._ports) != len(self._urls):
            raise ValueError(
                f"grpc_ports has {len(self._ports)} ports, and url has {len(self._urls)} addresses"
            )
        return self

    @property
    def _urls(self) -> list[str]:
        return (self.url or "").split(",")

    @property
    def _ports(self) -> list[int]:
        return _ports(self.grpc_ports)

    @property
    def each(self) -> list[QdrantSettings]:
        """These settings for each address alone.

        With several of them, one call to one node may take half of the time-out, so that there is
        time to ask another.
        """
        ports = self._ports or [self.grpc_port] * len(self._urls)
        share = 1 if len(self._urls) == 1 else 2
        return [
            self.model_copy(
                update={
                    "url": url,
                    "grpc_port": port,
                    "grpc_ports": "",
                    "timeout_s": self.timeout_s / share,
                }
            )
            for url, port in zip(self._urls, ports, strict=True)
        ]


FieldType = Literal["keyword", "integer", "float", "bool"]
FIELD_TYPES = ", ".join(get_args(FieldType))
FIELD_NAME = re.compile(r"[\w-]+(\[\d*\])*(\.[\w-]+(\[\d*\])*)*")
"""A field that can be filtered on; `a.b` is b inside a, `a[].b` in each element of the list a."""


def _field_types(text: str) -> dict[str, FieldType]:
    """Field -> type, of "price=float,genre=keyword". Raises ValueError."""
    found: dict[str, FieldType] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, sign, kind = (part.strip() for part in pair.partition("="))
        if not sign or not FIELD_NAME.fullmatch(name):
            raise ValueError(f"{pair!r} is no field; write fields as in price=float,genre=keyword")
        if kind not in get_args(FieldType):
            raise ValueError(f"{pair!r} has no known type; known are {FIELD_TYPES}")
        found[name] = cast("FieldType", kind)
    return found


def _check_fields(text: str) -> str:
    _field_types(text)
    return text


TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NO_TENANT_NAME = (
    "a tenant's name has 1 to 63 of a-z, 0-9, - and _, and begins with a letter or a digit"
)


def is_tenant_name(text: str) -> bool:
    """Whether a text can be the name of a tenant."""
    return TENANT_NAME.fullmatch(text) is not None


def _check_tenant(name: str) -> str:
    if name and not is_tenant_name(name):
        raise ValueError(NO_TENANT_NAME)
    return name


class IndexSettings(Section):
    """How a new index is made, whose it is, and how many personas an item may have."""

    max_personas: int = Field(
        7, ge=1, le=256, description="Largest number of personas of one item."
    )
    fields: Annotated[str, AfterValidator(_check_fields)] = Field(
        "",
        description="Your own fields to filter on and their types, as in "
        f"price=float,genre=keyword. Types: {FIELD_TYPES}. They are declared when the index is "
        "next opened for writing; on a server each gets a payload index. A filter on another field "
        "is refused.",
    )
    datatype: Literal["float32", "float16"] = Field(
        "float32", description="Number format of the stored vectors. float16 halves their size."
    )
    quantization: Literal["none", "scalar", "binary"] = Field(
        "none",
        description="Quantized copies of the vectors on a server, for your own searches. Reranking "
        "scores the original vectors.",
    )
    on_disk_vectors: bool = Field(
        False, description="Keep vectors and payload indexes on disk instead of in memory."
    )
    on_disk_payload: bool = Field(True, description="Keep payloads on disk instead of in memory.")
    hnsw: bool = Field(
        False,
        description="Build HNSW links. Searches over the whole catalogue need them; reranking "
        "does not.",
    )
    shards: int = Field(1, ge=1, description="Number of shards of a new collection on a cluster.")
    replication: int = Field(
        1, ge=1, description="Replication factor of a new collection on a cluster."
    )
    write_consistency: int = Field(
        0,
        ge=0,
        description="Replicas of a new collection that must have a write before it is confirmed; a "
        "larger number than `replication` means all. With all of them, nothing can be written "
        "while a node is away. 0: half of them, rounded up, so 2 of 3.",
    )
    read_fan_out: int = Field(
        0,
        ge=0,
        description="Further replicas of a new collection that answer each query at the same time; "
        "the first answer counts. 1 keeps a node that hangs from delaying the others.",
    )

    tenants: bool = Field(
        False,
        description="Several catalogues in one index, each of a tenant (`p4r tenant add`). It "
        "holds for the whole index, from its beginning.",
    )
    tenant: Annotated[str, AfterValidator(_check_tenant)] = Field(
        "", description="With `tenants`: the tenant of commands without --tenant."
    )

    @property
    def owner(self) -> str:
        """The tenant that is meant; "" without tenants. Raises InputError if none is named."""
        if self.tenants and not self.tenant:
            raise InputError(
                "P4R_INDEX__TENANTS is set, and no tenant is named: use --tenant NAME, or set "
                "P4R_INDEX__TENANT"
            )
        if self.tenant and not self.tenants:
            raise InputError(
                f"the tenant {self.tenant!r} is named, but P4R_INDEX__TENANTS is not set: set it "
                "to true, or name no tenant"
            )
        return self.tenant

    @property
    def confirming_replicas(self) -> int:
        """The replicas of a new collection that must have a write before it is confirmed."""
        asked = self.write_consistency or (self.replication + 1) // 2
        return min(asked, self.replication)

    @property
    def field_types(self) -> dict[str, FieldType]:
        """`fields`: field -> type."""
        return _field_types(self.fields)
