"""`connectrio metrics`: the metrics of a job."""

from __future__ import annotations

from typing import Any

from connectrio.cli.errors import explained
from connectrio.cli.options.arguments import Meta, resource_meta
from connectrio.cli.options.client import Client
from connectrio.cli.output.render import struct_document, value_text
from connectrio.idl.flyteidl2.connector import TaskCategory
from connectrio.idl.flyteidl2.core import ExecutionMetricResult
from connectrio.rpc import Channel
from connectrio.terminal import print_json, print_table

__all__ = ["metrics", "print_metrics"]

_CLIENT = Client()


def metrics(
    task_type: str,
    meta: Meta,
    /,
    *,
    query: list[str] | None = None,
    version: int = 0,
    client: Client = _CLIENT,
) -> None:
    """Print the metrics of a job.

    :param task_type: by which the host finds the connector
    :param meta: the resource meta that `create` printed; @FILE reads a file, - standard input
    :param query: repeatable: ask for these metrics only
    :param version: the version of the task type
    """
    handle = resource_meta(meta)
    category = TaskCategory(name=task_type, version=version)

    async def command(channel: Channel) -> list[ExecutionMetricResult]:
        with explained():
            return await client.jobs(channel, category).metrics(handle, query or ())

    results = client.run(command)
    if client.json:
        print_json({"results": [{"metric": result.metric, "data": struct_document(result.data)} for result in results]})
    else:
        print_metrics(results)


def print_metrics(results: list[ExecutionMetricResult]) -> None:
    """The metrics for people."""
    print_table(
        "Metrics", ("Metric", "Data"), [(result.metric, _text(struct_document(result.data))) for result in results]
    )


def _text(data: dict[str, Any]) -> str:
    """A single value with its unit is what connectors mostly report; all else is shown as it came."""
    return f"{value_text(data['value'])} {data['unit']}" if data.keys() == {"value", "unit"} else value_text(data)
