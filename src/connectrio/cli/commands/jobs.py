"""`connectrio create`, `get`, `logs`, `metrics` and `delete`: calls about one job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from connectrio.cli.errors import explained
from connectrio.cli.options.arguments import Credentials, Meta, resource_meta, resource_meta_text
from connectrio.cli.options.client import Client
from connectrio.cli.options.task import TaskOptions
from connectrio.cli.output.follow import Follower
from connectrio.cli.output.render import (
    line_document,
    line_text,
    meta_document,
    print_metrics,
    print_resource,
    resource_document,
    struct_document,
)
from connectrio.client.jobs import Jobs, LogReader, category_of
from connectrio.idl.flyteidl2.connector import Resource, TaskCategory
from connectrio.idl.flyteidl2.core import Connection
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.rpc import Channel, GRPCError
from connectrio.terminal import print_json, print_line, print_note, print_warning

__all__ = ["create", "delete", "get", "logs", "metrics"]

T = TypeVar("T")

_CLIENT = Client()
_CREDENTIALS = Credentials()
_TASK = TaskOptions()


def create(
    task_type: str,
    /,
    *,
    task: TaskOptions = _TASK,
    credentials: Credentials = _CREDENTIALS,
    client: Client = _CLIENT,
) -> None:
    """Create a job and print its resource meta, by which the other commands find it.

    :param task_type: the type of the task, such as duckdb; it selects the connector
    """
    request = task.request(task_type, credentials)
    meta = _call(client, category_of(request), lambda jobs: jobs.create(request))
    if client.json:
        print_json(meta_document(meta))
    else:
        print(resource_meta_text(meta))


def get(
    task_type: str,
    meta: Meta,
    /,
    *,
    version: int = 0,
    output_prefix: str = "",
    credentials: Credentials = _CREDENTIALS,
    client: Client = _CLIENT,
) -> None:
    """Print the state of a job and, when it has succeeded, its outputs.

    :param task_type: the type of the task, such as duckdb; it selects the connector
    :param meta: what `create` printed; @FILE reads it from a file, - from standard input
    :param version: the version of the task type
    :param output_prefix: where the job writes its outputs, for connectors that ask
    """
    handle = resource_meta(meta)
    category = TaskCategory(name=task_type, version=version)
    connection = credentials.connection(task_type)
    resource = _call(client, category, lambda jobs: jobs.get(handle), connection, output_prefix)
    if client.json:
        print_json(resource_document(resource))
    else:
        print_resource(resource)


def logs(
    task_type: str,
    meta: Meta,
    /,
    *,
    follow: bool = False,
    lines: int = 0,
    token: str = "",
    version: int = 0,
    credentials: Credentials = _CREDENTIALS,
    client: Client = _CLIENT,
) -> None:
    """Print the log of a job; with --json, one JSON object for each line.

    :param task_type: the type of the task, such as duckdb; it selects the connector
    :param meta: what `create` printed; @FILE reads it from a file, - from standard input
    :param follow: go on until the job has ended
    :param lines: how many lines to ask for; 0 asks for all
    :param token: begin where the lines ended that came with this token
    :param version: the version of the task type
    """
    handle = resource_meta(meta)
    category = TaskCategory(name=task_type, version=version)
    connection = credentials.connection(task_type)
    view = _LogView(as_json=client.json)
    is_one_piece = lines > 0

    async def command(channel: Channel) -> None:
        jobs = client.jobs(channel, category, connection)
        log = LogReader(jobs, handle, token=token, lines=lines)
        if follow:
            await Follower(jobs, handle, view, log=log).follow()
            return
        with explained():
            async with aclosing(log.read() if is_one_piece else log.read_all()) as found:
                async for line in found:
                    view.line(line)
        if is_one_piece and log.token and not log.ended:
            print_note(f"for the next lines: --token {log.token}")

    client.run(command)


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

    :param task_type: the type of the task, such as duckdb; it selects the connector
    :param meta: what `create` printed; @FILE reads it from a file, - from standard input
    :param query: a metric to ask for, repeatable; by default all
    :param version: the version of the task type
    """
    handle = resource_meta(meta)
    category = TaskCategory(name=task_type, version=version)
    results = _call(client, category, lambda jobs: jobs.metrics(handle, query or ()))
    if client.json:
        print_json({"results": [{"metric": result.metric, "data": struct_document(result.data)} for result in results]})
    else:
        print_metrics(results)


def delete(
    task_type: str,
    meta: Meta,
    /,
    *,
    version: int = 0,
    credentials: Credentials = _CREDENTIALS,
    client: Client = _CLIENT,
) -> None:
    """Cancel a job. It is no error if the job has already ended.

    :param task_type: the type of the task, such as duckdb; it selects the connector
    :param meta: what `create` printed; @FILE reads it from a file, - from standard input
    :param version: the version of the task type
    """
    handle = resource_meta(meta)
    category = TaskCategory(name=task_type, version=version)
    _call(client, category, lambda jobs: jobs.delete(handle), credentials.connection(task_type))
    if client.json:
        print_json({"deleted": True, **meta_document(handle)})
    else:
        print_line("deleted")


def _call(
    client: Client,
    category: TaskCategory,
    call: Callable[[Jobs], Awaitable[T]],
    connection: Connection | None = None,
    output_prefix: str = "",
) -> T:
    """Make one call about a job.

    :raises CommandError: the call failed
    """

    async def command(channel: Channel) -> T:
        with explained():
            return await call(client.jobs(channel, category, connection, output_prefix))

    return client.run(command)


class _LogView:
    """A `View` that shows log lines and warnings only."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def state(self, resource: Resource) -> None:
        """Show nothing."""

    def line(self, line: LogLine) -> None:
        """Print a line on standard output."""
        if self._as_json:
            print_json(line_document(line), indent=0)
        else:
            print_line(line_text(line))

    def notice(self, text: str) -> None:
        """Print a warning on standard error."""
        print_warning(text)

    def log_ended(self, error: GRPCError) -> None:
        """End the command.

        :raises CommandError: always: without the log there is nothing to do
        """
        with explained():
            raise error
