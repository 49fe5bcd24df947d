from dataclasses import dataclass

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta


@dataclass
class Greeting(ResourceMeta):
    name: str


class Hello(AsyncConnector[Greeting]):
    name = "Hello"
    task_type_name = "hello"
    metadata_type = Greeting

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Greeting(inputs["name"])  # start the job here; return what identifies it

    async def get(self, resource_meta, **kwargs):
        return Resource(Phase.SUCCEEDED, outputs={"greeting": f"Hello, {resource_meta.name}!"})

    async def delete(self, resource_meta, **kwargs):
        pass  # this one has nothing to cancel


ConnectorRegistry.register(Hello())
