"""ListConnectors and GetConnector."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from grpclib import GRPCError
from grpclib.const import Status
from multidict import MultiDict

from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import Registry
from connectrio.idl.flyteidl2.connector import Connector, GetConnectorRequest, ListConnectorsRequest, TaskCategory
from connectrio.rpc.call import Call, set_current_call
from connectrio.service import connector_metadata
from connectrio.service.connector_metadata import LOAD_FAILURE_KEY, ConnectorMetadataService, failure_metadata
from service.harness import connector

TINY = Connector(
    name="Tiny Connector",
    supported_task_categories=[TaskCategory(name="tiny", version=0), TaskCategory(name="tiny", version=1)],
)


@pytest.fixture
def registry():
    registry = Registry()
    for version in (0, 1):
        registry.register(connector(task_type_version=version))
    return registry


async def test_list(registry):
    call = Call("/x", MultiDict(), deadline=None, peer="", user_agent=None)
    set_current_call(call)
    registry.failures.append(LoadFailure("entry point snöwflake", "100% sure\nü", "the text"))
    answer = await ConnectorMetadataService(registry).list_connectors(ListConnectorsRequest())
    assert answer.connectors == [TINY]
    [(key, value)] = call.trailing_metadata
    assert (key, value) == (
        "connectrio-load-failure",
        "entry point sn%C3%B6wflake: 100%25 sure%0A%C3%BC",
    )
    assert unquote(value).endswith("100% sure\nü")


async def test_list_outside_of_a_call(registry):
    registry.failures.append(LoadFailure("entry point x", "y", "z"))
    answer = await ConnectorMetadataService(registry).list_connectors(ListConnectorsRequest())
    assert len(answer.connectors) == 1


async def test_get(registry):
    answer = await ConnectorMetadataService(registry).get_connector(GetConnectorRequest(name="Tiny Connector"))
    assert answer.connector == TINY


async def test_get_unknown(registry):
    with pytest.raises(GRPCError) as caught:
        await ConnectorMetadataService(registry).get_connector(GetConnectorRequest(name="No"))
    assert (caught.value.status, caught.value.message) == (Status.NOT_FOUND, "Cannot find connector for name: No.")


def test_many_and_long_failures_are_bounded():
    failures = [LoadFailure(f"entry point {number}", "漢" * 10_000, "z") for number in range(50)]
    pairs = failure_metadata(failures)
    assert len(pairs) == 11
    assert {key for key, _ in pairs} == {LOAD_FAILURE_KEY}
    assert pairs[-1][1] == "and 40 more, see the host's log"
    # what a client counts is key, value and 32 bytes for each entry
    assert sum(len(key) + len(value) + 32 for key, value in pairs) < 6 * 1024 + 512
    assert all(value.isascii() and value.isprintable() for _, value in pairs)


def test_a_failure_of_the_full_length_is_whole_and_a_longer_one_is_cut():
    longest = connector_metadata._LONGEST_FAILURE
    fits = "x" * (longest - len("module x: "))
    [(_, whole), (_, cut)] = failure_metadata([LoadFailure("module x", each, "z") for each in (fits, fits + "y")])
    assert whole == f"module x: {fits}"
    mark = f" [truncated: {longest + 1} characters in all]"
    assert cut == whole[: -len(mark)] + mark


def test_a_name_that_is_no_text():
    assert failure_metadata([LoadFailure("module \ud800", "ImportError", "")]) == [
        (LOAD_FAILURE_KEY, "module \\ud800: ImportError")
    ]
