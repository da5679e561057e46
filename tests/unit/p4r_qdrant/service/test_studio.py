"""The studio without a browser: logins, forms, headers, hostile texts, and each page."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from pydantic import SecretStr
from starlette.testclient import TestClient

from p4r_qdrant import Persona, open_index
from p4r_qdrant.errors import IndexUnavailableError
from p4r_qdrant.index.changes import Changes, ReaderChange
from p4r_qdrant.index.history import History, PublishRecord, SegmentSize
from p4r_qdrant.index.payload import point_id
from p4r_qdrant.index.segments import Example, Segment, to_text
from p4r_qdrant.index.wins import NOT_TOLD, wins_file
from p4r_qdrant.service.studio import sessions
from p4r_qdrant.service.studio.evidence import Quote
from p4r_qdrant.service.studio.support import supports
from p4r_qdrant.settings import ServiceSettings
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.hostile_texts import HOSTILE_TEXTS
from tests.support.maps import record_map
from tests.support.serving import (
    ADMIN,
    AS_ADMIN,
    CATALOGUE,
    DIMENSION,
    READER,
    make_app,
    make_index,
    persona,
    with_service,
)
from tests.support.studio_pages import Html, log_in, token

Serve = Callable[..., TestClient]
PAGES = (
    "/studio",
    "/studio/search",
    "/studio/reader",
    "/studio/segments",
    "/studio/map",
    "/studio/map/selected",
    "/studio/drift",
    "/studio/versions",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    make_index(embedded(folder))
    return folder


@pytest.fixture
def serve(made: Path, tmp_path: Path) -> Iterator[Serve]:  # closed before tmp_path is deleted
    """Starts the service with the studio, without a session."""
    clients = []

    def start(folder: Path = made, **own: Any) -> TestClient:
        app = make_app(with_service(embedded(folder), studio=True, **own), HashEncoder(DIMENSION))
        address = "http://localhost" if own.get("allow_anonymous") else "http://testserver"
        client = TestClient(app, address, raise_server_exceptions=False, follow_redirects=False)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def test_without_the_option_there_is_no_studio(made: Path) -> None:
    with TestClient(make_app(with_service(embedded(made)))) as client:
        assert client.get("/studio", headers=AS_ADMIN).status_code == 404


def test_the_pages_need_a_login(serve: Serve) -> None:
    client = serve()
    own = ("/studio/item?id=ships", "/studio/map/points", "/studio/map/persona?number=0")
    for place in (*PAGES, *own, "/studio/nowhere"):
        answer = client.get(place)
        assert answer.status_code == 401
        assert "ships" not in Html(answer.text).text.lower()
        [hidden] = [one for one in Html(answer.text).named("input") if one["name"] == "following"]
        assert hidden["value"] == place
    assert client.get("/studio", headers=AS_ADMIN).status_code == 401, "a cookie, not a header"
    assert client.get("/studio/style.css").status_code == 200


@pytest.mark.parametrize("key", ["", "wrong", "reading-kez", "\ud800"])
def test_a_wrong_key(serve: Serve, key: str) -> None:
    client = serve()
    form = {"token": token(client), "key": key.encode(errors="replace").decode()}
    assert client.post("/studio/login", data=form).status_code == 403
    assert client.get("/studio").status_code == 401


def test_the_cookie(serve: Serve) -> None:
    client = serve()
    before = client.get("/studio/login").headers["set-cookie"]
    form = {"token": token(client), "key": READER, "following": ""}
    secure = client.post("/studio/login", data=form, headers={"X-Forwarded-Proto": "https"})
    cookie = secure.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/studio", "Secure"} <= set(cookie.split("; "))
    assert "Secure" not in before
    assert READER not in cookie
    assert cookie.split(";")[0] != before.split(";")[0], "the login begins another session"


@pytest.mark.parametrize(
    ("following", "place"),
    [
        ("/studio/item?id=ships", "/studio/item?id=ships"),
        ("https://elsewhere.example/studio", "/studio"),
        ("//elsewhere.example", "/studio"),
        ("/studio\\\\elsewhere", "/studio"),
        ("/studio.elsewhere.example", "/studio"),
        ("/docs", "/studio"),
    ],
)
def test_the_login_leads_to_the_studio_only(serve: Serve, following: str, place: str) -> None:
    client = serve()
    form = {"token": token(client), "key": ADMIN, "following": following}
    assert client.post("/studio/login", data=form).headers["location"] == place


def test_a_session_ends(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = log_in(serve(), READER)
    assert client.get("/studio").status_code == 200
    cookie = client.cookies[sessions.COOKIE]
    for changed in (cookie[:-1], f"x{cookie}", cookie.replace(".", ""), "", "\x7f"):
        wrong = client.get("/studio", headers={"Cookie": f"{sessions.COOKIE}={changed}"})
        assert wrong.status_code == 401, changed
    later = time.time() + sessions.SESSION_S + 5
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: later)
        assert client.get("/studio").status_code == 401
    log_in(client, READER)
    out = client.post("/studio/logout", data={"token": token(client, "/studio")})
    assert out.status_code == 303
    assert client.get("/studio").status_code == 401


def test_another_key_ends_all_sessions(serve: Serve, made: Path) -> None:
    client = log_in(serve(), ADMIN)
    cookie = client.cookies[sessions.COOKIE]
    client.__exit__(None, None, None)
    other = with_service(embedded(made), studio=True, admin_key="another-key").service
    assert sessions.Sessions(other).read(cookie) is None
    same = with_service(embedded(made), studio=True).service
    assert sessions.Sessions(same).read(cookie) is not None


def test_the_reading_key_alone_signs_nothing() -> None:
    """Whoever knows it could else sign the role of an admin."""
    known = ServiceSettings(api_key=SecretStr(READER))
    cookie = sessions.Sessions(known).signed(sessions.Session.new("admin"))
    assert sessions.Sessions(known).read(cookie) is None


@pytest.mark.parametrize("place", ["/studio/login", "/studio/logout", "/studio/reader"])
def test_a_form_of_another_site_does_nothing(serve: Serve, place: str) -> None:
    client = log_in(serve(), ADMIN)
    stranger = TestClient(client.app)
    for given in ("", "0" * 64, token(stranger)):
        form = {"token": given, "key": ADMIN, "person": "ships", "method": "none"}
        answer = client.post(place, data=form)
        assert answer.status_code == 403
        assert "session that has ended" in answer.text
        assert "Order for this reader" not in answer.text
    assert client.post(place, json={}).status_code == 415
    assert client.get("/studio").status_code == 200, "still logged in"


def test_the_headers(serve: Serve) -> None:
    client = log_in(serve(), ADMIN)
    for place in (
        *PAGES,
        "/studio/style.css",
        "/studio/icon.svg",
        "/studio/item?id=no",
        "/studio/x",
    ):
        answer = client.get(place)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'")
        assert "unsafe" not in policy
        assert ("script-src" in policy) == (place == "/studio/map")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_anonymous_on_this_machine(serve: Serve) -> None:
    client = serve(allow_anonymous=True)
    page = client.get("/studio")
    assert page.status_code == 200
    assert "Log out" not in page.text
    form = {"token": token(client, "/studio/reader"), "person": "old roses", "method": "none"}
    assert "Roses" in client.post("/studio/reader", data=form).text
    other = client.get("/studio", headers={"Host": "elsewhere.example"})
    assert other.status_code == 400


def test_behind_a_prefix(serve: Serve) -> None:
    client = serve(root_path="/p4r")
    for place in ("/p4r/studio", "/studio"):
        page = Html(client.get(place).text)
        assert page.named("link")[0]["href"] == "/p4r/studio/style.css"
        assert page.named("form")[0]["action"] == "/p4r/studio/login"
    assert "Path=/p4r/studio" in client.get("/studio/login").headers["set-cookie"]


def links(page: Html) -> list[str]:
    return [str(one["href"]) for one in page.named("a") if "/item?" in str(one["href"])]


def test_the_catalogue(serve: Serve) -> None:
    client = log_in(serve(), READER)
    found = links(Html(client.get("/studio").text))
    assert sorted(found) == [f"/studio/item?id={one}" for one in sorted(CATALOGUE)]
    assert links(Html(client.get("/studio?words=SHIPS").text)) == ["/studio/item?id=ships"]
    assert links(Html(client.get("/studio?item=roses").text)) == ["/studio/item?id=roses"]
    assert "No item matches" in client.get("/studio?category=nothing").text
    assert client.get("/studio?start=17").status_code == 422
    assert client.get("/studio?words=" + "x" * 2000).status_code == 422


def test_pages_follow_each_other(serve: Serve, tmp_path: Path) -> None:
    encoder = HashEncoder(DIMENSION)
    fill(tmp_path / "many", {f"i{number}": [f"text {number}"] for number in range(60)}, encoder)
    client = log_in(serve(tmp_path / "many"), READER)
    seen: list[str] = []
    place: str | None = "/studio"
    while place:
        page = Html(client.get(place).text)
        seen += links(page)
        place = next((one["href"] for one in page.named("a") if one.get("rel") == "next"), None)
    assert len(seen) == len(set(seen)) == 60


def test_an_item(serve: Serve) -> None:
    client = log_in(serve(), READER)
    page = Html(client.get("/studio/item?id=ships").text)
    assert "tall ships under sail" in page.text
    assert "harbour and tide tables" in page.text
    assert "admin key only" in page.text
    assert set(links(page)) <= {f"/studio/item?id={one}" for one in CATALOGUE if one != "ships"}
    assert links(page)
    for wrong, status in (("no", 404), ("", 422), ("%0A", 422), ("x" * 600, 422)):
        assert client.get(f"/studio/item?id={wrong}").status_code == status
    assert client.get("/studio/item").status_code == 422


def test_reviews_are_quoted_to_an_admin_only(serve: Serve, made: Path) -> None:
    client = log_in(serve(), READER)
    other = log_in(TestClient(client.app, follow_redirects=False), ADMIN)
    assert "quotes no reviews" in other.get("/studio/item?id=ships").text
    quotes = {"ships_P0": [Quote("</bdi><b>Sailed</b> by night", 4.5)]}
    client.app.state.studio.evidence = lambda item_id: quotes  # type: ignore[attr-defined]
    text = other.get("/studio/item?id=ships").text
    assert "&lt;b&gt;<mark>Sailed</mark>&lt;/b&gt; by night" in text
    assert "rated 4.5" in text
    assert "1 review behind it" in text
    assert "0 reviews behind it" in text
    assert "Sailed" not in client.get("/studio/item?id=ships").text


def test_the_words_that_support_a_persona_are_marked(serve: Serve) -> None:
    client = log_in(serve(), ADMIN)
    text = 'SAILING <img src=x onerror="alert(1)"> <b>tall</b>, with a ship\'s <mark>cat</mark>.'
    quotes = {"ships_P0": [Quote(text), Quote("tall " * 400)]}
    client.app.state.studio.evidence = lambda _: quotes  # type: ignore[attr-defined]
    html = client.get("/studio/item?id=ships").text
    assert "<mark>SAILING</mark> &lt;img src=x onerror=" in html
    assert "&lt;b&gt;<mark>tall</mark>&lt;/b&gt;, with a ship&#39;s" in html, (
        "both personas say ships"
    )
    assert "&lt;mark&gt;cat&lt;/mark&gt;" in html
    assert html.count("<mark>tall</mark>") == 1 + 300 + 400, "also in what is cut, and in all of it"
    assert "Underlined: what the persona says too" in html
    check_harmless(html)


@pytest.mark.parametrize(
    ("own", "quote", "marked"),
    [
        ("sailed by night", "Sailing, SAILS and a sailor at nights", "Sailing SAILS sailor nights"),
        ("internal interest", "interior, interests", "interests"),
        ("the cat sat", "the cat sat", ""),
        ("most people read", "Most people", ""),
        (
            "\u0928\u093e\u0935\u093f\u0915",
            "\u0928\u093e\u0935\u093f\u0915!",
            "\u0928\u093e\u0935\u093f\u0915",
        ),
        ("Stra\u00dfenbahn", "STRASSENBAHN", "STRASSENBAHN"),
        ("", "", ""),
    ],
)
def test_support(own: str, quote: str, marked: str) -> None:
    others = [["most people walk"], ["what most people do"]]
    first = supports([[own, ""], *others])[0]
    parts = list(first.parts(quote))
    assert "".join(part for part, _ in parts) == quote
    assert " ".join(part for part, is_support in parts if is_support) == marked


def test_items_without_a_title(serve: Serve, tmp_path: Path) -> None:
    settings, encoder = embedded(tmp_path / "index"), HashEncoder(DIMENSION)
    make_index(settings)
    with open_index(settings, encoder=encoder) as index:
        for item_id in ("ships", "roses"):
            own = [persona(item_id, 0, f"{item_id} alone")]
            index.replace_item(item_id, own, encoder.encode_personas(own))
        record_map(index, tmp_path / "maps", ["ships", "roses"])
    client = log_in(serve(tmp_path / "index"), READER)
    client.app.state.studio.artifacts = tmp_path  # type: ignore[attr-defined]
    for place in ("", "/item?id=ships", "/search?person=roses+alone", "/map/persona?number=1"):
        answer = client.get(f"/studio{place}")
        assert (answer.status_code, "roses" in answer.text) == (200, True), place
    assert "roses" in client.get("/studio/map/selected").text


def test_how_often_a_persona_wins_and_how_an_item_changed(serve: Serve, tmp_path: Path) -> None:
    settings = embedded(tmp_path / "index")
    make_index(settings)
    (tmp_path / "maps").mkdir()
    with open_index(settings) as index:
        own, points = index.get("ships"), [point_id("ships", number) for number in range(2)]
        shares = np.array([63, NOT_TOLD], np.uint8)
        places, parts = (np.full((2, 3), NOT_TOLD, np.uint8) for _ in range(2))
        places[0, :2], parts[0, :2] = [1, 9], [40, 20]
        name, content = wins_file(own, points, shares, places, parts)
        (tmp_path / "maps" / f"{name}.wins").write_bytes(content)
        segments = tuple(Segment(id="s", name=one, personas=1, items=1) for one in ("A", "<b>B"))
        index.record(wins=f"{name} 1204", segments=to_text(segments))
    texts = [persona("ships", number, "x") for number in range(3)]
    sizes = [SegmentSize("s1", "<b>Sea", 4)]
    with closing(History(tmp_path / "history.sqlite")) as history:
        for number, version in enumerate(("one", "two")):
            with history.recording() as recording:
                recording.settle("ships", texts[: 2 + number])
                mix = {"": 5, "old <i>roses": 2 + number}
                record = PublishRecord(0, f"2026-01-0{number + 1}T08:00", version, 4, 7, mix)
                recording.finish(record, ["ships"])
        history.note_segments(PublishRecord(0, "", "two", 0, 0, {}, sizes))
    client = log_in(serve(tmp_path / "index"), READER)
    assert "Wins for" not in client.get("/studio/item?id=ships").text
    assert "without an artifact folder" in client.get("/studio/drift").text
    client.app.state.studio.artifacts = tmp_path  # type: ignore[attr-defined]
    page = " ".join(Html(client.get("/studio/item?id=ships").text).text.split())
    assert "Wins for 63 % of 1,204 readers: most in <b>B (40 %)" in page
    assert "Wins for too few of 1,204 readers" in page
    assert "2026-01-02: 3 personas, 1 new" in page
    assert "Wins" not in client.get("/studio/item?id=roses").text
    drift = client.get("/studio/drift")
    told = " ".join(Html(drift.text).text.split())
    assert "2 publishes of this catalogue" in told
    assert "old <i>roses 3 (+1)" in told
    assert "without a category 5" in told
    assert "<b>Sea 4" in told
    labels = {one.get("aria-label") for one in Html(drift.text).named("svg")}
    assert {"2, 3", "not known, 4", "4, 4"} <= labels
    (tmp_path / "history.sqlite").write_bytes(b"broken" * 99)
    assert "cannot be read" in client.get("/studio/drift").text
    assert client.get("/studio/item?id=ships").status_code == 200


def test_a_search_by_person(serve: Serve) -> None:
    client = log_in(serve(), READER)
    page = Html(client.get("/studio/search?person=night trains across the alps").text)
    assert links(page)[0] == "/studio/item?id=trains"
    assert not links(Html(client.get("/studio/search?person=%20").text))


def test_a_search_by_person_among_items_that_match(serve: Serve, tmp_path: Path) -> None:
    settings, encoder = embedded(tmp_path / "index"), HashEncoder(DIMENSION)
    make_index(settings, encoder)
    stored = {
        "ships": {"category": "at-sea", "language": "de", "price": 4.5, "stock": 2, "sale": True},
        "roses": {"category": "garden", "language": "en", "price": 9.0, "stock": 0, "sale": False},
    }
    with open_index(settings, encoder=encoder) as index:
        for item_id, fields in stored.items():
            own = [persona(item_id, 0, f"{item_id} alone")]
            index.replace_item(item_id, own, encoder.encode_personas(own), fields)
    client = log_in(serve(tmp_path / "index"), READER)

    def found(**given: str) -> list[str]:
        query = {"person": "anybody", **given}
        answer = client.get("/studio/search", params=query)
        assert answer.status_code == 200
        page = Html(answer.text)
        kept = {one["name"]: one.get("value") for one in page.named("input")}
        assert query.items() - kept.items() <= {("is.sale", given.get("is.sale", ""))}
        return [place.partition("=")[2] for place in links(page)]

    assert set(found()) == set(CATALOGUE)
    assert found(category="At sea") == ["ships"]
    assert found(category="garden", **{"is.language": "de"}) == []
    assert found(**{"is.language": "en"}) == ["roses"]
    assert found(**{"is.sale": "yes"}) == ["ships"]
    assert found(**{"is.sale": "no"}) == ["roses"]
    assert found(**{"from.price": "5"}) == ["roses"]
    assert found(**{"to.price": "4,5", "from.price": "1"}) == ["ships"]
    assert found(**{"from.stock": "1"}) == ["ships"]
    chosen = client.get("/studio/search?is.sale=no").text
    assert "<option selected>no</option>" in chosen
    assert '<details class="wide" open>' in chosen
    assert '<details class="wide">' in client.get("/studio/search").text
    for wrong, said in (
        ({"from.price": "cheap"}, "filter on 'price': 'cheap' is no number"),
        ({"to.price": "nan"}, "filter on 'price': nan is no number"),
        ({"is.colour": "red"}, "filter on 'colour': this field is not declared"),
        ({"is.sale": "perhaps"}, "filter on 'sale'"),
        ({"is.": "x"}, "a name of letters"),
        ({"is.language": "x" * 1001}, "1000 characters"),
        ({"is.language": "de", "from.language": "1"}, "filter on 'language'"),
        ({"category": "garden", "from.category": "1"}, "filter on 'category': ['is'] given"),
        ({"category": "garden", "to.language": "1"}, "filter on 'language'"),
    ):
        answer = client.get("/studio/search", params={"person": "anybody", **wrong})
        assert (answer.status_code, said in Html(answer.text).text) == (422, True), wrong
        check_harmless(answer.text)


def ranked(client: TestClient, **form: str) -> tuple[int, list[str], str]:
    form["token"] = token(client, "/studio/reader")
    answer = client.post("/studio/reader", data=form)
    return answer.status_code, links(Html(answer.text)), answer.text


def test_a_reader(serve: Serve) -> None:
    client = log_in(serve(), ADMIN)
    candidates = "cakes\t0.9\nships\t0.5\nroses\t0.2\nno-personas\t0.1"
    given = {"person": "pruning old roses", "candidates": candidates}
    status, order, text = ranked(client, **given, personas="1", generator="0")
    assert status == 200
    assert order[0] == "/studio/item?id=roses"
    assert "up 2 from 3" in text
    assert "pruning old roses" in text
    _, order, text = ranked(client, **given, personas="0", generator="1")
    assert order[0] == "/studio/item?id=cakes", "the weights change the order"
    assert "where it was" in text
    assert 'class="generator"' in text
    _, order, _ = ranked(client, history="roses\nnight trains", method="none")
    assert "/studio/item?id=trains" in order, "the whole catalogue, with words and an item"
    _, _, text = ranked(client, history="roses", candidates=candidates)
    assert "100 % of the persona score from" in text
    assert "/studio/item?id=no-personas" not in links(Html(text)), "the index does not have it"
    _, _, text = ranked(client, history="roses", candidates=candidates.replace("\n", "\r\n"))
    assert f"\n{candidates}</textarea>" in text, "line breaks as a browser sends them"


def test_a_stored_user(serve: Serve) -> None:
    client = log_in(serve(tell_because=False), ADMIN)
    one = {"item_id": "ships", "rating": 5, "timestamp": 1}
    put = client.post("/v1/users/eve/interactions", json=one, headers=AS_ADMIN)
    assert put.status_code in (200, 201, 202), put.text
    candidates = "cakes\nships"
    _, order, text = ranked(client, user="eve", candidates=candidates)
    assert order[0] == "/studio/item?id=ships"
    assert "of the persona score from" in text
    assert '<option value="eve">' in text
    reading = log_in(TestClient(client.app, follow_redirects=False), READER)
    _, order, text = ranked(reading, user="eve", candidates=candidates)
    assert order[0] == "/studio/item?id=ships"
    assert "of the persona score from" not in text, "a reader learns nothing of stored users"
    assert "<datalist" not in text
    assert ranked(client, user="nobody", candidates=candidates)[0] == 404
    client.delete("/v1/users/eve", headers=AS_ADMIN)


def test_why_not(serve: Serve) -> None:
    client = log_in(serve(deadline_ms=30_000), ADMIN)
    given = {"history": "roses\ncakes\ntrains", "candidates": "cakes\nroses\nships\ntrains"}
    status, _, text = ranked(client, **given, method="none", top="1")
    assert status == 200
    buttons = [one for one in Html(text).named("button") if one.get("name") == "why_not"]
    assert len(buttons) == 3, "each item but the first"
    lifted = 0
    for one in buttons:
        item_id = str(one["value"])
        status, _, text = ranked(client, **given, method="none", top="1", why_not=item_id)
        assert status == 200
        assert f"Why not {item_id.title()}?" in Html(text).text
        assert "What it lacks to that item" in text
        lifted += "It is number 1 without" in text
        assert "It is number 1 w" in text or "No single change lifts it: " in text
    assert lifted, "without the roses, something else is first"
    status, _, text = ranked(client, history="roses", method="none", top="1", why_not="ships")
    assert (status, "It is number" in text) == (200, True), "the whole catalogue"
    status, _, text = ranked(client, **given, method="none", why_not="roses")
    assert "already, among the first 10." in text


def test_why_not_names_no_item_of_a_stored_user_to_a_reader(serve: Serve) -> None:
    client = serve(tell_because=False, deadline_ms=30_000)
    for at, item_id in enumerate(("roses", "ships")):
        done = {"item_id": item_id, "timestamp": at}
        sent = client.post("/v1/users/eva/interactions", json=done, headers=AS_ADMIN)
        assert sent.status_code == 202
    given = {"user": "eva", "candidates": "roses\nships", "top": "1", "method": "none"}
    texts = []
    for key in (ADMIN, READER):
        client.cookies.clear()
        log_in(client, key)
        asked = [ranked(client, **given, why_not=one)[2] for one in ("roses", "ships")]
        texts.append("".join(asked))
    assert "It is number 1 without" in texts[0]
    assert "without" not in texts[1]
    assert "One change of the history lifts it." in texts[1]
    client.delete("/v1/users/eva", headers=AS_ADMIN)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({}, "one of three"),
        ({"person": "a", "top": "0"}, "a whole number from 1 to 10000"),
        ({"person": "a", "top": "000000001" + "9" * 5000}, "a whole number from 1 to 10000"),
        ({"person": "a", "top": "9" * 5000}, "a whole number from 1 to 10000"),
        ({"person": "a", "why_not": "no", "candidates": "x"}, "is not among the 1 candidates"),
        ({"person": "a", "why_not": "no"}, "the index has no item 'no'"),
        ({"person": "a", "history": "b"}, "one of three"),
        ({"person": "a", "candidates": "x\tmuch"}, "line 1: 'much' is no number"),
        ({"person": "a", "candidates": "\n".join(map(str, range(2000)))}, "at most 1000"),
        ({"history": "\n".join(map(str, range(300)))}, "200 lines at most"),
        ({"person": "a", "personas": "much"}, "from 0 to 1000"),
        ({"person": "a", "generator": "-1"}, "from 0 to 1000"),
        ({"person": "a", "personas": "nan"}, "from 0 to 1000"),
        ({"person": "a", "method": "magic"}, "methods of the list"),
        ({"person": "a", "candidates": "x" * 600}, "512 characters"),
        ({"person": "a", "candidates": "ships", "collaborative": "1"}, "collaborative"),
        ({f"field {number}": "" for number in range(260)}, "250 fields at most"),
    ],
)
def test_a_wrong_form_keeps_what_was_typed(serve: Serve, form: dict[str, str], said: str) -> None:
    status, _, text = ranked(log_in(serve(), READER), **form)
    assert status == 422
    assert said in Html(text).text
    if "person" in form:
        assert "\na</textarea>" in text


def test_without_the_index_nothing_typed_is_lost(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = log_in(serve(), ADMIN)
    own = token(client, "/studio/reader")

    def away() -> None:
        raise IndexUnavailableError("http://10.0.0.1:6333 does not answer")

    monkeypatch.setattr(client.app.state.service.backend, "in_use", away)  # type: ignore[attr-defined]
    form = {"token": own, "person": "pruning old roses", "candidates": "roses"}
    for answer in (
        client.post("/studio/reader", data=form),
        *(client.get(place) for place in ("/studio", "/studio/versions", "/studio/item?id=roses")),
    ):
        assert answer.status_code == 503
        assert "not available now" in answer.text
        assert "10.0.0.1" not in answer.text
    assert "pruning old roses</textarea>" in client.post("/studio/reader", data=form).text
    assert client.get("/studio/reader").status_code == 200


def test_the_versions(serve: Serve, made: Path) -> None:
    client = serve()
    text = Html(log_in(client, ADMIN).get("/studio/versions").text).text
    assert "hash-encoder" in text
    assert str(made) in text
    client.post("/studio/logout", data={"token": token(client, "/studio")})
    assert str(made) not in log_in(client, READER).get("/studio/versions").text


def test_what_a_version_changed(serve: Serve, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    one = ReaderChange("roses_P0", hostile, ("ships", "cakes"), ("cakes", "trains"))
    same = ReaderChange("ships_P0", "Sailor", ("cakes",), ("cakes",))
    make_index(embedded(tmp_path / "own"))
    with open_index(embedded(tmp_path / "own")) as index:
        changes = Changes(5, 4, 1, 2, 3, ("trains",), (hostile,), (one, same))
        index.record(changes=changes.to_text())
    client = log_in(serve(tmp_path / "own"), READER)
    html = client.get("/studio/versions").text
    text = " ".join(Html(html).text.split())
    assert "5 items before, 4 after: 1 gained, 2 lost, 3 with other texts." in text
    assert "25.0 % of the first places of 2 synthetic readers change." in text
    assert "50 % leave: ships ; come: trains" in text.replace("ships;", "ships ;")
    check_harmless(html)


def test_segments(serve: Serve, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    rose = Example(item_id="roses", persona_id="roses_P0", name=hostile)
    made = (
        Segment(id="s1", name=hostile, personas=3, items=2, users=5, share=0.25, examples=(rose,)),
        Segment(id="s2", name="Few", personas=1, items=1),
    )
    make_index(embedded(tmp_path / "own"))
    client = log_in(serve(tmp_path / "own"), READER)
    assert "This version has no segments." in client.get("/studio/segments").text
    client.__exit__(None, None, None)
    with open_index(embedded(tmp_path / "own")) as index:
        index.record(segments=to_text(made))
    html = log_in(serve(tmp_path / "own"), READER).get("/studio/segments").text
    text = " ".join(Html(html).text.split())
    assert "s1: 3 personas of 2 items, 25 % of the users" in text
    assert "s2: 1 personas of 1 items personas 1" in text, "few users are not told"
    assert "/studio/item?id=roses" in links(Html(html))
    check_harmless(html)


# --- hostile texts ---------------------------------------------------------------------------


def fill(folder: Path, items: dict[str, list[str]], encoder: HashEncoder) -> None:
    """An index in which each text stands in every field of an item."""
    with open_index(
        embedded(folder),
        dimension=encoder.dimension,
        fingerprint=encoder.fingerprint,
        encoder=encoder.name,
        create=True,
    ) as index:
        for number, (item_id, texts) in enumerate(items.items()):
            personas = [
                Persona(
                    persona_id=f"P{number}-{place}",
                    name=text,
                    description=text,
                    preference_rationale=text,
                )
                for place, text in enumerate(texts)
            ]
            fields = dict.fromkeys(("item_title", "summary", "category", "domain", "own"), texts[0])
            vectors = encoder.encode_documents([one.description for one in personas])
            index.replace_item(item_id, personas, vectors, fields)


def check_harmless(html: str) -> None:
    """Nothing runs, nothing is fetched from elsewhere, nothing turns the page around."""
    page = Html(html)
    allowed = {"html", "head", "meta", "title", "link", "body", "a", "header", "nav", "form"}
    allowed |= {"input", "button", "main", "h1", "h2", "h3", "p", "label", "div", "ul", "ol", "li"}
    allowed |= {"bdi", "b", "span", "section", "details", "summary", "dl", "dt", "dd", "textarea"}
    allowed |= {
        "mark",
        "fieldset",
        "legend",
        "select",
        "option",
        "datalist",
        "svg",
        "rect",
        "blockquote",
    }
    assert {name for name, _ in page.tags} <= allowed
    for name, attributes in page.tags:
        assert not {one for one in attributes if one.startswith("on") or one == "style"}, name
        for one in ("href", "src", "action"):
            assert attributes.get(one, "/studio") in ("#main",) or str(
                attributes.get(one, "/studio")
            ).startswith("/studio"), attributes
    unsafe = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
    assert not re.search(unsafe, html.replace("\r", ""))


def test_hostile_texts_in_every_field(serve: Serve, tmp_path: Path) -> None:
    assert len(HOSTILE_TEXTS) >= 40
    encoder = HashEncoder(DIMENSION)
    items = {f"item {number}": [text, text] for number, text in enumerate(HOSTILE_TEXTS)}
    fill(tmp_path / "hostile", items, encoder)
    client = log_in(serve(tmp_path / "hostile"), ADMIN)
    place: str | None = "/studio"
    while place:
        answer = client.get(place)
        assert answer.status_code == 200
        check_harmless(answer.text)
        page = Html(answer.text)
        place = next((one["href"] for one in page.named("a") if one.get("rel") == "next"), None)
    quotes = [Quote(f"{text} tide", 5) for text in HOSTILE_TEXTS]
    quoted = {f"P{n}-{at}": quotes[n : n + 1] for n in range(len(items)) for at in range(2)}
    client.app.state.studio.evidence = lambda _: quoted  # type: ignore[attr-defined]
    for item_id in items:
        answer = client.get("/studio/item", params={"id": item_id})
        assert answer.status_code == 200, item_id
        check_harmless(answer.text)


def test_hostile_texts_in_every_form(serve: Serve) -> None:
    client = log_in(serve(), ADMIN)
    own = token(client, "/studio/reader")
    names = ("item", "words", "category", "domain", "start")
    for text in HOSTILE_TEXTS:
        check_harmless(client.get("/studio", params=dict.fromkeys(names, text[:900])).text)
        sought = dict.fromkeys(("person", "category", "is.shelf", "from.n", text[:90]), text[:900])
        check_harmless(client.get("/studio/search", params=sought).text)
        check_harmless(client.get("/studio/item", params={"id": text[:500]}).text)
        text = text[:20_000]
        form = {"token": own, "history": text, "candidates": text}
        answer = client.post("/studio/reader", data={**form, "method": text, "personas": text})
        assert answer.status_code == 422
        check_harmless(answer.text)
        answer = client.post("/studio/reader", data={**form, "candidates": "ships"})
        assert answer.status_code in (200, 422)
        check_harmless(answer.text)
