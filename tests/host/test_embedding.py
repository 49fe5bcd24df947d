"""The host inside other programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from connectrio import ConnectorRegistry, ConnectorService, HostSettings, Registry, Resource
from connectrio.connector.base import Phase
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    ConnectorMetadataServiceStub,
    GetTaskRequest,
    ListConnectorsRequest,
    TaskCategory,
)
from connectrio.rpc import Channel
from service.harness import META, connector

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("program", ["embed_trio.py", "embed_asyncio.py"])
def test_an_example(program):
    ran = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / program], check=False, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert "Traceback" not in ran.stderr
    assert lines.count("working") >= 2
    assert lines.index("working") < lines.index("the job has succeeded")
    (serving,) = [line for line in lines if line.startswith("serving on 127.0.0.1:")]
    said = [line for line in lines if line != "working"]
    assert said == [serving, "the job has succeeded", "the host has stopped"]


def answering(message, **members):
    async def get(_, resource_meta, **kwargs):
        return Resource(phase=Phase.RUNNING, message=message)

    return connector(get=get, **members)


async def test_two_hosts_in_one_process():
    settings = HostSettings(host="127.0.0.1", port=0, prometheus_port=0)
    services = []
    for name in ("first", "second"):
        registry = Registry()
        registry.register(answering(name, name=name))
        services.append(ConnectorService(settings, registry=registry))
    before = ConnectorRegistry.default.registered()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            addresses = [await tasks.start(service.serve) for service in services]
            assert [await ask(each) for each in addresses] == [("first", ["first"]), ("second", ["second"])]
            # one host ends, and the other goes on
            await services[0].shutdown()
            assert await ask(addresses[1]) == ("second", ["second"])
            assert [counted(service) for service in services] == [1, 2]
            await services[1].shutdown()
    assert ConnectorRegistry.default.registered() == before


async def ask(addresses):
    """Return the connector's answer, and the names of all connectors."""
    async with Channel(addresses.target) as channel:
        request = GetTaskRequest(resource_meta=META, task_category=TaskCategory(name="tiny"))
        answer = await AsyncConnectorServiceStub(channel).get_task(request)
        listed = await ConnectorMetadataServiceStub(channel).list_connectors(ListConnectorsRequest())
        return answer.resource.message, [found.name for found in listed.connectors]


def counted(service):
    labels = {"task_type": "tiny", "operation": "get"}
    return service.collectors.get_sample_value("flyte_connector_requests_success_total", labels)


async def test_modules_register_with_the_registry_of_the_host_that_loads_them(tmp_path):
    module = tmp_path / "embedded_module.py"
    module.write_text(
        "from connectrio import ConnectorRegistry\n"
        "from service.harness import connector\n"
        "ConnectorRegistry.register(connector(task_type_name='embedded'))\n"
    )
    registry = Registry()
    settings = HostSettings(host="127.0.0.1", port=0, prometheus_port=0, modules=[str(module)])
    service = ConnectorService(settings, registry=registry)
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                await tasks.start(service.serve)
                await service.shutdown()
    finally:
        del sys.modules["embedded_module"]
    (found,) = registry.registered()
    assert (found.connector.task_type_name, found.source) == ("embedded", f"module {module}")
    assert "embedded" not in [each.connector.task_type_name for each in ConnectorRegistry.default.registered()]


RUN = """
import sys
from pathlib import Path
from connectrio import ConnectorService

ConnectorService.run(host="127.0.0.1", port=0, prometheus_port=0, timeout=0, entry_points=False, backend=sys.argv[1])
Path("ended").touch()
print("after", file=sys.stderr)
"""


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("shell", ["", ">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_run_needs_no_standard_streams(tmp_path, shell, backend):
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-c", RUN, backend]
    ran = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert (tmp_path / "ended").exists(), ran.stderr
    if not shell:
        *log, last = ran.stderr.splitlines()
        assert [json.loads(line)["event"] for line in log] == ["serving", "draining", "drained", "stopped"]
        assert last == "after", "the log is written before run() returns"
        assert ran.stdout == ""
