"""Sample tasks that are guessed from connectors' code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import pytest

from connectrio import AsyncConnector, Resource, ResourceMeta
from connectrio.connector.choice import SourceKind
from connectrio.connector.registry import Registry
from connectrio.host.samples import samples_of


@dataclass
class Meta(ResourceMeta):
    id: str = ""


class Base(AsyncConnector[Meta]):
    task_type_name = "sample"
    metadata_type = Meta

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Meta()

    async def get(self, resource_meta, **kwargs):
        return Resource(0)

    async def delete(self, resource_meta, **kwargs):
        pass


class Reading(Base):
    def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        other = {}
        return Meta(inputs["name"] + inputs.get("title", "") + str(int(inputs["n"]) * float(inputs["x"])) + other["no"])


class Sql(Base):
    task_type_version = 2

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, *, token, **kwargs):
        return Meta(task_template.sql.statement)

    async def get(self, resource_meta, *, token, region="eu", password, **kwargs):
        return Resource(0)


class Inputs(TypedDict):
    day: str
    count: int
    tags: list


class Declared(Base):
    async def create(
        self, task_template, output_prefix, inputs: Inputs, task_execution_metadata=None, **kwargs
    ) -> Meta:
        return Meta(inputs["day"])


class WithoutSource(Base):
    create = staticmethod(eval("lambda task_template, output_prefix, **kwargs: None"))


class Holding(Base):
    """A connector with an attribute of the name under which a hosted connector is kept."""

    connector = "a vendor's word"


@pytest.mark.parametrize(
    ("connector", "options"),
    [
        (Base, []),
        (Reading, ["--input", "name=NAME", "--input", "title=TITLE", "--input", "n=1", "--input", "x=1.5"]),
        (Sql, ["--version", "2", "--sql", "select 1", "--secret", "token=TOKEN", "--secret", "password=PASSWORD"]),
        (Declared, ["--input", "day=DAY", "--input", "count=1", "--input", "tags=[]"]),
        (WithoutSource, []),
        (Holding, []),
    ],
)
def test_samples(connector, options):
    registry = Registry()
    with registry.loading("module my.py"):
        registry.register(connector())
    [sample] = samples_of(registry)
    assert (sample.task_type, sample.version, sample.module) == ("sample", connector.task_type_version, "my.py")
    assert sorted(zip(sample.options[::2], sample.options[1::2], strict=True)) == sorted(
        zip(options[::2], options[1::2], strict=True)
    )


def test_connectors_of_installed_packages_have_none():
    registry = Registry()
    with registry.loading("entry point my (my)", SourceKind.INSTALLED):
        registry.register(Base())
    assert samples_of(registry) == []
