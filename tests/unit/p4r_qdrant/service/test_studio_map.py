"""The studio's map without a browser: places, the persona at a point, what can be missing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from p4r_qdrant import Persona, open_index
from p4r_qdrant.index.segments import Segment, to_text
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.maps import record_map
from tests.support.serving import DIMENSION, READER, make_app, make_index, with_service
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
        made.app.state.studio.maps = tmp_path / "maps"  # type: ignore[attr-defined]
        yield log_in(made, READER)


def test_the_page_and_its_places(client: TestClient) -> None:
    page = Html(client.get("/studio/map").text)
    assert [one["src"] for one in page.named("script")] == ["/studio/map.js"]
    assert "The map has 4 personas, the index now 7" in " ".join(page.text.split())
    assert "Garden (2)" in page.text
    assert "alert" in page.text, "as text"
    assert client.get("/studio/map.js").headers["content-type"].startswith("text/javascript")
    content = client.get("/studio/map/points").content
    assert np.frombuffer(content[:16], "<u2").tolist() == [0, 21845, 43690, 65535] * 2
    assert content[16:] == bytes([0, 1, 0, 1])


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
        client.app.state.studio.maps = None  # type: ignore[attr-defined]
