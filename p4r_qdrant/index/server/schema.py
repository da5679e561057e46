"""How the collection of an index is made: its vectors, and its payload indexes."""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from p4r_qdrant.index import payload as names
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.payload import TENANT
from p4r_qdrant.index.server.scope import Scope
from p4r_qdrant.settings import IndexSettings
from p4r_qdrant.settings.index import FieldType

WORDS = (names.NAME, names.ITEM_TITLE)
"""Fields whose words people search for in the dashboard."""


def collection(settings: IndexSettings, made_with: IndexMetadata) -> dict[str, Any]:
    """The options of qdrant-client for a new collection."""
    return {
        "vectors_config": models.VectorParams(
            size=made_with.dimension,
            distance=models.Distance.COSINE,
            on_disk=settings.on_disk_vectors,
            datatype=models.Datatype(settings.datatype),
        ),
        "hnsw_config": None if settings.hnsw else models.HnswConfigDiff(m=0),
        "quantization_config": _quantization(settings),
        "on_disk_payload": settings.on_disk_payload,
    }


def payload_indexes(settings: IndexSettings) -> dict[str, Any]:
    """The payload indexes of a collection: on all fields that are ever filtered on.

    Those that this project cannot do without come first.
    """
    on_disk = settings.on_disk_vectors
    keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, on_disk=on_disk)
    word = models.TextIndexParams(
        type=models.TextIndexType.TEXT,
        tokenizer=models.TokenizerType.WORD,
        lowercase=True,
        on_disk=on_disk,
    )
    whole = models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, lookup=True, range=True, on_disk=on_disk
    )
    number = whole.model_copy(update={"range": False})
    declared = settings.field_types
    types: dict[FieldType, Any] = {
        "keyword": keyword,
        "integer": whole,
        "float": models.FloatIndexParams(type=models.FloatIndexType.FLOAT, on_disk=on_disk),
        "bool": models.BoolIndexParams(type=models.BoolIndexType.BOOL, on_disk=on_disk),
    }
    owner: dict[str, Any] = (
        {TENANT: keyword.model_copy(update={"is_tenant": True}), names.ITEM_ID: keyword}
        if settings.tenants
        else {names.ITEM_ID: keyword.model_copy(update={"is_tenant": True})}
    )
    return {
        **owner,
        names.POSITION: number,
        names.UNSETTLED: number,
        names.GENERATION: whole,
        **dict.fromkeys(names.KEYWORDS, keyword),
        **{field: types[kind] for field, kind in declared.items()},
        **{field: word for field in WORDS if field not in declared},
    }


def filterable(info: models.CollectionInfo, scope: Scope) -> dict[str, str]:
    """The fields that callers can filter on, and their types."""
    return {
        field: index.data_type.value
        for field, index in info.payload_schema.items()
        if field not in names.BOOKKEEPING and field not in scope.marks
    }


def _quantization(settings: IndexSettings) -> models.QuantizationConfig | None:
    if settings.quantization == "scalar":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(
                type=models.ScalarType.INT8, always_ram=settings.on_disk_vectors
            )
        )
    if settings.quantization == "binary":
        return models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(always_ram=settings.on_disk_vectors)
        )
    return None
