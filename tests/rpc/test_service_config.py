"""gRPC's service config as options of a channel."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest

from connectrio.rpc import (
    ChannelOptions,
    MethodConfig,
    RetryPolicy,
    RetryThrottling,
    ServiceConfigError,
    options_from_service_config,
)

# the example of gRFC A6, with names
RETRY = {
    "maxAttempts": 4,
    "initialBackoff": ".1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
CONFIG = {
    "loadBalancingConfig": [{"xds_experimental": {}}, {"round_robin": {}}],
    "methodConfig": [
        {"name": [{"service": "a.B", "method": "C"}, {"service": "a.D"}], "retryPolicy": RETRY, "timeout": "2.5s"},
        {"name": [{}], "waitForReady": True},
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    "healthCheckConfig": {"serviceName": "a.B"},
}


@pytest.mark.parametrize("config", [CONFIG, json.dumps(CONFIG), json.dumps(CONFIG).encode(), MappingProxyType(CONFIG)])
def test_all_that_is_supported(config: object):
    options = options_from_service_config(config, ChannelOptions(keepalive_time=30))
    with_retry = MethodConfig(retry=RetryPolicy(), timeout=2.5)
    assert options == ChannelOptions(
        keepalive_time=30,
        load_balancing="round_robin",
        health_service="a.B",
        methods={"a.B/C": with_retry, "a.D": with_retry, "": MethodConfig(wait_for_ready=True)},
        retry_throttling=RetryThrottling(max_tokens=10, token_ratio=0.1),
    )


def test_an_empty_config_changes_nothing():
    assert options_from_service_config("{}") == ChannelOptions()
    assert options_from_service_config("{}", ChannelOptions(retry=RetryPolicy())).retry == RetryPolicy()


def retry(**changes: object) -> dict:
    return {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, **changes}}]}


def test_more_than_five_attempts_are_five():
    assert options_from_service_config(retry(maxAttempts=9)).methods[""].retry == RetryPolicy(max_attempts=5)


@pytest.mark.parametrize("name", ["pick_first", "ROUND_ROBIN"])
def test_the_older_field_for_load_balancing(name: str):
    assert options_from_service_config({"loadBalancingPolicy": name}).load_balancing == name.lower()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "the service config is no JSON: "),
        ("[]", r"the service config must be an object, got \[\]"),
        ({"hedging": 1, "a": 2}, "the service config has fields that are not supported: a, hedging$"),
        ({"methodConfig": {}}, "methodConfig must be a list"),
        ({"methodConfig": [{"name": [{}], "hedgingPolicy": {}}]}, r"methodConfig\[0\] has fields .*: hedgingPolicy$"),
        ({"methodConfig": [{"name": [{}]}, {"name": [{}]}]}, r"methodConfig\[1\]: the name '' has two configs"),
        ({"methodConfig": [{"name": [{"method": "M"}]}]}, r"methodConfig\[0\]: name\[0\] has a method and no service"),
        ({"methodConfig": [{"name": [{"methods": "M"}]}]}, r"name\[0\] has fields that are not supported: methods"),
        ({"methodConfig": [{"name": [{}], "timeout": 3}]}, r'\[0\]: timeout must be seconds such as "0.1s", got 3'),
        ({"methodConfig": [{"name": [{}], "timeout": "0s"}]}, r"\[0\]: timeout must be more than 0"),
        ({"methodConfig": [{"name": [{}], "waitForReady": "yes"}]}, r"waitForReady must be true or false, got 'yes'"),
        (
            retry(maxAttempts=1),
            "retryPolicy: max_attempts must be a whole number of at least 2, the first attempt included, got 1",
        ),
        (retry(maxAttempts="4"), "retryPolicy: maxAttempts must be a number, got '4'"),
        (retry(maxAttempts=True), "retryPolicy: maxAttempts must be a number, got True"),
        (retry(initialBackoff=None), 'retryPolicy: initialBackoff must be seconds such as "0.1s", got None'),
        (retry(maxBackoff="1"), "retryPolicy: maxBackoff must be seconds"),
        (retry(backoffMultiplier=0), "retryPolicy: backoff_multiplier must be more than 0"),
        (retry(retryableStatusCodes=[]), "retryPolicy: retryable_status_codes must be some of"),
        (retry(retryableStatusCodes=["OK"]), "retryPolicy: retryable_status_codes must be some of"),
        (retry(retryableStatusCodes=["NO"]), "retryPolicy: retryableStatusCodes has an unknown status: 'NO'"),
        (retry(retryableStatusCodes=[99]), "retryPolicy: retryableStatusCodes has an unknown status: 99"),
        (retry(retryableStatusCodes=[["UNAVAILABLE"]]), r"has an unknown status: \['UNAVAILABLE'\]"),
        (retry(retryableStatusCodes="UNAVAILABLE"), "retryableStatusCodes must be a list, got 'UNAVAILABLE'"),
        (retry(retryableStatusCodes=14), "retryableStatusCodes must be a list, got 14"),
        ({"methodConfig": [{"name": [{"service": 5}]}]}, r"name\[0\]: service must be a text, got 5"),
        ({"methodConfig": [{"name": [{"service": "a", "method": ["b"]}]}]}, r"name\[0\]: method must be a text"),
        ({"healthCheckConfig": {"serviceName": 5}}, "healthCheckConfig: serviceName must be a text, got 5"),
        ({"loadBalancingPolicy": 5}, "the service config: loadBalancingPolicy must be a text, got 5"),
        ({"retryThrottling": {"maxTokens": 1001, "tokenRatio": 1}}, "retryThrottling: max_tokens must be more than 0"),
        ({"retryThrottling": {"maxTokens": 10}}, "retryThrottling: tokenRatio must be a number, got None"),
        ({"healthCheckConfig": {}}, 'the service config: health_service needs load_balancing="round_robin"'),
        ({"healthCheckConfig": {"service": "a"}}, "healthCheckConfig has fields that are not supported: service"),
        ({"loadBalancingConfig": [{"grpclb": {}}]}, r"load balancing policies that are not supported: \['grpclb'\]"),
    ],
)
def test_what_cannot_be_used_is_named(config: object, message: str):
    with pytest.raises(ServiceConfigError, match=message):
        options_from_service_config(config)


# the objects


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RetryPolicy(max_attempts=1), "max_attempts must be a whole number of at least 2"),
        (lambda: RetryPolicy(max_attempts=2.5), "max_attempts must be a whole number .*, got 2.5"),
        (lambda: RetryPolicy(initial_backoff=0), "initial_backoff must be more than 0"),
        (lambda: RetryPolicy(retryable_status_codes=[]), "retryable_status_codes must be some of"),
        (lambda: RetryPolicy(retryable_status_codes=["UNAVAILABLE"]), "retryable_status_codes must be some of"),
        (lambda: RetryThrottling(max_tokens=0), "max_tokens must be more than 0"),
        (lambda: RetryThrottling(token_ratio=0.0001), "token_ratio must be at least"),
        (lambda: ChannelOptions(health_service=""), 'health_service needs load_balancing="round_robin"'),
        (lambda: MethodConfig(timeout=0), "timeout must be more than 0"),
        (lambda: ChannelOptions(methods={"/a.B/C": MethodConfig()}), "methods has the name '/a.B/C'; write"),
        (lambda: ChannelOptions(methods={"a.B/C/D": MethodConfig()}), "methods has the name 'a.B/C/D'; write"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_most_specific_name_counts_as_a_whole():
    method, service, others = MethodConfig(timeout=1), MethodConfig(timeout=2), MethodConfig(timeout=3)
    options = ChannelOptions(retry=RetryPolicy(), methods={"a.B/C": method, "a.B": service})
    assert options.method_config("/a.B/C") is method
    assert options.method_config("/a.B/D") is service
    assert options.method_config("/a.D/C") == MethodConfig(retry=RetryPolicy())
    assert ChannelOptions(methods={"": others}, retry=RetryPolicy()).method_config("/a.D/C") is others
    assert ChannelOptions().method_config("/a.B/C") == MethodConfig()
