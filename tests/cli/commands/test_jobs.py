"""`connectrio create`, `get`, `logs`, `metrics` and `delete`, and what all commands that talk to a host share."""

from __future__ import annotations

import base64
import json

import pytest

from connectrio import TransientError

DOCUMENT = {
    "phase": "SUCCEEDED",
    "message": "",
    "outputs": {"answer": 42, "frame": {"uri": "/data/frame.parquet", "format": "parquet", "hash": None}},
    "custom_info": {"rows": 7, "share": 0.5},
    "log_links": [{"name": "console", "uri": "https://example.com/job"}],
}


@pytest.fixture
def job(ask):
    """The resource meta of a job that the next poll finds in its final phase."""
    meta = ask("create", "toy").out.strip()
    ask("get", "toy", meta)
    return meta


def test_the_target_comes_from_the_environment(run, host, monkeypatch):
    monkeypatch.setenv("CONNECTRIO_TARGET", host.target)
    assert run("ls").code == 0
    assert run("ls", "--target", "127.0.0.1:1").code == 1


def test_create_prints_the_resource_meta_as_it_is(ask, toy):
    outcome = ask("create", "toy", "--output-prefix", "/out")
    number = len(toy.calls)
    expected = {"number": number, "end": "SUCCEEDED", "message": "", "prefix": "/out"}
    assert (outcome.code, outcome.document) == (0, expected)


def test_create_as_json_adds_base64(ask):
    document = ask("create", "toy", "--json").document
    assert json.loads(base64.b64decode(document["resource_meta_base64"])) == document["resource_meta"]


def test_create_sends_what_the_options_say(ask, toy, monkeypatch):
    monkeypatch.setenv("TOKEN_IN_ENVIRONMENT", "hush")
    outcome = ask(
        "create", "toy", "--sql", "select 1", "--input", "n=5", "--input", "day:datetime=2024-01-01",
        "--custom", "database=x", "--secret", "token=TOKEN_IN_ENVIRONMENT", "--config", "region=eu",
    )  # fmt: skip
    call = toy.calls[-1]
    assert call.template.sql.statement == "select 1"
    assert call.inputs["n"] == 5
    assert call.inputs["day"].isoformat() == "2024-01-01T00:00:00+00:00"
    assert call.template.custom.to_dict() == {"database": "x"}
    assert call.connection == {"token": "hush", "region": "eu"}
    assert "hush" not in outcome.out + outcome.err


def test_jobs_have_identifiers_of_their_own(ask, toy):
    ask("create", "toy")
    ask("create", "toy")
    one, other = (call.execution.task_execution_id.node_execution_id.execution_id.name for call in toy.calls[-2:])
    assert one != other


def test_get_for_people(ask, job):
    assert ask("get", "toy", job).out.splitlines() == [
        "SUCCEEDED",
        "Outputs  Value",
        "answer   42",
        "frame    /data/frame.parquet",
        "Details  Value",
        "rows     7",
        "share    0.5",
        "console: https://example.com/job",
    ]


def test_get_as_json(ask, job):
    assert ask("get", "toy", job, "--json").document == DOCUMENT


def test_the_resource_meta_comes_from_a_file_or_from_standard_input(ask, job, tmp_path, monkeypatch):
    file = tmp_path / "meta.json"
    file.write_text(job)
    assert ask("get", "toy", f"@{file}", "--json").document == DOCUMENT
    with file.open() as opened:
        monkeypatch.setattr("sys.stdin", opened)
        assert ask("get", "toy", "-", "--json").document == DOCUMENT


def test_the_resource_meta_may_be_base64(ask, job):
    assert ask("get", "toy", "base64:" + base64.b64encode(job.encode()).decode(), "--json").document == DOCUMENT


@pytest.mark.parametrize("command", ["create", "run"])
def test_what_is_printed_as_json_names_the_job(ask, tmp_path, command):
    """As a whole, in a file, or the base64 in it."""
    document = ask(command, "toy", "--json")
    ask("get", "toy", document.out)
    path = tmp_path / "job.json"
    path.write_text(document.out)
    for meta in (document.out, f"@{path}", document.document["resource_meta_base64"]):
        assert ask("get", "toy", meta, "--json").document == DOCUMENT
    assert ask("delete", "toy", f"@{path}", "--json").document["resource_meta"] == document.document["resource_meta"]


def test_a_job_belongs_to_an_execution(ask, toy):
    outcome = ask("create", "toy")
    execution = toy.calls[-1].execution.task_execution_id.node_execution_id.execution_id
    assert outcome.err == f"execution {execution.name} of project connectrio, domain cli\n"
    document = ask("create", "toy", "--execution", "mine", "--json").document
    assert document["execution"] == {"project": "connectrio", "domain": "cli", "name": "mine"}
    document = ask("run", "toy", "--execution", "p/d/yours", "--json").document
    assert document["execution"] == {"project": "p", "domain": "d", "name": "yours"}
    execution = toy.calls[-1].execution.task_execution_id.node_execution_id.execution_id
    assert (execution.project, execution.domain, execution.name) == ("p", "d", "yours")


def test_logs_prints_every_piece(ask, job):
    assert ask("logs", "toy", job).out.splitlines() == [
        "12:30:00.000 line 0",
        "12:30:01.000 line 1",
        "12:30:02.000 line 2",
    ]


def test_logs_as_json_are_an_object_per_line(ask, job):
    lines = [json.loads(line) for line in ask("logs", "toy", job, "--json").out.splitlines()]
    assert lines == [
        {"timestamp": f"2024-01-01T12:30:0{second}.000000Z", "message": f"line {second}", "originator": "USER"}
        for second in range(3)
    ]


