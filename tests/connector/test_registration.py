"""What is wrong with a connector is said when it is registered, with the line."""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

import pytest
from grpclib import GRPCError
from grpclib.const import Status
from structlog.testing import capture_logs

from connectrio import AsyncConnector, Registry, ResourceMeta
from connectrio.connector.registration import _NAMED, _PASSED
from connectrio.masking.credentials import describe_error
from connectrio.service.operations import Operation
from service.harness import Base, Complete, Job, Service, connector


def refusal(connector: AsyncConnector[Any]) -> str:
    """Why a registry refuses a connector, each place without its directory."""
    registry = Registry()
    with pytest.raises(ValueError, match=r"^\S+ \(.*\) cannot be registered: ") as raised:
        registry.register(connector)
    assert registry.claims() == []
    assert describe_error(raised.value) == f"ValueError: {raised.value}", "the text looks as if it held a credential"
    return re.sub(r"/\S*/", "", str(raised.value))


def line_of(thing: Any) -> str:
    return f"test_registration.py:{thing.__code__.co_firstlineno}"


class Ordinary(Base):
    """A class of this module."""


@pytest.mark.parametrize(
    ("attribute", "value", "problem"),
    [
        ("task_type_name", None, "it does not set task_type_name, the task type that it serves"),
        ("task_type_name", "", "it does not set task_type_name, the task type that it serves"),
        ("task_type_version", "1", "its task_type_version must be an int, got '1'"),
        ("task_type_version", True, "its task_type_version must be an int, got True"),
        ("create", None, "its create is None, which cannot be called"),
        ("get_many", 7, "its get_many is 7, which cannot be called"),
        ("metadata_type", None, "it does not set metadata_type: say what `create` returns"),
        ("metadata_type", Job("7"), "its metadata_type must be a subclass of ResourceMeta, got Job(id='7')"),
        ("metadata_type", dict, "its metadata_type must be a subclass of ResourceMeta, got <class 'dict'>"),
    ],
)
def test_what_a_connector_must_say(monkeypatch, attribute, value, problem):
    monkeypatch.setattr(Ordinary, attribute, value)
    assert f"cannot be registered: {problem}" in refusal(Ordinary())
    assert re.match(r"Ordinary \(test_registration.py:\d+\)", refusal(Ordinary()))


def test_a_connector_without_task_type_and_meta():
    class Empty(AsyncConnector):
        async def create(self, **kwargs): ...
        async def get(self, **kwargs): ...
        async def delete(self, **kwargs): ...

    text = refusal(Empty())
    assert "it does not set task_type_name, the task type that it serves; it does not set metadata_type" in text


def test_a_method_that_is_missing():
    class Unfinished(AsyncConnector[Job]):
        async def create(self, **kwargs): ...

    with pytest.raises(TypeError, match=r"abstract class Unfinished .*\bdelete\b.*\bget\b"):
        Unfinished()


# methods


async def create_1(self, task_tempalte, output_prefix, inputs=None, task_execution_metadata=None, **kwargs): ...
async def create_2(self, task_template, ouput_prefix, input, **kwargs): ...  # noqa: A002 - the mistake
async def create_3(self, task_template, output_prefix, inputs): ...
async def create_4(self, template, output_prefix, inputs, **kwargs): ...
async def get_1(self, resource_metas, **kwargs): ...
async def get_2(self, meta, **kwargs): ...
async def get_3(self, job): ...
async def get_4(self): ...
async def get_5(self, resource_meta, /, **kwargs): ...
async def get_6(self, resource_meta, inputs, **kwargs): ...
async def delete_1(self, resource_meta, *, output_prefix): ...
def get_logs_1(self, resource_meta, tokens="", line=0): ...
async def get_metrics_1(self, resource_meta, *, start_tme=None, **kwargs): ...
async def get_many_1(self, resource_meta): ...


