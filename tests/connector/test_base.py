"""What connectors are made of: resource metas, resources, the methods that they need not have."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Generic, Optional, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import connectrio
from connectrio import AsyncConnector, Phase, Resource, ResourceMeta, TaskLog
from connectrio.connector.base import ResourceMetaError
from service.harness import Base, Job


class Colour(Enum):
    RED = "red"


@dataclass
class Part:
    name: str
    size: int = 0


@dataclass
class Meta(ResourceMeta):
    id: str
    attempts: int = 0
    share: float = 0.0
    done: bool = False
    parts: list[Part] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    parent: Part | None = None
    legacy: Optional[str] = None  # noqa: UP045 - as older connectors write it
    token: bytes = b""
    started: datetime | None = None
    colour: Colour = Colour.RED


texts = st.text(st.characters(exclude_categories=["Cs"]))
parts = st.builds(Part, name=texts, size=st.integers(-(2**63), 2**63 - 1))
metas = st.builds(
    Meta,
    id=texts,
    attempts=st.integers(-(2**63), 2**63 - 1),
    share=st.floats(allow_nan=False, allow_infinity=False),
    done=st.booleans(),
    parts=st.lists(parts, max_size=3),
    labels=st.dictionaries(texts, texts, max_size=3),
    parent=st.none() | parts,
    legacy=st.none() | texts,
    token=st.binary(),
    started=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(metas)
def test_what_is_encoded_can_be_decoded(meta):
    assert Meta.decode(meta.encode()) == meta


def test_the_encoding_is_json_that_people_can_read():
    meta = Meta(
        "ünï", 1, 0.5, True, [Part("a", 2)], {"k": "v"}, token=b"\x00\xff", started=datetime(2024, 1, 2, tzinfo=UTC)
    )
    assert meta.encode().decode() == (
        '{"id":"ünï","attempts":1,"share":0.5,"done":true,"parts":[{"name":"a","size":2}],"labels":{"k":"v"},'
        '"parent":null,"legacy":null,"token":"AP8=","started":"2024-01-02T00:00:00Z","colour":"red"}'
    )


def test_the_encoding_of_flyte_sdk_can_be_decoded():
    """It writes spaces, and escapes what is not ASCII."""
    assert Meta.decode(b'{"id": "\\u00fcn\\u00ef", "attempts": 1, "parts": [{"name": "a", "size": 2}]}') == Meta(
        "ünï", 1, parts=[Part("a", 2)]
    )


def test_fields_with_a_default_may_be_missing():
    """So that a newer version of a connector can read what an older one wrote."""
    assert Meta.decode(b'{"id": "7"}') == Meta("7")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "Meta: Input data was truncated"),
        (b"{", "Meta: Input data was truncated"),
        (b"\xff", "Meta: JSON is malformed"),
        (b'{"id": "\xff"}', "Meta: "),
        (b"[]", "Meta: expected a JSON object, got list"),
        (b"null", "Meta: expected a JSON object, got NoneType"),
        (b"7", "Meta: expected a JSON object, got int"),
        (b"{}", "Meta: Object missing required field `id`"),
        (b'{"id": 7}', r"Meta: Expected `str`, got `int` - at `\$.id`"),
        (b'{"id": null}', r"Meta: Expected `str`, got `null` - at `\$.id`"),
        (b'{"id": "7", "attempts": "1"}', r"Meta: Expected `int`, got `str` - at `\$.attempts`"),
        (b'{"id": "7", "attempts": 1.5}', r"Meta: Expected `int`, got `float` - at `\$.attempts`"),
        (b'{"id": "7", "done": 1}', r"Meta: Expected `bool`, got `int` - at `\$.done`"),
        (b'{"id": "7", "colour": "blue"}', "Meta: Invalid enum value 'blue'"),
        (b'{"id": "7", "parts": [{"size": 1}]}', r"Meta: Object missing required field `name` - at `\$.parts\[0\]`"),
        (
            b'{"id": "7", "what": 1, "else": 2}',
            "Meta has no field named 'else', 'what'; its fields: attempts, colour, ",
        ),
    ],
)
def test_bytes_that_are_no_such_meta(data, complaint):
    with pytest.raises(ResourceMetaError, match=f"^{complaint}"):
        Meta.decode(data)


@pytest.mark.parametrize("value", [object(), 1 + 2j])
def test_what_json_has_no_form_for(value):
    with pytest.raises(ResourceMetaError, match=r"^Job cannot be encoded as JSON: "):
        Job(value).encode()


@pytest.mark.parametrize(
    ("meta", "complaint"),
    [
        (Meta(7), r"Expected `str`, got `int` - at `\$.id`"),
        (Meta(None), r"Expected `str`, got `null` - at `\$.id`"),
        (Meta("7", share=math.nan), r"Expected `float`, got `null` - at `\$.share`"),
        (Meta("7", share=math.inf), r"Expected `float`, got `null` - at `\$.share`"),
        (Meta("7", labels={"k": 1}), r"Expected `str`, got `int` - at `\$.labels\[...\]`"),
    ],
)
def test_what_could_not_be_read_back_is_not_encoded(meta, complaint):
    """Or `create` would succeed, and every `get` of its job fail."""
    with pytest.raises(ResourceMetaError, match=f"^Meta cannot be read back from JSON: {complaint}$"):
        meta.encode()


def test_an_empty_meta():
    assert ResourceMeta().encode() == b"{}"
    assert ResourceMeta.decode(b"{}") == ResourceMeta()


def test_a_resource_is_what_it_is_given():
    assert Resource(Phase.RUNNING) == Resource(
        phase=Phase.RUNNING, message=None, log_links=None, outputs=None, custom_info=None
    )
    link = TaskLog(name="Console", uri="https://example.org")
    resource = Resource(Phase.SUCCEEDED, "done", [link], {"x": 1}, {"rows": 7})
    assert (resource.message, resource.log_links, resource.outputs, resource.custom_info) == (
        "done",
        [link],
        {"x": 1},
        {"rows": 7},
    )


def test_the_phases_are_flytes():
    from flyteidl2.core.execution_pb2 import TaskExecution

    assert {phase.name: phase.value for phase in Phase} == dict(TaskExecution.Phase.items())


def test_a_connector_must_have_three_methods():
    class Incomplete(connectrio.AsyncConnector[Job]):
        async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
            return Job("7")

    with pytest.raises(TypeError, match=r"abstract methods '?delete'?, '?get'?"):
        Incomplete()


@pytest.mark.parametrize("method", ["get_metrics", "get_logs"])
def test_methods_that_a_connector_need_not_have(method):
    with pytest.raises(NotImplementedError, match=r"^Tiny Connector has no (metrics|logs)$"):
        getattr(Base(), method)(Job("7"))


async def test_a_lifespan_that_a_connector_need_not_have():
    async with Base().lifespan() as nothing:
        assert nothing is None


HEAVY = {
    "connectrio.cli", "connectrio.connectors", "connectrio.host.exporter", "connectrio.host.host",
    "connectrio.host.runner", "cyclopts", "duckdb", "google.protobuf", "h11", "trio", "uvloop",
}  # fmt: skip


def test_what_authors_import_is_light():
    program = "import sys, connectrio; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert HEAVY & set(ran.stdout.split()) == set()


def test_what_is_asked_for_first_is_imported_then():
    assert connectrio.ConnectorService.__name__ == "ConnectorService"
    assert connectrio.HostSettings.__name__ == "HostSettings"
    with pytest.raises(AttributeError, match=r"^module 'connectrio' has no attribute 'Nothing'$"):
        connectrio.Nothing  # noqa: B018 - looking it up is the test
    assert all(hasattr(connectrio, name) for name in connectrio.__all__)


# the type of the meta, from the base class

M = TypeVar("M", bound=ResourceMeta)
T = TypeVar("T")


@dataclass
class Special(Meta):
    """A meta of its own."""


class Open(AsyncConnector[M]):
    """Leaves the meta open."""


class Twice(Open[M], Generic[T, M]):
    """Has one more type variable, before that of the meta."""


def test_the_type_of_the_meta_is_the_argument_of_the_base_class():
    class Direct(AsyncConnector[Meta]): ...

    class Through(Open[Meta]): ...

    class Second(Twice[Job, Meta]): ...

    class Inherited(Second): ...

    assert [each.metadata_type for each in (Direct, Through, Second, Inherited)] == [Meta] * 4


def test_what_a_class_states_comes_first():
    class Stated(AsyncConnector[Meta]):
        metadata_type = Special

    class Inherited(Stated): ...

    assert (Stated.metadata_type, Inherited.metadata_type) == (Special, Special)


def test_a_class_that_leaves_the_meta_open_has_no_type():
    class Anything(AsyncConnector[Any]): ...

    class Bare(AsyncConnector): ...

    class Named(AsyncConnector["Meta"]): ...

    assert not any(hasattr(each, "metadata_type") for each in (Open, Twice, Anything, Bare, Named))
