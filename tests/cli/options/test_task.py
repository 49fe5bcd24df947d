"""From options to a CreateTaskRequest."""

from __future__ import annotations

import base64
import json
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectrio.cli.errors import UsageError
from connectrio.cli.options.task import TaskOptions, meta_argument, read_meta
from connectrio.client.jobs import category_of
from connectrio.literals import DataFrame, Dir, File, inputs_to_python, type_name


def received(**options):
    """The inputs as a connector gets them."""
    request = TaskOptions(**options).request("toy")
    return inputs_to_python(request.inputs, request.template.interface.inputs)


def declared(variables):
    return {entry.key: type_name(entry.value.type) for entry in variables.variables}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=5", 5),
        ("x=5.0", 5.0),
        ("x=true", True),
        ("x=null", None),
        ("x=plain text", "plain text"),
        ('x="5"', "5"),
        ("x=", ""),
        ("x=a=b", "a=b"),
        ("x=[1,2]", [1, 2]),
        ('x=[1,"a",null]', [1, "a", None]),
        ('x={"a":{"b":[1]}}', {"a": {"b": [1]}}),
        ("x:str=5", "5"),
        ('x:str="5"', '"5"'),
        ("x:float=5", 5.0),
        ("x:datetime=2024-01-01T00:00:00Z", datetime(2024, 1, 1, tzinfo=UTC)),
        ("x:datetime=2024-01-01", datetime(2024, 1, 1, tzinfo=UTC)),
        ("x:duration=1.5", timedelta(seconds=1.5)),
        ("x:duration=PT2M", timedelta(minutes=2)),
        ("x:enum(red|5)=5", "5"),
        ("x:file(csv)=s3://bucket/a.csv", File("s3://bucket/a.csv", format="csv")),
        ('x:file={"path": "/a", "name": "b"}', File("/a")),
        ("x:dir=/data", Dir("/data")),
        ("x:dataframe=/data/a.parquet", DataFrame("/data/a.parquet")),
        ("x:bytes=héllo", "héllo".encode()),
        ("x:list[datetime]=[\"2024-01-01\"]", [datetime(2024, 1, 1, tzinfo=UTC)]),
        ("x:dict[str, float]={\"a\": 1}", {"a": 1.0}),
        ("x:int|none=null", None),
        ("x:int|str=5", 5),
        ("x:none=null", None),
    ],
)  # fmt: skip
def test_inputs_of_the_command_line(text, value):
    got = received(input=[text])
    assert got == {"x": value}
    assert type(got["x"]) is type(value)


def test_inputs_of_a_file_come_first(tmp_path):
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps({"n": 1, "day:datetime": "2024-01-01", "text": "5"}))
    assert received(inputs=file, input=["n=2"]) == {"n": 2, "day": datetime(2024, 1, 1, tzinfo=UTC), "text": "5"}


def test_a_template_declares_the_types(tmp_path):
    template = {
        "type": "toy",
        "taskTypeVersion": 3,
        "interface": {
            "inputs": {
                "variables": [
                    {"key": "day", "value": {"type": {"simple": "DATETIME"}, "description": "of the report"}},
                    {"key": "unused", "value": {"type": {"simple": "STRING"}}},
                ]
            }
        },
        "custom": {"kept": 1, "replaced": 1},
        "sql": {"statement": "select 1"},
    }
    file = tmp_path / "template.json"
    file.write_text(json.dumps(template))
    request = TaskOptions(
        template=file, input=["day=2024-01-01", "n=1"], custom=["replaced=2"], output=["out"]
    ).request("toy")
    assert category_of(request).version == 3
    assert declared(request.template.interface.inputs) == {"day": "datetime", "unused": "str", "n": "int"}
    assert request.template.interface.inputs.variables[0].value.description == "of the report"
    assert declared(request.template.interface.outputs) == {"out": "DataFrame"}
    assert request.template.custom.to_dict() == {"kept": 1, "replaced": 2}
    assert request.template.sql.statement == "select 1"


def test_options_override_the_template(tmp_path):
    file = tmp_path / "template.json"
    file.write_text('{"taskTypeVersion": 3, "sql": {"statement": "select 1"}}')
    request = TaskOptions(template=file, version=4, sql="select 2").request("toy")
    assert (category_of(request).name, category_of(request).version) == ("toy", 4)
    assert request.template.sql.statement == "select 2"


def test_sql_of_a_file(tmp_path):
    (tmp_path / "query.sql").write_text("select 1\n")
    assert TaskOptions(sql=f"@{tmp_path}/query.sql").request("toy").template.sql.statement == "select 1\n"


def test_outputs_and_custom():
    request = TaskOptions(output=["frame", "n=int"], custom=["database=:memory:", "threads=2", 'tags=["a"]']).request(
        "toy"
    )
    assert declared(request.template.interface.outputs) == {"frame": "DataFrame", "n": "int"}
    assert request.template.custom.to_dict() == {"database": ":memory:", "threads": 2, "tags": ["a"]}


