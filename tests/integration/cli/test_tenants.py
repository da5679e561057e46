"""Two tenants with the same ids, and every command that uses an index: no command crosses over."""

import asyncio
import json
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

pytest.importorskip("fastapi")
pytest.importorskip("sklearn")

from indexer.cli import app
from indexer.cli.shared import artifact_sources
from indexer.ledger import LEDGER, Ledger
from indexer.reasoning.step import Sources
from indexer.updates import tenant_workers
from indexer.updates.tenant_workers import TenantWorkers
from indexer.updates.worker import Worker
from p4r_qdrant import Settings
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.errors import IndexUnavailableError
from p4r_qdrant.index.server import purging
from p4r_qdrant.records import Item, Review
from p4r_qdrant.service import run as service_run
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.users.records import ItemWork
from p4r_qdrant.users.tenants import drop_tenant
from tests.support.command_line import Result, in_process
from tests.support.environment import clear_settings
from tests.support.jsonl import write
from tests.support.polling import wait_until
from tests.support.service_process import environment_of
from tests.support.stored_words import content
from tests.support.tenants import ENCODER, ITEMS, USERS, Shop, add, bytes_of, tenant

A, B = "shop-a", "shop-b"
SAYS = {A: "apple", B: "birch"}

READ = {
    "doctor": "",
    "show": "ships --json",
    "search": "anything --json",
    "status": "--json",
    "rerank": "--artifacts {a} --candidates {a}/candidates.jsonl",
    "why-not": "eve ships --artifacts {a} --candidates {a}/candidates.jsonl --json",
    "segments": "--artifacts {a} --smallest 2 --audience --json",
    "backup": "backup-of-a",
    "tenant list": "--json",
    "tenant export": "shop-a export-of-a",
    "serve": "--artifacts {a}",
    "studio": "--artifacts {a}",
}
"""Commands that read an index, with the arguments by which the walk runs them."""
WRITE = {
    "tenant add": "shop-a",
    "index": "--artifacts {a}",
    "add": "{a}/new.jsonl --artifacts {a}",
    "remove": "new",
    "publish": "--artifacts {a} --again",
    "publish twice": "--artifacts {a} --drop-old",
    "train": "--artifacts {a} --output adapter --publish",
    "review withdraw": "--artifacts {a}",
    "work": "--artifacts {a} --once",
    "erase": "eve --artifacts {a}",
    "restore": "backup-of-a --force",
    "copy": "--from {here} --to elsewhere",
    "migrate": "--backup before-migration",
    "tenant promote": "shop-a",
    "tenant drop": "shop-a --yes",
}
"""Those that write, in the order in which they are run."""
SAYS_NO_WORD = {"doctor", "status", "tenant list", "backup", "tenant export", "segments"}
"""Commands that read, and print nothing that is stored of a persona."""
REFUSED = {"tenant promote": "no cluster|folder of its own"}


@dataclass
class Walk:
    """Two tenants on one index, and the commands of the first one."""

    settings: Settings
    folder: Path
    run: Callable[..., Result]

    def shop(self, name: str) -> Shop:
        return Shop(tenant(self.settings, name), SAYS[name])

    def fill(self) -> None:
        for name in (A, B):
            shop = self.shop(name)
            artifacts(self.folder / name, shop)
            self.run("tenant", "add", name)
            self.run("publish", "--artifacts", name, "--tenant", name)
            with shop.opened() as one:
                for user_id in USERS:
                    one.users.add(shop.did(user_id, "ships"))
                one.users.jobs.add(arrival(shop.word).job())
        elsewhere = Settings.load(qdrant={"url": None, "path": self.folder / "elsewhere"})
        add(tenant(elsewhere, A))  # for `p4r copy`

    def command(self, name: str, arguments: str, of: str = A, code: int | None = None) -> Result:
        words = name.removesuffix(" twice").split()
        own = self.settings.qdrant
        filled = arguments.format(a=A, here=own.url or own.path)
        if words[0] == "tenant":
            filled = filled.replace(A, of, 1)
        option = [] if words[0] == "tenant" else ["--tenant", of]
        code = code or (2 if name in REFUSED else 0)
        return self.run(*words, *shlex.split(filled), *option, code=code)


