"""docs/how-to/on-call.md: each question gets the answer that it shows, from a host in the trouble that it describes.

The questions, what is to be typed, and what is to be seen are read from the document. What is said about flyte-sdk's
host is asked of that host, in the same trouble.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from flyteidl2.connector.connector_pb2 import TaskExecutionMetadata
from flyteidl2.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from prometheus_client.parser import text_string_to_metric_families as families_of

from e2e.client import Client, fetch
from e2e.programs import CONNECTORS, IMPATIENT, CommandProgram, eventually
from e2e.reference import START, VERSION, find_reference

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "on-call.md"
BIN = Path(sys.executable).parent
# seconds; longer than the host's own limit, so that a slow machine does not end what hangs otherwise
BRIEF = 3.0
PATIENCE = 60.0
EXECUTIONS = {
    "healthy": "f1well", "warehouse": "f2vendor", "hanging": "f3hangs", "buggy": "f4bug", "slow": "f5lost"
}  # fmt: skip


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = DOCUMENT.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]  # the line of dashes has no spaces


QUESTIONS = table("The questions")
ABOUT_THEIRS = table("The same questions to flyte-sdk's host")


def code_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def pattern(snippet: str) -> re.Pattern[str]:
    """Return what finds a snippet of the document: … stands for anything in a line, and spaces are not counted."""
    words = [re.escape(word).replace("…", r"[^\n]*") for word in snippet.split()]
    return re.compile("[ ]+".join(words))


def plain(text: str) -> str:
    """Return a text with one space where it has several."""
    return re.sub("[ \t]+", " ", text)


@cache
def metadata(execution: str) -> TaskExecutionMetadata:
    run = WorkflowExecutionIdentifier(project="sales", domain="production", name=execution)
    node = NodeExecutionIdentifier(node_id="n0", execution_id=run)
    return TaskExecutionMetadata(task_execution_id=TaskExecutionIdentifier(node_execution_id=node))


class Trouble(NamedTuple):
    """A host in trouble.

    :ivar program: the process
    :ivar folder: in which commands are run; the log is `host.log` there
    :ivar codes: what Flyte was answered, by execution and operation
    :ivar client: its connection
    """

    program: CommandProgram
    folder: Path
    codes: dict[tuple[str, str], grpc.StatusCode]
    client: Client

    @property
    def log(self) -> str:
        return (self.folder / "host.log").read_text()

    def run(self, command: str) -> tuple[int, str]:
        """Run a command of the document. Return its exit code and what it prints, on both outputs."""
        ran = subprocess.run(
            command,
            shell=True,
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=PATIENCE,
            env={
                **os.environ,
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "CONNECTRIO_URL": self.program.url,
                "CONNECTRIO_TARGET": self.program.target,
            },
        )
        return ran.returncode, plain(ran.stdout + ran.stderr)

    def samples(self, selector: str) -> list[float]:
        """Return the values that the metrics have for `name{label="value",…}`."""
        name, _, labels = selector.partition("{")
        wanted = dict(re.findall(r'(\w+)="([^"]*)"', labels)).items()
        families = families_of(fetch(f"{self.program.url}/metrics")[1])
        found = [sample for family in families for sample in family.samples if sample.name == name]
        return [sample.value for sample in found if wanted <= sample.labels.items()]


def call(client: Client, operation: str, task_type: str, execution: str = "", *, deadline: float = PATIENCE, **fields):
    """Make a call as the executor would. Return the status."""
    execution = execution or EXECUTIONS[task_type]
    if operation == "create":
        given = {"meta": f"s3://b/{execution}".encode(), "task_execution_metadata": metadata(execution)}
    else:
        given = {"meta": f'{{"name":"s3://b/{execution}"}}'.encode()}
    started = client.start(operation, task_type=task_type, deadline=deadline, **given, **fields)
    return started.exception(PATIENCE).code() if started.exception(PATIENCE) else grpc.StatusCode.OK


def make_trouble(client: Client, folder: Path) -> dict[tuple[str, str], grpc.StatusCode]:
    """Create jobs and poll them, but for the one that hangs. Return how creates and polls ended."""
    codes = {}
    for task_type in ("healthy", "warehouse", "hanging", "buggy"):
        codes[EXECUTIONS[task_type], "create"] = call(client, "create", task_type)
    # its client leaves after the vendor was asked, and before it has answered
    lost = client.start(
        "create", task_type="slow", meta=b"s3://b/f5lost", task_execution_metadata=metadata("f5lost")
    )  # fmt: skip
    eventually((folder / "asked for f5lost").exists, PATIENCE)
    lost.cancel()
    for task_type in ("healthy", "warehouse"):
        assert call(client, "get", task_type) is grpc.StatusCode.OK
    # these came over the same connection, so the host knows that the client has left
    (folder / "accepted f5lost").touch()
    (folder / "warehouse is down").touch()
    codes["f2vendor", "get"] = call(client, "get", "warehouse")
    return codes


@contextmanager
def in_trouble(folder: Path, command, **options) -> Iterator[Trouble]:
    """Start a host whose log is a file, and bring it into trouble."""
    env = {"FAULTS": str(folder), "NO_COLOR": "1", **options.pop("env", {})}

    def logged(*ports: str):
        return [
            "sh",
            "-c",
            'log=$1; shift; exec "$@" > /dev/null 2> "$log"',
            "sh",
            folder / "host.log",
            *command(*ports),
        ]

    with CommandProgram(logged, env=env, **options) as program:
        try:
            program.ready()
            with Client(program.target, **IMPATIENT) as client:
                client.connecting().result(PATIENCE)
                codes = make_trouble(client, folder)
                slow = client.start(
                    "create", task_type="slow", meta=b"s3://b/f6slow", task_execution_metadata=metadata("f6slow"),
                    deadline=PATIENCE * 10,
                )  # fmt: skip
                eventually((folder / "asked for f6slow").exists, PATIENCE)
                yield Trouble(program, folder, codes, client)
                slow.cancel()
        except BaseException as error:
            error.add_note((folder / "host.log").read_text())
            raise


@pytest.fixture(scope="module", params=["uvloop", "trio"])
def ours(request, tmp_path_factory):
    """Our host in trouble."""
    command = [
        BIN / "connectrio", "serve", "--backend", request.param, "--modules", CONNECTORS / "faults.py", "--host",
        "127.0.0.1", "--no-entry-points", "--poll-retry", "0", "--drain-delay", "3600", "--create-limit", "3600",
        "--job-store", "sqlite:///there/is/no/such/folder.db", "--connector-options", "warehouse.breaker_failures=1",
        "warehouse.breaker_pause=3600",
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("ours")
    with in_trouble(folder, lambda port, url: [*command, "--port", port, "--prometheus-port", url]) as trouble:
        assert call(trouble.client, "get", "hanging", deadline=BRIEF) is grpc.StatusCode.OK
        eventually(lambda: trouble.samples("connectrio_stuck_threads") == [1.0], PATIENCE)
        eventually(lambda: "nobody waits for" in trouble.log, PATIENCE)
        yield trouble


@pytest.fixture(scope="module")
def theirs(pytestconfig, tmp_path_factory):
    """flyte-sdk's host in the same trouble, but for the one that hangs. It logs more than by default."""
    python = find_reference(pytestconfig)
    with in_trouble(
        tmp_path_factory.mktemp("theirs"),
        lambda port, url: [python, "-c", START, "--port", port, "--prometheus_port", url, "--modules", "faults"],
        cwd=CONNECTORS,
        env={"CONNECTOR_API": "flyte.connectors", "LOG_LEVEL": "20", "LOG_FORMAT": "json"},
    ) as trouble:
        yield trouble


