"""grpc.health.v1 and the probes over HTTP of a healthy host."""

from __future__ import annotations

import json

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest

from e2e.client import fetch

SERVICES = [
    "",
    "flyteidl2.connector.AsyncConnectorService",
    "flyteidl2.connector.ConnectorMetadataService",
    "grpc.health.v1.Health",
]
FLYTE_1 = [f"flyteidl.service.{name}" for name in ("AgentMetadataService", "AsyncAgentService", "SyncAgentService")]


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_serving(either_client, service):
    response = either_client.health.Check(HealthCheckRequest(service=service), timeout=30)
    assert response.status == HealthCheckResponse.SERVING


def test_an_unknown_service(either_client):
    with pytest.raises(grpc.RpcError) as raised:
        either_client.health.Check(HealthCheckRequest(service="nope"), timeout=30)
    assert raised.value.code() is StatusCode.NOT_FOUND
    watch = either_client.health.Watch(HealthCheckRequest(service="nope"), timeout=30)
    assert next(watch).status == HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_a_watch_begins_with_the_present(either_client):
    watch = either_client.health.Watch(HealthCheckRequest(), timeout=30)
    assert next(watch).status == HealthCheckResponse.SERVING
    watch.cancel()


def test_the_list(client):
    statuses = client.health.List(HealthListRequest(), timeout=30).statuses
    assert {name: found.status for name, found in statuses.items()} == dict.fromkeys(
        SERVICES + FLYTE_1, HealthCheckResponse.SERVING
    )


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_the_probes_over_http(host, path):
    status, text = fetch(host.url + path)
    assert status == 200
    assert json.loads(text) == {"state": "serving", "connectors": 6, "failures": [], "not_ready": []}
