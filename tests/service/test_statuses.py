"""What the client is told, for each way in which a call can end."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from grpclib import GRPCError
from grpclib.const import Status

from connectrio import Phase, Resource, TaskLog
from connectrio.connector.failures import LoadFailure
from connectrio.idl.flyteidl2.connector import CreateTaskRequest, GetTaskMetricsRequest, GetTaskMetricsResponse
from connectrio.idl.flyteidl2.connector import Resource as ResourceMessage
from connectrio.idl.flyteidl2.core import ExecutionMetricResult, Literal, Primitive, Scalar, TaskTemplate
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral, Outputs
from connectrio.idl.google.protobuf import ListValue, Struct, Value
from connectrio.rpc.codec import decode, encode
from connectrio.service.conversion import sendable
from service.harness import META, OPERATIONS, Base, Job, Service, connector, failing, log_lines

PHRASES = {
    "create": "failed to create tiny task with error:\n ",
    "get": "failed to get tiny task with error:\n ",
    "delete": "failed to delete tiny task with error:\n ",
    "get_metrics": "failed to get metrics of tiny task with error:\n ",
    "get_logs": "failed to get logs of tiny task with error:\n ",
}

every_operation = pytest.mark.parametrize("operation", OPERATIONS)
plain_or_not = pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "function"])


async def failure(service: Service, operation: str, *args: Any, **kwargs: Any) -> GRPCError:
    with pytest.raises(GRPCError) as caught:
        await service.call(operation, *args, **kwargs)
    return caught.value


@every_operation
async def test_a_success(operation):
    service = Service()
    await service.call(operation)
    assert service.count(operation) == 1


async def test_create_answers_with_the_encoded_meta():
    assert (await Service().create()).resource_meta == META


async def test_get_answers_with_the_resource():
    link = TaskLog(name="console", uri="https://example.com")

    async def get(self, resource_meta, **kwargs):
        return Resource(
            phase=Phase.SUCCEEDED,
            message="done",
            log_links=[link],
            outputs={"n": 5},
            custom_info={"rows": 3, "deep": {"list": [None, True, "x", 1.5]}},
        )

    resource = (await Service(connector(get=get)).get()).resource
    assert resource.phase is Phase.SUCCEEDED
    assert resource.message == "done"
    assert resource.log_links == [link]
    assert resource.outputs.literals == [
        NamedLiteral(name="n", value=Literal(scalar=Scalar(primitive=Primitive(integer=5))))
    ]
    sent = Struct.parse(bytes(resource.custom_info)).to_dict()
    assert sent == {"rows": 3.0, "deep": {"list": [None, True, "x", 1.5]}}


async def test_messages_as_outputs_and_custom_info_go_out_as_they_are():
    outputs = Outputs(literals=[NamedLiteral(name="x", value=Literal(hash="h"))])
    custom_info = Struct.from_dict({"x": [1.5, None, {"y": True}]})

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.SUCCEEDED, outputs=outputs, custom_info=custom_info)

    resource = (await Service(connector(get=get)).get()).resource
    assert resource.outputs is outputs
    assert resource.custom_info is custom_info


@pytest.mark.parametrize("empty", [None, {}])
async def test_empty_outputs_and_custom_info_are_unset(empty):
    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.RUNNING, outputs=empty, custom_info=empty)

    resource = (await Service(connector(get=get)).get()).resource
    assert (resource.outputs, resource.custom_info, resource.message) == (None, None, "")


@every_operation
async def test_an_unknown_type(operation):
    service = Service()
    error = await failure(service, operation, "nope")
    assert (error.status, error.message) == (Status.NOT_FOUND, "Cannot find connector for task type: nope.")
    assert service.count(operation, "404", "unregistered") == 1


@every_operation
@pytest.mark.parametrize("name", ["tny", "Tiny", "TINY_", "tinny"])
async def test_an_unknown_type_that_is_almost_a_known_one(operation, name):
    error = await failure(Service(), operation, name)
    assert error.message == f"Cannot find connector for task type: {name}. Did you mean tiny?"


async def test_a_very_long_type_is_compared_in_part():
    error = await failure(Service(connector(task_type_name="t" * 100)), "get", "t" * 2_000)
    assert error.message.endswith(f"Did you mean {'t' * 100}?")


@every_operation
async def test_an_unknown_type_may_be_one_that_could_not_be_loaded(operation):
    """Only this answer reaches the task's author."""
    service = Service()
    service.registry.failures += [
        LoadFailure(f"entry point {number}", "ImportError", f"ImportError: no {number}" + "!" * 1000)
        for number in range(7)
    ]
    error = await failure(service, operation, "nope")
    assert error.status is Status.NOT_FOUND
    assert error.message.startswith(
        "Cannot find connector for task type: nope. The connector may be missing because of this: entry point 0:"
        " ImportError: no 0!!!"
    )
    assert error.message.endswith("!!!; and 2 more, see the host's log")
    assert len(error.message) < 3000
    assert "may be missing" not in (await failure(service, operation, "tiny", 3)).message