@pytest.mark.parametrize(
    ("operation", "method", "problems"),
    [
        (
            "create",
            create_1,
            ["has the parameter 'task_tempalte', which the host does not know: rename it to 'task_te"],
        ),
        (
            "create",
            create_2,
            [
                "has the parameter 'ouput_prefix', which the host does not know: rename it to 'output_prefix'",
                "has the parameter 'input', which the host does not know: rename it to 'inputs'",
            ],
        ),
        ("create", create_3, ["does not take 'task_execution_metadata', which the host passes: add it, or **kwargs"]),
        ("create", create_4, ["has the parameter 'template', which the host does not know: rename it to 'task_templ"]),
        ("get", get_1, ["has the parameter 'resource_metas', which the host does not know: rename it to 'resource_m"]),
        ("get", get_2, ["has the parameter 'meta', which the host does not know: rename it to 'resource_meta'"]),
        ("get", get_3, ["has the parameter 'job', which the host does not know: rename it to 'resource_meta'"]),
        ("get", get_4, ["does not take 'resource_meta', which the host passes: add it, or **kwargs"]),
        ("get", get_5, ["takes 'resource_meta' by position only, and the host passes arguments by name"]),
        ("get", get_6, ["needs 'inputs', which the host does not pass to get"]),
        ("delete", delete_1, ["needs 'output_prefix', which the host does not pass to delete"]),
        (
            "get_logs",
            get_logs_1,
            [
                "has the parameter 'tokens', which the host does not know: rename it to 'token'",
                "has the parameter 'line', which the host does not know: rename it to 'lines'",
            ],
        ),
        ("get_metrics", get_metrics_1, ["has the parameter 'start_tme', which the host does not know: rename it to"]),
        ("get_many", get_many_1, ["has the parameter 'resource_meta', which the host does not know: rename it to"]),
    ],
)
def test_a_parameter_that_gets_nothing(operation, method, problems):
    text = refusal(connector(**{operation: method}))
    found = text.partition("cannot be registered: ")[2].split("; ")
    assert [each.startswith(f"its {operation} ({line_of(method)}) ") for each in found] == [True] * len(problems)
    assert all(problem in each for problem, each in zip(problems, found, strict=True)), found


async def any_1(self, *args, **kwargs): ...
async def any_2(self, **kwargs): ...


def traced(function):
    @functools.wraps(function)
    async def call(*args, **kwargs):
        return await function(*args, **kwargs)

    return call


async def with_secrets(self, resource_meta, token, *, api_key, region="eu", **kwargs): ...
async def create_with_secrets(self, task_template, output_prefix, inputs, *, token, meta, **kwargs): ...
async def logs_of_pages(self, resource_meta, token, lines): ...
async def with_both(self, resource_meta, token="", tokens=(), **kwargs): ...


@pytest.mark.parametrize(
    "members",
    [
        dict.fromkeys(_PASSED, method) for method in (any_1, any_2, traced(any_2))
    ]
    + [
        {"get": with_secrets, "delete": with_secrets, "create": create_with_secrets},
        {"get_logs": logs_of_pages},
        {"get_logs": with_both},
        {"create": staticmethod(lambda **kwargs: Job("7")), "get": classmethod(any_2)},
    ],
)  # fmt: skip
def test_what_is_accepted(members):
    with capture_logs() as logs:
        Registry().register(connector(**members))
    assert logs == []


@pytest.mark.parametrize("operation", ["create", "get", "get_metrics", "get_logs", "delete"])
async def test_the_names_are_those_that_a_host_passes(operation):
    """The table of registration.py beside what calls get."""
    seen: dict[str, Any] = {}
    always, further = _PASSED[operation]

    async def method(self, **kwargs):
        seen.update(kwargs)
        raise NotImplementedError

    names = ("self", *always, *further)
    method.__signature__ = inspect.Signature([inspect.Parameter(name, _NAMED[0]) for name in names])
    with pytest.raises(GRPCError) as raised:
        await Service(connector(**{operation: method})).call(operation)
    assert raised.value.status is Status.UNIMPLEMENTED
    assert seen.keys() == {*always, *further}
    assert {*_PASSED} == {each.value for each in Operation}


# secrets


