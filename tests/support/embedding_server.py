"""An OpenAI-compatible /v1/embeddings server over real sockets, with a HashEncoder behind it.

The fields of `EmbeddingServer` make it fail.
"""

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from p4r_qdrant.arrays import Floats
from tests.support.hash_encoder import HashEncoder

MODEL = "hashes"


@dataclass
class EmbeddingServer:
    """`fail` holds the answers to the next requests: (status, headers); then it serves.

    A request with a text that contains `cannot` gets `cannot_code`. Before an answer is sent,
    `change` is applied to its vectors, then `answer_to` (with the texts) and `answer` to the
    whole of it.
    """

    url: str = ""
    encoder: HashEncoder = field(default_factory=HashEncoder)
    key: str | None = None
    most: int = 32
    longest: int = 10_000
    cannot: str | None = None
    cannot_code: int = 500
    knows_base64: bool = True
    latency_s: float = 0.0
    fail: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    change: Callable[[Floats], Floats] = lambda vectors: vectors
    answer: Callable[[list[dict[str, Any]]], Any] = lambda data: data
    answer_to: Callable[[list[str], list[dict[str, Any]]], Any] = lambda _, data: data
    requests: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def status(self, request: dict[str, Any], key: str | None) -> int:
        if self.key is not None and key != f"Bearer {self.key}":
            return 401
        if request["model"] != MODEL:
            return 404
        if request["encoding_format"] == "base64" and not self.knows_base64:
            return 422
        if self.cannot is not None and any(self.cannot in text for text in request["input"]):
            return self.cannot_code
        too_long = any(len(text) > self.longest for text in request["input"])
        return 413 if len(request["input"]) > self.most or too_long else 200

    def data(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """One entry for each text, shuffled."""
        with self.lock:
            vectors = self.change(3 * self.encoder.encode_texts(request["input"]))
        found = [
            {"object": "embedding", "index": index, "embedding": one.tolist()}
            if request["encoding_format"] == "float"
            else {"index": index, "embedding": base64.b64encode(one.astype("<f4")).decode()}
            for index, one in enumerate(np.asarray(vectors))
        ]
        random.Random(0).shuffle(found)
        return found


@contextmanager
def running(**options: Any) -> Iterator[EmbeddingServer]:
    """The server on a free port of this machine."""
    state = EmbeddingServer(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with state.lock:
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                self.reply()
            finally:
                with state.lock:
                    state.at_once -= 1

        def reply(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(state.latency_s)
            with state.lock:
                state.requests.append(request)
                failure = state.fail.pop(0) if state.fail else None
            if self.path != "/v1/embeddings":
                failure = (404, {})
            code, headers = failure or (state.status(request, self.headers["Authorization"]), {})
            if code == 0:  # hang up
                self.close_connection = True
                return
            found = None
            if code == 200:
                found = state.answer(state.answer_to(request["input"], state.data(request)))
            body = {"data": found} if code == 200 else {"error": {"message": f"no: {code}"}}
            text = json.dumps(body).encode()
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
