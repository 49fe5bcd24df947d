"""Answers that are larger than the client takes: outputs go to a file, all else is cut."""

from __future__ import annotations

import os
import sys

import anyio
import fsspec
import pytest
from grpclib import GRPCError
from structlog.testing import capture_logs

from connectrio import Phase, Resource, TaskLog
from connectrio.idl.flyteidl2.connector import GetTaskResponse
from connectrio.idl.flyteidl2.core import LiteralMap
from connectrio.idl.flyteidl2.task import Outputs
from connectrio.rpc.codec import MessageCodec, decode, encode
from connectrio.service import outputs
from connectrio.service.settings import ServiceSettings
from service.harness import Job, Service, attempt, connector, secrets

LIMIT = 64 * 1024
LARGE = "x" * LIMIT


def service(phase=Phase.SUCCEEDED, /, *, settings=None, **members):
    async def get(self, resource_meta, **kwargs):
        return Resource(phase, **members)

    return Service(connector(get=get), max_response_size=LIMIT, **settings or {})


def read(data: bytes) -> dict[str, str]:
    """The outputs as Flyte's executor reads them: a LiteralMap."""
    literals = decode(data, LiteralMap).literals
    return {name: literal.scalar.primitive.string_value for name, literal in literals.items()}


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "file://localhost{}"])
@pytest.mark.parametrize("message", [None, "done"])
async def test_outputs_are_written_to_a_file(tmp_path, form, message):
    prefix = tmp_path / "run 1" / "n0"
    found = service(outputs={"a": LARGE, "b": "y"}, message=message, custom_info={"rows": 7})
    url = form.format(prefix) if "://" not in form else form.format(str(prefix).replace(" ", "%20"))
    resource = (await found.get(output_prefix=url)).resource
    assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, None)
    assert resource.message.endswith(" bytes) are in outputs.pb below output_prefix")
    assert resource.message.startswith("done; the outputs (" if message else "the outputs (")
    assert resource.custom_info.to_dict() == {"rows": 7.0}
    assert [file.name for file in prefix.iterdir()] == ["outputs.pb"]
    assert read((prefix / "outputs.pb").read_bytes()) == {"a": LARGE, "b": "y"}
    assert (prefix / "outputs.pb").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


async def test_outputs_that_fit_are_sent(tmp_path):
    found = service(outputs={"a": "x" * (LIMIT - 100)})
    resource = (await found.get(output_prefix=str(tmp_path))).resource
    assert len(encode(resource.outputs)) > LIMIT - 100
    assert list(tmp_path.iterdir()) == []


async def test_an_answer_that_fits_is_encoded_once():
    """Its size is known from the bytes, which are then sent; an answer that is masked afterwards has others."""
    found = service(outputs={"a": "hunter22"}, message="hunter22")
    answer = await found.get()
    sent = MessageCodec().encode(answer, GetTaskResponse)
    assert sent is MessageCodec().encode(answer, GetTaskResponse)
    assert sent == encode(answer)
    masked = await found.get(connection=secrets(key="hunter22"))
    resource = decode(MessageCodec().encode(masked, GetTaskResponse), GetTaskResponse).resource
    assert resource.message == "[secret key]"
    small = await service(message="x").get()
    assert MessageCodec().encode(small, GetTaskResponse) == encode(small)


async def test_the_limit_is_for_the_whole_answer(tmp_path):
    resource = (
        await service(outputs={"a": "x" * (LIMIT - 100)}, message="m" * 100).get(output_prefix=str(tmp_path))
    ).resource
    assert resource.outputs is None
    assert (tmp_path / "outputs.pb").exists()


async def test_outputs_replace_those_of_the_last_poll_and_follow_no_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    prefix = tmp_path / "n0"
    prefix.mkdir()
    (prefix / "outputs.pb").symlink_to(elsewhere)
    for _ in range(2):
        assert (await service(outputs={"a": LARGE}).get(output_prefix=str(prefix))).resource.outputs is None
    assert elsewhere.read_text() == "precious"
    assert read((prefix / "outputs.pb").read_bytes()) == {"a": LARGE}


async def test_outputs_are_written_to_a_store():
    found = service(outputs={"a": LARGE}, settings={"storage_schemes": ["memory"]})
    resource = (await found.get(output_prefix="memory://bucket/n0/")).resource
    assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, None)
    assert read(fsspec.filesystem("memory").cat_file("/bucket/n0/outputs.pb")) == {"a": LARGE}


