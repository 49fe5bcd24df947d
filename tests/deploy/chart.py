"""The Helm chart: its files, and helm's answers."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "connectrio"
DOCS = ROOT / "docs"
# the values of Flyte's own chart: facts, and what this chart does with each
THEIRS = Path(__file__).with_name("flyteconnector.json")
# the values of the documented installs, and beside each the manifests
INSTALLS = [DOCS / "how-to" / "helm" / f"{name}.yaml" for name in ("smallest", "production", "round-robin")]

RELEASE = "connectors"
NAMESPACE = "flyte-connectors"
# helm that is built without its release's flags takes an old version for the cluster's
KUBERNETES = "1.33"

# seconds; only ends a test that fails
PATIENCE = 60.0


def helm_path() -> str | None:
    go = os.environ.get("GOBIN") or Path(os.environ.get("GOPATH", Path.home() / "go")) / "bin"
    return shutil.which("helm", path=os.pathsep.join([os.environ.get("PATH", ""), str(go)]))


@functools.cache
def why_no_helm() -> str:
    """Why tests of the chart cannot run; "" if they can."""
    return "" if helm_path() else "helm is not installed: uv run just deploy-tools"


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm, without the settings of its user."""
    with tempfile.TemporaryDirectory() as home:
        return subprocess.run(
            [str(helm_path()), *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": tempfile.gettempdir()},
        )


class RefusedError(Exception):
    """The chart refuses values; the text is helm's."""


def rendered(
    values: dict[str, Any] | Path | None = None, *options: str, chart: Path = CHART, release: str = RELEASE
) -> str:
    """Return the manifests of an install with these values.

    :raises RefusedError: the chart refuses them
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.yaml"
        path.write_text(values.read_text() if isinstance(values, Path) else json.dumps(values or {}))
        ran = helm(
            "template", release, chart, "--namespace", NAMESPACE, "--kube-version", KUBERNETES, "-f", path, *options
        )
    if ran.returncode:
        raise RefusedError(ran.stderr)
    assert ran.stderr == ""
    return ran.stdout


def documents(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


class Install:
    """The objects of an install, by kind and name."""

    def __init__(self, values: dict[str, Any] | Path | None = None, *options: str, chart: Path = CHART) -> None:
        self.text = rendered(values, *options, chart=chart)
        self.objects = documents(self.text)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = RELEASE) -> dict[str, Any]:
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    @property
    def template(self) -> dict[str, Any]:
        return self.one("Deployment")["spec"]["template"]

    @property
    def pod(self) -> dict[str, Any]:
        return self.template["spec"]

    @property
    def container(self) -> dict[str, Any]:
        return self.pod["containers"][0]

    @property
    def env(self) -> dict[str, Any]:
        """The variables of the container; for one from a Secret, its reference."""
        return {each["name"]: each.get("value", each.get("valueFrom")) for each in self.container["env"]}

    @property
    def ports(self) -> dict[str, int]:
        return {each["name"]: each["containerPort"] for each in self.container["ports"]}


# too long for a document
_FOLDED = {
    "PrometheusRule": ("spec", "the rules of files/alerts.yaml"),
    "ConfigMap": ("data", "files/dashboard.json"),
}


def manifests_of(values: Path) -> str:
    """Return the manifests of a documented install, without the alerts and the dashboard."""

    def folded(document: str) -> str:
        kind = re.search(r"^kind: (\w+)$", document, re.MULTILINE)
        key, what = _FOLDED.get(kind[1] if kind else "", ("", ""))
        return re.sub(rf"(?ms)^{key}:\n.*", f"{key}: {{}}  # {what}\n", document) if key else document

    parts = re.split(r"^---\n", rendered(values), flags=re.MULTILINE)
    command = f"helm template {RELEASE} deploy/helm/connectrio --namespace {NAMESPACE}"
    header = f"# made by tests/deploy/generated.py: {command} --values docs/how-to/helm/{values.name}\n"
    # the version stands in Chart.yaml only
    version = re.escape(yaml.safe_load((CHART / "Chart.yaml").read_text())["version"])
    ours = rf"(app\.kubernetes\.io/version: \"|helm\.sh/chart: connectrio-|/connectrio/connectrio:){version}"
    return header + "---\n".join(re.sub(ours, r"\1VERSION", folded(part)) for part in parts)
