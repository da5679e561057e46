"""Decisions: the file, what they make of personas, and what is let through."""

import json
import multiprocessing
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from indexer.artifacts.outdated import persona_digest
from indexer.review.decisions import Decision, Decisions, Texts
from indexer.review.flags import risk_of
from indexer.review.screening import Policy, Screening
from indexer.review.standing import gone, reviewed
from p4r_qdrant.errors import InputError, SettingsError, StorageFullError
from p4r_qdrant.moderation import Rules
from p4r_qdrant.records import Action, ItemPersonas, Persona


def persona(number: int, text: str = "pruning old roses") -> Persona:
    return Persona(
        persona_id=f"i_P{number}",
        name=f"Reader {number}",
        description=f"Likes {text}.",
        preference_rationale=f"It is about {text}.",
        evidence=["u1"],
    )


def item(*personas: Persona) -> ItemPersonas:
    return ItemPersonas(item_id="i", personas=list(personas))


def decision(
    action: Action, before: Persona, after: Persona | None = None, *, at: int = 5, by: str = "ann"
) -> Decision:
    made = after or before
    return Decision(
        at=at,
        by=by,
        action=action,
        item_id="i",
        persona_id=before.persona_id,
        before=persona_digest(before),
        after=persona_digest(made),
        texts=None if action == "undo" else Texts.of(made),
    )


def decided(*rows: Decision) -> dict[str, list[Decision]]:
    by_persona: dict[str, list[Decision]] = {}
    for one in rows:
        by_persona.setdefault(one.persona_id, []).append(one)
    return by_persona


def write(folder: Path, *rows: Decision) -> None:
    Decisions(folder).append(lambda: rows)


# -- the file -------------------------------------------------------------------------------------


def test_a_decision_is_on_the_disk_and_its_owners_alone(tmp_path: Path) -> None:
    first, second = decision("approve", persona(1)), decision("reject", persona(2))
    write(tmp_path, first)
    following = Decisions(tmp_path)
    assert following.refresh()
    assert not following.refresh()
    write(tmp_path, second)
    assert following.refresh()
    assert following.of("i") == {"i_P1": (first,), "i_P2": (second,)}
    path = tmp_path / "decisions.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().splitlines()) == 2


@given(cut=some.integers(min_value=0), rest=some.sampled_from([b"", b"\xff", b"{", b'"']))
def test_a_torn_last_line_is_no_decision_and_gives_way(
    cut: int, rest: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    write(folder, decision("approve", persona(1)))
    path = folder / "decisions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: cut % len(whole)].rstrip(b"\n") + rest)
    read = Decisions(folder)
    read.refresh()
    assert [one.action for one in read] == ["approve"]
    assert not read.broken.total
    read.append(lambda: [decision("reject", persona(1))])
    assert [one.action for one in read] == ["approve", "reject"]
    assert path.read_bytes().startswith(whole)
    assert path.read_bytes().count(b"\n") == 2


def test_broken_lines_are_counted_and_kept(tmp_path: Path) -> None:
    write(tmp_path, decision("approve", persona(1)))
    path = tmp_path / "decisions.jsonl"
    with path.open("ab") as file:
        file.write(b'{"action": "burn"}\n\xff\xfe\n')
    write(tmp_path, decision("reject", persona(1)))
    read = Decisions(tmp_path)
    read.refresh()
    assert len([*read]) == 2
    assert read.broken.total == 2
    assert read.broken.sentences[0].startswith(f"{path}:2: ")


def test_what_make_raises_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def refuses() -> Sequence[Decision]:
        raise InputError("no")

    with pytest.raises(InputError):
        Decisions(tmp_path).append(refuses)
    write(tmp_path, decision("approve", persona(1)))
    before = (tmp_path / "decisions.jsonl").read_bytes()
    with pytest.raises(InputError):
        Decisions(tmp_path).append(refuses)
    assert (tmp_path / "decisions.jsonl").read_bytes() == before


def decide_often(folder: Path, by: str) -> None:
    for _ in range(20):
        write(folder, decision("approve", persona(1), by=by))


def test_a_full_disk_keeps_what_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decisions, write = Decisions(tmp_path), os.write
    decisions.append(lambda: [decision("approve", persona(0))])
    before = decisions.path.read_bytes()
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:9]))
    with pytest.raises(StorageFullError, match=r"decisions\.jsonl"):
        decisions.append(lambda: [decision("reject", persona(0))])
    assert decisions.path.read_bytes() == before


