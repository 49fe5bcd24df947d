"""The names that connectors for flyte-sdk and flytekit use mean the same here."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from flyte.connectors import utils
from flyteidl2.core.execution_pb2 import TaskExecution as TheirTaskExecution
from flyteidl2.core.execution_pb2 import TaskLog as TheirTaskLog

from connectrio import (
    AsyncConnector,
    Phase,
    Registry,
    Resource,
    ResourceMeta,
    TaskExecution,
    TaskLog,
    convert_to_flyte_phase,
    is_terminal_phase,
)

WORDS = [
    "failed", "timeout", "timedout", "canceled", "cancelled", "skipped", "internal_error", "done", "succeeded",
    "success", "completed", "running", "terminating", "pending", "Running", "FAILED",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_words_for_states_have_flyte_sdk_s_phases(word):
    assert convert_to_flyte_phase(word) is Phase(utils.convert_to_flyte_phase(word))


@pytest.mark.parametrize("convert", [convert_to_flyte_phase, utils.convert_to_flyte_phase])
def test_other_words_have_none(convert):
    with pytest.raises(ValueError, match="Unrecognized state: queued"):
        convert("queued")


def test_phases_that_are_final():
    theirs = {phase for phase in TheirTaskExecution.Phase.values() if utils.is_terminal_phase(phase)}
    assert {phase for phase in Phase if is_terminal_phase(phase)} == theirs | {Phase.RETRYABLE_FAILED}


def test_enums_are_in_their_messages():
    assert TaskExecution.Phase is Phase
    for theirs, ours in [(TheirTaskExecution, TaskExecution), (TheirTaskLog, TaskLog)]:
        for enum in theirs.DESCRIPTOR.enum_types:
            for value in enum.values:
                found = getattr(ours, value.name)
                assert (found, type(found)) == (value.number, getattr(ours, enum.name))


@dataclass
class Meta(ResourceMeta):
    id: str


class InTheConstructor(AsyncConnector):
    """As flytekit's connectors say what they serve."""

    def __init__(self, version: int):
        super().__init__(task_type_name="x", task_type_version=version, metadata_type=Meta, name="X")

    async def create(self, task_template, **kwargs):
        return Meta("1")

    async def get(self, resource_meta, **kwargs):
        return Resource(Phase.SUCCEEDED)

    async def delete(self, resource_meta, **kwargs):
        return None


def test_a_connector_says_what_it_serves_in_its_constructor():
    registry = Registry()
    for version in (0, 2):
        registry.register(InTheConstructor(version))
    (entry,) = registry.describe()
    assert entry.name == "X"
    assert [(each.name, each.version) for each in entry.supported_task_categories] == [("x", 0), ("x", 2)]
    assert registry.get_connector("x", 2).metadata_type is Meta
    assert not hasattr(AsyncConnector, "task_type_name"), "nothing is said for others"


def test_what_the_constructor_leaves_out_is_the_class_s():
    class Named(InTheConstructor):
        name = "Named"
        task_type_version = 4

        def __init__(self):
            AsyncConnector.__init__(self, task_type_name="y")

    connector = Named()
    assert (connector.name, connector.task_type_name, connector.task_type_version) == ("Named", "y", 4)
    with pytest.raises(ValueError, match=r"Named \(.*test_porting.py:88\) .* does not set metadata_type"):
        Registry().register(connector)


def test_further_arguments_are_for_the_next_class():
    class Mixin:
        def __init__(self, url=""):
            self.url = url

    class Mixed(InTheConstructor, Mixin):
        def __init__(self, **arguments):
            AsyncConnector.__init__(self, task_type_name="z", **arguments)

    assert Mixed(url="u").url == "u"
    with pytest.raises(TypeError, match="colour"):
        Mixed(colour="red")
