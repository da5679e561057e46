"""deploy/: alert rules, dashboard, Helm chart and systemd units."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import promql_parser
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from indexer.cli import app
from indexer.updates.worker_metrics import collector
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.settings.loading import known_names
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "p4r-qdrant"
HELM = Path(sys.executable).parent / "helm"
NEEDED = ["--set", "existingSecret=keys,settings.P4R_QDRANT__URL=https://qdrant:6333"]
EVERYTHING = [
    *("--set", "worker.enabled=true,serviceMonitor.enabled=true"),
    *("--set", "ingress.enabled=true,ingress.host=p4r.example,ingress.tlsSecret=tls"),
]
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "p4r-qdrant.json").read_text())
PANELS = [one for one in DASHBOARD["panels"] if one["type"] != "row"]
SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds."""


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    """Name of each sample of the service and the worker -> its labels.

    Counters exist from the start, because Prometheus misses the first event of a new counter.
    """
    metrics = Metrics()
    metrics.requests.labels("/v1/rerank", "POST", "200").observe(0.1)
    metrics.stages.labels("total").observe(0.1)
    metrics.batch_texts.observe(1)
    metrics.jobs.labels("waiting").set(1)
    usage = SimpleNamespace(tokens=1, cost_usd=0.1)
    worker: Any = SimpleNamespace(
        usage=usage, done={"done": 1}, problem="", job_counts={"failed": 1}
    )
    of_worker = CollectorRegistry()
    of_worker.register(collector(worker))
    found: dict[str, set[str]] = {"up": set()}
    for text in (metrics.exposition(), generate_latest(of_worker)):
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Metric and labels of each selector of a PromQL expression."""
    text = re.sub(r"\$__rate_interval", "5m", expression)
    found: list[promql_parser.VectorSelector] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(text), visit)
    assert found, f"{expression} reads no metric"
    for one in found:
        yield one.name or "", {matcher.name for matcher in one.matchers.matchers}


EXPRESSIONS = {one["alert"]: one["expr"] for one in ALERTS} | {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_expression_reads_metrics_and_labels_that_exist(
    name: str, samples: dict[str, set[str]]
) -> None:
    for metric, labels in selectors(EXPRESSIONS[name]):
        assert metric in samples, f"{metric} does not exist"
        assert labels <= samples[metric] | SCRAPED, metric


def test_an_unknown_metric_is_found(samples: dict[str, set[str]]) -> None:
    [(metric, labels)] = selectors('sum(rate(p4r_bogus_total{colour="red"}[5m]))')
    assert metric not in samples
    assert labels == {"colour"}


def test_every_metric_of_ours_is_on_the_dashboard(samples: dict[str, set[str]]) -> None:
    def families(names: Iterable[str]) -> set[str]:
        return {re.sub(r"_(bucket|count|sum)$", "", one) for one in names}

    targets = [target for panel in PANELS for target in panel["targets"]]
    shown = {metric for target in targets for metric, _ in selectors(target["expr"])}
    ours = {one for one in samples if one.startswith("p4r_") and not one.endswith("_created")}
    assert families(shown) == families(ours)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda one: one["alert"])
def test_every_alert_has_an_entry_in_the_runbook(rule: dict[str, Any]) -> None:
    page, anchor = rule["annotations"]["runbook"].split("#")
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert rule["alert"] in headings
    assert anchor == rule["alert"].lower()
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")


def test_the_runbook_has_no_entry_without_an_alert() -> None:
    headings = re.findall(
        r"^### (\w+)$", (ROOT / "docs/how-to/runbook.md").read_text(), re.MULTILINE
    )
    assert sorted(headings) == sorted(one["alert"] for one in ALERTS)


def test_the_jobs_of_the_alerts_are_scraped() -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yaml").read_text()
    scraped = {one["job_name"] for one in yaml.safe_load(text)["scrape_configs"]}
    asked = set(re.findall(r'job="([^"]+)"', " ".join(EXPRESSIONS.values())))
    assert asked
    assert asked <= scraped


def test_no_panel_covers_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


# -- the Helm chart ---------------------------------------------------------------------------


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def rendered(*arguments: str) -> list[dict[str, Any]]:
    result = helm("template", "shop", str(CHART), *NEEDED, *arguments)
    assert result.returncode == 0, result.stderr
    return [one for one in yaml.safe_load_all(result.stdout) if one]


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    return rendered(*EVERYTHING)


def test_helm_lint_finds_nothing() -> None:
    result = helm("lint", "--strict", str(CHART), *NEEDED, *EVERYTHING)
    assert result.returncode == 0, result.stdout
    assert "[WARNING]" not in result.stdout


def test_the_manifests_are_valid(manifests: list[dict[str, Any]]) -> None:
    kinds = [one["kind"] for one in manifests]
    assert kinds.count("Deployment") == 2
    assert {"Service", "PodDisruptionBudget", "Ingress", "PersistentVolumeClaim"} < set(kinds)
    for manifest in manifests:
        if "monitoring.coreos.com" not in manifest["apiVersion"]:  # of the Prometheus operator
            kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_the_release_of_the_page_is_rendered() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text().replace("\\\n", "")
    [command] = re.findall(r"^helm install (.+)$", page, re.MULTILINE)
    result = helm("template", *command.replace("deploy/helm/p4r-qdrant", str(CHART)).split())
    assert result.returncode == 0, result.stderr
    assert "image: registry.example/p4r-qdrant:" in result.stdout.replace('"', "")


def test_the_smallest_release_is_the_service_alone() -> None:
    kinds = sorted(one["kind"] for one in rendered())
    assert kinds == ["Deployment", "PodDisruptionBudget", "Service"]


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            pod = manifest["spec"]["template"]["spec"]
            [container] = pod["containers"]
            yield pod, container


def test_a_pod_can_do_little(manifests: list[dict[str, Any]]) -> None:
    for pod, container in pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert "cpu" not in container["resources"]["limits"], "a limit throttles"
        assert {"startupProbe", "livenessProbe"} <= set(container)
        written = {one["mountPath"] for one in container["volumeMounts"]}
        assert {"/tmp", "/models"} <= written


def test_keys_come_from_the_secret_and_settings_are_known(manifests: list[dict[str, Any]]) -> None:
    for _, container in pods(manifests):
        for one in container["env"]:
            assert one["name"] in known_names()
            if one["name"].endswith("KEY"):
                assert one["valueFrom"]["secretKeyRef"]["name"] == "keys"


def test_the_commands_are_commands(manifests: list[dict[str, Any]]) -> None:
    for _, container in pods(manifests):
        result = CliRunner().invoke(app, [*container["args"], "--help"])
        assert result.exit_code == 0, result.output


def test_comments_name_commands_that_exist() -> None:
    files = [one for folder in ("deploy", "docker") for one in (ROOT / folder).rglob("*.yaml")]
    for name in {word for one in files for word in re.findall(r"`p4r ([a-z-]+)", one.read_text())}:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name


def test_services_and_budgets_select_the_pods_of_the_service(
    manifests: list[dict[str, Any]],
) -> None:
    by_component = {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"][
            "template"
        ]["metadata"]["labels"]
        for one in manifests
        if one["kind"] == "Deployment"
    }
    for manifest in manifests:
        if manifest["kind"] in ("Service", "PodDisruptionBudget"):
            selector = manifest["spec"]["selector"]
            wanted = selector.get("matchLabels", selector).items()
            assert wanted <= by_component["service"].items()
            assert not wanted <= by_component["worker"].items()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("existingSecret=keys", "settings.P4R_QDRANT__URL is required"),
        ("settings.P4R_QDRANT__URL=https://q", "existingSecret is required"),
        (
            "existingSecret=keys,settings.P4R_QDRANT__URL=q,settings.P4R_QDRANT__API_KEY=x",
            "put keys into the Secret",
        ),
        ("existingSecret=keys,settings.P4R_QDRANT__URL=q,replica=3", "replica is not allowed"),
        ("existingSecret=keys,settings.P4R_QDRANT__URL=q,replicas=0", "replicas"),
        ("existingSecret=keys,settings.P4R_QDRANT__URL=q,settings.DEBUG=1", "DEBUG is not allowed"),
        (
            "existingSecret=keys,settings.P4R_QDRANT__URL=q,ingress.enabled=true,ingress.host=a",
            "ingress.tlsSecret is required",
        ),
    ],
)
def test_wrong_values_are_refused(values: str, said: str) -> None:
    result = helm("template", "shop", str(CHART), "--set", values)
    assert result.returncode == 1
    assert said in result.stderr


# -- systemd ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p4r-serve", "p4r-work"])
def test_a_unit_runs_a_command_without_privileges(name: str) -> None:
    lines = (DEPLOY / "systemd" / f"{name}.service").read_text().splitlines()
    [command] = [one.split()[1:] for one in lines if one.startswith("ExecStart=")]
    assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0
    assert {"User=p4r", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077"} <= set(lines)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.parametrize("name", ["p4r-serve", "p4r-work"])
def test_systemd_reads_a_unit(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / f"{name}.service").read_text()
    unit = tmp_path / f"{name}.service"
    unit.write_text(text.replace("/opt/p4r/bin/p4r", shutil.which("true") or "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    complaints = [one for one in found.stderr.splitlines() if name in one and "User" not in one]
    assert not complaints


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")
def test_the_alerts_fire_when_they_should() -> None:
    rules = DEPLOY / "prometheus" / "alerts_test.yaml"
    cases = yaml.safe_load(rules.read_text())["tests"][0]["alert_rule_test"]
    assert {one["alert"] for one in ALERTS} == {
        one["alertname"] for one in cases if one["exp_alerts"]
    }
    found = subprocess.run(
        ["promtool", "test", "rules", rules], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
