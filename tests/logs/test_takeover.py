"""What authors log, warn and print in a process that only hosts: lines of one format, none lost and none twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

START = """
import logging, logging.config, sys, threading, warnings
from connectrio.logs import host_logging, keep_logging, line_fields, line_mask, own_output
before = logging.StreamHandler()
with host_logging({level!r}, {form!r}, owns_process=True):
    log = logging.getLogger("mine")
    line_fields.set(lambda: {{"execution": "ex1"}})
"""


def written(program, *, level="info", form="json", plain=""):
    """The lines on standard error. On standard output there is only `plain`."""
    indented = "".join(f"    {line}\n" for line in program.strip().splitlines())
    command = [sys.executable, "-c", START.format(level=level, form=form) + indented]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert ran.stdout == plain
    if form == "console":
        assert "\x1b" not in ran.stderr
        return ran.stderr.splitlines()
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert all(list(line)[:3] == ["timestamp", "level", "event"] for line in lines)
    assert all(line.pop("timestamp").endswith("Z") for line in lines)
    return lines


def line(event, level="info", logger="mine", **fields):
    return {"event": event, "level": level, "logger": logger, "execution": "ex1", **fields}


def test_lines_of_logging():
    program = """
log.info("an %s line", "info")
log.debug("a detail")
log.warning("with more", extra={"job": 7, "event": "not this"})
logging.getLogger("httpcore").debug("chatty")
logging.info("from the root")
"""
    assert written(program) == [
        line("an info line"),
        line("with more", "warning", extra={"job": 7}),
        line("from the root", logger="root"),
    ]


def test_at_the_level_debug_authors_are_heard_and_libraries_when_they_are_named():
    program = """
keep_logging(["mine"])
log.debug("a detail")
logging.getLogger("httpcore").debug("chatty")
logging.getLogger("h2").debug("asked for")
"""
    assert written(program, level="debug h2=debug") == [
        line("a detail", "debug"),
        line("asked for", "debug", logger="h2"),
    ]


BASIC = 'logging.basicConfig(level=logging.DEBUG, format="own %(message)s")'
FORCED = 'logging.basicConfig(level=logging.DEBUG, format="own %(message)s", force=True)'
TO_STDOUT = "logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)"
OWN_HANDLER = "log.addHandler(logging.StreamHandler())"
EARLY_HANDLER = "log.addHandler(before)"
NOT_PROPAGATING = "log.addHandler(logging.StreamHandler()); log.propagate = False"
NO_HANDLER = "logging.getLogger().handlers.clear()"
DICT_CONFIG = """logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"own": {"format": "own %(message)s"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "own"},
        "again": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
    },
    "root": {"level": "INFO", "handlers": ["console", "again"]},
})"""


@pytest.mark.parametrize(
    "set_up",
    ["", BASIC, FORCED, TO_STDOUT, OWN_HANDLER, EARLY_HANDLER, NOT_PROPAGATING, NO_HANDLER, DICT_CONFIG],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_whatever_an_author_does_to_logging(set_up, is_late):
    program = f"{set_up}\nkeep_logging()" if not is_late else f"keep_logging()\n{set_up}"
    program += '\nlog.info("once")\nlog.debug("a detail")\nlog.error("failed")'
    if set_up == NO_HANDLER and is_late:  # nothing tells that it happened, and Python itself writes warnings only
        assert written(program) == [line("failed", "error")]
    else:
        assert written(program) == [line("once"), line("failed", "error")]


def test_a_level_by_name_outlasts_an_authors_set_up():
    program = f"{DICT_CONFIG}\nlog.setLevel('ERROR')\nkeep_logging()\nlog.info('asked for')"
    assert written(program, level="mine=info") == [line("asked for")]


def test_an_author_that_disables_logging_does_so_for_nobody():
    program = "logging.disable(logging.CRITICAL)\nkeep_logging()\nlog.info('a line')"
    assert written(program) == [line("a line")]


def test_a_line_whose_arguments_do_not_fit():
    program = """
class Failing:
    def __str__(self):
        raise SystemExit("no")
log.error("%s of %d", "one")
log.error("it is %s", Failing())
"""
    assert written(program) == [
        line("%s of %d (TypeError in its arguments)", "error"),
        line("it is %s (SystemExit in its arguments)", "error"),
    ]


def test_a_handler_of_a_file_stays(tmp_path):
    file = tmp_path / "own.log"
    assert written(f'log.addHandler(logging.FileHandler({str(file)!r}))\nlog.info("twice")') == [line("twice")]
    assert file.read_text() == "twice\n"


def test_errors_are_text():
    program = """
try:
    raise ValueError("boom")
