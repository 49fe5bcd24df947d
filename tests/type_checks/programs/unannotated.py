"""A connector without annotations: pyright takes them from the base class, mypy --strict asks for them."""

from dataclasses import dataclass

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta


@dataclass
class Greeting(ResourceMeta):
    name: str


class Hello(AsyncConnector[Greeting]):
    name = "Hello"
    task_type_name = "hello"

    async def create(self, task_template, output_prefix, inputs, **kwargs):
        return Greeting(inputs["name"])

    async def get(self, resource_meta, **kwargs):
        return Resource(Phase.SUCCEEDED, outputs={"greeting": f"Hello, {resource_meta.name}!"})

    async def delete(self, resource_meta, **kwargs):
        pass


ConnectorRegistry.register(Hello())