@every_operation
async def test_a_connector_whose_extra_is_not_installed(operation):
    service = Service()
    service.registry.absent["duckdb"] = LoadFailure("entry point duckdb", "ImportError", "ImportError: install it")
    error = await failure(service, operation, "duckdb")
    assert error.status is Status.NOT_FOUND
    assert error.message.endswith("may be missing because of this: entry point duckdb: ImportError: install it")
    assert "install it" not in (await failure(service, operation, "nope")).message


@every_operation
async def test_a_connector_that_is_not_open(operation):
    service = Service(poll_absorb=0)
    service.registry.outages["tiny", 0] = LoadFailure("module x", "lifespan failed", "Tiny Connector: no database")
    error = await failure(service, operation)
    assert error.status is Status.UNAVAILABLE
    assert error.message.endswith("tiny task: Tiny Connector: no database. This host will try again")
    assert service.count(operation, "503") == 1
    service.registry.outages.clear()
    await service.call(operation)


@every_operation
async def test_an_unknown_version(operation):
    service = Service()
    error = await failure(service, operation, "tiny", 3)
    assert error.status is Status.NOT_FOUND
    assert error.message == ("Cannot find connector for task type: tiny. It is served in version 0, not in version 3.")


async def test_no_template_and_no_category():
    service = Service()
    for call, request in [
        (service.servicer.create_task, CreateTaskRequest()),
        (service.servicer.get_task_metrics, GetTaskMetricsRequest()),
    ]:
        with pytest.raises(GRPCError, match="Cannot find connector for task type: \\.") as caught:
            await call(request)
        assert caught.value.status is Status.NOT_FOUND


@plain_or_not
@every_operation
async def test_a_connector_that_raises(operation, plain):
    service = Service(failing(lambda: ValueError("boom"), plain=plain))
    error = await failure(service, operation)
    assert (error.status, error.message) == (Status.INTERNAL, PHRASES[operation] + "boom.")
    assert service.count(operation, "500") == 1


@every_operation
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (lambda: ValueError(), "ValueError"),
        (lambda: KeyError("host"), "KeyError: 'host'"),
        (lambda: StopIteration(3), "coroutine raised StopIteration"),
        (lambda: SystemExit(3), "SystemExit: 3"),
        (lambda: KeyboardInterrupt(), "KeyboardInterrupt"),
        (lambda: GeneratorExit("x"), "GeneratorExit: x"),
        (lambda: asyncio.CancelledError("mine"), "CancelledError: mine"),
        (lambda: BaseExceptionGroup("g", [SystemExit(1), ValueError("v")]), "SystemExit: 1; ValueError: v"),
        (lambda: ExceptionGroup("g", [ExceptionGroup("h", [ValueError("deep")])]), "deep"),
        (
            lambda: ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [KeyError("b")])]),
            "ValueError: a; KeyError: 'b'",
        ),
    ],
)
@plain_or_not
async def test_whatever_a_connector_raises_ends_its_call_alone(operation, error, text, plain):
    service = Service(failing(error, plain=plain))
    raised = await failure(service, operation)
    assert (raised.status, raised.message) == (Status.INTERNAL, f"{PHRASES[operation]}{text}.")
    # the host goes on
    await failure(service, operation)
    assert service.count(operation, "500") == 2


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


async def test_an_error_that_has_no_text():
    error = await failure(Service(failing(UnspeakableError)), "get")
    assert error.message == f"{PHRASES['get']}(RuntimeError in the error's own text)."


@plain_or_not
@every_operation
async def test_not_implemented(operation, plain):
    service = Service(failing(lambda: NotImplementedError("not yet"), plain=plain))
    error = await failure(service, operation)
    assert (error.status, error.message) == (Status.UNIMPLEMENTED, PHRASES[operation] + "not yet.")
    assert service.count(operation, "501") == 1