except ValueError:
    log.exception("failed")
    logging.getLogger("other").error("again", exc_info=sys.exc_info()[1])
    import structlog
    structlog.configure(processors=[structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()])
    keep_logging()
    structlog.get_logger("third").exception("and again")
    structlog.get_logger("fourth").error("with a list", exception=[{"type": "ValueError"}])
"""
    lines = written(program)
    assert [each["event"] for each in lines] == ["failed", "again", "and again", "with a list"]
    assert all(type(each["exception"]) is str for each in lines)
    assert all("ValueError" in each["exception"] for each in lines)


STRUCTLOG = """
import structlog
{set_up}
keep_logging()
log = structlog.get_logger("mine")
log.info("hello", n=1)
log.debug("a detail")
"""
PRINTS = """
def mark(logger, method, event):
    return {**event, "marked": method}

structlog.configure(
    processors=[structlog.stdlib.add_log_level, mark, structlog.processors.JSONRenderer()],
    logger_factory=structlog.PrintLoggerFactory(),
)
"""
OWN_RENDERER = """
structlog.configure(processors=[lambda logger, method, event: f"{event['event']} n={event['n']}"])
"""
STDLIB = """
structlog.configure(
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.add_logger_name, structlog.dev.ConsoleRenderer()],
    wrapper_class=structlog.stdlib.BoundLogger,
    logger_factory=structlog.stdlib.LoggerFactory(),
)
"""
FORMATTER = STDLIB.replace("structlog.dev.ConsoleRenderer()", "structlog.stdlib.ProcessorFormatter.wrap_for_formatter")
KWARGS = STDLIB.replace("structlog.dev.ConsoleRenderer()", "structlog.stdlib.render_to_log_kwargs")


@pytest.mark.parametrize(
    ("set_up", "expected"),
    [
        ("", line("hello", n=1)),
        ("structlog.reset_defaults()", line("hello", n=1)),
        (PRINTS, line("hello", n=1, marked="info")),
        (STDLIB, line("hello", n=1)),
        (FORMATTER, line("hello", n=1)),
        (KWARGS, line("hello", n=1)),
    ],
)
def test_lines_of_structlog(set_up, expected):
    assert written(STRUCTLOG.replace("{set_up}", set_up)) == [expected]


def test_a_renderer_of_an_authors_own():
    program = STRUCTLOG.replace("{set_up}", OWN_RENDERER).replace('log.debug("a detail")', "")
    assert written(program) == [line("hello n=1")]
    assert written(program.replace("keep_logging()", "")) == [line("hello n=1")]


def test_what_is_printed():
    program = """
print("to", "stdout")
print("to stderr", file=sys.stderr)
print("in ", end="")
print("pieces")
print("an end", end="")
sys.stdout.buffer.write(b"bytes\\n")
sys.stdout.flush()
threading.Thread(target=print, args=("in a thread",)).start()
"""
    assert written(program) == [
        line("to stdout", logger="stdout"),
        line("to stderr", "warning", logger="stderr"),
        line("in pieces", logger="stdout"),
        line("an endbytes", logger="stdout"),
        {"event": "in a thread", "level": "info", "logger": "stdout"},
    ]


def test_the_last_words_of_a_program_are_not_lost():
    assert written('print("no end", end="")') == [line("no end", logger="stdout")]


def test_what_is_printed_is_hidden_by_name_alone():
    program = 'print("one")\nprint("two", file=sys.stderr)'
    assert len(written(program, level="error")) == 2
    assert written(program, level="stdout=warning") == [line("two", "warning", logger="stderr")]


def test_the_secrets_of_a_call_are_in_nothing_that_its_connector_writes():
    program = """
line_mask.set(lambda text: text.replace("hunter2", "[secret]"))
print("out", "hunter2")
print("err hunter2", file=sys.stderr)
log.info("with %s", "hunter2", extra={"token": "hunter2"})
warnings.warn("hunter2 is weak")
import structlog
structlog.get_logger("mine").info("structlog has hunter2")
"""
    lines = written(program)
    assert len(lines) == 5
    assert "hunter2" not in str(lines)
    assert [each["event"] for each in lines[:3]] == ["out [secret]", "err [secret]", "with [secret]"]
    assert lines[2]["token"] == "[secret]"


def test_pools_of_threads_keep_the_fields_of_a_call():
    program = """
import asyncio, contextvars
from concurrent.futures import ThreadPoolExecutor
async def default():
    await asyncio.get_running_loop().run_in_executor(None, log.info, "default")