def test_both_tables_have_the_same_questions():
    assert len(QUESTIONS) >= 10
    assert [row[0] for row in ABOUT_THEIRS] == [row[0] for row in QUESTIONS]


def test_every_question_gets_its_answer(ours):
    wrong = []
    run = cache(ours.run)  # several questions have one command
    for question, ask, answer, also in QUESTIONS:
        if question == "Why is it not ready?":
            ours.program.send(signal.SIGTERM)
            eventually(lambda: '"draining"' in ours.log, PATIENCE)
            run = ours.run
        [command] = code_in(ask)
        _, printed = run(command)
        assert code_in(answer), question
        missing = [snippet for snippet in code_in(answer) if not pattern(snippet).search(printed)]
        if missing:
            wrong.append(f"{question} {command}: no {missing} in\n{printed}")
        wrong += [f"{question} {other}" for other in code_in(also) if not answers(ours, other, run)]
        page = plain(re.sub(r"<[^>]+>", " ", fetch(f"{ours.program.url}/status")[1]))
        for title in re.findall(r'"([^"`]+)" on the page', also):
            assert title in page, question
    assert not wrong, "\n".join(wrong)


def answers(ours: Trouble, other: str, run: Callable[[str], tuple[int, str]]) -> bool:
    """Return whether another way to an answer leads there: a query, or a command that prints something."""
    if other.startswith("connectrio_"):
        selector, _, bound = other.partition(" > ")
        values = ours.samples(selector)
        return bool(values) and (not bound or sum(values) > float(bound))
    code, printed = run(other)
    return code == 0 and bool(printed.strip())


