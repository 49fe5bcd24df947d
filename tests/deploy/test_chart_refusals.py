"""The chart refuses values that cannot work, and says what to do instead."""

from __future__ import annotations

import json
import shutil

import pytest

from connectrio.logs._levels import Levels
from deploy.chart import CHART, KUBERNETES, THEIRS, Install, RefusedError, helm, rendered, why_no_helm
from deploy.test_chart import TLS

pytestmark = pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())

HPA = {"enabled": True}
KEPT = {"existingSecret": "a"}
SECRET = {"existingSecret": "a", "stringData": {"b": "c"}}
# name → values, and what the text has
REFUSED = {
    "a short drain": ({"settings": {"drain_delay": 3}}, "settings.drain_delay is 3, and must be at least 6"),
    "a short drain for slow probes": (
        {"settings": {"drain_delay": 6}, "readinessProbe": {"periodSeconds": 10}}, "must be at least 20"),
    "a short drain for a headless Service": (
        {"headlessService": {"enabled": True}, "settings": {"drain_delay": 10}},
        "must be at least 35: clients of the headless Service ask DNS"),
    "an early kill": ({"terminationGracePeriodSeconds": 30},
                      "terminationGracePeriodSeconds is 30, and must be at least 44: drain_delay 6 + grace 25 + 13 s"),
    "an early kill with grace": ({"terminationGracePeriodSeconds": 44, "settings": {"grace": 40.5}}, "at least 60"),
    "an early kill with tracing": (
        {"terminationGracePeriodSeconds": 44, "settings": {"tracing": True}},
        "at least 47: drain_delay 6 + grace 25 + 16 s"),
    "an early kill with processes": ({"terminationGracePeriodSeconds": 44, "processes": 2}, "at least 52"),
    "a budget of none": ({"podDisruptionBudget": {"maxUnavailable": 0}}, "no node could be drained: set it to 1"),
    "a budget of 0%": ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, "no node could be drained"),
    "a budget of all": ({"podDisruptionBudget": {"minAvailable": 2}},
                        "minAvailable 2 of 2 pods lets none be evicted, so no node could be drained: set it to 1"),
    "a budget of 60%": ({"podDisruptionBudget": {"minAvailable": "60%"}}, "minAvailable 60% of 2 pods"),
    "a budget of 100%": ({"podDisruptionBudget": {"maxUnavailable": "100%"}},
                         "maxUnavailable 100% of 2 pods lets all be evicted at once: set it to 1 or less"),
    "a budget of all at once": ({"replicaCount": 3, "podDisruptionBudget": {"maxUnavailable": 3}}, "set it to 2"),
    "a share that is rounded up to all": ({"podDisruptionBudget": {"maxUnavailable": "51%"}}, "51% of 2 pods lets all"),
    "a budget that keeps none": ({"podDisruptionBudget": {"minAvailable": "0%"}}, "minAvailable 0% lets all pods be"),
    "a budget in words": ({"podDisruptionBudget": {"minAvailable": "two"}}, "/podDisruptionBudget/minAvailable"),
    "a scale by nothing": ({"autoscaling": {**HPA, "targetCPUUtilizationPercentage": None}}, "nothing to scale by"),
    "a scale of less": ({"autoscaling": {**HPA, "maxReplicas": 1}}, "maxReplicas 1 is less than"),
    "a share of no CPU": ({"autoscaling": HPA, "resources": {"limits": {"memory": "1Gi"}}}, "resources.requests.cpu"),
    "one port twice": ({"ports": {"metricsPort": 8000}}, "are both 8000: they must differ"),
    "a port's name": ({"ports": {"name": "http"}}, "ports.name cannot be http"),
    "a probe of another port": ({"readinessProbe": {"grpc": {"port": 9000}}}, "gRPC's port is 8000: leave it out"),
    "a gRPC probe of TLS": ({**TLS, "readinessProbe": {"grpc": {"port": 8000}}}, "cannot work with TLS"),
    "TLS without a certificate": ({"tls": {"enabled": True}}, "name a Secret in tls.existingSecret, or"),
    "two certificates": ({"tls": {**TLS["tls"], "existingSecret": "a"}}, "two sources of one certificate"),
    "a certificate for nothing": ({"tls": {"existingSecret": "a"}}, "tls has a certificate and is off"),
    "clients' certificates without TLS": ({"settings": {"tls_client_ca": "/ca"}}, "tls_client_ca needs tls.enabled"),
    "a password in the URL": ({"jobStore": {"url": "postgresql://a:b@c/d"}}, "jobStore.url has a password"),
    "another database": ({"jobStore": {"url": "sqlite:///a"}}, "must begin with postgresql://"),
    "two URLs": ({"jobStore": {"url": "postgresql://a/b", "urlKey": "uri", "existingSecret": "c"}}, "give one of them"),
    "a key of no Secret": ({"jobStore": {"urlKey": "uri"}}, "name that in jobStore.existingSecret"),
    "two passwords": (
        {"jobStore": {"url": "postgresql://a/b", "password": "c", "existingSecret": "d"}}, "one password"),
    "a password for no database": ({"jobStore": {"password": "c"}}, "but no address: give jobStore.url"),
    "two Secrets": ({"connectorSecrets": {"x": SECRET}}, "connectorSecrets.x has both"),
    "a Secret in another": (
        {"connectorSecrets": {"a": {**KEPT, "mountPath": "/etc/secrets/"}, "b": KEPT}},
        "connectorSecrets.b is mounted at /etc/secrets/b, and connectorSecrets.a at /etc/secrets, which is read-only"),
    "no Secret": ({"connectorSecrets": {"x": {}}}, "connectorSecrets.x is empty: give existingSecret"),
    "a Secret's name that is taken": ({"connectorSecrets": {"tls": {"stringData": {"a": "b"}}}}, "take another name"),
    "a setting of another value": ({"settings": {"port": 1}}, "use the value ports.containerPort"),
    "a setting for tests": ({"settings": {"timeout": 5}}, "settings.timeout makes no sense in a pod"),
    "a setting as a variable": ({"podEnv": {"CONNECTRIO_GRACE": "5"}}, "give it as settings.grace"),
    "the same in a list": ({"podEnv": [{"name": "CONNECTRIO_GRACE", "value": "5"}]}, "give it as settings.grace"),
    "an unknown setting": ({"settings": {"drain_dely": 5}}, "drain_dely"),
    "a setting of another type": ({"settings": {"grace": "long"}}, "grace"),
    "a negative setting": ({"settings": {"grace": -1}}, "grace"),
    "an item with a space": ({"settings": {"modules": ["a b"]}}, "modules"),
    "an unknown value": ({"replicas": 2}, "replicas"),
    "no pods": ({"replicaCount": 0}, "replicaCount"),
    "a Secret's name that is none": (
        {"connectorSecrets": {"my_token": KEPT}},
        "connectorSecrets.my_token: a name has lower-case letters, digits and '-'"),
    "a Secret without a name": ({"connectorSecrets": {"stringData": {"a": "b"}}},
                                "connectorSecrets.stringData: a NAME is missing above it"),
    "a Secret of yours without a name": ({"connectorSecrets": {"existingSecret": "a"}}, "a NAME is missing"),
    "a misspelt Secret": ({"connectorSecrets": {"x": {"existingsecret": "a"}}}, "/connectorSecrets/x"),
    "a log level": ({"settings": {"log_level": ["inf"]}}, "/settings/log_level/0"),
    "a log level in a text": ({"settings": {"log_level": "info httpx=warn"}}, "/settings/log_level"),
    "Flyte's extraArgs": ({"extraArgs": {"worker": 20}}, "extraArgs is a value of flyteconnector that this chart does"),
    "Flyte's configPath": ({"configPath": "/etc/x"}, "Give settings in `settings`"),
    "Flyte's connectorSecret": ({"connectorSecret": {"secretData": {"stringData": {"a": "b"}}}},
                                "connectorSecrets: {NAME: {stringData: {KEY: …}}}"),
    "Flyte 1's agentSecret": ({"agentSecret": {"secretData": {"data": {"a": "b"}}}}, "connectorSecrets"),
    "a part of Flyte's chart": ({"flyteconnector": {"replicaCount": 2}}, "Move what is below it to the top"),
    "Flyte's forceNamespace": ({"forceNamespace": "a"}, "use helm's --namespace"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses_and_says_why(case):
    values, text = REFUSED[case]
    with pytest.raises(RefusedError) as refused:
        rendered(values)
    assert text in str(refused.value)


def test_it_refuses_all_values_of_flyte_at_once():
    with pytest.raises(RefusedError) as refused:
        rendered({"extraArgs": {"worker": 20}, "configPath": "/etc/x", "forceNamespace": "a"})
    for name in ("extraArgs", "configPath", "forceNamespace"):
        assert f"{name} is a value of flyteconnector that this chart does not have" in str(refused.value)


@pytest.mark.parametrize("level", ["info", "info httpx=warning", "info, httpx=warning", ["debug", "a.b=error"]])
def test_it_takes_the_log_levels_that_a_host_takes(level):
    Levels.read(level)
    rendered({"settings": {"log_level": level}})


@pytest.mark.parametrize("pods", [{"maxUnavailable": "50%"}, {"maxUnavailable": 2}, {"minAvailable": "34%"}])
def test_it_takes_a_budget_of_some(pods):
    assert Install({"replicaCount": 3, "podDisruptionBudget": pods}).of("PodDisruptionBudget")


@pytest.mark.parametrize("env", [[{"name": "A", "value": "b"}], {"A": "b"}], ids=["list", "map"])
def test_variables_in_both_forms_pass_without_a_warning(env, tmp_path):
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps({"podEnv": env}))
    for command in (["template", "x"], ["lint"]):
        ran = helm(*command, CHART, "--kube-version", KUBERNETES, "-f", values)
        assert (ran.returncode, ran.stderr) == (0, "")