@pytest.mark.parametrize(("operation", "what"), [("get_metrics", "metrics"), ("get_logs", "logs")])
async def test_not_overridden(operation, what):
    service = Service(connector(Base), worker=1)
    error = await failure(service, operation)
    assert (error.status, error.message) == (Status.UNIMPLEMENTED, f"Tiny Connector has no {what}")
    assert service.count(operation, "501") == 1


@plain_or_not
@every_operation
@pytest.mark.parametrize(
    ("status", "error_code"),
    [
        (Status.PERMISSION_DENIED, "403"),
        (Status.RESOURCE_EXHAUSTED, "429"),
        (Status.UNAVAILABLE, "503"),
        (Status.CANCELLED, "499"),
        (Status.DATA_LOSS, "500"),
    ],
)
async def test_a_status_of_the_connectors_own(operation, plain, status, error_code):
    service = Service(failing(lambda: GRPCError(status, "not you", ["detail"]), plain=plain))
    error = await failure(service, operation)
    assert (error.status, error.message, error.details) == (status, "not you", ["detail"])
    assert service.count(operation, error_code) == 1


async def test_a_status_in_the_group_of_a_task_group():
    group = ExceptionGroup("unhandled errors in a TaskGroup", [GRPCError(Status.UNAVAILABLE, "later")])
    error = await failure(Service(failing(lambda: group)), "get")
    assert (error.status, error.message) == (Status.UNAVAILABLE, "later")


async def test_ok_is_no_error():
    error = await failure(Service(failing(lambda: GRPCError(Status.OK))), "get")
    assert error.status is Status.INTERNAL
    assert "GRPCError" in error.message


@pytest.mark.parametrize("operation", OPERATIONS[1:])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{", "Input data was truncated"),
        (b"[]", "expected a JSON object"),
        (b'{"id": 7}', "Expected `str`, got `int`"),
        (b'{"id": "7", "other": 1}', "no field named 'other'"),
    ],
)
async def test_a_foreign_resource_meta(operation, data, text):
    service = Service()
    error = await failure(service, operation, resource_meta=data)
    assert error.status is Status.INVALID_ARGUMENT
    assert error.message.startswith("the resource_meta of this tiny task was not made by this connector: ")
    assert text in error.message
    assert service.count(operation, "400") == 1


async def test_a_resource_meta_whose_decoder_is_the_connectors_own():
    class Own(Job):
        @classmethod
        def decode(cls, data):
            raise UnicodeError("no text")

    error = await failure(Service(connector(metadata_type=Own)), "get")
    assert error.status is Status.INVALID_ARGUMENT
    assert error.message.endswith("no text")


async def test_inputs_that_do_not_fit():
    service = Service()
    literal = Literal(scalar=Scalar(primitive=Primitive(integer=5)))
    error = await failure(service, "create", inputs=Inputs(literals=[NamedLiteral(name="z", value=literal)]))
    assert error.status is Status.INVALID_ARGUMENT
    assert "input 'z'" in error.message
    assert service.count("create", "400") == 1


async def test_inputs_nested_beyond_encoding():
    literal = Literal(scalar=Scalar(primitive=Primitive(integer=5)))
    from connectrio.idl.flyteidl2.core import LiteralCollection

    for _ in range(1000):
        literal = Literal(collection=LiteralCollection(literals=[literal]))
    error = await failure(Service(), "create", inputs=Inputs(literals=[NamedLiteral(name="z", value=literal)]))
    assert error.status is Status.INVALID_ARGUMENT
    assert error.message == (
        "the inputs are nested too deeply: Flyte's literals may have 64 levels of collections, maps, unions and structs"
        " on this host; nest them less, or pass them in a file"
    )


@pytest.mark.parametrize("seconds", [-(10**15), 10**15])
async def test_metrics_of_an_impossible_time(seconds):
    from connectrio.idl.google.protobuf import Duration, Timestamp

    for query in ({"start_time": Timestamp(seconds)}, {"end_time": Timestamp(seconds)}, {"step": Duration(seconds)}):
        error = await failure(Service(), "get_metrics", **query)
        assert error.status is Status.INVALID_ARGUMENT
        [name] = query
        assert error.message.startswith(f"the metrics query: {name}: a ")


class Foreign:
    pass


def resource(**fields: Any) -> Resource:
    return Resource(**{"phase": Phase.RUNNING, **fields})


class Unencodable(Job):
    def encode(self):
        raise OSError("no disk")


