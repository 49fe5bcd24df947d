"""The chart: what it renders is right for Kubernetes, agrees with itself and with a host."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from functools import cache

import pytest
import yaml

import connectrio
from connectrio.cli.commands.serve import serve
from connectrio.cli.hosting import variable
from connectrio.cli.settings_help import settings_help
from connectrio.host.settings import HostSettings
from connectrio.processes import _member
from connectrio.service.job_store import store
from connectrio.tracing import _export
from deploy.chart import CHART, NAMESPACE, RELEASE, Install, helm, why_no_helm
from deploy.test_example import CLOSING

pytestmark = pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())

# those that Chart.yaml asks for, as far as kubernetes-validate knows them
VERSIONS = ["1.30.0", "1.31.0", "1.32.0", "1.33.0", "1.34.0", "1.35.0", "1.36.0", "1.37.0"]

TLS = {"tls": {"enabled": True, "certManager": {"issuerRef": {"name": "internal", "kind": "ClusterIssuer"}}}}
ALL = {
    "processes": 2,
    "settings": {"grace": 40, "log_level": ["info", "httpx=warning"], "page": False, "max_request_memory": 134217728},
    "podEnv": {"CONNECTRIO_DUCKDB_MEMORY_LIMIT": "1GB"},
    "headlessService": {"enabled": True},
    "autoscaling": {"enabled": True, "targetCallsInFlight": 50},
    "jobStore": {"url": "postgresql://connectors@db.internal:5433/connectors", "password": "x y"},
    "connectorSecrets": {"snowflake": {"existingSecret": "key"}, "databricks": {"stringData": {"token": "abc"}}},
    "networkPolicy": {"enabled": True},
    "rbac": {"enabled": True},
    "monitoring": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "commonLabels": {"team": "data"},
    "commonAnnotations": {"owner": "data@example.com"},
    "podAnnotations": {"note": "x"},
    "podLabels": {"tier": "x"},
    "priorityClassName": "high",
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "additionalVolumes": [{"name": "data", "emptyDir": {}}],
    "additionalVolumeMounts": [{"name": "data", "mountPath": "/data/{{ .Release.Name }}"}],
    "additionalContainers": [{"name": "sidecar", "image": "registry.example/sidecar:1"}],
    "serviceAccount": {"imagePullSecrets": [{"name": "registry"}], "annotations": {"role": "{{ .Release.Name }}"}},
    **TLS,
}  # fmt: skip
CASES = {
    "defaults": {},
    "one pod": {"replicaCount": 1},
    "all": ALL,
    "headless": {"headlessService": {"enabled": True}},
    "processes": {"processes": 4},
    "tracing": {"settings": {"tracing": True}},
    "tracing of processes": {"processes": 2, "settings": {"tracing": True}},
    "TLS": TLS,
    "TLS for metrics": {**TLS, "settings": {"prometheus_tls": True},
                        "monitoring": {"serviceMonitor": {"enabled": True}}},
    "ports": {"ports": {"containerPort": 9000, "name": "connector-grpc", "metricsPort": 9100},
              "networkPolicy": {"enabled": True}, "monitoring": {"serviceMonitor": {"enabled": True}}},
    "job store": {"jobStore": {"existingSecret": "db-app", "urlKey": "uri"}, "networkPolicy": {"enabled": True}},
    "OpenShift": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}, **TLS,
                  "connectorSecrets": {"snowflake": {"existingSecret": "key"}}},
    "budget": {"replicaCount": 5, "podDisruptionBudget": {"minAvailable": "50%"}},
    "plain": {"podSecurityContext": None, "topologySpreadConstraints": [], "podDisruptionBudget": {"enabled": False},
              "serviceAccount": {"create": False, "name": "ours"}, "service": {"type": "LoadBalancer"},
              "podEnv": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
              "resources": {"limits": {"cpu": "500m"}},
              "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}}},
}  # fmt: skip


@cache
def install(case: str) -> Install:
    return Install(CASES[case])


@pytest.fixture(params=CASES)
def each(request) -> Install:
    return install(request.param)


def test_it_passes_lint(tmp_path):
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(ALL))
    ran = helm("lint", "--strict", "--kube-version", "1.33", CHART, "-f", values)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARNING" not in ran.stdout


def test_its_version_is_the_packages():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == connectrio.__version__
    # Helm's versions are semantic: 1.0.0-rc.1 is Python's 1.0.0rc1
    assert re.sub(r"-(a|b|rc)[a-z]*\.", r"\1", chart["version"]) == connectrio.__version__
    assert chart["kubeVersion"] == f">={VERSIONS[0]}-0"


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_it(version):
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed; the group `dev` has it"
    )
    # many are in several cases
    different = {str(document): document for case in CASES for document in install(case).objects}
    for document in different.values():
        if not document["apiVersion"].startswith(("monitoring.coreos.com/", "cert-manager.io/")):
            kubernetes_validate.validate(document, version, strict=True)


def test_no_version_that_can_be_checked_is_left_out():
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed; the group `dev` has it"
    )
    assert kubernetes_validate.latest_version() == VERSIONS[-1]


def test_services_and_policies_find_the_pods_and_nothing_else(each):
    labels = each.template["metadata"]["labels"]
    selector = each.one("Deployment")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items()
    assert [service["spec"]["selector"] for service in each.of("Service")] == [selector] * len(each.of("Service"))
    for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert [found["spec"][path]["matchLabels"] for found in each.of(kind)] in ([], [selector])
    for constraint in each.pod.get("topologySpreadConstraints", []):
        assert constraint["labelSelector"]["matchLabels"] == selector
    for pod in each.of("Pod"):
        assert not selector.items() <= pod["metadata"]["labels"].items()


def test_it_can_replace_flytes_chart():
    """A Deployment's selector cannot be changed, so `helm upgrade` needs the same one."""
    replaced = Install({"nameOverride": "flyteconnector"})
    deployment = replaced.one("Deployment", "flyteconnector")
    selector = {"app.kubernetes.io/name": "flyteconnector", "app.kubernetes.io/instance": RELEASE}
    assert deployment["spec"]["selector"]["matchLabels"] == selector
    assert replaced.one("Service", "flyteconnector")


