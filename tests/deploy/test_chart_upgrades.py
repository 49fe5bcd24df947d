"""What an upgrade of a release changes, what NOTES.txt says, and the objects that are made from files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from deploy.chart import CHART, INSTALLS, NAMESPACE, RELEASE, Install, why_no_helm

pytestmark = pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())

IMAGE = {"image": {"tag": "1.4.0"}}


def copy_of_the_chart(folder: Path) -> Path:
    return Path(shutil.copytree(CHART, folder / "connectrio"))


def test_a_new_version_of_the_chart_restarts_no_pods(tmp_path):
    newer = copy_of_the_chart(tmp_path)
    text = (newer / "Chart.yaml").read_text()
    facts = yaml.safe_load(text)
    (newer / "Chart.yaml").write_text(text.replace(f"ersion: {facts['version']}", "ersion: 9.9.9"))
    after, before = Install(IMAGE, chart=newer), Install(IMAGE)
    assert after.one("Deployment")["metadata"]["labels"]["helm.sh/chart"] == "connectrio-9.9.9"
    assert after.template == before.template


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 5},
        {"podDisruptionBudget": {"minAvailable": 1}},
        {"monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}},
        {"networkPolicy": {"enabled": True}},
        {"service": {"annotations": {"a": "b"}}},
        {"commonAnnotations": {"a": "b"}},
        {"autoscaling": {"enabled": True}},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_is_not_of_the_pods_restarts_none(values):
    assert Install(IMAGE | values).template == Install(IMAGE).template


def test_a_secret_of_the_chart_restarts_pods_when_it_changes():
    def annotations(token: str, user: str = "a") -> dict[str, str]:
        secrets = {"databricks": {"stringData": {"token": token}}, "snowflake": {"existingSecret": user}}
        store = {"url": "postgresql://db/jobs", "password": token}
        return Install({"connectorSecrets": secrets, "jobStore": store}).template["metadata"]["annotations"]

    assert annotations("a") == annotations("a") == annotations("a", user="b")
    assert annotations("a") != annotations("b")
    assert "annotations" not in Install().template["metadata"]


def test_alerts_are_those_of_the_file():
    rule = Install({"monitoring": {"prometheusRule": {"enabled": True, "labels": {"release": "x"}}}}).one(
        "PrometheusRule"
    )
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["metadata"]["labels"]["release"] == "x"
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())


def test_the_dashboard_is_the_file():
    values = {"monitoring": {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "Flyte"}}}}
    made = Install(values).one("ConfigMap", f"{RELEASE}-dashboard")
    # byte for byte: braces of Grafana's own are no templates of Helm's
    assert made["data"] == {f"{RELEASE}.json": (CHART / "files" / "dashboard.json").read_text()}
    assert len(made["data"][f"{RELEASE}.json"]) < 1024 * 1024, "Kubernetes takes no larger ConfigMap"
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "Flyte"}


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    """The chart, whose notes are an object, because `helm template` prints none."""
    chart = copy_of_the_chart(tmp_path_factory.mktemp("noted"))
    shutil.move(chart / "templates" / "NOTES.txt", chart / "notes.txt")
    object_with_notes = '{kind: Notes, metadata: {name: notes}, text: {{ tpl (.Files.Get "notes.txt") . | quote }}}\n'
    (chart / "templates" / "notes.yaml").write_text(object_with_notes)

    def notes(values: dict) -> str:
        return Install(values, chart=chart).one("Notes", "notes")["text"]

    return notes


def test_the_notes_have_the_executors_configuration(noted):
    text = noted({})
    begin = text.index("  tasks:")
    configuration = yaml.safe_load(text[begin : text.index("3. See")])
    plugin = configuration["plugins"]["connector-service"]
    (task_type,) = plugin["supportedTaskTypes"]
    routes = configuration["tasks"]["task-plugins"]
    assert routes["default-for-task-types"][task_type] == "connector-service"
    assert set(routes["default-for-task-types"].values()) == set(routes["enabled-plugins"])
    address = f"{RELEASE}.{NAMESPACE}.svc.cluster.local"
    assert plugin["defaultConnector"] == {"endpoint": f"dns:///{address}:8000", "insecure": True}
    headless = noted({"headlessService": {"enabled": True}, "tls": {"enabled": True, "existingSecret": "a"}})
    assert f"dns:///{address.replace('.', '-headless.', 1)}:8000" in headless
    assert "insecure: false" in headless
    assert "connectrio ls --tls-ca /etc/connectrio/tls/ca.crt --tls-name connectors-headless." in headless
    assert "-- connectrio ls --target 127.0.0.1:9000\n" in noted({"ports": {"containerPort": 9000}})
    assert "-- connectrio ls\n" in text
    assert "takes up to 44 s: 6 s until" in text


def test_the_notes_say_what_runs_and_where_its_page_is(noted):
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    text = noted({"image": {"repository": "registry.example/a", "tag": "1.4.0"}})
    assert text.startswith(f"{RELEASE} in {NAMESPACE} runs registry.example/a:1.4.0 (chart connectrio-{version}).\n")
    assert "\nThen open http://127.0.0.1:9090/status\n" in text
    tls = {"tls": {"enabled": True, "existingSecret": "a"}, "settings": {"prometheus_tls": True}}
    assert "https://127.0.0.1:9100/status" in noted({**tls, "ports": {"metricsPort": 9100}})
    assert "/status" not in noted({"settings": {"page": False}})


def test_the_notes_warn_of_what_may_surprise(noted):
    store = {"jobStore": {"url": "postgresql://db/jobs"}}
    warnings = {
        "no job store": {},
        "there is one pod": {"replicaCount": 1},
        "one pod gets all of its calls": {"autoscaling": {"enabled": True}, **store},
        "pods that are added get calls": {
            "autoscaling": {"enabled": True},
            "headlessService": {"enabled": True},
            **store,
        },
    }
    texts = {text: noted(values) for text, values in warnings.items()}
    for text, notes in texts.items():
        assert [other for other in texts if other in notes] == [text]
    assert "NOTE" not in noted(store)
    assert "NOTE" not in noted(yaml.safe_load(INSTALLS[2].read_text()))
