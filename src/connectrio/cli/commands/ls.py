"""`connectrio ls`: what a host serves."""

from __future__ import annotations

from connectrio.cli.errors import explained
from connectrio.cli.options.client import Client, Failures, call_unary
from connectrio.idl.flyteidl2.connector import Connector, ListConnectorsRequest, ListConnectorsResponse
from connectrio.rpc import Channel
from connectrio.terminal import print_json, print_line, print_table, print_warning

__all__ = ["ls"]

_METHOD = "/flyteidl2.connector.ConnectorMetadataService/ListConnectors"


_CLIENT = Client()


def ls(*, client: Client = _CLIENT) -> None:
    """List the connectors of a host, with their task types, and what it could not load."""

    async def command(channel: Channel) -> tuple[list[Connector], Failures]:
        failures: Failures = []
        request = ListConnectorsRequest()
        with explained():
            reply = await call_unary(
                channel, _METHOD, request, ListConnectorsResponse, timeout=client.timeout, failures=failures
            )
        return reply.connectors, failures

    connectors, failures = client.run(command)
    if client.json:
        print_json({"connectors": [_document(connector) for connector in connectors], "load_failures": failures})
        return
    _print_connectors(connectors)
    for failure in failures:
        print_warning(f"not loaded: {failure}")


def _document(connector: Connector) -> dict[str, object]:
    categories = connector.supported_task_categories
    return {
        "name": connector.name,
        "task_types": [{"name": category.name, "version": category.version} for category in categories],
    }


def _print_connectors(connectors: list[Connector]) -> None:
    if not connectors:
        print_line("the host serves no connector")
        return
    rows = [
        (connector.name, ", ".join(f"{c.name} ({c.version})" for c in connector.supported_task_categories))
        for connector in connectors
    ]
    print_table("Connectors", ("Connector Name", "Task Types"), rows)
