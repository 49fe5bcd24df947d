"""The settings of a host."""

from __future__ import annotations

import dataclasses
import importlib.util
import math

import pytest

from connectrio.host.lifecycle import Addresses
from connectrio.host.settings import HostSettings, anyio_backend, changed_settings, default_backend


def test_the_defaults_are_the_references():
    settings = HostSettings()
    assert (settings.port, settings.prometheus_port, settings.worker, settings.timeout) == (8000, 9090, 10, None)
    assert settings.modules == []
    assert settings.max_receive_message_size == 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("port", -1, "port must be between 0 and 65535, got -1"),
        ("port", 65536, "port must be between 0 and 65535, got 65536"),
        ("prometheus_port", 70000, "prometheus_port must be between 0 and 65535, got 70000"),
        ("worker", 0, "worker must be at least 1, got 0"),
        ("max_receive_message_size", 0, "max_receive_message_size must be more than 0, got 0"),
        ("max_concurrent_streams", 0, "max_concurrent_streams must be more than 0, got 0"),
        ("grace", -1, "grace must not be negative, got -1"),
        ("drain_delay", -0.5, "drain_delay must not be negative, got -0.5"),
        ("timeout", -1, "timeout must not be negative, got -1"),
        ("create_memory", -1, "create_memory must not be negative, got -1"),
        ("create_memory_size", 0, "create_memory_size must be at least 1, got 0"),
        ("create_memory_bytes", -1, "create_memory_bytes must not be negative, got -1"),
        ("poll_retry", -1, "poll_retry must not be negative, got -1"),
        ("poll_absorb", -1, "poll_absorb must not be negative, got -1"),
        ("max_calls", 0, "max_calls must be at least 1, got 0"),
        ("max_calls_per_connector", 0, "max_calls_per_connector must be at least 1, got 0"),
        ("max_waiting_calls", -1, "max_waiting_calls must not be negative, got -1"),
        ("max_log_streams", 0, "max_log_streams must be at least 1, got 0"),
        ("max_stored_input_size", -1, "max_stored_input_size must not be negative, got -1"),
        ("max_response_size", 65535, "max_response_size must be at least 65536, for messages and log links, got 65535"),
        ("storage_schemes", ["s3", "gs://"], "storage_schemes must be schemes such as s3, .* got 'gs://'"),
        ("connector_options", ["a.rate_calls"], r"connector_options must be of the form TYPE\.OPTION=VALUE, .* got .*"),
        ("watchdog", -1, "watchdog must not be negative, got -1"),
        ("create_limit", 0, "create_limit must be more than 0, got 0"),
        ("get_limit", -1, "get_limit must be more than 0, got -1"),
        ("delete_limit", 0, "delete_limit must be more than 0, got 0"),
        ("metrics_limit", 0, "metrics_limit must be more than 0, got 0"),
        ("logs_limit", 0, "logs_limit must be more than 0, got 0"),
        ("job_lease", 0, "job_lease must be more than 0, got 0"),
        ("job_store", "mysql://root:hunter2@db/jobs", "job_store must be a URL such as (?!.*hunter2).*"),
        ("job_store", "sqlite://jobs.db", "job_store needs the absolute path of the file behind sqlite://, as in .*"),
        ("job_store", "sqlite:///", "job_store needs the absolute path .*"),
        ("execute_limit", math.nan, "execute_limit must be more than 0, got nan"),
    ],
)
def test_values_that_make_no_sense(name, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        HostSettings(**{name: value})


def test_a_job_store_needs_a_memory():
    with pytest.raises(ValueError, match="job_store is of no use with create_memory 0"):
        HostSettings(job_store="postgresql://db/jobs", create_memory=0)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter2@db/jobs", "postgresql://u:***@db/jobs"),
        ("postgresql://u:hun@ter/2@db/jobs?sslmode=require", "postgresql://u:***@db/jobs?sslmode=require"),
        ("postgres://:hunter2@db", "postgres://:***@db"),
        ("postgresql://db/jobs?user=u&password=hunter2&x=1", "postgresql://db/jobs?user=u&password=***&x=1"),
        ("postgresql://db/jobs?sslpassword=hunter2", "postgresql://db/jobs?sslpassword=***"),
        ("postgresql://u@db:5432/jobs", "postgresql://u@db:5432/jobs"),
        ("postgresql://?service=jobs", "postgresql://?service=jobs"),
        ("sqlite:///var/lib/jobs.db", "sqlite:///var/lib/jobs.db"),
    ],
)
def test_the_password_of_the_job_store_is_not_shown(url, shown):
    settings = HostSettings(job_store=url)
    assert changed_settings(settings) == {"job_store": shown}
    assert "hunter2" not in repr(settings)