def test_logs_in_pieces(ask, job):
    first = ask("logs", "toy", job, "--lines", "1")
    assert first.out.splitlines() == ["12:30:00.000 line 0"]
    assert first.err == "for the next lines: --token 1\n"
    assert ask("logs", "toy", job, "--token", "1").out.splitlines() == ["12:30:01.000 line 1", "12:30:02.000 line 2"]


def test_following_a_log_ends_with_the_job(ask):
    meta = ask("create", "toy").out.strip()
    assert len(ask("logs", "toy", meta, "--follow").out.splitlines()) == 3


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_a_connector_without_logs(ask, follow):
    meta = ask("create", "mute").out.strip()
    outcome = ask("logs", "mute", meta, *follow)
    assert outcome.code == 1
    assert outcome.err.startswith("error: UNIMPLEMENTED: ")


def test_metrics(ask, job):
    outcome = ask("metrics", "toy", job)
    assert outcome.out.splitlines() == ["Metric        Data", "rows_read     3 rows", "rows_written  3 rows"]
    assert ask("metrics", "toy", job, "--query", "rows_read", "--json").document == {
        "results": [{"metric": "rows_read", "data": {"value": 3, "unit": "rows"}}]
    }


def test_delete(ask, toy, job):
    number = json.loads(job)["number"]
    assert ask("delete", "toy", job).out == "deleted\n"
    document = ask("delete", "toy", job, "--json").document
    assert document["deleted"] is True
    assert document["resource_meta"]["number"] == number
    assert toy.deleted[-2:] == [number, number]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["get", "nope", "{}"], "NOT_FOUND: Cannot find connector for task type: nope", "connectrio ls"),
        (["get", "toy", "{}", "--version", "3"], "NOT_FOUND: ", "connectrio ls"),
        (
            ["get", "tyo", "{}"],
            "NOT_FOUND: Cannot find connector for task type: tyo. Did you mean toy?",
            "connectrio ls",
        ),
        (["get", "toy", '{"x": 1}'], "INVALID_ARGUMENT: ", "what `connectrio create` printed"),
        (
            ["get", "toy", '{"number":-1,"end":"","message":"","prefix":""}'],
            "NOT_FOUND: there is no job -1",
            "connectrio ps --all",
        ),
        (["metrics", "mute", '{"number":1,"end":"","message":"","prefix":""}'], "UNIMPLEMENTED: ", "connector"),
    ],
)
def test_a_failed_call_is_an_error_and_a_hint(ask, arguments, message, hint):
    outcome = ask(*arguments)
    assert (outcome.code, outcome.out) == (1, "")
    error, advice = outcome.err.splitlines()[0], outcome.err.splitlines()[-1]
    assert error.startswith(f"error: {message}")
    assert advice.startswith("hint: ")
    assert hint in advice


def test_a_host_that_answers_unavailable_is_running(ask, toy, monkeypatch):
    class Down(list):
        def append(self, call):
            raise TransientError("the other system is down")

    # of `create` itself, the host keeps what an earlier test has called
    monkeypatch.setattr(toy, "calls", Down())
    outcome = ask("create", "toy")
    assert outcome.err.startswith("error: UNAVAILABLE: "), outcome.err
    assert "the other system is down" in outcome.err
    assert outcome.err.endswith(
        "hint: this may pass, so try again later; what is wrong with the host: connectrio top --once\n"
    )


@pytest.mark.parametrize("command", [["ls"], ["create", "toy"], ["get", "toy", "{}"], ["run", "toy"]])
def test_no_host(run, free_target, command):
    outcome = run(*command, "--target", free_target)
    assert outcome.code == 1
    assert outcome.err.startswith("error: UNAVAILABLE: ")
    assert "start one with: connectrio serve" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "--target", "nowhere"], "cannot connect to 'nowhere'"),
        (["ls", "--timeout", "0"], "--timeout must be more than 0 seconds, got 0"),
        (["ls", "--timeout", "soon"], "soon"),
        (["ls", "--tmieout", "1"], "Did you mean --timeout?"),
        (["lst"], 'Unknown command "lst"'),
        (["get", "toy"], "requires an argument"),
        (["get", "toy", ""], "the resource meta is empty"),
        (["get", "toy", "@nowhere"], "cannot read nowhere: No such file or directory"),
        (["get", "toy", "base64:§"], "not base64"),
        (["create", "toy", "--secret", "token=NOT_IN_ENVIRONMENT"], "--secret token=…: there is no such"),
        (["create", "toy", "--secret", "pa55word"], "--secret takes NAME=VALUE"),
        (["create", "toy", "--config", "x"], "--config takes NAME=VALUE, got 'x'"),
    ],
)
def test_wrong_usage(run, arguments, message):
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert message in outcome.err


def test_a_secret_without_a_variable_has_a_hint(run):
    assert "export TOKEN=…, then --secret token=TOKEN" in run("create", "toy", "--secret", "token=pa55word").err


@pytest.mark.parametrize("secret", ["token=pa55word", "pa55word"])
def test_a_secret_given_by_mistake_is_not_repeated(run, secret):
    assert "pa55word" not in run("create", "toy", "--secret", secret).err


def test_what_a_server_sends_does_not_steer_the_terminal(ask):
    meta = ask("create", "toy", "--input", 'message="\\u001b[2Jgone"', "--input", "end=FAILED").out.strip()
    ask("get", "toy", meta)
    assert ask("get", "toy", meta).out.startswith("FAILED: \\x1b[2Jgone\n")
