"""A line that is read without cyclopts means the same to cyclopts; all other lines are left to it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectrio.cli.app import connectrio_app
from connectrio.cli.hosting import plain_serve
from connectrio.host.settings import HostSettings

WORDS = {
    "bool": st.just(()),
    "int": st.integers(0, 10**7).map(lambda number: (str(number),)),
    "float": st.sampled_from(["0", "1", "0.5", "07", "12.250"]).map(lambda number: (number,)),
    "str": st.sampled_from(["127.0.0.1", "localhost", "660", "none", "::1"]).map(lambda text: (text,)),
    "list[str]": st.lists(st.sampled_from(["a", "b.py", "./c/d.py", "e.f", "null"]), min_size=1, max_size=3).map(tuple),
    "Path | None": st.sampled_from(["a.pem", "/etc/tls/b.pem"]).map(lambda text: (text,)),
}
# words of all kinds, right or wrong
ANY_WORD = st.sampled_from([
    "--port", "--worker", "--host", "--modules", "--no-modules", "--entry-points", "--no-entry-points", "--no-port",
    "--no-no-reflection", "--tls-minimum", "--backend", "--log-level", "--log_format", "--processes", "--grace",
    "--create_memory-size", "--config", "--help", "--port=1", "--", "-", "-1", "0", "1", "1.5", "1_0", "1e3", "08",
    "\N{ARABIC-INDIC DIGIT ONE}", "", " ", "none", "None", "a", "a,b", "~", "é", "trio", "asyncio", "debug", "json",
    "true", "1.3", "99999",
])  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _empty_directory(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("empty"))
        yield


def read_by_cyclopts(arguments):
    """What `serve` is called with."""
    _, bound, _ = connectrio_app().parse_args(["serve", *arguments], exit_on_error=False, print_error=False)
    return {"settings": HostSettings(), **bound.arguments}


def read_plainly(arguments):
    serve = plain_serve(arguments)
    return serve and {"settings": serve.args[0], **serve.keywords}


@st.composite
def options(draw):
    kinds = {
        field.name: WORDS.get(field.type, WORDS.get(field.type.removesuffix(" | None")))
        for field in fields(HostSettings)
    }
    beside = {
        "backend": st.sampled_from([("asyncio",), ("uvloop",), ("trio",)]),
        "processes": st.just(("2",)),
        "log_level": st.sampled_from([("debug",), ("error",)]),
        "log_format": st.sampled_from([("json",), ("console",)]),
    }
    known = {name: words for name, words in (kinds | beside).items() if words is not None}
    names = draw(st.lists(st.sampled_from(sorted(known)), unique=True, max_size=6))
    spelled = draw(st.sampled_from(["-", "_"]))
    arguments = []
    for name in names:
        no = "no-" if kinds.get(name) is WORDS["bool"] and spelled == "-" and draw(st.booleans()) else ""
        arguments += [f"--{no}{name.replace('_', spelled)}", *draw(known[name])]
    return arguments


@given(options())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_plain_lines_mean_the_same(arguments):
    plain = read_plainly(arguments)
    if plain is None:
        with pytest.raises(ValueError, match=r"."):
            read_by_cyclopts(arguments)
    else:
        assert plain == read_by_cyclopts(arguments)


@given(st.lists(ANY_WORD, max_size=5))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_other_lines_are_left_alone_or_mean_the_same(arguments):
    plain = read_plainly(arguments)
    if plain is not None:
        assert plain == read_by_cyclopts(arguments)


def test_nothing_is_plain():
    assert read_plainly([]) == {"settings": HostSettings()}


@pytest.mark.parametrize(
    "line",
    ["--help", "--port", "--port 1 2", "--port=1", "--port x", "--port 65536", "--modules a --modules b", "--prot 1",
     "--config a", "--backend twisted", "--tls-minimum 1.3", "a", "--no-port", "--reflection true", "--host ~"],
)  # fmt: skip
def test_lines_that_are_left_to_cyclopts(line):
    assert plain_serve(line.split()) is None


def test_settings_from_elsewhere_are_left_to_cyclopts(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for variable in ("CONNECTRIO_PORT", "CONNECTRIO_CONFIG", "CONNECTRIO_BACKEND"):
        with monkeypatch.context() as patched:
            patched.setenv(variable, "")
            assert plain_serve([]) is not None
            patched.setenv(variable, "1")
            assert plain_serve([]) is None
    Path("connectrio.toml").write_text("")
    assert plain_serve([]) is None
