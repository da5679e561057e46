"""The review pages: who may decide, what is kept, two reviewers, sessions that end."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from indexer.artifacts.evidence import QuotedEvidence
from indexer.review import deciding
from p4r_qdrant.errors import IndexUnavailableError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.service.studio import catalogue, sessions
from p4r_qdrant.service.studio.review import changes
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.hostile_texts import HOSTILE_TEXTS
from tests.support.jsonl import read, write
from tests.support.reviewing import decide, desk_of, in_review
from tests.support.serving import (
    ADMIN,
    AS_READER,
    CATALOGUE,
    DIMENSION,
    READER,
    make_app,
    make_index,
    persona,
    with_service,
)
from tests.support.studio_pages import Html, log_in, token

REVIEWER = "reviewer-key"
SHIPS = "/studio/review/item?id=ships"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "artifacts"
    path.mkdir()
    records = []
    for item, says in CATALOGUE.items():
        own = [persona(item, number, one).model_dump() for number, one in enumerate(says)]
        records.append({"item_id": item, "personas": own})
    write(path, "personas.jsonl", records)
    return path


@pytest.fixture
def client(folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    settings = embedded(tmp_path / "index")
    make_index(settings)
    own = with_service(settings, studio=True, reviewer_key=REVIEWER)
    app = make_app(own, HashEncoder(DIMENSION))
    app.state.studio.desk = desk_of(folder)
    with TestClient(app, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


def reviewer(client: TestClient, name: str = "Ann", key: str = REVIEWER) -> TestClient:
    """A client of the same service, logged in and named."""
    own = TestClient(client.app, raise_server_exceptions=False, follow_redirects=False)
    log_in(own, key)
    form = {"token": token(own, SHIPS), "id": "ships", "by": name}
    assert own.post("/studio/review/name", data=form).headers["location"] == SHIPS
    return own


def form_of(client: TestClient, persona_id: str, **fields: str) -> dict[str, str]:
    """The form of a persona as its page has it, with these fields."""
    html = client.get(SHIPS).text
    seen = re.search(rf'name="persona" value="{persona_id}">\s*<input[^>]*value="([^"]+)"', html)
    assert seen
    name = re.search(r'name="by" value="([^"]*)"', html)
    assert name
    own = {"token": token(client, SHIPS), "persona": persona_id, "seen": seen[1], "by": name[1]}
    return own | fields


def texts_of(**changed: str) -> dict[str, str]:
    own = persona("ships", 0, CATALOGUE["ships"][0]).model_dump()
    return {name: own[name] for name in ("name", "description", "preference_rationale")} | changed


def live_ids(client: TestClient, item: str) -> list[str]:
    answer = client.get(f"/v1/items/{item}/personas", headers=AS_READER)
    return [one["persona_id"] for one in answer.json()["personas"]] if answer.is_success else []


def test_only_reviewers_get_in(client: TestClient) -> None:
    assert client.get("/studio/review").status_code == 401
    log_in(client, READER)
    assert client.get("/studio/review").status_code == 403
    assert "/studio/review" not in client.get("/studio").text
    form = {"token": token(client, "/studio"), "persona": "ships_P0", "action": "approve"}
    assert client.post(SHIPS, data=form).status_code == 403
    for key in (REVIEWER, ADMIN):
        client.cookies.clear()
        log_in(client, key)
        assert client.get("/studio/review").status_code == 200


def test_the_reviewer_key_reads_the_api_and_does_not_write(client: TestClient) -> None:
    own = {"Authorization": f"Bearer {REVIEWER}"}
    assert client.get("/v1/items/ships/personas", headers=own).status_code == 200
    refused = client.delete("/v1/items/ships", headers=own)
    assert refused.status_code == 403
    assert "reviewer key" in refused.text


def test_without_artifacts_the_page_says_so(client: TestClient) -> None:
    client.app.state.studio.desk = None  # type: ignore[attr-defined]
    log_in(client, REVIEWER)
    answer = client.get("/studio/review")
    assert answer.status_code == 200
    assert "without an artifact folder" in Html(answer.text).text
    assert client.get(SHIPS).status_code == 404


def test_a_decision_needs_a_name(client: TestClient, folder: Path) -> None:
    log_in(client, REVIEWER)
    assert 'value="approve"' not in client.get(SHIPS).text
    form = {"token": token(client, SHIPS), "persona": "ships_P0", "action": "approve"}
    seen = in_review(folder, "ships")["ships_P0"].seen
    assert client.post(SHIPS, data=form | {"seen": seen}).status_code == 422
    for name in ("", "x" * 101, "two\nlines"):
        given = {"token": token(client, SHIPS), "by": name}
        assert client.post("/studio/review/name", data=given).status_code == 422


def test_each_button(client: TestClient, folder: Path) -> None:
    own = reviewer(client)
    for action, state in (
        ("approve", "approved"),
        ("undo", "pending"),
        ("lock", "locked"),
        ("undo", "pending"),
        ("reject", "rejected"),
    ):
        form = form_of(own, "ships_P0", action=action, remark=f"about {action}")
        assert own.post(SHIPS, data=form).headers["location"] == SHIPS
        assert in_review(folder, "ships")["ships_P0"].state == state
    form = form_of(own, "ships_P1", action="edit", **texts_of(description="Mine.\r\nTwo."))
    assert own.post(SHIPS, data=form).status_code == 303
    assert in_review(folder, "ships")["ships_P1"].texts.description == "Mine.\nTwo."
    rows = read(folder / "decisions.jsonl")
    assert {one["by"] for one in rows} == {"Ann"}
    assert rows[0]["remark"] == "about approve"
    page = Html(own.get(SHIPS).text).text
    assert "reject by Ann" in page
    assert "about reject" in page
    assert own.post(SHIPS, data=form | {"action": "burn"}).status_code == 422


def test_a_split_on_the_page(client: TestClient, folder: Path) -> None:
    records = read(folder / "personas.jsonl")
    records[0]["personas"][0]["evidence"] = [f"user-{n}" for n in range(250)]
    write(folder, "personas.jsonl", records)
    own = reviewer(client)
    page = Html(own.get(SHIPS).text)
    boxes = [one["name"] for one in page.named("input") if one.get("type") == "checkbox"]
    assert [one for one in boxes if one != "now"] == [f"to_other_{n}" for n in range(1, 201)]
    assert "The other 50 reviews stay with the first one" in page.text
    assert "user-7" not in page.text, "no names"
    other = {f"other_{name}": text for name, text in texts_of(name="Tides <b>").items()}
    chosen = {f"to_other_{n}": "1" for n in (2, 200)}
    form = form_of(own, "ships_P0", action="split", **texts_of(), **other, **chosen)
    bad = own.post(SHIPS, data=form | {"to_other_251": "1"})
    assert (bad.status_code, "there is no review 251" in bad.text) == (422, True)
    kept = Html(bad.text)
    checked = [one["name"] for one in kept.named("input") if "checked" in one]
    assert checked == ["to_other_2", "to_other_200"]
    assert "Tides <b>" in kept.text
    assert own.post(SHIPS, data=form).status_code == 303
    half = in_review(folder, "ships")["ships_P0_S1"]
    assert (half.texts.name, half.evidence_count, half.state) == ("Tides <b>", 2, "edited")
    assert in_review(folder, "ships")["ships_P0"].evidence_count == 248
    assert "split by Ann" in Html(own.get(SHIPS).text).text


def test_asking_the_llm_again_leaves_the_item_to_the_worker(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = reviewer(client)
    empty = own.post(SHIPS, data=form_of(own, "ships_P0", action="ask"))
    assert (empty.status_code, "the remark is empty" in Html(empty.text).text) == (422, True)
    for remark in ("Less about sails.", "And less about ropes."):
        form = form_of(own, "ships_P0", action="ask", remark=remark)
        assert own.post(SHIPS, data=form).status_code == 303
    assert in_review(folder, "ships")["ships_P0"].state == "asked"
    assert "has not answered yet" in Html(own.get(SHIPS).text).text
    with own.app.state.service.backend.in_use() as live:  # type: ignore[attr-defined]
        assert [one.body["item_id"] for one in live.users.jobs.due(9)] == ["ships", "ships"]

        def away(*_: Any) -> None:
            raise IndexUnavailableError("Qdrant is away")

        monkeypatch.setattr(type(live.users.jobs), "add", away)
    form = form_of(own, "ships_P1", action="ask", remark="Which tides?")
    answer = own.post(SHIPS, data=form)
    assert (answer.status_code, "the remark is kept" in answer.text) == (503, True)
    assert in_review(folder, "ships")["ships_P1"].state == "asked"
    assert own.post(SHIPS, data=form).status_code == 409, "not kept twice"


def test_a_folder_whose_personas_come_later(client: TestClient, folder: Path) -> None:
    later = (folder / "personas.jsonl").rename(folder / "later")
    client.app.state.studio.desk = desk_of(folder)  # type: ignore[attr-defined]
    client.app.state.studio.evidence = QuotedEvidence(folder)  # type: ignore[attr-defined]
    log_in(client, REVIEWER)
    page = client.get("/studio/review")
    assert (page.status_code, "no personas.jsonl yet" in page.text) == (200, True)
    assert client.get(SHIPS).status_code == 404
    assert client.get("/studio/item?id=ships").status_code == 200
    later.rename(folder / "personas.jsonl")
    assert "no personas.jsonl yet" not in client.get("/studio/review").text
    assert client.get(SHIPS).status_code == 200


def test_two_reviewers_at_once(client: TestClient, folder: Path) -> None:
    ann, bob = reviewer(client), reviewer(client, "Bob")
    late = form_of(bob, "ships_P0", action="edit", **texts_of(description="What Bob typed."))
    ann.post(SHIPS, data=form_of(ann, "ships_P0", action="reject"))
    answer = bob.post(SHIPS, data=late)
    assert answer.status_code == 409
    assert "Ann has decided" in Html(answer.text).text
    assert "What Bob typed." in answer.text
    assert in_review(folder, "ships")["ships_P0"].state == "rejected"
    again = re.search(r'name="seen" value="([^"]+)"', answer.text)
    assert again
    bob.post(SHIPS, data=late | {"seen": again[1]})
    assert in_review(folder, "ships")["ships_P0"].state == "edited"


def test_what_is_not_possible_keeps_what_was_typed(client: TestClient, folder: Path) -> None:
    client.app.state.studio.desk = desk_of(folder, "galleon")  # type: ignore[attr-defined]
    own = reviewer(client)
    form = form_of(own, "ships_P0", action="edit", **texts_of(description="A galleon."))
    answer = own.post(SHIPS, data=form)
    assert answer.status_code == 422
    assert "banned words" in Html(answer.text).text
    assert "A galleon." in answer.text


def test_a_session_that_ends_loses_nothing_that_was_typed(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = reviewer(client)
    form = form_of(own, "ships_P0", action="edit", **texts_of(description="<b>Long</b> work."))
    later = time.time() + sessions.SESSION_S + 5
    monkeypatch.setattr(time, "time", lambda: later)
    answer = own.post(SHIPS, data=form)
    assert answer.status_code == 401
    inputs = Html(answer.text).named("input")
    fields = {str(one["name"]): one["value"] or "" for one in inputs if "value" in one}
    assert fields["kept_description"] == "<b>Long</b> work."
    resumed = own.post("/studio/login", data=fields | {"key": REVIEWER})
    assert resumed.status_code == 200
    html = Html(resumed.text)
    [action] = [one["action"] for one in html.named("form") if one["action"] == SHIPS]
    again = {str(one["name"]): one["value"] or "" for one in html.named("input")}
    assert own.post(action, data=again).status_code == 303
    assert in_review(folder, "ships")["ships_P0"].texts.description == "<b>Long</b> work."


def test_a_rejected_persona_leaves_the_live_index_on_demand(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = reviewer(client)
    assert live_ids(client, "ships") == ["ships_P0", "ships_P1"]
    own.post(SHIPS, data=form_of(own, "ships_P0", action="reject"))
    assert live_ids(client, "ships") == ["ships_P0", "ships_P1"], "until the next publish"
    own.post(SHIPS, data=form_of(own, "ships_P0", action="withdraw"))
    assert live_ids(client, "ships") == ["ships_P1"]

    def away(*_: Any) -> int:
        raise IndexUnavailableError("Qdrant is away")

    with monkeypatch.context() as patch:
        patch.setattr(PersonaIndex, "drop_personas", away)
        answer = own.post(SHIPS, data=form_of(own, "ships_P1", action="reject", now="1"))
    assert answer.status_code == 503
    own.post(SHIPS, data=form_of(own, "ships_P1", action="withdraw"))
    assert live_ids(client, "ships") == [], "the decision was kept"


def test_what_changed_since_the_approval_is_marked(client: TestClient, folder: Path) -> None:
    decide(folder, "approve", "ships", "ships_P0")
    records = read(folder / "personas.jsonl")
    records[0]["personas"][0]["description"] = "tall ships under steam"
    write(folder, "personas.jsonl", records)
    html = reviewer(client).get(SHIPS).text
    assert "<del><bdi>sail</bdi></del>" in html
    assert "<ins><bdi>steam</bdi></ins>" in html


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("a b c", "a x c", [("equal", "a"), ("delete", "b"), ("insert", "x"), ("equal", "c")]),
        ("", "a", [("insert", "a")]),
        ("a " * 3000, "b", [("delete", "a " * 3000), ("insert", "b")]),
    ],
)
def test_changes(before: str, after: str, found: list[tuple[str, str]]) -> None:
    assert changes(before, after) == found


def test_hostile_texts_stay_texts(client: TestClient, folder: Path) -> None:
    own = [
        {**persona("evil", number, "x").model_dump(), "name": text, "description": text}
        for number, text in enumerate(HOSTILE_TEXTS)
        if text.strip()
    ]
    write(folder, "personas.jsonl", [{"item_id": "<script>", "personas": own}])
    flags = [
        {
            "item_id": "<script>",
            "persona_id": "evil_P1",
            "digest": in_review(folder, "<script>")["evil_P1"].seen.partition("-")[2],
            "flags": {"<img src=x onerror=alert(1)>": "<script>alert(1)</script>"},
        }
    ]
    write(folder, "flags.jsonl", flags)
    client.app.state.studio.desk = desk_of(folder)  # type: ignore[attr-defined]
    log_in(client, REVIEWER)
    client.post("/studio/review/name", data={"token": token(client, "/studio"), "by": "<b>A</b>"})
    for place in ("/studio/review", "/studio/review/item?id=%3Cscript%3E"):
        answer = client.get(place)
        assert answer.status_code == 200, place
        assert not {name for name, _ in Html(answer.text).tags} & {"script", "img", "iframe"}
        assert "<script>" not in answer.text
        assert "<img" not in answer.text
        assert "<b>A</b>" not in answer.text


def titles(client: TestClient, query: str) -> list[str]:
    answer = client.get(f"/studio?{query}")
    assert answer.status_code == 200
    return re.findall(r'<h2><a href="/studio/item\?id=(\w+)">', answer.text)


def test_the_catalogue_by_state_flag_and_risk(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = in_review(folder, "trains")["trains_P0"].seen.partition("-")[2]
    flags = {"near twin": "it is alike"}
    row = {"item_id": "trains", "persona_id": "trains_P0", "digest": digest, "flags": flags}
    write(folder, "flags.jsonl", [row])
    decide(folder, "approve", "ships", "ships_P1")
    decide(folder, "reject", "cakes", "cakes_P0")
    log_in(client, REVIEWER)
    assert titles(client, "risk=1") == ["trains", "roses", "ships", "cakes"]
    assert titles(client, "state=approved") == ["ships"]
    assert titles(client, "state=open&words=ships") == ["ships"]
    assert titles(client, "state=open&item=cakes") == []
    assert titles(client, "flag=near+twin") == ["trains"]
    assert titles(client, "flag=none") == []
    monkeypatch.setattr(catalogue, "PAGE", 3)
    first = client.get("/studio?risk=1").text
    assert "start=3" in first
    assert titles(client, "risk=1&start=3") == ["cakes"]
    for start in ("x", "-1", "9" * 99, "\u0663"):
        assert client.get("/studio", params={"risk": "1", "start": start}).status_code in (200, 422)
    reader = log_in(TestClient(client.app, follow_redirects=False), READER)
    assert "Riskiest" not in reader.get("/studio?risk=1&state=approved").text


def test_many_personas_and_long_texts(client: TestClient, folder: Path) -> None:
    own = [persona("ships", number, f"sail {number}").model_dump() for number in range(256)]
    own[7]["description"] = "\u05d0\u202e" * 100_000
    write(folder, "personas.jsonl", [{"item_id": "ships", "personas": own}])
    answer = reviewer(client).get(SHIPS)
    assert answer.status_code == 200
    html = Html(answer.text)
    assert len(html.named("section")) == 256
    assert html.text.count("at most; of a longer one") == 1
    assert "\u202e" not in answer.text
    assert len(answer.text) < 3_000_000


def test_texts_that_are_not_yet_published(client: TestClient, folder: Path) -> None:
    own = reviewer(client)
    item, said = "/studio/item?id=ships", "not yet published: run p4r publish --artifacts DIR"

    def told(place: str) -> bool:
        return said in Html(own.get(place).text).text

    assert not told("/studio")
    assert not told(item)
    decide(folder, "approve", "ships", "ships_P0")
    assert not told(item), "the texts are the same"
    decide(folder, "reject", "ships", "ships_P1")
    assert told(item)
    assert "texts of 1 item of this page" in Html(own.get("/studio").text).text
    assert told("/studio?state=rejected")
    assert not told("/studio/item?id=roses")
    decide(folder, "undo", "ships", "ships_P1")
    assert not told(item)
    decide(folder, "edit", "ships", "ships_P1", description="Tides alone.")
    assert told(item)
    with own.app.state.service.backend.in_use() as live:  # type: ignore[attr-defined]
        live.index.record(policy="approved-only")
    assert told(item), "the edited text is approved"
    assert told("/studio?item=roses"), "nobody has approved what is served"
    personas = [persona("kites", 0, "kites on a beach").model_dump()]
    records = [*read(folder / "personas.jsonl"), {"item_id": "kites", "personas": personas}]
    write(folder, "personas.jsonl", records)
    assert "the artifact folder has it" not in own.get("/studio/item?id=kites").text
    with own.app.state.service.backend.in_use() as live:  # type: ignore[attr-defined]
        live.index.record(policy="")
    answer = own.get("/studio/item?id=kites")
    assert (answer.status_code, "the artifact folder has it" in answer.text) == (404, True)
    reader = log_in(TestClient(client.app, follow_redirects=False), READER)
    for place in ("/studio?item=kites", item):
        assert "published" not in reader.get(place).text


def test_the_item_shows_flags_and_decisions_to_reviewers(client: TestClient, folder: Path) -> None:
    digest = in_review(folder, "ships")["ships_P0"].seen.partition("-")[2]
    flags = {"weak grounding": "its evidence says <b>little</b> of it"}
    row = {"item_id": "ships", "persona_id": "ships_P0", "digest": digest, "flags": flags}
    write(folder, "flags.jsonl", [row])
    client.app.state.studio.desk = desk_of(folder, "tide")  # type: ignore[attr-defined]
    decide(folder, "approve", "ships", "ships_P0", remark="<i>Good</i>.")
    page = Html(reviewer(client).get("/studio/item?id=ships").text)
    assert "weak grounding its evidence says <b>little</b> of it" in " ".join(page.text.split())
    assert "banned words" in page.text
    assert re.search(r"approve by ann, 20\d\d-\d\d-\d\d \d\d:\d\d UTC: <i>Good</i>\.", page.text)
    assert not page.named("i")
    reader = log_in(TestClient(client.app, follow_redirects=False), READER)
    text = reader.get("/studio/item?id=ships").text
    assert "weak grounding" not in text
    assert "approve by" not in text


def test_clocks_of_reviewers_that_differ(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions count in the order in which they arrive, whatever their times say."""
    own, times = reviewer(client), (4_102_444_800, 1_000_000_000)
    for action, now in zip(("reject", "approve"), times, strict=True):
        monkeypatch.setattr(deciding, "time", SimpleNamespace(time=lambda now=now: now))
        assert own.post(SHIPS, data=form_of(own, "ships_P0", action=action)).status_code == 303
    assert [one["at"] for one in read(folder / "decisions.jsonl")] == [*times]
    assert in_review(folder, "ships")["ships_P0"].state == "approved", "the later one of the file"
    for place in (SHIPS, "/studio/item?id=ships"):
        page = Html(own.get(place).text).text
        first = page.index("reject by Ann, 2100-01-01 00:00 UTC")
        assert first < page.index("approve by Ann, 2001-09-09 01:46 UTC")
    undo = form_of(own, "ships_P0", action="undo")  # by the clock of 2001
    assert own.post(SHIPS, data=undo).status_code == 303
    assert in_review(folder, "ships")["ships_P0"].state == "rejected", "the approval is undone"
    again = read(folder / "decisions.jsonl")[1] | {"by": "Bob", "at": 10**30}  # no such time
    with (folder / "decisions.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    assert in_review(folder, "ships")["ships_P0"].state == "approved"
    answer = own.get(SHIPS)
    assert (answer.status_code, f"approve by Bob, {10**30}" in Html(answer.text).text) == (
        200,
        True,
    )
