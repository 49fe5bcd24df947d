"""`connectrio create`, `get` and `delete`: one call each about one job."""

from __future__ import annotations

from connectrio.cli.errors import explained
from connectrio.cli.options.arguments import Credentials, Meta, resource_meta, resource_meta_text
from connectrio.cli.options.client import Client
from connectrio.cli.options.task import Task
from connectrio.cli.output.render import meta_document, print_resource, resource_document
from connectrio.client.requests import category_of
from connectrio.idl.flyteidl2.connector import Resource, TaskCategory
from connectrio.rpc import Channel
from connectrio.terminal import print_json, print_line

__all__ = ["create", "delete", "get"]

_CLIENT = Client()
_CREDENTIALS = Credentials()
_TASK = Task()


def create(
    task_type: str,
    /,
    *,
    task: Task = _TASK,
    credentials: Credentials = _CREDENTIALS,
    client: Client = _CLIENT,
) -> None:
    """Create a job and print its resource meta, which names it in all other commands.

    :param task_type: by which the host finds the connector
    """
    request = task.request(task_type, credentials.connection(task_type))

    async def command(channel: Channel) -> bytes:
        with explained():
            return await client.jobs(channel, category_of(request)).create(request)

    meta = client.run(command)
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
    """Print the state of a job, and its outputs once it has succeeded.

    :param task_type: by which the host finds the connector
    :param meta: the resource meta that `create` printed; @FILE reads a file, - standard input
    :param version: the version of the task type
    :param output_prefix: where the job's outputs are written, for connectors that ask
    """
    handle = resource_meta(meta)
    category = TaskCategory(name=task_type, version=version)

    async def command(channel: Channel) -> Resource:
        with explained():
            return await client.jobs(channel, category, credentials.connection(task_type), output_prefix).get(handle)

    resource = client.run(command)
    if client.json:
        print_json(resource_document(resource))
    else:
        print_resource(resource)


def delete(
    task_type: str,
    meta: Meta,
    /,
    *,
    version: int = 0,
    credentials: Credentials = _CREDENTIALS,
    client: Client = _CLIENT,
) -> None:
    """Cancel a job. To cancel one that has ended is no error.

    :param task_type: by which the host finds the connector
    :param meta: the resource meta that `create` printed; @FILE reads a file, - standard input
    :param version: the version of the task type
    """
    handle = resource_meta(meta)
    category = TaskCategory(name=task_type, version=version)

    async def command(channel: Channel) -> None:
        with explained():
            await client.jobs(channel, category, credentials.connection(task_type)).delete(handle)

    client.run(command)
    if client.json:
        print_json({"deleted": True, **meta_document(handle)})
    else:
        print_line("deleted")