async def logs(self, resource_meta, token="", **kwargs): ...
async def metrics(self, resource_meta, step=None, **kwargs): ...
async def create_with_token(self, task_template, output_prefix, inputs, *, token, **kwargs): ...
async def get_with_step(self, resource_meta, *, step, **kwargs): ...


def test_a_secret_that_has_the_name_of_the_page_token():
    text = refusal(connector(create=create_with_token, get_logs=logs))
    assert text.endswith(
        f"its create ({line_of(create_with_token)}) takes a secret named 'token', and its get_logs ({line_of(logs)})"
        " gets something else of that name from the host, where the page of the log begins: rename the secret, for"
        " example to 'api_token', here and in the tasks"
    )
    assert "secret named 'step', and its get_metrics" in refusal(connector(get=get_with_step, get_metrics=metrics))
    Registry().register(connector(create=create_with_token))
    Registry().register(connector(get_logs=logs))


# metas


class Undecorated(ResourceMeta):
    id: str
    attempt: int = 0


@dataclass
class Parent(ResourceMeta):
    id: str


class Child(Parent):
    more: str = ""


class WithoutFields(Parent):
    kind: ClassVar[str] = "k"
    other = 5


class OwnCode(ResourceMeta):
    id: str

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, data: bytes) -> OwnCode:
        return cls()


@pytest.mark.parametrize(("meta", "fields"), [(Undecorated, "id, attempt"), (Child, "more")])
def test_a_meta_that_is_no_dataclass(meta, fields):
    text = refusal(connector(metadata_type=meta))
    assert re.search(
        rf"{meta.__name__} \(test_registration.py:\d+\) has the fields {fields}, and is no dataclass: write"
        r" @dataclass above it$",
        text,
    )


class Session:
    """What a vendor's client makes."""


@dataclass
class Part:
    sessions: list[Session]


@dataclass
class WithSession(ResourceMeta):
    id: str
    session: Session | None = None


@dataclass
class WithPart(ResourceMeta):
    part: Part = field(default_factory=lambda: Part([]))


@dataclass
class WithUnknown(ResourceMeta):
    part: Nowhere  # noqa: F821 - the mistake


@dataclass
class WithTwo(ResourceMeta):
    part: Parent | Part


@dataclass
class Node(ResourceMeta):
    id: str
    started: datetime | None = None
    next: Node | None = None
    parts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    anything: Any = None


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        (WithSession, "has the field 'session' of type Session, which JSON cannot hold"),
        (WithPart, "has the field 'part' of type Session, which JSON cannot hold"),
        (WithUnknown, "cannot be read from JSON: NameError: name 'Nowhere' is not defined"),
        (WithTwo, "cannot be read from JSON: TypeError: Type unions may not contain more than one"),
    ],
)
def test_a_meta_that_cannot_be_read_back(meta, problem):
    text = refusal(connector(metadata_type=meta))
    assert re.search(rf"{meta.__name__} \(test_registration.py:\d+\) {problem}", text)


@pytest.mark.parametrize("meta", [Parent, WithoutFields, OwnCode, Node, ResourceMeta])
def test_a_meta_that_can_be_read_back(meta):
    Registry().register(connector(metadata_type=meta))


# methods that nobody calls


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("get_log", "get_logs"), ("get_metric", "get_metrics"), ("is_transient_error", "is_transient"), ("get_job", None)],
)
def test_a_method_whose_name_is_almost_right(name, nearest):
    async def method(self, resource_meta): ...

    with capture_logs() as lines:
        Registry().register(connector(Base, **{name: method}))
    expected = [(f"Tiny.{name}", nearest, line_of(method))] if nearest else []
    assert [(each["method"], each["nearest"], re.sub(r"/\S*/", "", each["where"])) for each in lines] == expected


def test_a_helper_beside_the_method_is_no_mistake():
    with capture_logs() as lines:
        Registry().register(connector(Complete, get_log=lambda self: None, created=lambda self: None))
    assert lines == []


# connectors of other frameworks


def test_a_connector_that_converts_its_inputs_has_the_rules_of_its_framework():
    Registry().register(connector(converts_inputs=True, create=create_1, get=get_3, metadata_type=Undecorated))
