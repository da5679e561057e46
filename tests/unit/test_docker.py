"""docker/: what can be said of it where nothing can be pulled, built or started."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from typer.testing import CliRunner

from indexer.cli import app
from p4r_qdrant.settings.loading import known_names
from tests.support.paths import ROOT

COMPOSE = ROOT / "docker" / "compose.yaml"
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
LINES = [
    line for line in re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines() if line and line[0] != "#"
]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_little(name: str) -> None:
    own = SERVICES[name]
    assert own["user"] == "1000:1000"
    assert own["read_only"] is True
    assert own["cap_drop"] == ["ALL"]
    assert own["security_opt"] == ["no-new-privileges:true"]
    assert own["restart"]
    assert own["logging"]["options"]["max-size"]
    assert all(port.startswith("127.0.0.1:") for port in own["ports"])
    assert "healthcheck" in own or "HEALTHCHECK" in DOCKERFILE
    assert not own.get("healthcheck", {}).get("disable")


@pytest.mark.parametrize("name", SERVICES)
def test_keys_come_from_the_environment_and_settings_are_known(name: str) -> None:
    known = known_names()
    for variable, value in SERVICES[name]["environment"].items():
        if variable.endswith(("KEY", "PASSWORD")) and not variable.endswith("PLAINTEXT_KEY"):
            assert re.fullmatch(r"\$\{[A-Z_0-9]+:[-?].*\}", value), f"{variable} is written down"
        if variable.startswith("P4R_"):
            assert variable in known


def test_what_is_kept_is_in_volumes() -> None:
    volumes = set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    mounted = {one for own in SERVICES.values() for one in own["volumes"]}
    read = {one for one in mounted if one.endswith(":ro")}
    assert {one.split(":")[0] for one in mounted - read} == volumes
    assert all((COMPOSE.parent / one.split(":")[0]).is_dir() for one in read)


def test_the_gpu_profile_is_the_service_on_a_gpu() -> None:
    own, plain = SERVICES["service-gpu"], SERVICES["service"]
    assert own["profiles"] == ["gpu"]
    [device] = own["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert own["build"]["args"]["TORCH_INDEX"] in DOCKERFILE
    assert own["environment"] == plain["environment"]


@pytest.mark.parametrize("name", ["service", "worker", "service-gpu"])
def test_the_commands_are_commands(name: str) -> None:
    command = SERVICES[name].get("command", ["serve"])
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    options = [one for one in command if one.startswith("--")]
    assert all(option in result.output for option in options)


def test_the_image_runs_as_nobody_special() -> None:
    assert LINES[-1] == 'CMD ["serve"]'
    assert LINES[-2] == 'ENTRYPOINT ["p4r"]'
    assert [line for line in LINES if line.startswith("USER")] == ["USER 1000:1000"]
    assert sum(line.startswith("FROM python:3.") for line in LINES) == 2, "built, then copied"
    assert not re.search(r"apt-get|curl|--privileged|ADD |sudo", DOCKERFILE)
    assert "--constraint constraints.txt" in DOCKERFILE, "the versions are those that are tested"
    assert "KEY" not in DOCKERFILE


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for line in LINES:
        if line.startswith("COPY ") and "--from" not in line:
            *sources, _ = line.split()[1:]
            for source in sources:
                assert (ROOT / source).exists()
                assert f"!{source}" in allowed


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="there is no docker-compose")
@pytest.mark.parametrize("profile", ["service", "gpu"])
def test_compose_reads_it(profile: str) -> None:
    command = ["docker-compose", "-f", str(COMPOSE), "--profile", profile, "config"]
    read = subprocess.run(
        command,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "P4R_QDRANT__API_KEY": "k"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    started = set(yaml.safe_load(read.stdout)["services"])
    assert {"qdrant", "service" if profile == "service" else "service-gpu"} <= started
    without = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False
    )
    assert b"P4R_QDRANT__API_KEY" in without.stderr, "it begins without a key"