# what flyte-sdk's host must not tell anywhere, where the document says that it does not; by the question
NOWHERE = {
    "Which task?": "f2vendor|f3hangs|f4bug|f5lost|f6slow|sales|production",
    "Since when?": r"\d\d:\d\d",
    "Whose code, which line?": r"faults\.py|Traceback|ValueError|line \d",
    "Is it the vendor?": "ConnectionError|vendor|kind=",
    "What happens if I restart now?": "restart|drain|in_flight",
    "Which thread hangs, and where?": "thread|stuck|blocked|ask_a_vendor",
    "Where is a call that takes long?": r"f6slow|seconds_bucket|in_flight|faults\.py",
    "Is the host full?": "limit|active|busy|waiting|queue",
    "Is there a job that nobody waits for?": "f5lost|nobody|cancel",
    "Was a job created twice?": "twice|doubt|fresh|key",
    'Why does a poll say "as of 40 s ago"?': "as of| ago",
    "Is a circuit breaker open?": "breaker",
    "Is the job store away?": "store",
    "What has changed?": re.escape(VERSION) + "|build_info|settings",
    "Was anything lost from the log?": "dropped|lost",
}


def test_what_flyte_sdk_answers(theirs):
    # other paths of its port are the metrics too
    assert fetch(f"{theirs.program.url}/readyz")[1].startswith("# HELP")
    assert theirs.codes["f2vendor", "get"] is grpc.StatusCode.INTERNAL
    assert theirs.codes["f4bug", "create"] is grpc.StatusCode.INTERNAL
    assert theirs.client.health.Check(HealthCheckRequest(), timeout=PATIENCE).status == HealthCheckResponse.SERVING

    # a method that blocks stops all calls, the health check too; the metrics are answered
    log = theirs.log
    assert call(theirs.client, "get", "hanging", deadline=BRIEF) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert call(theirs.client, "get", "healthy", deadline=BRIEF) is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError):
        theirs.client.health.Check(HealthCheckRequest(), timeout=BRIEF)
    assert theirs.log.removeprefix(log).strip() == "[flyte] INFO Hanging start checking the status of the job"
    assert theirs.samples('flyte_connector_requests_failure_total{task_type="hanging"}') == []
    assert theirs.samples('flyte_connector_requests_success_total{task_type="hanging",operation="get"}') == []
    assert theirs.samples('flyte_connector_requests_failure_total{task_type="slow"}') == []

    _, metrics = fetch(f"{theirs.program.url}/metrics")
    own = "".join(line for line in metrics.splitlines(keepends=True) if "flyte_connector_" in line)
    told = plain(theirs.log + own)
    for question, answer in ABOUT_THEIRS:
        for snippet in code_in(answer):
            assert pattern(snippet).search(plain(theirs.log + metrics)), f"{question} no {snippet!r} in\n{told}"
        if question in NOWHERE:
            found = re.search(NOWHERE[question], told)
            assert found is None, f"{question} it tells {found[0]!r}"
            assert answer.startswith(("No", "Partly")), question
        else:
            assert question in ("Only this task, or all?", "What does Flyte see meanwhile?", "Why is it not ready?")