def test_a_chart_without_its_files_says_so(tmp_path):
    chart = tmp_path / "connectrio"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("files"))
    rendered({}, chart=chart)
    for name, path in (("prometheusRule", "alerts.yaml"), ("dashboard", "dashboard.json")):
        with pytest.raises(RefusedError, match=f"the chart has no files/{path}: take it from a release, or turn the"):
            rendered({"monitoring": {name: {"enabled": True}}}, chart=chart)


def values_of_flyte(path: str, value: object) -> dict[str, object]:
    """A value of Flyte's chart, as a document."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[return-value]


def test_flytes_own_defaults_are_taken_as_far_as_they_mean_the_same():
    """A user who keeps a full copy of Flyte's values can go on with it."""
    facts = json.loads(THEIRS.read_text())["values"]
    merged: dict[str, object] = {}
    for path, fact in facts.items():
        if fact["here"] == "same":
            *above, last = path.split(".")
            place = merged
            for key in above:
                place = place.setdefault(key, {})
            place[last] = fact["default"]
    found = Install(merged)
    assert found.container["image"] == "ghcr.io/flyteorg/flyte-connectors:py3.12-v2.3.6"
    assert found.container["resources"] == facts["resources"]["default"]
    assert found.ports == {"connector-grpc": 8000, "http": 9090}
    assert found.container["readinessProbe"] == {**facts["readinessProbe"]["default"], "timeoutSeconds": 2}
    for path, fact in facts.items():
        if fact["here"] != "same":
            given = fact["default"] or {"stringData": {"a": "b"}} if "Secret" in path else fact["default"] or {"a": "b"}
            with pytest.raises(RefusedError, match="is a value of flyteconnector that this chart does not have"):
                rendered(values_of_flyte(path, given))
