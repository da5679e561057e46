"""A reverse proxy in front of an LLM that records every call and its answer."""

import http.client
import json
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Exchange:
    """One call; `reply` is None until the whole answer has arrived."""

    body: dict[str, Any]
    reply: str | None = None

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        return str(self.body["messages"][1]["content"])


@dataclass
class CountingProxy:
    url: str = ""
    calls: list[Exchange] = field(default_factory=list)


@contextmanager
def counting_proxy(upstream: str) -> Iterator[CountingProxy]:
    """A proxy on a free loopback port for the endpoint `upstream`."""
    proxy, host = CountingProxy(), urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            exchange = Exchange(json.loads(body))
            proxy.calls.append(exchange)
            connection = http.client.HTTPConnection(host, timeout=600)
            try:
                connection.request("POST", self.path, body, {"content-type": "application/json"})
                ready, _, _ = select.select([connection.sock, self.connection], [], [])
                if connection.sock not in ready:  # the client was killed: drop the call
                    self.close_connection = True
                    return
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            if answer.status == 200:
                exchange.reply = json.loads(content)["choices"][0]["message"]["content"]
            with suppress(ConnectionError):  # the client may have been killed
                self.send_response(answer.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}{urlsplit(upstream).path}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