asyncio.run(default())
with ThreadPoolExecutor(1) as pool:
    pool.submit(log.info, "own")
    line_fields.set(lambda: {"execution": "ex2"})
    assert list(pool.map(lambda number: log.info("mapped") or number, [1])) == [1]
    assert pool.submit(int, "ff", base=16).result() == 255
"""
    own, default, mapped = line("own"), line("default"), {**line("mapped"), "execution": "ex2"}
    assert written(program) == [default, own, mapped]


REPEATED = {
    "printed": 'print("again")',
    "logged": 'log.info("again %d", 7)',
    "warned": 'log.warning(f"again {number}")',
    "structlog": 'structlog.get_logger("mine").info("again", number=7)',
}


def test_lines_that_tell_something_new_are_all_written():
    program = """
import structlog
for number in range(50):
    log.info("row %d", number)
    log.info("row", extra={"number": number})
    structlog.get_logger("mine").info("row", number=number)
"""
    assert len(written(program)) == 150


@pytest.mark.parametrize("act", REPEATED.values(), ids=REPEATED)
def test_lines_that_come_again_and_again_are_left_out_and_counted(act):
    program = f"""
import structlog
line_mask.set(lambda text: text.replace("again", "[secret]"))
for number in range(50):
    {act}
line_fields.set(lambda: {{"execution": "other"}})
log.info("the last one")
"""
    *lines, last, told = written(program)
    assert len(lines) == 20
    assert all(each["event"].startswith("[secret]") for each in lines)
    assert last["event"] == "the last one"
    assert (told["event"], told["left_out"], told["execution"]) == ("lines like this were left out", 30, "ex1")
    assert told["like"].startswith("[secret]")
    assert (told["logger"], told["level"]) == (lines[0]["logger"], lines[0]["level"])


def test_lines_of_different_jobs_are_not_alike_and_warnings_are():
    program = """
import itertools
job = itertools.count()
line_fields.set(lambda: {"job": next(job)})
for _ in range(30):
    print("printed")
    log.info("logged")
    log.warning("no answer")
"""
    lines = [each["event"] for each in written(program)]
    assert [lines.count(event) for event in ("printed", "logged", "no answer")] == [30, 30, 20]


def test_none_is_left_out_of_a_logger_whose_details_are_asked_for():
    lines = written('for _ in range(50): log.info("again"); print("again")', level="info mine=debug")
    assert [each["logger"] for each in lines].count("mine") == 50
    assert [each["event"] for each in lines if each["logger"] == "stdout"] == [
        *20 * ["again"],
        "lines like this were left out",
    ]


def test_threads_do_not_mix_their_lines():
    program = """
begun, go_on = threading.Event(), threading.Event()

def say():
    print("one", end=" ")
    begun.set()
    go_on.wait()
    print("line")

thread = threading.Thread(target=say)
thread.start()
begun.wait()
print("another")
go_on.set()
thread.join()
"""
    assert [each["event"] for each in written(program)] == ["another", "one line"]


def test_warnings():
    (found,) = written('warnings.warn("older", stacklevel=1)')
    assert (found["level"], found["logger"], found["execution"]) == ("warning", "py.warnings", "ex1")
    assert "UserWarning: older" in found["event"]


def test_lines_for_people():
    program = """
log.info("logged")
print("printed")
with own_output():
    print("the host's own")
"""
    logged, printed = written(program, form="console", plain="the host's own\n")
    assert re.fullmatch(r"\S+Z \[info +\] logged +\[mine\] execution=ex1", logged)
    assert re.fullmatch(r"\S+Z \[info +\] printed +\[stdout\] execution=ex1", printed)


def test_fields_for_people_begin_with_what_they_look_for():
    program = """
line_fields.set(lambda: {"peer": "p", "rpc": "/a/b", "key": "k", "project": "x", "operation": "get", "task_type": "t",
                         "node": "n0", "execution": "ex1", "job": "j"})
log.info("logged", extra={"rows": 3})
log.warning("warned", extra={"text": "two\\nlines of \\x1b[31m", "code": "\\x1b[0m"})
"""
    logged, warned = written(program, form="console")
    assert logged.split("[mine] ")[1] == "execution=ex1 node=n0 task_type=t operation=get job=j rows=3"
    assert warned.split("[mine] ")[1] == (
        r"execution=ex1 node=n0 task_type=t operation=get job=j text='two\nlines of \x1b[31m' code=\x1b[0m"
        " project=x key=k peer=p rpc=/a/b"
    )


def test_the_streams_of_a_terminal_are_none_for_connectors():
    """Else a library would colour its lines, and they would be hard to read in the log."""
    assert written("print(sys.stdout.isatty(), sys.stderr.isatty())")[0]["event"] == "False False"
