"""The studio's map without a browser: places, the persona at a point, what can be missing."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from p4r_qdrant import Persona, open_index
from p4r_qdrant.index.segments import Segment, to_text
from p4r_qdrant.service.studio import selection
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import write
from tests.support.maps import record_map
from tests.support.reviewing import decide, desk_of
from tests.support.serving import (
    ADMIN,
    DIMENSION,
    READER,
    make_app,
    make_index,
    persona,
    with_service,
)
from tests.support.studio_pages import Html, log_in

HOSTILE = "</bdi><script>alert(1)</script>\u202e"
ITEMS = ["ships", "hostile", "no longer there", "roses"]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """The studio of a reader, with a map of four personas, one of which is gone."""
    settings = embedded(tmp_path / "index")
    make_index(settings)
    encoder = HashEncoder(DIMENSION)
    one = Persona(
        persona_id="P0", name=HOSTILE, description=HOSTILE * 100, preference_rationale="None."
    )
    segments = (
        Segment(id="s1", name=HOSTILE, personas=2, items=2),
        Segment(id="s2", name="Garden", personas=2, items=2),
    )
    with open_index(settings, encoder=encoder) as index:
        fields = {"item_title": HOSTILE}
        index.replace_item("hostile", [one], encoder.encode_personas([one]), fields)
        record_map(index, tmp_path / "maps", ITEMS)
        index.record(segments=to_text(segments))
    with TestClient(make_app(with_service(settings, studio=True)), follow_redirects=False) as made:
        made.app.state.studio.artifacts = tmp_path  # type: ignore[attr-defined]
        yield log_in(made, READER)


def test_the_page_and_its_places(client: TestClient) -> None:
    page = Html(client.get("/studio/map").text)
    assert [one["src"] for one in page.named("script")] == ["/studio/map.js"]
    assert "The map has 4 personas, the index now 7" in " ".join(page.text.split())
    assert {"Garden", "sea", "land <i>"} <= {one.strip() for one in page.text.split("\n")}
    assert "state" not in [one.get("value") for one in page.named("option")], "of reviewers alone"
    assert "alert" in page.text, "as text"
    assert client.get("/studio/map.js").headers["content-type"].startswith("text/javascript")
    content = client.get("/studio/map/points").content
    assert np.frombuffer(content[:16], "<u2").tolist() == [0, 21845, 43690, 65535] * 2
    assert content[16:] == bytes([0, 1, 0, 1, 1, 0, 1, 0])
    assert client.get("/studio/map/states").status_code == 403


def test_the_persona_at_a_point(client: TestClient) -> None:
    found = client.get("/studio/map/persona?number=0")
    assert "tall ships under sail" in found.text
    assert Html(found.text).named("a") == [{"href": "/studio/item?id=ships"}]
    hostile = client.get("/studio/map/persona?number=1")
    assert not Html(hostile.text).named("script")
    assert "\u202e" not in hostile.text
    assert len(hostile.text) < 3000
    assert client.get("/studio/map/persona?number=2").status_code == 404
    assert client.get("/studio/map/persona?number=4").status_code == 404
    for wrong in ("-1", "x", "", "9" * 30):
        assert client.get(f"/studio/map/persona?number={wrong}").status_code == 422


def test_without_a_map(client: TestClient, tmp_path: Path) -> None:
    [path] = (tmp_path / "maps").iterdir()
    path.write_bytes(b"broken")
    for say in ("no map of this version", "without an artifact folder"):
        page = client.get("/studio/map")
        assert page.status_code == 200
        assert say in page.text
        assert not Html(page.text).named("script")
        assert client.get("/studio/map/points").status_code == 404
        assert client.get("/studio/map/persona?number=0").status_code == 404
        client.app.state.studio.artifacts = None  # type: ignore[attr-defined]
        assert client.get("/studio/map/selected").status_code == 404


def found(client: TestClient, query: str) -> tuple[int, list[str]]:
    """The number that the page tells, and the items of the list."""
    answer = client.get(f"/studio/map/selected?{query}")
    assert answer.status_code == 200, answer.text
    told = re.search(r"([0-9]+) of 4 personas", Html(answer.text).text)
    assert told
    return int(told[1]), re.findall(r"/item\?id=(\w+)", answer.text)


def test_a_part_of_the_map_as_a_list(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(client, "") == (4, ["ships", "hostile", "roses"]), "one is gone"
    assert "1 of them are no longer" in client.get("/studio/map/selected").text
    assert found(client, "area=0+0+30000+0+30000+30000+0+30000") == (2, ["ships", "hostile"])
    triangle = "area=60000+60000+65536+60000+65536+65536+60000+65536"
    assert found(client, triangle) == (1, ["roses"])
    assert found(client, "by=segment&only=0") == (2, ["ships"])
    assert found(client, "by=category&only=0") == (2, ["hostile", "roses"])
    assert found(client, "by=category&only=7") == (0, [])
    monkeypatch.setattr(selection, "PAGE", 2)
    page = client.get("/studio/map/selected?only=").text
    assert "start=2" in page
    assert found(client, "start=2") == (4, ["roses"])
    assert not {name for name, _ in Html(page).tags} & {"script", "img", "i"}
    for wrong in ("area=1+2", "area=1+2+3+4+5", "area=x", "only=-1", "by=name", "start=-1"):
        assert client.get(f"/studio/map/selected?{wrong}").status_code == 422, wrong
    assert client.get("/studio/map/selected?by=state&only=1").status_code == 403


def test_the_list_as_a_table(client: TestClient) -> None:
    answer = client.get("/studio/map/selected.csv?only=1")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == list(selection.COLUMNS)
    assert [row[0] for row in rows[1:]] == ["hostile", "roses"]
    assert rows[2][4:] == ["Reader of roses 0", "pruning old roses"]


def test_the_states_of_reviewers(client: TestClient, tmp_path: Path) -> None:
    own = [persona("ships", number, "x").model_dump() for number in range(2)]
    write(tmp_path, "personas.jsonl", [{"item_id": "ships", "personas": own}])
    decide(tmp_path, "approve", "ships", "ships_P0")
    client.app.state.studio.desk = desk_of(tmp_path)  # type: ignore[attr-defined]
    assert "state" not in client.get("/studio/map").text.partition("<main")[2]
    client.cookies.clear()
    log_in(client, ADMIN)
    assert client.get("/studio/map/states").content == bytes([4, 255, 255, 255])
    assert found(client, "by=state&only=4") == (1, ["ships"])
    assert '<option value="state">' in client.get("/studio/map").text


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=9),
)
def test_what_lies_in_an_outline(
    corners: list[tuple[int, int]], places: list[tuple[int, int]]
) -> None:
    """As one finds by walking to the right from each place, and counting the edges crossed."""
    outline = np.array(corners, np.float64)
    points = np.array(places, np.uint16).reshape(-1, 2)
    edges = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    expected = []
    for x, y in places:
        crossed = 0
        for (x1, y1), (x2, y2) in edges:
            if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
                crossed += 1
        expected.append(crossed % 2 == 1)
    assert selection.inside(points, outline).tolist() == expected
