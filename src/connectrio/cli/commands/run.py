"""`connectrio run`: a job from its creation to its outputs."""

from __future__ import annotations

import shlex
import sys

import anyio

from connectrio.cli.errors import FAILURE, INTERRUPTED, TEMPORARY_FAILURE, CommandError, explained
from connectrio.cli.event_loop import Interrupts
from connectrio.cli.options.arguments import Credentials, resource_meta_text
from connectrio.cli.options.client import Client, Local
from connectrio.cli.options.task import TaskOptions
from connectrio.cli.output.follow import Follower
from connectrio.cli.output.progress import JobView, job_view
from connectrio.cli.output.render import meta_document, print_resource, resource_document
from connectrio.client.jobs import Jobs, category_of, error_text
from connectrio.idl.flyteidl2.connector import CreateTaskRequest, Resource
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.rpc import Channel, GRPCError
from connectrio.terminal import print_json

__all__ = ["run"]

_ABORTED = 4
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
    client: Client = _CLIENT,
) -> int:
    """Create a job, follow it to its end and print its outputs. Ctrl-C or SIGTERM deletes the job.

    With --local or --modules it needs no server: the connector runs in this process, as it does in a host.

    Progress and log lines go to standard error, the result to standard output.

    Exit codes: 0 SUCCEEDED, 1 FAILED or a call failed, 2 wrong usage, 4 ABORTED, 75 RETRYABLE_FAILED, 130 interrupted.

    :param task_type: the type of the task, such as duckdb; it selects the connector
    """
    request = task.request(task_type, credentials)
    interrupts = Interrupts(graceful=True)

    async def command(channel: Channel) -> tuple[bytes, Resource]:
        jobs = client.jobs(channel, category_of(request), request.connection, request.output_prefix)
        with job_view(sys.stderr) as view:
            return await _create_and_follow(request, jobs, view, interrupts)

    if local.is_wanted:
        meta, resource = local.run(command, client.backend, interrupts)
    else:
        meta, resource = client.run(command, interrupts)
    if client.json:
        print_json({**meta_document(meta), **resource_document(resource)})
    else:
        print_resource(resource)
    return _EXIT_CODES.get(resource.phase, FAILURE)


async def _create_and_follow(
    request: CreateTaskRequest, jobs: Jobs, view: JobView, interrupts: Interrupts
) -> tuple[bytes, Resource]:
    """Return the job's resource meta and its last state. If interrupted, delete the job.

    :raises CommandError: a call failed, or the command was interrupted
    """
    # an interrupt waits for the answer of `create`: without the meta, the job could not be deleted
    interrupts.notify = lambda: view.say("interrupted; waiting for the job's name, to delete it")
    with explained():
        meta = await jobs.create(request)
    view.say(f"created {resource_meta_text(meta)}")
    job = f"{jobs.category.name} {shlex.quote(resource_meta_text(meta))}"
    hint = f"the job may still run. Look at it with: connectrio get {job}; end it with: connectrio delete {job}"
    with interrupts.cancellable():
        try:
            return meta, await Follower(jobs, meta, view).follow()
        except CommandError as error:
            raise CommandError(str(error), hint=hint, code=error.code) from error
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
