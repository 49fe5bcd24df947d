"""deploy/example: its files pass their linters, agree with each other and with the tutorial, and its command serves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from connectrio.host.settings import HostSettings
from deploy.containers import CONTAINERFILE
from e2e.programs import MARK, UNSHARE, children_of, why_no_namespace

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "example"
TUTORIAL = ROOT / "docs" / "tutorials" / "first-deployment.md"
BIN = Path(sys.executable).parent

DOCUMENTS = list(yaml.safe_load_all((EXAMPLE / "kubernetes.yaml").read_text()))
BY_KIND = {document["kind"]: document for document in DOCUMENTS}
POD = BY_KIND["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENV = {each["name"]: each["value"] for each in CONTAINER["env"]}
# of the image that the example's is made from
INSTRUCTIONS = dict(re.findall(r"^(ENTRYPOINT|CMD) (.*)$", CONTAINERFILE.read_text(), re.MULTILINE))
COMMAND = [*json.loads(INSTRUCTIONS["ENTRYPOINT"]), *json.loads(INSTRUCTIONS["CMD"])]

# seconds; only ends a test that fails
PATIENCE = 60.0
# seconds that a host may need after `drain_delay` and `grace`: ten for lifespans to close, one more for those that
# do not, and some for worker threads, the last connections and the log
CLOSING = 13


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_the_manifest_is_what_kubernetes_takes(document):
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed; the group `dev` has it"
    )
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_pods_are_found_by_service_and_budget():
    labels = BY_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert BY_KIND["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    assert BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert BY_KIND["PodDisruptionBudget"]["spec"]["minAvailable"] < BY_KIND["Deployment"]["spec"]["replicas"]


def test_ports_and_variables_are_settings_of_a_host():
    settings = HostSettings()
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert ports == {"grpc": settings.port, "http": settings.prometheus_port}
    assert CONTAINER["readinessProbe"]["grpc"]["port"] == settings.port
    known = {f"CONNECTRIO_{each.name.upper()}" for each in fields(settings)} | {"CONNECTRIO_LOG_LEVEL"}
    assert ENV.keys() <= known


def test_kubernetes_waits_for_the_drain():
    delay = float(ENV["CONNECTRIO_DRAIN_DELAY"])
    assert POD["terminationGracePeriodSeconds"] >= delay + HostSettings().grace + CLOSING
    # two periods of the probe, so that no new connection comes when the port closes
    assert delay >= 2 * CONTAINER["readinessProbe"]["periodSeconds"]


def test_a_blocked_host_is_killed_as_late_as_a_frozen_process():
    probe = CONTAINER["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == HostSettings().hang_limit


def test_flyte_calls_the_service():
    plugin = yaml.safe_load((EXAMPLE / "flyte.yaml").read_text())["plugins"]["connector-service"]
    name, _, port = plugin["defaultConnector"]["endpoint"].removeprefix("dns:///").partition(":")
    service = BY_KIND["Service"]
    assert name.split(".")[0] == service["metadata"]["name"]
    assert int(port) == service["spec"]["ports"][0]["port"]


def test_the_tutorial_shows_these_files():
    shown = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', TUTORIAL.read_text(), re.DOTALL | re.MULTILINE))
    files = {str(path.relative_to(EXAMPLE)): path.read_text() for path in EXAMPLE.rglob("*") if path.is_file()}
    files = {name: text for name, text in files.items() if "__pycache__" not in name}
    assert shown == files


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory for PYTHONPATH with the example's package, from its wheel, so that its entry point is found."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not on the PATH, which builds the example's wheel")
    source, wheels = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("wheels")
    shutil.copytree(EXAMPLE, source)
    built = subprocess.run(
        ["uv", "build", "--quiet", "--wheel", "--out-dir", wheels, source], check=False, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("*.whl")
    directory = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(directory)
    return directory


def test_the_containers_command_serves_and_drains_as_process_1(installed, tmp_path):
    lacks = why_no_namespace()
    if lacks:
        pytest.skip(lacks)
    free_ports = ["--host", "127.0.0.1", "--port", "0", "--prometheus-port", "0"]
    host = subprocess.Popen(
        [*UNSHARE, BIN / COMMAND[0], *COMMAND[1:], *free_ports],
        cwd=tmp_path,
        env={**os.environ, **MARK, **ENV, "PYTHONPATH": str(installed), "CONNECTRIO_DRAIN_DELAY": "0"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = (json.loads(line) for line in host.stderr)
        serving = next(line for line in lines if line["event"] == "serving")
        assert serving["pid"] == 1
        target = serving["grpc"]
        run = [BIN / "connectrio", "run", "hello", "--input", "name=Flyte", "--target", target]
        ran = subprocess.run(run, check=True, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
        assert "Hello, Flyte!" in ran.stdout
        (inside,) = children_of(host.pid)
        os.kill(inside, signal.SIGTERM)
        events = [line["event"] for line in lines]
        assert {"draining", "drained", "stopped"} <= set(events)
        assert host.wait(PATIENCE) == 0
    finally:
        host.kill()
        host.wait(PATIENCE)
        host.stderr.close()
