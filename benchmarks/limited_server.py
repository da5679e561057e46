"""A Qdrant server in a container that may use so much memory."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient

IMAGE = "qdrant/qdrant:v1.16.3"


class LimitError(Exception):
    """What this limit cannot serve: a result, not a failure of the benchmark."""


class LimitedServer:
    """A container with a memory limit, its data in `folder`; `with` starts and removes it."""

    def __init__(self, folder: Path, limit_mib: int) -> None:
        self.folder, self._limit = folder, f"{limit_mib}m"
        self.name = f"p4r-past-memory-{folder.name}-{os.getpid()}"
        self._api_key = secrets.token_hex(16)

    def __enter__(self) -> LimitedServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        drop_pages(self.folder)
        environment = {
            "QDRANT__SERVICE__API_KEY": self._api_key,
            "QDRANT__TELEMETRY_DISABLED": "true",
            "QDRANT__STORAGE__STORAGE_PATH": "/data/storage",
            "QDRANT__STORAGE__SNAPSHOTS_PATH": "/data/snapshots",
            "QDRANT_INIT_FILE_PATH": "/data/initialized",
        }
        options = f"--detach --name {self.name} --memory {self._limit} --memory-swap {self._limit}"
        options += f" --user {os.getuid()}:{os.getgid()} --entrypoint /qdrant/qdrant"
        options += " --publish 127.0.0.1::6333 --publish 127.0.0.1::6334"
        options += "".join(f" --env {name}" for name in environment)
        volume = ["--volume", f"{self.folder}:/data"]
        try:
            docker("run", *options.split(), *volume, IMAGE, environment=environment)
            self._connect()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Remove the container; an error is a LimitError where the server had ended."""
        state = json.loads(docker("inspect", "--format", "{{json .State}}", self.name) or "null")
        if error is None:
            docker("stop", "--time", "120", self.name)
        docker("rm", "--force", self.name)
        if isinstance(error, Exception) and state and not state["Running"]:
            killed = state["OOMKilled"] or state["ExitCode"] == 137
            raise LimitError("out of memory: killed" if killed else f"ended: {error}") from None

    def _connect(self) -> None:
        """Wait until the server answers."""
        http, grpc = (docker("port", self.name, port).split(":")[-1] for port in ("6333", "6334"))
        self.at: dict[str, Any] = {"url": f"http://127.0.0.1:{http}", "grpc_port": int(grpc)}
        self.at["api_key"] = self._api_key
        options: dict[str, Any] = {"prefer_grpc": True, "check_compatibility": False}
        self.client = QdrantClient(**self.at, **options, timeout=600)
        for attempt in range(600):
            try:
                self.client.get_collections()
            except Exception:
                if attempt == 599 or not docker("ps", "--quiet", "--filter", f"name={self.name}"):
                    raise
                time.sleep(0.5)
            else:
                return

    def usage(self) -> dict[str, int]:
        """In bytes: `anon` and `file` (page cache) of the container by its cgroup, `rss` of the
        process and what it `read` from the disk so far; `faults`: its major page faults so far.
        """
        files = "/sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat /proc/1/{status,io}"
        script = f'for f in {files}; do [[ -r $f ]] && echo "$(<$f)"; done; echo "$(</proc/1/stat)"'
        *lines, stat = docker("exec", self.name, "bash", "-c", script).splitlines()
        found = dict(line.replace(":", "").split()[:2] for line in lines if len(line.split()) > 1)
        return {
            "anon": int(found.get("anon") or found["rss"]),  # cgroup v2 or v1
            "file": int(found.get("file") or found["cache"]),
            "rss": int(found["VmRSS"]) * 1024,
            "read": int(found["read_bytes"]),
            "faults": int(stat.rsplit(")", 1)[1].split()[9]),
        }


def docker(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run one docker command; returns what it prints, and an error only for `docker run`."""
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(["docker", *arguments], env=variables, capture_output=True, text=True)
    if done.returncode and arguments[0] == "run":
        raise SystemExit(f"the container does not start: {done.stderr.strip()}")
    return done.stdout.strip()


def check_docker() -> None:
    """End with one sentence where Docker, its memory limits or the image are missing."""
    if shutil.which("docker") is None:
        raise SystemExit("this needs Docker, and there is no `docker` command here")
    if docker("info", "--format", "{{.MemoryLimit}} {{.SwapLimit}}") != "true true":
        raise SystemExit("Docker does not answer, or cannot limit memory and swap")
    if not docker("images", "--quiet", IMAGE):
        raise SystemExit(f"get {IMAGE} by docker pull or docker/import-image.sh")


def drop_pages(folder: Path) -> None:
    """Take the files of a server that has stopped out of the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def index_bytes(folder: Path) -> int:
    """Disk blocks of the index, without the write-ahead log."""
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if "wal" not in p.parts)