@pytest.mark.parametrize(
    ("prefix", "settings", "why"),
    [
        ("", {}, "the request has no output_prefix"),
        ("relative/path", {}, "output_prefix is not an absolute path"),
        ("file://relative", {}, "output_prefix is on another machine"),
        ("http://[", {}, "output_prefix is no valid URL"),
        ("memory://bucket/n0", {}, "of a kind that this host does not write to (storage_schemes)"),
        ("/tmp/n0", {"storage_schemes": ["s3"]}, "of a kind that this host does not write to (storage_schemes)"),
        ("simplecache::memory://x", {"storage_schemes": ["memory", "simplecache"]}, "of a kind that this host"),
        ("nothing://bucket", {"storage_schemes": ["nothing"]}, "could not be written to output_prefix; the host's log"),
        ("/dev/null/n0", {}, "could not be written to output_prefix; the host's log says why"),
    ],
)
async def test_outputs_that_cannot_be_written(prefix, settings, why):
    with capture_logs() as logs:
        resource = (await service(outputs={"a": LARGE}, settings=settings).get(output_prefix=prefix)).resource
    assert (resource.phase, resource.outputs) == (Phase.FAILED, None)
    assert f"at most {LIMIT} (max_response_size), and " in resource.message
    assert why in resource.message
    assert "File, Dir or DataFrame" in resource.message
    assert ("outputs could not be written" in [line["event"] for line in logs]) is ("log" in why)


async def test_without_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    found = service(outputs={"a": LARGE}, settings={"storage_schemes": ["memory"]})
    resource = (await found.get(output_prefix="memory://bucket/n0")).resource
    assert resource.phase is Phase.FAILED
    assert "the host needs fsspec and its package for that kind of store" in resource.message


@pytest.mark.parametrize("absorb", [600, 0])
async def test_a_store_that_fails_for_the_moment(monkeypatch, tmp_path, absorb):
    """The next poll tries again, whatever the connector counts as transient; the file is whole or not there."""

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs.Path, "replace", full)
    found = service(outputs={"a": LARGE}, settings={"poll_absorb": absorb})
    with capture_logs() as logs:
        if absorb:
            assert (await found.get(output_prefix=str(tmp_path))).resource.phase is Phase.RUNNING
        else:
            with pytest.raises(GRPCError, match="could not be written to output_prefix; the host's log says why"):
                await found.get(output_prefix=str(tmp_path))
    assert "No space left on device" in str(logs)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert (await found.get(output_prefix=str(tmp_path))).resource.phase is Phase.SUCCEEDED


async def test_a_store_that_hangs_does_not_stop_the_event_loop(monkeypatch, tmp_path):
    begun, go_on = anyio.Event(), anyio.Event()

    def hang(directory, data):
        anyio.from_thread.run_sync(begun.set)
        anyio.from_thread.run(go_on.wait)

    monkeypatch.setattr(outputs, "_write_file", hang)
    found = service(outputs={"a": LARGE})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: found.get(output_prefix=str(tmp_path)))
        await begun.wait()
        await found.create()
        go_on.set()


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.FAILED])
async def test_outputs_of_a_job_that_has_not_succeeded_are_left_out(phase, tmp_path):
    resource = (await service(phase, outputs={"a": LARGE}, message="m").get(output_prefix=str(tmp_path))).resource
    assert (resource.phase, resource.outputs, resource.message) == (phase, None, "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "members",
    [
        {"custom_info": {"a": LARGE}},
        {"log_links": [TaskLog(uri="u" * 1000)] * 100},
        {"message": "☃" * LIMIT},
    ],
    ids=lambda members: next(iter(members)),
)
async def test_all_else_is_left_out_for_the_outputs_to_fit(members):
    with capture_logs() as logs:
        response = await service(outputs={"a": "y"}, **members).get()
    assert response.resource.phase is Phase.SUCCEEDED
    assert response.resource.outputs.literals[0].value.scalar.primitive.string_value == "y"
    assert len(encode(response)) < LIMIT
    assert "an answer to GetTask was too large" in logs[0]["event"]


async def test_an_outputs_message_is_written_too(tmp_path):
    small = (await service(outputs={"a": "x"}).get()).resource.outputs
    many = Outputs(literals=small.literals * 10_000)
    assert (await service(outputs=many).get(output_prefix=str(tmp_path))).resource.outputs is None
    assert read((tmp_path / "outputs.pb").read_bytes()) == {"a": "x"}


async def test_a_secret_in_the_place_is_not_shown():
    found = service(outputs={"a": LARGE}, message="at hunter2")
    assert "hunter2" not in (await found.get(connection=secrets(token="hunter2"))).resource.message


async def test_a_resource_meta_that_no_client_could_take():
    async def create(self, **kwargs):
        return Job("x" * LIMIT)

    found = Service(connector(create=create), max_response_size=LIMIT)
    with pytest.raises(GRPCError, match="started a job that nobody can find again: its resource_meta has 65545 bytes"):
        await found.create(task_execution_metadata=attempt())


def test_the_default_is_less_than_clients_take():
    assert ServiceSettings().max_response_size < 4 * 1024 * 1024