OUTSIDE = Addresses((("0.0.0.0", 8000),), ())
LOOPBACK = Addresses((("127.0.0.1", 8000), ("::1", 8000)), ())


@pytest.mark.parametrize(
    ("given", "addresses", "dangers"),
    [
        ({}, OUTSIDE, []),
        ({"unsafe_sql": True}, LOOPBACK, ["SQL is not confined"]),
        ({"unsafe_sql": True}, Addresses((), ()), ["SQL is not confined"]),
        ({"unsafe_sql": True}, dataclasses.replace(OUTSIDE, has_tls=True), ["SQL is not confined"]),
        ({"unsafe_sql": True}, OUTSIDE, ["SQL IS NOT CONFINED"]),
        ({"unsafe_sql": True}, Addresses((("127.0.0.1", 8000), ("::", 8000)), ()), ["SQL IS NOT CONFINED"]),
        ({"unsafe_sql": True, "unsafe_pickle": True}, OUTSIDE, ["PICKLES ARE READ", "SQL IS NOT CONFINED"]),
    ],
)
def test_what_is_unsafe_is_said_in_capitals_where_strangers_can_connect(given, addresses, dangers):
    texts = HostSettings(**given).dangers(addresses)
    assert [text.split(":")[0] for text in texts] == dangers
    assert all(text.isupper() == dangers[0].isupper() for text in texts)
    assert all(("WITHOUT TLS" in text) == text.isupper() for text in texts)


@pytest.mark.parametrize("field", dataclasses.fields(HostSettings), ids=lambda field: field.name)
def test_every_setting_is_described(field):
    documented = "".join(layer.__doc__ or "" for layer in HostSettings.__mro__)
    assert documented.count(f":ivar {field.name}: ") == 1  # the help of its flag


NUMBERS = [field.name for field in dataclasses.fields(HostSettings) if {"int", "float"} & set(field.type.split())]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_negative(name):
    with pytest.raises(ValueError, match=f"^{name} .*-1"):
        HostSettings(**{name: -1})


@pytest.mark.parametrize("name", [name for name in NUMBERS if getattr(HostSettings, name) is not None])
@pytest.mark.parametrize("value", [None, "3"])
def test_what_is_no_number_is_refused_by_name(name, value):
    """None in place of a time limit would fail each call, and not the host's start."""
    with pytest.raises(ValueError, match=rf"^{name} must .*, got {value!r}$"):
        HostSettings(**{name: value})


@pytest.mark.parametrize("name", ["timeout", "logs_limit"])
def test_what_may_be_left_open(name):
    assert getattr(HostSettings(**{name: None}), name) is None
    assert getattr(HostSettings(**{name: 1.5}), name) == 1.5


@pytest.mark.parametrize(
    ("backend", "expected"),
    [("asyncio", ("asyncio", {})), ("uvloop", ("asyncio", {"use_uvloop": True})), ("trio", ("trio", {}))],
)
def test_backends(backend, expected):
    assert anyio_backend(backend) == expected


def test_an_unknown_backend():
    with pytest.raises(ValueError, match=r"^unknown backend 'curio'; choose asyncio, uvloop or trio$"):
        anyio_backend("curio")


def without(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


@pytest.mark.parametrize("backend", ["uvloop", "trio"])
def test_a_backend_that_is_not_installed(monkeypatch, backend):
    without(monkeypatch, backend)
    with pytest.raises(
        ValueError, match=rf"^backend {backend} is not installed; run: pip install 'connectrio\[{backend}\]'$"
    ):
        anyio_backend(backend)


def test_the_default_backend(monkeypatch):
    assert default_backend() == "uvloop"
    without(monkeypatch, "uvloop")
    assert default_backend() == "asyncio"


@pytest.mark.parametrize("name", ["prefer", "exclude"])
def test_a_choice_of_connectors(name):
    assert getattr(HostSettings(**{name: ["a.b", "duckdb=a-b"]}), name) == ["a.b", "duckdb=a-b"]
    for entry in ("", "duckdb=", "=a"):
        with pytest.raises(ValueError, match=f"^{name} must be SOURCE or TYPE=SOURCE, .*; got {entry!r}$"):
            HostSettings(**{name: [entry]})