class Textual(Job):
    def encode(self):
        return "text"


@plain_or_not
@pytest.mark.parametrize(
    ("operation", "result", "text"),
    [
        ("create", None, "Tiny.create returned None, not a Job"),
        ("create", Foreign(), "Tiny.create returned an object of class Foreign, not a Job"),
        ("create", Unencodable("7"), "class Unencodable that cannot be encoded: no disk"),
        ("create", Textual("7"), "Textual.encode returned an object of class str, not a bytes"),
        ("get", None, "Tiny.get returned None, not a Resource"),
        ("get", Phase.RUNNING, "not a Resource"),
        (
            "get",
            ResourceMessage(),
            "returned a Resource of connectrio.idl.flyteidl2.connector, not the one of connectrio.connector.base",
        ),
        ("get", resource(phase=99), "whose phase is 99"),
        ("get", resource(phase=Phase(99)), "99"),
        ("get", resource(phase="RUNNING"), "phase is 'RUNNING', not one of ABORTED, FAILED, "),
        ("get", resource(phase=None), "phase is None"),
        ("get", resource(phase=True), "phase is True"),
        ("get", resource(phase=[]), "phase is []"),
        ("get", resource(phase=Phase.UNDEFINED), "UNDEFINED"),
        ("get", resource(message=5), "a Resource whose message is an object of class int, not a str"),
        ("get", resource(log_links=["https://x"]), "log_links hold an object of class str, not a TaskLog"),
        ("get", resource(log_links=5), "log_links are an object of class int"),
        ("get", resource(outputs={"x": Foreign()}), "outputs cannot be encoded: output 'x': Flyte has no literal for"),
        ("get", resource(outputs={"x": 2**64}), "output 'x': "),
        ("get", resource(outputs=[1]), "outputs are an object of class list"),
        ("get", resource(custom_info={"x": Foreign()}), "custom_info cannot be encoded: value['x']: "),
        (
            "get",
            resource(custom_info={"x": 10**400}),
            "value['x']: an integer that is too large for JSON's numbers; give it as a text",
        ),
        (
            "get",
            resource(log_links=[TaskLog(uri=5)]),
            (
                "Tiny.get returned a Resource whose log_links hold a TaskLog that cannot be encoded: TaskLog.uri:"
                " expected str, got int; give each field a value of the type that the message declares for it"
            ),
        ),
        (
            "get",
            resource(outputs=Outputs(literals=[NamedLiteral(name=5)])),
            "a Resource whose outputs are a Outputs that cannot be encoded: NamedLiteral.name: expected str, got int",
        ),
        (
            "get",
            resource(custom_info=Struct(fields={"x": Value(number_value="5")})),
            "a Resource whose custom_info is a Struct that cannot be encoded: Value.number_value: ",
        ),
        (
            "get_metrics",
            GetTaskMetricsResponse(results=[ExecutionMetricResult(metric=5)]),
            "Tiny.get_metrics returned a GetTaskMetricsResponse that cannot be encoded: ExecutionMetricResult.metric:",
        ),
        ("get", resource(custom_info={"x": {"y": b"bytes"}}), "value['x']['y']: an object of class bytes is not JSON"),
        ("get", resource(custom_info=[1]), "custom_info is an object of class list, not a Mapping"),
        ("get_metrics", None, "Tiny.get_metrics returned None, not a GetTaskMetricsResponse"),
        ("get_metrics", [GetTaskMetricsResponse()], "not a GetTaskMetricsResponse"),
        ("get_logs", None, "returned None, not a GetTaskLogsResponse or a generator of them"),
        ("get_logs", ["line"], "returned an object of class list, not a GetTaskLogsResponse or a generator of them"),
    ],
)
async def test_a_connector_that_returns_what_it_must_not(operation, result, text, plain):
    async def coroutine(self, **kwargs):
        return result

    def function(self, **kwargs):
        return result

    service = Service(connector(**{operation: function if plain else coroutine}))
    error = await failure(service, operation)
    assert error.status is Status.INTERNAL
    assert error.message.startswith(PHRASES[operation])
    assert text in error.message
    assert service.count(operation, "500") == 1


@plain_or_not
async def test_logs_that_are_no_responses(plain):
    async def agenerator(self, **kwargs):
        yield log_lines("x")
        yield None

    def generator(self, **kwargs):
        yield log_lines("x")
        yield None

    error = await failure(Service(connector(get_logs=generator if plain else agenerator)), "get_logs")
    assert error.status is Status.INTERNAL
    assert error.message.endswith("Tiny.get_logs returned None, not a GetTaskLogsResponse.")