def test_several_processes_lose_no_decision(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    names = ("ann", "bob", "eve")
    workers = [context.Process(target=decide_often, args=(tmp_path, one)) for one in names]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    read = Decisions(tmp_path)
    read.refresh()
    assert sorted(one.by for one in read) == sorted(names * 20)
    assert not read.broken.total


# -- what they make of personas -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "states"),
    [
        ([], ["pending", "pending"]),
        ([decision("approve", persona(1))], ["approved", "pending"]),
        ([decision("lock", persona(2))], ["pending", "locked"]),
        ([decision("reject", persona(1))], ["rejected", "pending"]),
        ([decision("edit", persona(1), persona(1, "herbs"))], ["edited", "pending"]),
        ([decision("approve", persona(1, "before"))], ["changed", "pending"]),
        ([decision("reject", persona(1, "before"))], ["changed", "pending"]),
        (
            [decision("approve", persona(1)), decision("undo", persona(1))],
            ["pending", "pending"],
        ),
        ([decision("undo", persona(1))], ["pending", "pending"]),
        # The order of the file counts, whatever the clocks of the reviewers say.
        (
            [decision("approve", persona(1), at=2**40), decision("reject", persona(1), at=0)],
            ["rejected", "pending"],
        ),
    ],
)
def test_the_state_of_each_persona(rows: list[Decision], states: list[str]) -> None:
    found = reviewed(item(persona(1), persona(2, "icing cakes")), decided(*rows))
    assert [one.state for one in found] == states


def test_an_edit_stays_approved_and_undone_step_by_step() -> None:
    mine = persona(1, "herbs")
    rows = [decision("edit", persona(1), mine), decision("approve", mine)]
    [one] = reviewed(item(persona(1)), decided(*rows))
    assert (one.state, one.persona.description) == ("approved", "Likes herbs.")
    assert one.persona.evidence == ["u1"]
    [one] = reviewed(item(persona(1)), decided(*rows, decision("undo", mine)))
    assert one.state == "edited"
    undone = decided(*rows, decision("undo", mine), decision("undo", mine))
    [one] = reviewed(item(persona(1)), undone)
    assert (one.state, one.persona) == ("pending", persona(1))


def test_a_locked_text_survives_reasoning_byte_for_byte() -> None:
    ours = persona(1, "zero\u200bwidth \N{ROSE} \u05d0\u05d1")
    rows = decided(decision("lock", ours))
    again = persona(1, "something else")
    [one] = reviewed(item(again), rows)
    assert one.state == "locked"
    assert Texts.of(one.persona) == Texts.of(ours)
    assert one.compared == Texts.of(again)
    other = persona(2, "icing cakes")
    found = reviewed(item(other), rows)  # reasoning makes fewer personas now
    assert [one.persona.persona_id for one in found] == ["i_P2", "i_P1"]
    assert Texts.of(found[1].persona) == Texts.of(ours)


def test_what_changed_since_an_approval_is_there_to_compare() -> None:
    [one] = reviewed(item(persona(1, "new")), decided(decision("approve", persona(1, "old"))))
    assert one.state == "changed"
    assert one.compared == Texts.of(persona(1, "old"))


def test_a_rejected_text_stays_rejected_under_another_id() -> None:
    bad = persona(1, "bad words")
    moved = bad.model_copy(update={"persona_id": "i_P2"})
    found = reviewed(item(persona(1), moved), decided(decision("reject", bad)))
    assert [one.state for one in found] == ["changed", "rejected"]


def test_decisions_on_personas_that_are_gone_are_counted() -> None:
    rows = decided(
        decision("approve", persona(7)),
        decision("lock", persona(8)),
        decision("approve", persona(1)),
    )
    assert gone(item(persona(1)), rows) == 1, "a locked one is still there"
    assert gone(None, rows) == 3


