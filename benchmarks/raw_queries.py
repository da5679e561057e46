"""Reranks written by hand on the raw gRPC stubs: what the index on a server is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p4r_qdrant import Settings
from p4r_qdrant.arrays import Floats
from p4r_qdrant.index.payload import point_prefix


class Raw:
    """Queries written by hand on the raw gRPC stubs, each as fast as it can be."""

    def __init__(self, settings: Settings) -> None:
        import grpc as transport
        from qdrant_client import grpc

        self.grpc = grpc
        key = settings.qdrant.api_key
        host = (settings.qdrant.url or "").split("//")[1].split(":")[0].split("/")[0]
        channel = transport.insecure_channel(
            f"{host}:{settings.qdrant.grpc_port}",
            options=[("grpc.max_receive_message_length", -1)],
        )
        self.stub: Any = grpc.PointsStub(channel)  # type: ignore[no-untyped-call]
        self.metadata = (("api-key", key.get_secret_value()),) if key else ()
        self.name = settings.qdrant.collection
        self.exact = grpc.SearchParams(exact=True)
        self.nothing = grpc.WithPayloadSelector(enable=False)
        self.everything = grpc.WithPayloadSelector(enable=True)
        self.names = grpc.WithPayloadSelector(
            include=grpc.PayloadIncludeSelector(fields=["item_id", "persona_id"])
        )

    def variants(self) -> dict[str, Callable[[Floats, list[list[str]]], Any]]:
        return {
            "grouped, all texts": lambda users, ids: self.grouped(users, ids, self.everything),
            "grouped, then texts": lambda users, ids: self.grouped(users, ids, self.nothing),
            "flat with ids, then texts": lambda users, ids: self.flat(users, ids, self.names),
            "flat, then texts": lambda users, ids: self.flat(users, ids, self.nothing),
        }

    def grouped(self, users: Floats, candidates: list[list[str]], payload: Any) -> Any:
        answers = []
        for user, item_ids in zip(users, candidates, strict=True):
            message = self.grpc.QueryPointGroups(
                collection_name=self.name,
                group_by="item_id",
                group_size=1,
                limit=len(item_ids),
                with_payload=payload,
                **self._asked(user, item_ids),
            )
            groups = self.stub.QueryGroups(message, metadata=self.metadata, timeout=60).result
            best = {one.id.string_value: one.hits[0] for one in groups.groups}
            found = {item_id: (hit.score, hit.id.uuid) for item_id, hit in best.items()}
            if payload is self.everything:
                texts = [_read(hit.payload) for hit in list(best.values())[:10]]
            else:
                texts = self._texts([point for _, point in list(found.values())[:10]])
            answers.append((found, texts))
        return answers

    def flat(self, users: Floats, candidates: list[list[str]], payload: Any) -> Any:
        messages = [
            self.grpc.QueryPoints(
                collection_name=self.name,
                limit=7 * len(item_ids),
                with_payload=payload,
                **self._asked(user, item_ids),
            )
            for user, item_ids in zip(users, candidates, strict=True)
        ]
        batch = self.grpc.QueryBatchPoints(collection_name=self.name, query_points=messages)
        if len(messages) == 1:
            results = [self.stub.Query(messages[0], metadata=self.metadata, timeout=60)]
        else:
            results = self.stub.QueryBatch(batch, metadata=self.metadata, timeout=60).result
        answers = []
        for one, item_ids in zip(results, candidates, strict=True):
            best: dict[str, tuple[float, str]] = {}
            if payload is self.nothing:  # the id tells whose point it is
                owner = {point_prefix(item_id): item_id for item_id in item_ids}
                for hit in one.result:
                    point = hit.id.uuid
                    best.setdefault(owner[point[:-2]], (hit.score, point))
            else:
                for hit in one.result:
                    best.setdefault(hit.payload["item_id"].string_value, (hit.score, hit.id.uuid))
            answers.append(best)
        shown = [point for best in answers for _, point in list(best.values())[:10]]
        return answers, self._texts(shown)

    def _asked(self, user: Floats, item_ids: list[str]) -> dict[str, Any]:
        grpc = self.grpc
        match = grpc.Match(keywords=grpc.RepeatedStrings(strings=item_ids))
        condition = grpc.Condition(field=grpc.FieldCondition(key="item_id", match=match))
        vector = grpc.VectorInput(dense=grpc.DenseVector(data=user.tolist()))
        return {
            "query": grpc.Query(nearest=vector),
            "filter": grpc.Filter(must=[condition]),
            "params": self.exact,
        }

    def _texts(self, points: list[str]) -> Any:
        message = self.grpc.GetPoints(
            collection_name=self.name,
            ids=[self.grpc.PointId(uuid=point) for point in points],
            with_payload=self.everything,
        )
        answer = self.stub.Get(message, metadata=self.metadata, timeout=60)
        return [_read(one.payload) for one in answer.result]


def _read(payload: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in payload.items()}