async def test_phases_may_be_plain_numbers():
    async def get(self, resource_meta, **kwargs):
        return Resource(phase=3)

    assert (await Service(connector(get=get)).get()).resource.phase is Phase.SUCCEEDED


# what Python makes of a file name that is not valid UTF-8
UNDECODABLE, ESCAPED = "a\udcff", "a\\udcff"


def output(name: str, value: Literal) -> Outputs:
    return Outputs(literals=[NamedLiteral(name=name, value=value)])


def of_text(value: str) -> Literal:
    return Literal(scalar=Scalar(primitive=Primitive(string_value=value)))


@pytest.mark.parametrize(
    ("returned", "sent"),
    [
        ({"message": UNDECODABLE}, {"message": ESCAPED}),
        ({"log_links": [TaskLog(uri=UNDECODABLE)]}, {"log_links": [TaskLog(uri=ESCAPED)]}),
        ({"outputs": {UNDECODABLE: "x"}}, {"outputs": output(ESCAPED, of_text("x"))}),
        ({"outputs": {"x": UNDECODABLE}}, {"outputs": output("x", of_text(ESCAPED))}),
        ({"outputs": output(UNDECODABLE, of_text(UNDECODABLE))}, {"outputs": output(ESCAPED, of_text(ESCAPED))}),
        (
            {"custom_info": {UNDECODABLE: [UNDECODABLE]}},
            {
                "custom_info": Struct(
                    fields={ESCAPED: Value(list_value=ListValue(values=[Value(string_value=ESCAPED)]))}
                )
            },
        ),
        (
            {"custom_info": Struct(fields={UNDECODABLE: Value(string_value=UNDECODABLE)})},
            {"custom_info": Struct(fields={ESCAPED: Value(string_value=ESCAPED)})},
        ),
    ],
)
async def test_what_is_not_unicode_is_escaped(returned, sent):
    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.SUCCEEDED, **returned)

    service = Service(connector(get=get))
    response = await service.get()
    assert response.resource == ResourceMessage(phase=Phase.SUCCEEDED, **sent)
    assert ResourceMessage.parse(encode(response.resource)) == response.resource
    assert service.count("get") == 1


@pytest.mark.parametrize("value", [UNDECODABLE, [UNDECODABLE], (UNDECODABLE, 1), {UNDECODABLE: {"a": UNDECODABLE}}])
async def test_outputs_that_are_not_unicode_can_be_sent(value):
    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.SUCCEEDED, outputs={"x": value})

    assert encode(await Service(connector(get=get)).get())


def test_what_a_copied_message_does_not_know_is_kept():
    link = decode(encode(TaskLog(name="n")) + b"\xf8\x07\x01", TaskLog)
    link.uri = UNDECODABLE
    assert encode(sendable(link, "it is")) == encode(TaskLog(uri=ESCAPED, name="n")) + b"\xf8\x07\x01"


async def test_metrics_that_are_not_unicode_are_escaped():
    async def get_metrics(self, **kwargs):
        return GetTaskMetricsResponse(results=[ExecutionMetricResult(metric=UNDECODABLE)])

    response = await Service(connector(get_metrics=get_metrics)).get_metrics()
    assert response == GetTaskMetricsResponse(results=[ExecutionMetricResult(metric=ESCAPED)])


@pytest.mark.parametrize(
    ("number", "name"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")], ids=str
)
@pytest.mark.parametrize("make", [dict, Struct.from_dict], ids=["dict", "message"])
async def test_what_is_no_number_in_json_is_sent_as_text(number, name, make):
    returned = make({"x": [number, {"y": number}], "z": 1.0})

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.RUNNING, custom_info=returned)

    resource = (await Service(connector(get=get)).get()).resource
    assert resource.custom_info.to_dict() == {"x": [name, {"y": name}], "z": 1.0}


async def test_template_and_metadata_reach_create():
    seen = {}

    async def create(self, **kwargs):
        seen.update(kwargs)
        return Job("1")

    template = TaskTemplate(type="tiny")
    await Service(connector(create=create)).create(template=template, output_prefix="s3://x")
    assert seen == {
        "task_template": template,
        "output_prefix": "s3://x",
        "inputs": {},
        "task_execution_metadata": None,
    }
