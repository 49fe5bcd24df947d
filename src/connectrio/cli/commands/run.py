"""`connectrio run`: a job from its creation to its outputs."""

from __future__ import annotations

import shlex
import sys

import anyio

from connectrio.cli.errors import FAILURE, INTERRUPTED, TEMPORARY_FAILURE, CommandError, explained
from connectrio.cli.event_loop import Interrupts
from connectrio.cli.options.arguments import Credentials, resource_meta_text
from connectrio.cli.options.client import Client
from connectrio.cli.options.local import Local
from connectrio.cli.options.task import Task
from connectrio.cli.output.follow import Follower
from connectrio.cli.output.progress import JobView, job_view
from connectrio.cli.output.render import meta_document, print_resource, resource_document
from connectrio.client.jobs import Jobs
from connectrio.client.requests import category_of
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
_TASK = Task()


def run(
    task_type: str,
    /,
    *,
    task: Task = _TASK,
    credentials: Credentials = _CREDENTIALS,
    local: Local = _LOCAL,
    client: Client = _CLIENT,
) -> int:
    """Create a job, follow it to its end and print its outputs. Ctrl-C, or SIGTERM, deletes the job.

    With --local or --modules there need be no server: the connector runs in this process, as it does in a host.

    Progress and log lines go to standard error, the outcome to standard output.

    Exit codes: 0 SUCCEEDED, 1 FAILED or a call failed, 2 wrong usage, 4 ABORTED, 75 RETRYABLE_FAILED, 130 interrupted.

    :param task_type: by which the host finds the connector
    """
    request = task.request(task_type, credentials.connection(task_type))
    interrupts = Interrupts(graceful=True)

    async def command(channel: Channel) -> tuple[bytes, Resource]:
        jobs = client.jobs(channel, category_of(request), request.connection, request.output_prefix)
        with job_view(sys.stderr) as view:
            return await _Run(jobs, view, interrupts).run(request)

    if local.is_wanted:
        meta, resource = local.run(command, client.backend, interrupts)
    else:
        meta, resource = client.run(command, interrupts)
    if client.json:
        print_json({**meta_document(meta), **resource_document(resource)})
    else:
        print_resource(resource)
    return _EXIT_CODES.get(resource.phase, FAILURE)


class _Run:
    """One job of ours, which an interrupt ends as well."""

    def __init__(self, jobs: Jobs, view: JobView, interrupts: Interrupts) -> None:
        self._jobs = jobs
        self._view = view
        self._interrupts = interrupts

    async def run(self, request: CreateTaskRequest) -> tuple[bytes, Resource]:
        """The job's resource meta, and its state at its end.

        :raises CommandError: a call failed, or we were interrupted
        """
        meta = await self._create(request)
        self._view.say(f"created {resource_meta_text(meta)}")
        with self._interrupts.cancellable():
            return meta, await self._follow(meta)
        await self._delete(meta)
        raise CommandError("interrupted; the job was deleted", code=INTERRUPTED)

    async def _create(self, request: CreateTaskRequest) -> bytes:
        """The answer is waited for even when we are interrupted: without it the job could not be deleted."""
        self._interrupts.notify = lambda: self._view.say("interrupted; waiting for the job's name, to delete it")
        with explained():
            return await self._jobs.create(request)

    async def _follow(self, meta: bytes) -> Resource:
        try:
            return await Follower(self._jobs, meta, self._view).follow()
        except CommandError as error:
            raise CommandError(str(error), hint=self._how_to_go_on(meta), code=error.code) from error

    async def _delete(self, meta: bytes) -> None:
        self._view.say("interrupted; deleting the job")
        try:
            await self._jobs.delete(meta)
        except GRPCError as error:
            raise CommandError(
                f"interrupted, and the job was not deleted: {error.status.name}: {error.message}",
                hint=self._how_to_go_on(meta),
                code=INTERRUPTED,
            ) from error
        except anyio.get_cancelled_exc_class():
            self._view.say(f"interrupted again; {self._how_to_go_on(meta)}")
            raise

    def _how_to_go_on(self, meta: bytes) -> str:
        job = f"{self._jobs.category.name} {shlex.quote(resource_meta_text(meta))}"
        return f"the job may still run. Look at it with: connectrio get {job}; end it with: connectrio delete {job}"
