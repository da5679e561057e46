"""The calls of a gRPC `PointsStub` that this project makes, over REST: where gRPC is blocked."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.qdrant_remote import QdrantRemote


class RestPoints:
    """Takes and returns the messages of `PointsStub`; slower. See `Connection.points`.

    Its methods ignore `timeout` and `metadata`: the client has its own. They raise what
    qdrant-client raises.
    """

    def __init__(self, client: QdrantRemote) -> None:
        self._http = client.http

    def Query(self, message: grpc.QueryPoints, **_: Any) -> Any:  # noqa: N802 - as in PointsStub
        """One query."""
        answer = self._http.search_api.query_points(
            message.collection_name, query_request=GrpcToRest.convert_query_points(message)
        )
        return _answer(_scored(answer.result))

    def QueryBatch(self, message: grpc.QueryBatchPoints, **_: Any) -> Any:  # noqa: N802
        """Several queries."""
        requests = [GrpcToRest.convert_query_points(one) for one in message.query_points]
        answer = self._http.search_api.query_batch_points(
            message.collection_name,
            query_request_batch=models.QueryRequestBatch(searches=requests),
        )
        return _answer([_answer(_scored(one)) for one in answer.result or ()])

    def Get(self, message: grpc.GetPoints, **_: Any) -> Any:  # noqa: N802
        """Points by id."""
        answer = self._http.points_api.get_points(
            message.collection_name,
            point_request=models.PointRequest(
                shard_key=GrpcToRest.convert_shard_key_selector(message.shard_key_selector)
                if message.HasField("shard_key_selector")
                else None,
                ids=[GrpcToRest.convert_point_id(one) for one in message.ids],
                with_payload=GrpcToRest.convert_with_payload_selector(message.with_payload),
                with_vector=GrpcToRest.convert_with_vectors_selector(message.with_vectors)
                if message.HasField("with_vectors")
                else False,
            ),
        )
        return _answer([RestToGrpc.convert_retrieved_point(one) for one in answer.result or ()])


def _scored(found: models.QueryResponse | None) -> Sequence[grpc.ScoredPoint]:
    return [RestToGrpc.convert_scored_point(one) for one in (found.points if found else ())]


def _answer(result: Sequence[Any]) -> Any:
    return SimpleNamespace(result=result)
