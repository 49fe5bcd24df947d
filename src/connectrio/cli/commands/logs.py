"""`connectrio logs`: the log of a job."""

from __future__ import annotations

from contextlib import aclosing

from connectrio.cli.errors import explained
from connectrio.cli.options.arguments import Credentials, Meta, resource_meta
from connectrio.cli.options.client import Client
from connectrio.cli.output.follow import Follower, LogReader
from connectrio.cli.output.render import line_document, line_text
from connectrio.idl.flyteidl2.connector import Resource, TaskCategory
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.rpc import Channel, GRPCError
from connectrio.terminal import print_json, print_line, print_note, print_warning

__all__ = ["logs"]

_CLIENT = Client()
_CREDENTIALS = Credentials()


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

    :param task_type: by which the host finds the connector
    :param meta: the resource meta that `create` printed; @FILE reads a file, - standard input
    :param follow: go on until the job is in a final phase
    :param lines: how many to ask for; 0 for all there are
    :param token: begin where the lines ended that came with this token
    :param version: the version of the task type
    """
    handle = resource_meta(meta)
    view = _Lines(as_json=client.json)

    async def command(channel: Channel) -> None:
        category = TaskCategory(name=task_type, version=version)
        jobs = client.jobs(channel, category, credentials.connection(task_type))
        log = LogReader(jobs, handle, token=token, lines=lines)
        if follow:
            await Follower(jobs, handle, view, log=log).follow()
        else:
            await _print_log(log, view, is_one_piece=lines > 0)

    client.run(command)


async def _print_log(log: LogReader, view: _Lines, *, is_one_piece: bool) -> None:
    with explained():
        async with aclosing(log.read() if is_one_piece else log.read_all()) as lines:
            async for line in lines:
                view.line(line)
    if is_one_piece and log.token and not log.ended:
        print_note(f"what comes next: --token {log.token}")


class _Lines:
    """Shows log lines, and of the rest only what goes wrong."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def state(self, resource: Resource) -> None:
        """The phase is not what was asked for."""

    def line(self, line: LogLine) -> None:
        """Print it."""
        if self._as_json:
            print_json(line_document(line), indent=0)
        else:
            print_line(line_text(line))

    def notice(self, text: str) -> None:
        """Print it beside the lines."""
        print_warning(text)

    def log_ended(self, error: GRPCError) -> None:
        """:raises CommandError: always; without the log there is nothing to do"""
        with explained():
            raise error
