"""Which source a setting of `connectrio serve` comes from: flag, environment, TOML, default."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from connectrio.cli.settings_help import GROUPS
from connectrio.host.settings import HostSettings


@dataclass
class Served:
    """What `serve` gave the host."""

    settings: HostSettings
    backend: str | None
    level: list[str]
    form: str


@pytest.fixture
def serve(run, monkeypatch):
    """Runs `connectrio serve` without a host; what it would have served with."""
    given: dict[str, Any] = {}

    @contextmanager
    def host_logging(level, form, **_):
        given.update(level=list(level), form=form)
        yield

    monkeypatch.setattr("connectrio.cli.hosting.host_logging", host_logging)
    monkeypatch.setattr(
        "connectrio.host.runner.run_host",
        lambda settings, *, backend, announce, end_process: given.update(settings=settings, backend=backend),
    )

    def serve(*arguments: str, flyte_connector: bool = False) -> Served:
        outcome = run.flyte_connector("c0", *arguments) if flyte_connector else run("serve", *arguments)
        assert (outcome.code, outcome.err) == (0, "")
        return Served(**given)

    return serve


# for the type of a setting: its value as a flag, as a variable and in TOML, all different, and as they arrive
KINDS = {
    "int": (["1000001"], "1000002", "1000003", [1000001, 1000002, 1000003]),
    "float": (["1"], "2.5", "3", [1.0, 2.5, 3.0]),
    "bool": ([], "false", "false", [True, False, False]),
    "str": (["127.0.0.1"], "127.0.0.2", '"127.0.0.3"', ["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
    "Path": (["a"], "b", '"c"', [Path("a"), Path("b"), Path("c")]),
    "list[str]": (["a", "b"], "c d", '["e", "f.py"]', [["a", "b"], ["c", "d"], ["e", "f.py"]]),
}
PORT = (["1"], "2", "3", [1, 2, 3])
# those that take only some values of their type
SPECIAL = {
    "connector_options": (
        ["a.b.rate_calls=1", "c.rate_seconds=2"],
        "a.rate_calls=3 c.account_names=x,y",
        '["a.rate_calls=4"]',
        [["a.b.rate_calls=1", "c.rate_seconds=2"], ["a.rate_calls=3", "c.account_names=x,y"], ["a.rate_calls=4"]],
    ),
    "job_store": (["sqlite:///a"], "sqlite:///b", '"sqlite:///c"', ["sqlite:///a", "sqlite:///b", "sqlite:///c"]),
}


# without those that need others
ALONE = [field for field in fields(HostSettings) if not field.name.startswith(("tls_", "unix_", "prometheus_tls"))]


@pytest.mark.parametrize("field", ALONE, ids=lambda field: field.name)
def test_flag_then_environment_then_toml_then_default(serve, monkeypatch, field):
    name, kind = field.name, field.type.removesuffix(" | None")
    flag, variable, toml, (from_flag, from_environment, from_toml) = SPECIAL.get(
        name, PORT if "port" in name else KINDS[kind]
    )
    option = "--" + name.replace("_", "-")
    assert getattr(serve().settings, name) == getattr(HostSettings(), name)
    Path("connectrio.toml").write_text(f"{name} = {toml}\n")
    assert getattr(serve().settings, name) == from_toml
    monkeypatch.setenv(f"CONNECTRIO_{name.upper()}", variable)
    assert getattr(serve().settings, name) == from_environment
    assert getattr(serve(option, *flag).settings, name) == from_flag


def test_settings_that_are_paths(serve, monkeypatch):
    Path("connectrio.toml").write_text('tls_cert = "toml.pem"\ntls_key = "toml.key"\nunix_socket = "toml.sock"\n')
    monkeypatch.setenv("CONNECTRIO_TLS_KEY", "environment.key")
    settings = serve("--tls-cert", "flag.pem").settings
    chosen = (settings.tls_cert, settings.tls_key, settings.unix_socket)
    assert chosen == (Path("flag.pem"), Path("environment.key"), Path("toml.sock"))


def test_a_setting_that_needs_another(serve, monkeypatch):
    assert not serve().settings.prometheus_tls
    monkeypatch.setenv("CONNECTRIO_PROMETHEUS_TLS", "true")
    assert serve("--tls-cert", "flag.pem").settings.prometheus_tls
    assert not serve("--tls-cert", "flag.pem", "--no-prometheus-tls").settings.prometheus_tls


def test_every_setting_of_a_host_has_a_flag_and_a_variable(run):
    text = run("serve", "--help").out
    for field in fields(HostSettings):
        assert f"  --{field.name.replace('_', '-')}" in text
        assert f"CONNECTRIO_{field.name.upper()}]" in text


def test_the_process_settings_come_from_the_same_sources(serve, monkeypatch):
    served = serve()
    assert (served.backend, served.level, served.form) == (None, ["info"], "auto")
    Path("connectrio.toml").write_text('backend = "trio"\nlog_level = "debug"\nlog-format = "json"\n')
    served = serve()
    assert (served.backend, served.level, served.form) == ("trio", ["debug"], "json")
    monkeypatch.setenv("CONNECTRIO_BACKEND", "uvloop")
    monkeypatch.setenv("CONNECTRIO_LOG_LEVEL", "error")
    served = serve("--log-format", "console")
    assert (served.backend, served.level, served.form) == ("uvloop", ["error"], "console")


def test_levels_of_single_loggers(serve, monkeypatch):
    Path("connectrio.toml").write_text('log_level = ["info", "a=debug"]\n')
    assert serve().level == ["info", "a=debug"]
    Path("connectrio.toml").write_text('log_level = "info a=debug"\n')
    assert serve().level == ["info a=debug"]
    monkeypatch.setenv("CONNECTRIO_LOG_LEVEL", "error b=info")
    assert serve().level == ["error", "b=info"]
    assert serve("--log-level", "debug", "c.d=warning", "--port", "1").level == ["debug", "c.d=warning"]


def test_sources_fill_each_other_in(serve, monkeypatch):
    Path("connectrio.toml").write_text("port = 3\nworker = 3\ngrace = 3\n")
    monkeypatch.setenv("CONNECTRIO_WORKER", "2")
    settings = serve("--port", "1").settings
    assert (settings.port, settings.worker, settings.grace) == (1, 2, 3.0)


def test_another_file(serve, monkeypatch):
    Path("connectrio.toml").write_text("port = 3\n")
    Path("other.toml").write_text("worker = 4\n")
    settings = serve("--config", "other.toml").settings
    assert (settings.port, settings.worker) == (8000, 4)
    monkeypatch.setenv("CONNECTRIO_CONFIG", "other.toml")
    assert serve().settings.worker == 4


def test_an_empty_variable_counts_as_none(serve, monkeypatch):
    monkeypatch.setenv("CONNECTRIO_TIMEOUT", "")
    assert serve().settings.timeout is None


def test_the_variable_that_kubernetes_makes_of_a_service_is_not_ours(serve, monkeypatch):
    monkeypatch.setenv("CONNECTRIO_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("CONNECTRIO_PROMETHEUS_PORT", "udp://10.0.0.1:9999")
    monkeypatch.setenv("CONNECTRIO_PORT_8000_TCP_PORT", "8000")
    monkeypatch.setenv("CONNECTRIO_SERVICE_HOST", "10.0.0.1")
    with capture_logs() as logs:
        settings = serve().settings
    assert (settings.port, settings.prometheus_port, settings.host) == (8000, 9090, None)
    assert logs == []


def test_variables_that_are_no_settings_are_named(serve, monkeypatch):
    for name in ("CONNECTRIO_LOGLEVEL", "CONNECTRIO_PROT", "CONNECTRIO_QQQQQQ", "CONNECTRIO_DUCKDB_ALLOW"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CONNECTRIO_GRACE", "1")
    for name in ("CONNECTRIO_URL", "CONNECTRIO_TARGET", "CONNECTRIO_TOKEN"):  # of the commands that ask a host
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("CONNECTRIO_GRPC_SERVICE_PORT_HTTP", "8000")
    monkeypatch.setenv("CONNECTRIO_GRPC_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("CONNECTRIO_GRPC_PORT_8000_TCP_ADDR", "10.0.0.1")
    with capture_logs() as logs:
        serve()
    assert [(line["log_level"], line["variable"], line.get("nearest")) for line in logs] == [
        ("warning", "CONNECTRIO_LOGLEVEL", "CONNECTRIO_LOG_LEVEL"),
        ("warning", "CONNECTRIO_PROT", "CONNECTRIO_PORT"),
        ("warning", "CONNECTRIO_QQQQQQ", None),
    ]


def test_modules_in_every_spelling(serve):
    assert serve("--modules", "a", "b.py", "--modules", "c").settings.modules == ["a", "b.py", "c"]


def test_the_command_line_of_flyte_sdks_images(serve):
    settings = serve(
        "--port", "8001", "--prometheus_port", "9091", "--worker", "11", "--timeout", "5", "--modules", "a", "b",
        flyte_connector=True,
    ).settings  # fmt: skip
    expected = HostSettings(port=8001, prometheus_port=9091, worker=11, timeout=5.0, modules=["a", "b"])
    assert settings == expected


def test_flyte_connector_without_options(serve):
    assert serve(flyte_connector=True).settings == HostSettings()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "prot = 1",
            "connectrio.toml: there is no setting 'prot'; did you mean 'port'?\nhint: a key is a flag without its --",
        ),
        ("config = 'x'", "connectrio.toml: there is no setting 'config'"),
        ("[serve]\nport = 1", "connectrio.toml: there is no setting 'serve'"),
        ('port = "1"', "connectrio.toml: port is '1': Expected `int`, got `str`"),
        ("port = 1.5", "connectrio.toml: port is 1.5: Expected `int`, got `float`"),
        ("entry_points = 1", "connectrio.toml: entry_points is 1: Expected `bool`, got `int`"),
        ('modules = "a"', "connectrio.toml: modules is 'a': Expected `array`, got `str`"),
        ("modules = [1]", "connectrio.toml: modules is [1]: Expected `str`, got `int`"),
        ('backend = "twisted"', "connectrio.toml: backend is 'twisted': Invalid enum value 'twisted'"),
        ("log_level = 3", "connectrio.toml: log_level is 3: Expected `array`, got `int`"),
        ("tls_cert = 5", "connectrio.toml: tls_cert is 5: Expected `Path"),
        ("port = 65536", "connectrio.toml: port must be between 0 and 65535, got 65536"),
        ("max_calls = 0", "connectrio.toml: max_calls must be"),
        ('tls_key = "a.key"', "tls_key is of no use without tls_cert"),
        ("port", "connectrio.toml is not TOML: "),
    ],
)
def test_a_file_that_is_wrong(run, toml, message):
    Path("connectrio.toml").write_text(toml)
    outcome = run("serve")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--config", "missing.toml"], {}, "cannot read missing.toml: No such file or directory"),
        (["--port", "x"], {}, "--port"),
        (["--backend", "twisted"], {}, "--backend"),
        (["--worker", "0"], {}, "worker must be at least 1, got 0"),
        ([], {"CONNECTRIO_PORT": "x"}, "CONNECTRIO_PORT from environment"),
        ([], {"CONNECTRIO_PORT": "65536"}, "error: CONNECTRIO_PORT: port must be between 0 and 65535, got 65536"),
        ([], {"CONNECTRIO_GRACE": "-1"}, "error: CONNECTRIO_GRACE: grace must"),
        (["--port", "65536"], {}, "error: port must be between 0 and 65535, got 65536"),
        ([], {"CONNECTRIO_BACKEND": "twisted"}, "CONNECTRIO_BACKEND from environment"),
        (["--log-level", "loud"], {}, "for --log-level. 'loud' is no log level: use debug, info, warning, error, or"),
        (["--log-level", "info", "a=loud"], {}, "for --log-level. 'a=loud' is no log level"),
        ([], {"CONNECTRIO_LOG_LEVEL": "info =debug"}, "CONNECTRIO_LOG_LEVEL provided by environment. '=debug' is no"),
    ],
)
def test_a_setting_that_is_wrong(run, monkeypatch, arguments, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outcome = run("serve", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_backend_that_is_not_installed(run, monkeypatch):
    monkeypatch.setattr("connectrio.host.settings.importlib.util.find_spec", lambda name: None)
    outcome = run("serve", "--backend", "trio")
    assert outcome.code == 1
    assert outcome.err == "error: backend trio is not installed; run: pip install 'connectrio[trio]'\n"


def test_the_help_has_what_the_settings_say_of_themselves(run):
    text = " ".join(run("serve", "--help").out.split())
    assert "--grace FLOAT: how long calls in flight may take to finish after SIGTERM" in text
    assert "(seconds) [env var: CONNECTRIO_GRACE] [default: 25.0]" in text
    assert "--write-buffer INT: bytes that may wait for the socket" in text
    assert ":param" not in text


def test_the_help_is_in_groups_and_begins_with_the_five_that_matter_most(run):
    text = run("serve", "--help").out
    titles = re.findall(r"^([A-Z][\w ]+):$", text, re.MULTILINE)
    assert titles == [*GROUPS, "Examples"]
    first = text.partition("Most used:")[2].partition("Network:")[0]
    assert re.findall(r"^  --([a-z-]+)", first, re.MULTILINE) == [
        "modules",
        "port",
        "worker",
        "drain-delay",
        "log-level",
    ]


def test_help_names_other_settings_as_flags(run):
    text = run("serve", "--help").out
    assert "not needed if the key is in --tls-cert" in text
    assert [line for line in text.splitlines() if re.search(r"`[a-z]+_[a-z_]+`", line)] == []


def test_every_setting_is_in_one_group(run):
    grouped = [name for names in GROUPS.values() for name in names.split()]
    every = [field.name for field in fields(HostSettings)]
    every += ["backend", "processes", "log_level", "log_format", "config"]
    assert sorted(grouped) == sorted(every)


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@db/x", "postgresql://db/x?password=hunter2"])
def test_a_password_on_the_command_line_is_refused(serve, run, monkeypatch, url):
    for arguments in (["--job-store", url], [f"--job-store={url}"]):
        monkeypatch.setattr("sys.argv", ["connectrio", "serve", *arguments])
        refused = run("serve", *arguments)
        assert refused.code == 2
        assert "every user of this machine can read command lines" in refused.err
        assert "hunter2" not in refused.err + refused.out
    monkeypatch.setattr("sys.argv", ["connectrio", "serve"])
    monkeypatch.setenv("CONNECTRIO_JOB_STORE", url)
    assert serve().settings.job_store == url
