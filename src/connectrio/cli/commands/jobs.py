"""`connectrio run`, `create`, `get`, `logs`, `metrics` and `delete`: a job from its creation to its outputs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, nullcontext
from typing import Annotated, TypeVar

import anyio
from cyclopts import Parameter, validators

from connectrio.cli.errors import FAILURE, INTERRUPTED, TEMPORARY_FAILURE, CommandError, explained
from connectrio.cli.event_loop import Interrupts
from connectrio.cli.options.client import Client, Local
from connectrio.cli.options.task import Credentials, Meta, TaskOptions, meta_argument, read_meta
from connectrio.cli.output import (
    LOG_WAIT,
    Follower,
    JobView,
    created_document,
    job_view,
    line_document,
    line_text,
    meta_document,
    print_metrics,
    print_resource,
    resource_document,
    struct_document,
)
from connectrio.cli.script import prints_to_stderr
from connectrio.client.jobs import Jobs, LogReader, category_of, error_text, execution_of
from connectrio.idl.flyteidl2.connector import CreateTaskRequest, Resource, TaskCategory
from connectrio.idl.flyteidl2.core import Connection
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.rpc import Channel, GRPCError
from connectrio.terminal import print_json, print_line, print_note, print_warning

__all__ = ["create", "delete", "get", "logs", "metrics", "run"]

T = TypeVar("T")
LogWait = Annotated[float, Parameter(validator=validators.Number(gte=0))]

_ABORTED = 4
_NOT_HERE = "install the package of the connector, or name the module that registers it with --modules"
_EXIT_CODES = {Phase.SUCCEEDED: 0, Phase.ABORTED: _ABORTED, Phase.RETRYABLE_FAILED: TEMPORARY_FAILURE}

_CLIENT = Client()
_CREDENTIALS = Credentials()
_LOCAL = Local()
_TASK = TaskOptions()


def run(
    task_type: str,
    /,
    *,
    task: TaskOptions = _TASK,
    credentials: Credentials = _CREDENTIALS,
    local: Local = _LOCAL,
    log_wait: LogWait = LOG_WAIT,
    client: Client = _CLIENT,
) -> int:
    """Create a job, follow it to its end and print its outputs. Ctrl-C or SIGTERM deletes the job.

    With --local or --modules it needs no server: the connector runs in this process, as it does in a host.

    Progress and log lines go to standard error, the result to standard output. What a connector in this process prints
    goes to standard error, too.

    Exit codes: 0 SUCCEEDED, 1 FAILED or a call failed, 2 wrong usage, 4 ABORTED, 75 RETRYABLE_FAILED, 130 interrupted.

    :param task_type: the type of the task, such as duckdb; it selects the connector
    :param log_wait: how long to wait for late log lines when the job has ended: this many seconds without a line, and
        six times as long at most
    """
    request = task.request(task_type, credentials)
    interrupts = Interrupts(graceful=True)

    async def command(channel: Channel) -> tuple[bytes, Resource]:
        jobs = client.jobs(
            channel,
            category_of(request),
            request.connection,
            request.output_prefix,
            is_local=local.is_wanted,
        )
        with job_view(sys.stderr) as view:
            return await _create_and_follow(request, jobs, view, interrupts, log_wait, local)

    with prints_to_stderr() if local.is_wanted else nullcontext(nullcontext) as own_output:
        if local.is_wanted:
            meta, resource = local.run(request.output_prefix, command, client.backend, interrupts)
        else:
            meta, resource = client.run(command, interrupts)
        with own_output():
            if client.json:
                print_json({**created_document(meta, request), **resource_document(resource)})
            else:
                print_resource(resource)
    return _EXIT_CODES.get(resource.phase, FAILURE)


async def _create_and_follow(
    request: CreateTaskRequest, jobs: Jobs, view: JobView, interrupts: Interrupts, log_wait: float, local: Local
) -> tuple[bytes, Resource]:
    """Return the job's resource meta and its last state. If interrupted, delete the job.

    :raises CommandError: a call failed, or the command was interrupted
    """
    # an interrupt waits for the answer of `create`: without the meta, the job could not be deleted
    interrupts.notify = lambda: view.say("interrupted; waiting for the job's name, to delete it")
    with explained(unserved=_NOT_HERE) if local.is_wanted else explained():
        meta = await jobs.create(request)
    view.say(f"created {meta_argument(meta)}")
    job = f"{jobs.category.name} {shlex.quote(meta_argument(meta))}"
    hint = f"the job may still run. Look at it with: connectrio get {job}; end it with: connectrio delete {job}"
    follower = Follower(jobs, meta, view, log_wait=log_wait)
    with interrupts.cancellable():
        try:
            return meta, await follower.follow()
        except CommandError as error:
            raise CommandError(str(error), hint=hint, code=error.code) from error
    if follower.resource is not None:
        view.say("interrupted; the job has ended, but its log may be incomplete")
        return meta, follower.resource
    view.say("interrupted; deleting the job")
    try:
        await jobs.delete(meta)
    except GRPCError as error:
        raise CommandError(
            f"interrupted, and the job was not deleted: {error_text(error)}", hint=hint, code=INTERRUPTED
        ) from error
    except anyio.get_cancelled_exc_class():
        view.say(f"interrupted again; {hint}")
        raise
    raise CommandError("interrupted; the job was deleted", code=INTERRUPTED)


def create(
    task_type: str,
    /,
    *,
    task: TaskOptions = _TASK,
    credentials: Credentials = _CREDENTIALS,
    client: Client = _CLIENT,
) -> None:
    """Create a job and print its resource meta, by which the other commands find it.

    Standard error has the job's execution, by which `connectrio ps` and `show` find it as well.

    :param task_type: the type of the task, such as duckdb; it selects the connector
    """
    request = task.request(task_type, credentials)
    meta = _call(client, category_of(request), lambda jobs: jobs.create(request))
    if client.json:
        print_json(created_document(meta, request))
    else:
        execution = execution_of(request)
        print_note(f"execution {execution.name} of project {execution.project}, domain {execution.domain}")
        print(meta_argument(meta))


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
    :param meta: what `create` printed, also with --json; @FILE reads it from a file, - from standard input
    :param version: the version of the task type
    :param output_prefix: where the job writes its outputs, for connectors that ask
    """
    resource_meta = read_meta(meta)
    category = TaskCategory(name=task_type, version=version)
    connection = credentials.connection(task_type)
    resource = _call(client, category, lambda jobs: jobs.get(resource_meta), connection, output_prefix)
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
    log_wait: LogWait = LOG_WAIT,
    lines: int = 0,
    token: str = "",
    version: int = 0,
    credentials: Credentials = _CREDENTIALS,
    client: Client = _CLIENT,
) -> None:
    """Print the log of a job; with --json, one JSON object for each line.

    :param task_type: the type of the task, such as duckdb; it selects the connector
    :param meta: what `create` printed, also with --json; @FILE reads it from a file, - from standard input
    :param follow: go on until the job has ended, and its last lines have come
    :param log_wait: with --follow, how long to wait for late lines when the job has ended: this many seconds without a
        line, and six times as long at most
    :param lines: how many lines to ask for; 0 asks for all
    :param token: begin where the lines ended that came with this token
    :param version: the version of the task type
    """
    resource_meta = read_meta(meta)
    category = TaskCategory(name=task_type, version=version)
    connection = credentials.connection(task_type)
    view = _LogView(as_json=client.json)
    is_one_piece = lines > 0

    async def command(channel: Channel) -> None:
        jobs = client.jobs(channel, category, connection)
        log = LogReader(jobs, resource_meta, token=token, lines=lines)
        if follow:
            await Follower(jobs, resource_meta, view, log=log, log_wait=log_wait).follow()
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
    :param meta: what `create` printed, also with --json; @FILE reads it from a file, - from standard input
    :param query: a metric to ask for, repeatable; by default all
    :param version: the version of the task type
    """
    resource_meta = read_meta(meta)
    category = TaskCategory(name=task_type, version=version)
    results = _call(client, category, lambda jobs: jobs.metrics(resource_meta, query or ()))
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
    :param meta: what `create` printed, also with --json; @FILE reads it from a file, - from standard input
    :param version: the version of the task type
    """
    resource_meta = read_meta(meta)
    category = TaskCategory(name=task_type, version=version)
    _call(client, category, lambda jobs: jobs.delete(resource_meta), credentials.connection(task_type))
    if client.json:
        print_json({"deleted": True, **meta_document(resource_meta)})
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

    def waits_for_log(self, resource: Resource, seconds: float) -> None:
        """Show nothing."""

    def log_ended(self, error: GRPCError) -> None:
        """End the command.

        :raises CommandError: always: without the log there is nothing to do
        """
        with explained():
            raise error