def test_no_options():
    request = TaskOptions().request("toy")
    assert request.inputs is None
    assert request.connection is None
    assert request.template.custom is None


@pytest.mark.parametrize("prefix", ["s3://bucket/out", "file:///out", "/out"])
def test_output_prefixes_are_passed_on(prefix):
    assert TaskOptions(output_prefix=prefix).request("toy").output_prefix == prefix


def test_a_relative_output_prefix_is_ours_and_not_the_hosts():
    assert TaskOptions(output_prefix="out").request("toy").output_prefix == str(Path.cwd() / "out")


def test_the_default_output_prefix_is_new_for_each_job():
    one, other = (TaskOptions().request("toy").output_prefix for _ in range(2))
    assert one != other
    assert not Path(one).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": ["n"]}, "--input takes NAME=VALUE, got 'n'"),
        ({"input": ["=5"]}, "--input takes NAME=VALUE, got '=5'"),
        ({"input": ["n:int=x"]}, "input 'n': "),
        ({"input": ["n:inte=5"]}, "there is no type 'inte'"),
        ({"input": ["e:enum(a|b)=c"]}, "input 'e': "),
        ({"input": ["n=99999999999999999999"]}, "input 'n': "),
        ({"output": ["=int"]}, "--output takes NAME or NAME=TYPE, got '=int'"),
        ({"custom": ["x"]}, "--custom takes NAME=VALUE, got 'x'"),
        ({"inputs": Path("missing.json")}, "cannot read missing.json: No such file or directory"),
        ({"sql": "@missing.sql"}, "cannot read missing.sql: No such file or directory"),
        ({"template": Path("text")}, "text is not JSON: "),
        ({"inputs": Path("list")}, "list must hold a JSON object"),
        ({"template": Path("list")}, "list is no TaskTemplate in proto-JSON: "),
        ({"template": Path("unknown")}, "unknown is no TaskTemplate in proto-JSON: "),
        ({"template": Path("other")}, "other is of task type 'spark', not 'toy'"),
        ({"template": Path("binary")}, "binary is not UTF-8 text"),
    ],
)
def test_what_cannot_be_understood(options, message, tmp_path):
    for name, text in {"text": "hm", "list": "[1]", "unknown": '{"no": 1}', "other": '{"type": "spark"}'}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError) as raised:
        TaskOptions(**options).request("toy")
    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["", "/", "a/b", "a//b", "a/b/c/d"])
def test_an_execution_of_another_form(text):
    with pytest.raises(UsageError, match=f"--execution takes NAME or PROJECT/DOMAIN/NAME, got '{text}'"):
        TaskOptions(execution=text).request("toy")


@pytest.mark.parametrize(
    ("argument", "meta"),
    [
        ('{"id": "7"}', b'{"id": "7"}'),
        ("job12345", b"job12345"),  # valid base64, but of no JSON
        ("MTIz", b"MTIz"),  # of JSON that is no object
        ("eyJpZCI6ICI3In0=", b'{"id": "7"}'),
        (base64.b64encode(pickle.dumps(("b-12",))).decode(), pickle.dumps(("b-12",))),  # has no padding
        ("CgVqb2ItMQ==", b"\n\x05job-1"),  # a message of protobuf
        ("Cg5qb2ItMTIzNDU2Nzg5MBAB", b"\n\x0ejob-1234567890\x10\x01"),  # without padding
        ("/wDw", b"/wDw"),
        ("0123456789abcdef0123456789abcdef", b"0123456789abcdef0123456789abcdef"),
        ("AbCdEfGh1234IjKlMnOp", b"AbCdEfGh1234IjKlMnOp"),
        ("AAAA", b"AAAA"),
        ("MDQ6VXNlcjU4MzIzMQ==", b"MDQ6VXNlcjU4MzIzMQ=="),  # a name that is a text as base64
        ("base64:gASVBw==", b"\x80\x04\x95\x07"),
        ('{"resource_meta": null, "resource_meta_base64": "gASVBw==", "phase": "FAILED"}', b"\x80\x04\x95\x07"),
        ('{"resource_meta_base64": "gASVBw=="}', b'{"resource_meta_base64": "gASVBw=="}'),  # may be a job's own
    ],
)
def test_the_forms_of_a_resource_meta(argument, meta):
    assert read_meta(argument) == meta


@pytest.mark.parametrize(
    "meta",
    [b'{"id": "7"}', b"job12345", b"-", b"@jobs", b" 7", b"base64:7", b"\x80\x04.", b"\x1b[2J", b"", b"\n\x05job-1"],
)
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_what_is_printed_names_the_resource_meta(meta, layers):
    """Also of one that is itself base64."""
    for _ in range(layers):
        meta = base64.b64encode(meta)
    assert read_meta(meta_argument(meta)) == meta


def test_a_document_with_a_damaged_resource_meta():
    with pytest.raises(UsageError, match="the resource meta is not base64"):
        read_meta('{"resource_meta": null, "resource_meta_base64": "?"}')
