"""Mistakes in connectors: type checkers refuse the lines with the comment `refused`, and no others.

pyright does not compare the parameters of an override where the base has `*args: Any, **kwargs: Any`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from connectrio import (
    AsyncConnector,
    ConnectorRegistry,
    GetTaskLogsResponse,
    Phase,
    Resource,
    ResourceMeta,
    TaskTemplate,
    read_custom,
)


@dataclass
class Job(ResourceMeta):
    id: str


@dataclass
class Other(ResourceMeta):
    number: int


class WrongReturns(AsyncConnector[Job]):
    task_type_name = "a"

    async def create(  # refused: returns another meta
        self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], **kwargs: Any
    ) -> Other:
        return Other(1)

    async def get(self, resource_meta: Job, **kwargs: Any) -> Phase:  # refused: returns no Resource
        return Phase.RUNNING

    async def get_many(self, resource_metas: Sequence[Job], **kwargs: Any) -> list[str]:  # refused: nor here
        return []

    async def delete(self, resource_meta: Job, **kwargs: Any) -> None: ...

    async def get_logs(self, resource_meta: Job, **kwargs: Any) -> list[str]:  # refused: returns no response
        return []


class WrongParameters(AsyncConnector[Job]):
    task_type_name = "b"
    metadata_type = Other  # refused: not the type of the base class

    async def create(  # refused by mypy: the template is no text
        self, task_template: str, output_prefix: str, inputs: dict[str, Any], **kwargs: Any
    ) -> Job:
        return Job("1")

    async def get(self, resource_meta: Other, **kwargs: Any) -> Resource:  # refused by mypy: another meta
        return Resource(Phase.RUNNING)

    async def delete(self, meta: Job, **kwargs: Any) -> None: ...  # refused by mypy: the host names it resource_meta

    def get_logs(self, **kwargs: Any) -> GetTaskLogsResponse:  # refused by mypy: takes no meta
        return GetTaskLogsResponse()


class Unfinished(AsyncConnector[Job]):
    task_type_name = "c"

    async def get(self, resource_meta: Job, **kwargs: Any) -> Resource:
        return Resource("SUCCEEDED")  # refused: a text is no phase


Unfinished()  # refused: create and delete are missing
ConnectorRegistry.register(WrongReturns)  # refused: a class, not an instance


def settings(task_template: TaskTemplate) -> str:
    return read_custom(task_template, Other)  # refused: an Other is no text