def test_ports_agree(each):
    grpc, http = (each.ports[name] for name in each.ports)
    assert int(each.env.get("CONNECTRIO_PORT", HostSettings().port)) == grpc
    assert int(each.env.get("CONNECTRIO_PROMETHEUS_PORT", HostSettings().prometheus_port)) == http
    for service in each.of("Service"):
        for port in service["spec"]["ports"]:
            # by number: helm changes a Service before the pods, and those have the old name until they are replaced
            assert port["targetPort"] == port["port"] == each.ports[port["name"]]
    for policy in each.of("NetworkPolicy"):
        rules = policy["spec"]["ingress"]
        assert [port["port"] for rule in rules for port in rule["ports"]] == [grpc, http]


def test_probes_ask_a_port_that_answers_them(each):
    container = each.container
    for name in ("startupProbe", "livenessProbe"):
        assert container[name]["httpGet"]["path"] == "/healthz"
    ready = container["readinessProbe"]
    # kubelet's gRPC probes speak no TLS
    if "CONNECTRIO_TLS_CERT" in each.env or "httpGet" in ready:
        assert ready["httpGet"]["path"] == "/readyz"
    else:
        assert ready["grpc"]["port"] == each.ports["grpc" if "grpc" in each.ports else "connector-grpc"]
    asks = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe")]
    tls = each.env.get("CONNECTRIO_PROMETHEUS_TLS") == "1"
    assert [(get["port"], get.get("scheme")) for get in asks] == [("http", "HTTPS" if tls else None)] * 2


