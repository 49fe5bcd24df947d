"""The levels of loggers by name."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from connectrio.logs import Levels, configure_logging, get_logger

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR


@pytest.mark.parametrize(
    ("words", "name", "level"),
    [
        ("info", "vendor", INFO),
        ("", "vendor", INFO),
        (["warning"], "connectrio.rpc", WARNING),
        (["info", "connectrio.rpc=debug"], "connectrio.rpc", DEBUG),
        (["info", "connectrio.rpc=debug"], "connectrio.rpcs", INFO),
        (["info", "connectrio=debug"], "connectrio.rpc", DEBUG),
        (["connectrio=debug", "connectrio.rpc=error", "warning"], "connectrio.rpc.x", ERROR),
        ("debug,httpx=warning", "httpx._client", WARNING),
        (["debug", "root=error"], "vendor", ERROR),
        (["debug", "root=error"], "connectrio.service", DEBUG),
    ],
)
def test_the_level_of_a_logger(words, name, level):
    levels = Levels.read(words)
    assert [levels[name], levels[name]] == [level, level]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("loud", "'loud' is no log level: use debug, info, warning, error, or NAME=LEVEL for one logger"),
        (["info", "a=loud"], "'a=loud' is no log level"),
        ("=info", "'=info' is no log level"),
        ("a=", "'a=' is no log level"),
        ("info debug", "there are two log levels for all loggers, the second is 'debug'"),
        ("a=info a=debug", "there are two log levels for a, the second is 'a=debug'"),
    ],
)
def test_what_is_no_level(words, message):
    with pytest.raises(ValueError, match=message):
        Levels.read(words)


def test_names_of_loggers_do_not_add_up():
    levels = Levels.read("info")
    for number in range(5000):
        assert levels[f"job {number}"] == INFO
    assert len(levels) == 1000


def test_loggers_of_all_kinds_have_their_level(capsys):
    configure_logging(["warning", "connectrio.service=debug", "connectrio.rpc=info", "mine=debug"], "json")
    get_logger("connectrio.host").info("no")
    get_logger("connectrio.service").debug("service")
    assert get_logger("connectrio.service").is_enabled_for("debug")
    assert not get_logger("connectrio.host").is_enabled_for("info")
    logging.getLogger("connectrio.rpc").debug("no")
    logging.getLogger("connectrio.rpc").info("rpc")
    structlog.get_logger("other").info("no")
    structlog.get_logger("mine.part").debug("mine")
    structlog.get_logger().error("nameless")
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["service", "rpc", "mine", "nameless"]
