"""Requests for the drilled connector."""

from __future__ import annotations

import json

from flyteidl2.connector.connector_pb2 import GetTaskRequest, TaskCategory

GET = "/flyteidl2.connector.AsyncConnectorService/GetTask"


def order(does: str = "quick", argument: object = "", *, task_type: str = "drilled") -> GetTaskRequest:
    """A call of `get` that does this; see the connector's `Order`."""
    meta = json.dumps({"does": does, "argument": str(argument)}).encode()
    return GetTaskRequest(resource_meta=meta, task_category=TaskCategory(name=task_type))


def attack(does: str = "quick", argument: object = "") -> bytes:
    """Return the same request to the attackers' connector, in bytes."""
    return bytes(order(does, argument, task_type="attacked").SerializeToString())