def test_a_blocked_host_is_killed_as_late_as_a_frozen_process():
    probe = install("defaults").container["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == HostSettings().hang_limit


def test_kubernetes_waits_for_the_drain(each):
    delay = float(each.env["CONNECTRIO_DRAIN_DELAY"])
    grace = float(each.env.get("CONNECTRIO_GRACE", HostSettings().grace))
    # a supervisor ends its own processes after that
    closing = CLOSING + (_export._FLUSH_TIMEOUT if each.env.get("CONNECTRIO_TRACING") == "1" else 0)
    closing += store._END if "CONNECTRIO_JOB_STORE" in each.env else 0
    if "CONNECTRIO_PROCESSES" in each.env:
        assert closing < _member._END_AFTER
        closing = _member._END_AFTER
    waits = each.pod["terminationGracePeriodSeconds"]
    assert delay + grace + closing <= waits <= math.ceil(delay + grace + closing) + 1
    assert delay >= 2 * each.container["readinessProbe"].get("periodSeconds", 10)


def test_clients_of_a_headless_service_have_time_to_ask_again():
    headless = install("headless")
    assert headless.env["CONNECTRIO_DRAIN_DELAY"] == "35"
    assert headless.pod["terminationGracePeriodSeconds"] == 73
    assert headless.one("Service", f"{RELEASE}-headless")["spec"]["clusterIP"] == "None"


def test_variables_are_settings_of_a_host(each):
    known = {variable(name) for name in settings_help(serve)}
    ours = {name for name in each.env if name.startswith("CONNECTRIO_") and not name.startswith("CONNECTRIO_DUCKDB_")}
    assert ours <= known


def test_values_of_settings_become_the_text_that_a_host_reads():
    env = install("all").env
    assert env["CONNECTRIO_MAX_REQUEST_MEMORY"] == "134217728"
    assert env["CONNECTRIO_LOG_LEVEL"] == "info httpx=warning"
    assert (env["CONNECTRIO_PAGE"], env["CONNECTRIO_GRACE"], env["CONNECTRIO_PROCESSES"]) == ("0", "40", "2")


def test_every_setting_can_be_given():
    """Its default, as far as it has one, is taken and becomes its variable."""
    from deploy.generated import REFUSED_SETTINGS
    from docs.generated import defaults

    given = {name: value for name, value in defaults().items() if name not in REFUSED_SETTINGS}
    given = {name: list(value) if isinstance(value, tuple | list) else value for name, value in given.items()}
    given = {name: value for name, value in given.items() if value not in (None, [], math.inf)}
    env = Install({"settings": {**given, "drain_delay": 6}}).env
    assert {variable(name) for name in given} <= env.keys()
    numbers = [each.name for each in fields(HostSettings) if each.type in ("int", "float") and each.name in given]
    assert {name: float(env[variable(name)]) for name in numbers} == {
        **{n: given[n] for n in numbers},
        "drain_delay": 6,
    }


def test_pods_are_confined(each):
    container = each.container
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    if each is install("OpenShift"):
        assert each.pod["securityContext"].keys() == {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}
    elif each is not install("plain"):
        context = each.pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert each.pod["enableServiceLinks"] is False
    # the token is there only for those who have rules
    assert each.pod["automountServiceAccountToken"] is bool(each.of("ClusterRole"))


def test_the_account_of_the_pods_is_the_one_that_is_bound():
    found = install("all")
    account = found.one("ServiceAccount")
    assert found.pod["serviceAccountName"] == account["metadata"]["name"]
    (subject,) = found.of("ClusterRoleBinding")[0]["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["metadata"]["name"], NAMESPACE)
    assert found.of("ClusterRoleBinding")[0]["roleRef"]["name"] == found.of("ClusterRole")[0]["metadata"]["name"]
    assert install("plain").pod["serviceAccountName"] == "ours"
    assert install("plain").of("ServiceAccount") == []


def test_every_mount_has_its_volume(each):
    for pod in [each.pod, *(pod["spec"] for pod in each.of("Pod"))]:
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounts = [mount for container in pod["containers"] for mount in container.get("volumeMounts", [])]
        assert {mount["name"] for mount in mounts} == volumes
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)


def test_secrets_are_mounted_as_files_that_the_user_may_read():
    found = install("all")
    secrets = {each["name"]: each["secret"] for each in found.pod["volumes"] if "secret" in each}
    assert {name: each["secretName"] for name, each in secrets.items()} == {
        "tls": "connectors-tls", "secret-snowflake": "key", "secret-databricks": "connectors-databricks"
    }  # fmt: skip
    assert {each["defaultMode"] for each in secrets.values()} == {0o440}
    assert found.pod["securityContext"]["fsGroup"] == found.pod["securityContext"]["runAsGroup"]
    assigned = install("OpenShift").pod["volumes"]
    assert {each["secret"]["defaultMode"] for each in assigned if "secret" in each} == {0o444}
    mounts = {each["name"]: each["mountPath"] for each in found.container["volumeMounts"]}
    assert mounts["secret-snowflake"] == "/etc/secrets/snowflake"
    assert found.one("Secret", "connectors-databricks")["stringData"] == {"token": "abc"}
    # the files of TLS are below the mount of their Secret
    assert mounts["tls"] == "/etc/connectrio/tls"
    assert found.env["CONNECTRIO_TLS_CERT"] == "/etc/connectrio/tls/tls.crt"
    assert found.env["CONNECTRIO_TLS_KEY"] == "/etc/connectrio/tls/tls.key"


def test_the_job_stores_password_stays_in_its_secret():
    found = install("all")
    assert found.env["CONNECTRIO_JOB_STORE"] == "postgresql://connectors@db.internal:5433/connectors"
    reference = found.env["PGPASSWORD"]["secretKeyRef"]
    assert found.one("Secret", reference["name"])["stringData"] == {reference["key"]: "x y"}
    url = install("job store").env
    assert url["CONNECTRIO_JOB_STORE"] == {"secretKeyRef": {"name": "db-app", "key": "uri"}}
    assert "PGPASSWORD" not in url


def test_the_network_policy_lets_flyte_prometheus_dns_database_and_vendors_through():
    spec = install("all").one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    flyte, prometheus = spec["ingress"]
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "flyte"}}}
    assert named in flyte["from"]
    test = install("all").one("Pod", f"{RELEASE}-test")["metadata"]["labels"]
    assert any(
        peer.get("podSelector", {}).get("matchLabels", {"": ""}).items() <= test.items() for peer in flyte["from"]
    )
    assert prometheus["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    out = [(port["protocol"], port["port"]) for rule in spec["egress"] for port in rule["ports"]]
    assert out == [("UDP", 53), ("TCP", 53), ("TCP", 5433), ("TCP", 443)]
    assert not any("to" in rule for rule in spec["egress"])
    stored = install("job store").one("NetworkPolicy")["spec"]["egress"]
    assert stored[1]["ports"] == [{"protocol": "TCP", "port": 5432}]


def test_a_rollout_never_has_fewer_pods_and_a_node_can_be_drained():
    assert install("defaults").one("Deployment")["spec"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 1, "maxUnavailable": 0
    }  # fmt: skip
    budget = install("defaults").one("PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert install("budget").one("PodDisruptionBudget")["spec"]["minAvailable"] == "50%"
    assert install("one pod").of("PodDisruptionBudget") == install("plain").of("PodDisruptionBudget") == []


def test_an_autoscaler_decides_how_many_pods():
    found = install("all")
    assert "replicas" not in found.one("Deployment")["spec"]
    spec = found.one("HorizontalPodAutoscaler")["spec"]
    target = found.one("Deployment")
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": target["metadata"]["name"]}
    cpu, calls = spec["metrics"]
    assert cpu["resource"]["target"]["averageUtilization"] == 75
    assert "cpu" in found.container["resources"]["requests"]
    assert calls["pods"]["metric"]["name"] in (CHART.parents[2] / "docs/reference/metrics.md").read_text()
    assert calls["pods"]["target"]["averageValue"] == "50"


def test_resources_are_for_each_process():
    assert install("defaults").container["resources"] == {
        "requests": {"cpu": "250m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}
    }  # fmt: skip
    assert install("processes").container["resources"] == {
        "requests": {"cpu": "1000m", "memory": "512Mi"}, "limits": {"memory": "2048Mi"}
    }  # fmt: skip
    assert install("plain").container["resources"] == {"limits": {"cpu": "500m"}}


def test_what_is_added_is_there():
    found = install("all")
    assert found.container["volumeMounts"][-1] == {"name": "data", "mountPath": f"/data/{RELEASE}"}
    assert found.pod["containers"][1]["name"] == "sidecar"
    assert found.one("ServiceAccount")["imagePullSecrets"] == [{"name": "registry"}]
    assert found.one("ServiceAccount")["metadata"]["annotations"]["role"] == RELEASE
    for each in found.objects:
        if each["kind"] != "Pod":
            assert each["metadata"]["labels"]["team"] == "data"
            assert each["metadata"]["annotations"]["owner"] == "data@example.com"
    assert found.template["metadata"]["labels"]["team"] == "data"
    assert found.template["metadata"]["labels"]["tier"] == "x"


def test_objects_stand_in_the_releases_namespace(each):
    for document in each.objects:
        namespace = document["metadata"].get("namespace")
        assert namespace == (None if document["kind"].startswith("ClusterRole") else NAMESPACE)
    names = [(document["kind"], document["metadata"]["name"]) for document in each.objects]
    assert len(set(names)) == len(names)


# what cert-manager and Prometheus' operator ask for, where our objects have it
CUSTOM = {
    "Certificate": ("cert-manager.io/v1", {"secretName", "issuerRef", "dnsNames", "usages", "privateKey"}),
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"jobLabel", "selector", "endpoints"}),
}


@pytest.mark.parametrize("kind", CUSTOM)
def test_custom_objects_have_the_fields_of_their_kind(kind):
    (found,) = install("all").of(kind)
    assert (found["apiVersion"], found["spec"].keys()) == CUSTOM[kind]


def test_the_certificate_has_the_names_that_clients_use():
    spec = install("all").one("Certificate")["spec"]
    assert spec["secretName"] == "connectors-tls"
    # cert-manager's spelling
    assert set(spec["usages"]) == {"digital signature", "server auth"}
    assert spec["privateKey"] == {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
    for service in ("connectors", "connectors-headless"):
        assert {f"{service}.{NAMESPACE}.svc", f"{service}.{NAMESPACE}.svc.cluster.local"} <= set(spec["dnsNames"])
    (pod,) = install("TLS").of("Pod")
    target = pod["spec"]["containers"][0]["command"][3]
    assert target.partition(":")[0] in spec["dnsNames"]


def test_the_service_monitor_finds_one_service():
    for case in ("all", "TLS for metrics"):
        monitor = install(case).one("ServiceMonitor")["spec"]
        found = [
            service
            for service in install(case).of("Service")
            if monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        ]
        assert [service["metadata"]["name"] for service in found] == ["connectors-metrics"]
        (endpoint,) = monitor["endpoints"]
        assert endpoint["port"] in [port["name"] for port in found[0]["spec"]["ports"]]
        assert monitor["jobLabel"] in found[0]["metadata"]["labels"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == (
        "https",
        {
            "ca": {"secret": {"name": "connectors-tls", "key": "ca.crt"}},
            "serverName": f"connectors.{NAMESPACE}.svc",
        },
    )
    assert endpoint["tlsConfig"]["serverName"] in install("TLS for metrics").one("Certificate")["spec"]["dnsNames"]
