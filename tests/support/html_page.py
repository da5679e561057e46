"""A page that the project writes, read back and checked to be one harmless file."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br"}
ALLOWED = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "h4", "p", "div"}
ALLOWED |= {"b", "i", "small", "span", "bdi", "br", "section", "footer", "a", "ul", "ol", "li"}
ALLOWED |= {"table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "pre"}
ALLOWED |= {"details", "summary", "svg", "rect", "line", "text"}
FETCHING = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}

MARKUP = (
    "</bdi></p></style></title><script>alert(1)</script><img src=//x onerror=alert(1)>"
    "\"' onmouseover=alert(1) x=' {{ 7 * 7 }} {% raw %} $name &amp;"
)
"""Markup, a script, attribute breakers and templates; may stand in an id."""
HOSTILE = f"{MARKUP} \u202egnp.exe\u2066 \u05d0\u200f \x1b[2J\x07"
"""The same with writing directions and terminal controls."""


class Page(HTMLParser):
    """Tags, attributes and texts; raises where a tag is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag in ("h1", "h2"):
            self.headings.append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"h1", "h2"} & set(self._open):
            self.headings[-1] += data

    def check_harmless(self, *links: str) -> None:
        """Nothing runs, nothing is fetched, and no text changes the direction of another.

        links: what the page may lead to, besides its own parts.
        """
        assert self.tags <= ALLOWED
        assert not [name for name, _ in self.attributes if name.startswith("on")]
        fetched = [str(value) for name, value in self.attributes if name in FETCHING]
        assert all(value.startswith("#") or value in links for value in fetched)
        assert not re.search(r"url\(|@import", self.html)
        assert "default-src 'none'" in self.html
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", self.html)

    def check_tables(self) -> None:
        """Every table begins with column headings, and none of them is empty."""
        tables = self.html.split("<table")[1:]
        head = re.compile(r"[^>]*>\s*(<caption>[^<]*</caption>\s*)?<thead>")
        assert all(head.match(table) for table in tables)
        assert not re.search(r"<th[^>]*>\s*</th>", self.html)
