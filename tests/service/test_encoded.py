"""Requests whose bytes go to a connector, and answers that a connector has encoded."""

from __future__ import annotations

import pytest

from connectrio.connector.base import EncodedResource, Phase
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2.core import (
    Connection,
    Literal,
    LiteralOffloadedMetadata,
    Primitive,
    Scalar,
    TaskLog,
    TaskTemplate,
)
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral, Outputs
from connectrio.rpc.codec import MessageCodec, decode, encode
from connectrio.service.conversion import RECEIVED, EncodedAnswer, ReceivedTask
from service.harness import Job, Service, connector

SECRET = "hunter2-hunter2"
CODEC = MessageCodec()


def text(value):
    return Literal(scalar=Scalar(primitive=Primitive(string_value=value)))


def encoded(resource):
    """A connector whose `get` returns that state, encoded."""

    async def get(self, resource_meta, **kwargs):
        return EncodedResource(
            resource.phase,
            resource.message,
            resource.log_links,
            encoded=encode(resource),
            decode=lambda data: decode(data, idl.Resource),
        )

    return connector(get=get)


def succeeded(**fields):
    outputs = Outputs(literals=[NamedLiteral(name="x", value=text(fields.pop("output", "a value")))])
    links = [TaskLog(name="console", uri="https://x.example")]
    return idl.Resource(phase=Phase.SUCCEEDED, message="done", log_links=links, outputs=outputs, **fields)


async def test_an_answer_goes_out_as_the_connector_has_encoded_it():
    # a field that is not ours shows that the bytes are the connector's
    state = succeeded()
    state._unknown_fields = b"\xf8\x07\x01"
    service = Service(encoded(state))
    answer = await service.get()
    assert type(answer) is EncodedAnswer
    sent = CODEC.encode(answer, idl.GetTaskResponse)
    assert sent == encode(idl.GetTaskResponse(resource=state))
    assert decode(sent, idl.GetTaskResponse).resource == succeeded()
    assert answer.resource == succeeded()
    (job,) = service.servicer.account.jobs
    assert (job.phase, job.message, job.links) == (Phase.SUCCEEDED, "done", state.log_links)


async def test_secrets_are_masked_in_what_a_connector_has_encoded():
    state = succeeded()
    state.message = f"it is {SECRET}"
    service = Service(encoded(state))
    answer = await service.get(connection=Connection(secrets={"password": SECRET}))
    sent = CODEC.encode(answer, idl.GetTaskResponse)
    assert SECRET.encode() not in sent
    assert decode(sent, idl.GetTaskResponse).resource.phase is Phase.SUCCEEDED


async def test_an_encoded_answer_that_is_too_large_is_made_smaller(tmp_path):
    state = succeeded(output="x" * 100_000)
    service = Service(encoded(state), max_response_size=65_536)
    answer = await service.get(output_prefix=str(tmp_path))
    assert len(CODEC.encode(answer, idl.GetTaskResponse)) <= 65_536
    assert decode((tmp_path / "outputs.pb").read_bytes(), Outputs) == state.outputs


async def test_an_encoded_state_without_a_valid_phase_is_refused():
    state = succeeded()
    state.phase = Phase.UNDEFINED
    with pytest.raises(Exception, match="Resource whose phase is"):
        await Service(encoded(state)).get()


def request(**fields):
    template = TaskTemplate(type="tiny")
    return encode(idl.CreateTaskRequest(template=template, output_prefix="s3://x", **fields))


async def created(service, data):
    handlers = service.servicer.__mapping__()
    handler = handlers["/flyteidl2.connector.AsyncConnectorService/CreateTask"]
    message = CODEC.decode(data, handler.request_type)
    assert handler.request_type.__name__ == "CreateTaskRequest", "which clients read in errors"
    assert type(message) is idl.CreateTaskRequest
    await service.servicer.create_task(message)
    return message


async def test_a_connector_that_converts_inputs_gets_the_bytes_of_the_request():
    seen = []

    async def create(self, **kwargs):
        seen.append(kwargs["inputs"])
        return Job("7")

    data = request(inputs=Inputs(literals=[NamedLiteral(name="x", value=text("a"))]))
    message = await created(Service(connector(create=create, converts_inputs=True)), data)
    assert seen == [data]
    assert RECEIVED not in message.__dict__


async def test_what_was_stored_elsewhere_is_not_in_the_bytes(tmp_path):
    (tmp_path / "text").write_bytes(encode(text("fetched")))
    seen = []

    async def create(self, **kwargs):
        seen.append(kwargs["inputs"])
        return Job("7")

    stored = Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=str(tmp_path / "text")))
    data = request(inputs=Inputs(literals=[NamedLiteral(name="x", value=stored)]))
    await created(Service(connector(create=create, converts_inputs=True)), data)
    assert seen == [Inputs(literals=[NamedLiteral(name="x", value=text("fetched"))])]


async def test_the_bytes_are_not_kept_for_other_connectors():
    kept = []

    async def create(self, **kwargs):
        kept.append(message.__dict__.get(RECEIVED))
        return Job("7")

    service = Service(connector(create=create))
    message = ReceivedTask.FromString(request())
    assert message.__dict__[RECEIVED] == request()
    await service.servicer.create_task(message)
    assert kept == [None]
