"""The studio's pages as a test client gets them."""

import re
from html.parser import HTMLParser

from starlette.testclient import TestClient


class Html(HTMLParser):
    """A page: its text, its elements, and the fields of its forms that post."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def token(client: TestClient, place: str = "/studio/login") -> str:
    found = re.search(r'name="token" value="(\w+)"', client.get(place).text)
    assert found
    return found[1]


def log_in(client: TestClient, key: str) -> TestClient:
    form = {"token": token(client), "key": key, "following": "/studio/versions"}
    answer = client.post("/studio/login", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/versions")
    return client