# -- what is let through --------------------------------------------------------------------------


def kept(folder: Path, policy: Policy, *personas: Persona) -> list[str]:
    screened = Screening(folder, policy).screened(item(*personas))
    return [one.persona_id for one in screened.item.personas] if screened else []


def test_what_a_policy_lets_through(tmp_path: Path) -> None:
    every = [persona(1), persona(2, "tides"), persona(3, "miracle  CURES"), persona(4, "trains")]
    write(tmp_path, decision("reject", every[0]), decision("approve", every[1]))
    flags = [
        {
            "item_id": "i",
            "persona_id": one.persona_id,
            "digest": persona_digest(one),
            "flags": {"x": ""},
        }
        for one in (every[1], every[3])
    ]
    (tmp_path / "flags.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in flags))
    rules = Rules(("miracle cures",))
    assert kept(tmp_path, Policy(), *every) == ["i_P2", "i_P3", "i_P4"]
    assert kept(tmp_path, Policy(rules), *every) == ["i_P2", "i_P4"]
    assert kept(tmp_path, Policy(approved_only=True), *every) == ["i_P2"]
    assert kept(tmp_path, Policy(hide_flagged=True), *every) == ["i_P2", "i_P3"]


def test_flags_are_needed_to_hide_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="p4r review flag"):
        Screening(tmp_path, Policy(hide_flagged=True))


def test_what_a_screening_says(tmp_path: Path) -> None:
    write(
        tmp_path,
        decision("reject", persona(1)),
        decision("approve", persona(9)),
        decision("approve", persona(1)).model_copy(update={"item_id": "gone"}),
    )
    screening = Screening(tmp_path)
    assert screening.screened(item(persona(1))) is None
    assert screening.sentences() == [
        "review: 1 personas are not served: 1 rejected",
        "review: 1 items have no persona left, and are not served (first: 'i')",
        "review: 2 decisions are about personas that are gone",
    ]


def test_places_in_the_file_of_what_is_served(tmp_path: Path) -> None:
    every = [persona(1), persona(2, "tides"), persona(3, "trains")]
    mine = persona(2, "herbs")
    write(tmp_path, decision("reject", every[0]), decision("edit", every[1], mine))
    screened = Screening(tmp_path).screened(item(*every))
    assert screened is not None
    assert screened.positions == (None, 2)


# -- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("an Idiot reads", "holds the banned words 'Idiot'"),
        ("an id\u200biot reads", "holds the banned words 'idiot'"),
        ("".join(chr(ord(one) + 0xFEE0) for one in "idiot"), "holds the banned words 'idiot'"),
        ("idiotic", None),
        ("a miracle\n  cure", "holds the banned words 'miracle\\n  cure'"),
        ("for $ 5", "breaks the rule 'a price'"),
    ],
)
def test_rules(text: str, problem: str | None, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        'words = ["idiot", "miracle cure"]\n[[rules]]\nname = "a price"\npattern = \'\\$ ?\\d\'\n'
        'fields = ["name"]\n'
    )
    rules = Rules.load(path)
    assert rules.problem_with(text, "name") == problem
    given = persona(1).model_copy(update={"name": text})
    assert rules.problem(given) == (f"the name {problem}" if problem else None)


def test_a_rule_for_one_field_leaves_the_others() -> None:
    rules = Rules.load(None)
    assert not rules
    assert rules.problem(persona(1)) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("words = 5", "words: 5 is not a list"),
        ('[[rules]]\nname = "a"\npattern = "("', "no regular expression"),
        ("wrods = []", "wrods"),
        ("= 5", "is no TOML"),
        (None, "cannot be read"),
    ],
)
def test_rules_that_cannot_be_read(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"P4R_REASONING__RULES") as raised:
        Rules.load(path)
    assert said in str(raised.value)


def test_more_flags_are_more_risk() -> None:
    make: Callable[..., Any] = risk_of
    assert make({}) == 0
    assert (
        0 < make({"near twin": ""}) < make({"complaint": ""}) < make({"complaint": "", "x": ""}) < 1
    )
