"""The options of single connectors: what authors state, and what operators set in its place."""

from __future__ import annotations

import dataclasses
import math

import pytest

from connectrio import ConnectorPolicy, Registry
from connectrio.connector.policy import Policies
from service.harness import connector

FIELDS = dataclasses.fields(ConnectorPolicy)


def test_an_operator_overrides_single_options():
    policies = Policies(
        ["tiny.rate_calls=30", "tiny.rate_seconds=0.5", "tiny.account_names=user, role", "x.rate_calls=1"]
    )
    policy = policies.of("tiny", ConnectorPolicy(rate_calls=5, max_vendor_calls=7))
    assert policy == ConnectorPolicy(
        rate_calls=30, rate_seconds=0.5, max_vendor_calls=7, account_names=("user", "role")
    )
    assert policies.task_types == ["tiny", "x"]


def test_what_no_operator_has_set_stays():
    policy = ConnectorPolicy(rate_calls=5)
    assert Policies(["tiny.rate_calls=30"]).of("other", policy) is policy


def test_a_task_type_may_have_dots_and_the_last_one_of_several_counts():
    policies = Policies(["a.b.rate_calls=1", "a.b.rate_calls=2"])
    assert policies.of("a.b", ConnectorPolicy()).rate_calls == 2
    assert policies.of("a", ConnectorPolicy()).rate_calls == 0


def test_what_an_operator_names_as_transient():
    words = Policies(["slurm.transient=asyncssh.misc.ConnectionLost, 409"]).of("slurm", ConnectorPolicy()).transient
    assert words == ("asyncssh.misc.ConnectionLost", "409")


def test_what_an_operator_has_created_at_most_once():
    policies = Policies(["slurm.at_most_once=true", "snowflake.at_most_once=false"])
    assert policies.of("slurm", ConnectorPolicy()).at_most_once
    assert not policies.of("snowflake", ConnectorPolicy(at_most_once=True)).at_most_once


def test_no_names_are_names():
    assert Policies(["tiny.account_names="]).of("tiny", ConnectorPolicy()).account_names == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be of the form TYPE.OPTION=VALUE, such as snowflake.rate_calls=30, got ''"),
        ("tiny.rate_calls", "must be of the form TYPE.OPTION=VALUE, .*"),
        ("rate_calls=3", "must be of the form TYPE.OPTION=VALUE, .*"),
        (".rate_calls=3", "must be of the form TYPE.OPTION=VALUE, .*"),
        ("tiny.=3", "must be of the form TYPE.OPTION=VALUE, .*"),
        (3, "must be of the form TYPE.OPTION=VALUE, .* got 3"),
        (
            "tiny.rate_call=3",
            "must name options that exist, got 'tiny.rate_call=3': did you mean rate_calls\\? There are rate_calls, .*",
        ),
        ("tiny.colour=3", "must name options that exist, got 'tiny.colour=3': There are rate_calls, .*"),
        ("tiny.rate_calls=many", "must have values that their options take, got .*: 'many' is not a whole number"),
        ("tiny.rate_calls=1.5", "must have values that their options take, got .*: '1.5' is not a whole number"),
        ("tiny.rate_calls=-1", "must have .* got .*: rate_calls must not be negative, got -1"),
        ("tiny.rate_seconds=0", "must have .* got .*: rate_seconds must be more than 0, got 0.0"),
        ("tiny.rate_seconds=soon", "must have .* got .*: 'soon' is not a number"),
        ("tiny.transient=Busy", "must have .* got .*: transient must name classes such as .*, or HTTP .*, got 'Busy'"),
        ("tiny.transient=409,200", "must have .* got .*: transient must name classes .*, got '200'"),
        ("tiny.at_most_once=yes", "must have .* got .*: 'yes' is not true or false"),
        ("tiny.breaker_pause=inf", "must have .* got .*: breaker_pause must be a number, got inf"),
    ],
)
def test_options_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Policies([text])


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_option_is_described_and_checked(field):
    assert ConnectorPolicy.__doc__.count(f":ivar {field.name}: ") == 1
    for wrong in (None, "3", ("a", 3), True, math.nan, math.inf, -1):
        if wrong is True and field.type == "bool":
            continue
        with pytest.raises(ValueError, match=f"^{field.name} must "):
            ConnectorPolicy(**{field.name: wrong})


def test_an_author_who_states_something_else():
    with pytest.raises(TypeError, match=r"^Tiny\.policy must be a ConnectorPolicy, got \{'rate_calls': 3\}$"):
        Registry().register(connector(policy={"rate_calls": 3}))
