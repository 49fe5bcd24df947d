"""Says hello: a connector whose jobs end at once."""

from dataclasses import dataclass
from typing import Any

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta, TaskTemplate


@dataclass
class Greeting(ResourceMeta):
    name: str


class Hello(AsyncConnector[Greeting]):
    """Says hello."""

    name = "Hello"
    task_type_name = "hello"

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], **kwargs: Any
    ) -> Greeting:
        return Greeting(inputs["name"])

    async def get(self, resource_meta: Greeting, **kwargs: Any) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"greeting": f"Hello, {resource_meta.name}!"})

    async def delete(self, resource_meta: Greeting, **kwargs: Any) -> None:
        pass


ConnectorRegistry.register(Hello())