def artifacts(folder: Path, shop: Shop) -> None:
    folder.mkdir()
    word = shop.word
    both = [(user_id, item_id) for user_id in USERS for item_id in ITEMS]
    write(folder, "items.jsonl", [{"item_id": one, "title": f"{word} {one}"} for one in ITEMS])
    reviews: list[dict[str, Any]] = [
        {"user_id": user_id, "item_id": item_id, "rating": 5, "timestamp": at, "text": word}
        for at, (user_id, item_id) in enumerate(both)
    ]
    write(folder, "reviews.jsonl", reviews)
    aspects = {"mood": f"{word} mood", "purpose": word}
    rows = [{key: one[key] for key in ("user_id", "item_id", "timestamp")} for one in reviews]
    write(folder, "aspects.jsonl", [{**one, "rating": 5, "aspects": aspects} for one in rows])
    write(folder, "summaries.jsonl", [{"item_id": one, "summary": word} for one in ITEMS])
    personas = [
        {"item_id": one, "personas": [each.model_dump() for each in shop.personas(one)]}
        for one in ITEMS
    ]
    write(folder, "personas.jsonl", personas)
    lists = [{"user_id": one, "results": [{"item_id": each} for each in ITEMS]} for one in USERS]
    write(folder, "candidates.jsonl", lists)
    new = arrival(word)
    rows = [one.model_dump(exclude_none=True) for one in (new.item, *new.reviews) if one]
    write(folder, "new.jsonl", rows)


def arrival(word: str) -> ItemWork:
    """An item that comes later, with a review."""
    text = f"A {word} that came later than all others, and which everybody carried home at once."
    review = Review(user_id="max", item_id="new", rating=5, timestamp=9, text=text)
    return ItemWork(item_id="new", item=Item(item_id="new", title=f"{word} new"), reviews=[review])


@pytest.fixture
def walk(
    index_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Walk:
    own = environment_of(index_settings)
    clear_settings(monkeypatch)
    own |= {"P4R_INDEX__TENANTS": "true", "P4R_REASONING__STRATEGY": "extractive", "COLUMNS": "200"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(PersonaEncoder, "from_settings", lambda _: ENCODER)
    monkeypatch.setattr(purging, "_rewritten", lambda _: [])  # takes long, and names no tenant

    def run(*arguments: str, code: int = 0) -> Result:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            done = in_process(patch, capsys, arguments)
        assert done.code in (0, code), (arguments, done)
        return done

    walk = Walk(index_settings, tmp_path / "work", run)

    def shown(settings: Settings, *_: Any, **__: Any) -> None:
        with closing(Backend(settings, lambda _: ENCODER)) as backend:
            assert backend.open()
            with backend.in_use() as live:
                sys.stdout.write(str(live.index.get("ships")))

    monkeypatch.setattr(service_run, "serve", shown)
    from indexer.terminal import training as printing
    from indexer.training import run as training

    trained = SimpleNamespace(is_better=True)
    monkeypatch.setattr(training, "train", lambda *_, **__: trained)
    monkeypatch.setattr(printing, "print_training", lambda _: None)
    return walk


@pytest.fixture
def filled(walk: Walk) -> Walk:
    """A walk with two tenants that have everything."""
    walk.fill()
    return walk


def with_an_index(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The commands of the app that have --tenant, or are about tenants."""
    if hasattr(command, "commands"):
        for name, one in command.commands.items():
            yield from with_an_index(one, (*path, name))
    elif path[0] == "tenant" or any("--tenant" in one.opts for one in command.params):
        yield " ".join(path)


def test_the_walk_knows_every_command_that_uses_an_index() -> None:
    walked = {one.removesuffix(" twice") for one in [*READ, *WRITE]}
    assert set(with_an_index(typer.main.get_command(app))) == walked


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_no_command_reaches_another_tenant(filled: Walk) -> None:
    walk = filled
    mine, other = walk.shop(A), walk.shop(B)
    assert "birch" in walk.run("show", "ships", "--tenant", B).out
    before = bytes_of(other.settings)  # of an embedded index, after it was opened once
    files = contents(walk.folder / B)
    assert len(before) >= 3
    for name, arguments in [*READ.items(), *WRITE.items()]:
        stored = bytes_of(mine.settings)
        done = walk.command(name, arguments)
        assert "birch" not in done.out + done.err, (name, done)
        if done.code:
            assert re.search(REFUSED[name], done.sentence), done
        if name in READ and name not in SAYS_NO_WORD:
            assert "apple" in done.out, f"{name} says nothing, which proves nothing: {done}"
        if name == "tenant drop":
            assert bytes_of(mine.settings) == {} != stored
        assert bytes_of(other.settings) == before, f"{name} reached another tenant"
    for path in walk.folder.rglob("*"):
        if path.is_file() and walk.folder / B not in path.parents:
            assert b"birch" not in content(path), f"{path} holds words of another tenant"
    assert contents(walk.folder / B) == files
    assert "birch" in walk.run("show", "ships", "--tenant", B).out
    [left] = json.loads(walk.run("tenant", "list", "--json").out)
    assert left["name"] == B


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_tenant_that_does_not_exist(walk: Walk) -> None:
    artifacts(walk.folder / A, walk.shop(A))
    walk.run("tenant", "add", A)
    before = contents(walk.folder)
    for name, arguments in [*READ.items(), *WRITE.items()]:
        if name in ("tenant add", "tenant list", "doctor", "restore"):
            continue  # doctor prints a table; nothing is there to restore
        refused = walk.command(name, arguments, of="nobody", code=2)
        assert refused.sentence.startswith("there is no tenant 'nobody'"), (name, refused)
        assert contents(walk.folder) == before, f"{name} wrote something"
    assert bytes_of(tenant(walk.settings, "nobody")) == {}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: content(path) if path.is_file() else b"" for path in folder.rglob("*")}


# --- p4r work for all tenants ---------------------------------------------------------------------


def words(walk: Walk, name: str) -> str:
    """What the index of a tenant says of the item that its jobs are about."""
    with walk.shop(name).opened() as one:
        return str(one.index.get("new"))


def test_one_worker_does_the_jobs_of_all_tenants(filled: Walk) -> None:
    walk = filled
    with Ledger(walk.folder / A / LEDGER):  # by a `p4r work --tenant shop-a`
        assert "1  item" in walk.run("work", "--artifacts", ".", "--once").out
    assert words(walk, A) == "[]"
    assert "birch" in words(walk, B)
    assert "1  item" in walk.run("work", "--artifacts", ".", "--once").out
    assert "apple" in words(walk, A)
    assert "apple" not in words(walk, B)


def test_a_tenant_whose_jobs_wait_keeps_no_other_one_waiting(
    filled: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = filled
    right = Worker.work_once

    async def work_once(self: Worker) -> int:
        if self._backend.settings.index.tenant == A:
            raise IndexUnavailableError("the shards of shop-a are away")
        return await right(self)

    monkeypatch.setattr(Worker, "work_once", work_once)
    refused = walk.run("work", "--artifacts", ".", "--once", code=1)
    assert "shards of shop-a are away" in refused.sentence
    assert "birch" in words(walk, B)


def test_a_worker_follows_the_list_of_tenants(
    filled: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = filled
    monkeypatch.setattr(tenant_workers, "LIST_EVERY_S", 0.05)
    settings, stop = Settings.load(), threading.Event()
    drop_tenant(tenant(walk.settings, A))

    def sources(name: str) -> Sources:
        return artifact_sources(walk.folder / name, "books", settings)

    with closing(TenantWorkers(settings, sources)) as workers:
        thread = threading.Thread(target=lambda: asyncio.run(workers.run(stop)))
        thread.start()
        try:
            wait_until(lambda: workers.done["item"] == 1)
            assert workers.job_counts == {"waiting": 0, "failed": 0}
            walk.run("tenant", "add", A)
            walk.run("publish", "--artifacts", A, "--tenant", A)
            wait_until(lambda: len(workers._open) == 2)
            if settings.qdrant.url is not None:  # an embedded one that is open cannot be dropped
                drop_tenant(tenant(walk.settings, B))
                wait_until(lambda: [*workers._open] == [A])
                assert workers.done["item"] == 1
        finally:
            stop.set()
            thread.join()
    assert workers.problem == ""
