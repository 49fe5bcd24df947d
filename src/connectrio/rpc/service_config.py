"""gRPC's service config: what services recommend to their clients, in JSON.

Sources: gRPC's service_config.proto and the documents on service configs; gRFC A6 and A17.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from grpclib.const import Status

from connectrio.rpc.options import ChannelOptions, MethodConfig, RetryPolicy, RetryThrottling

_DURATION = re.compile(r"([0-9]+|[0-9]*\.[0-9]+)s")
# A6: a client makes no more attempts for the sake of a config
_MOST_ATTEMPTS = 5

_POLICIES = ("pick_first", "round_robin")


class ServiceConfigError(ValueError):
    """A service config cannot be used; the message names the field."""


def options_from_service_config(
    config: str | bytes | Mapping[str, Any], options: ChannelOptions | None = None
) -> ChannelOptions:
    """Return options for a channel that keeps to a service config.

    Used are `methodConfig` (`name`, `retryPolicy`, `timeout`, `waitForReady`), `retryThrottling`,
    `loadBalancingConfig`, `loadBalancingPolicy` and `healthCheckConfig`. More than five attempts count as five, as in
    gRFC A6.

    :param config: JSON, or the mapping that it stands for
    :param options: all other options
    :raises ServiceConfigError: it is no service config, or has fields that are not supported, such as `hedgingPolicy`
    """
    try:
        found = json.loads(config) if isinstance(config, str | bytes) else config
    except ValueError as error:
        raise ServiceConfigError(f"the service config is no JSON: {error}") from error
    top = _Fields("the service config", found)
    changes: dict[str, Any] = {}
    methods = _methods(top.take_all("methodConfig"))
    if methods:
        changes["methods"] = methods
    throttling = top.take_fields("retryThrottling")
    if throttling is not None:
        changes["retry_throttling"] = throttling.make(
            RetryThrottling,
            max_tokens=throttling.number("maxTokens"),
            token_ratio=throttling.number("tokenRatio"),
        )
    policy = _load_balancing(top)
    if policy is not None:
        changes["load_balancing"] = policy
    health = top.take_fields("healthCheckConfig")
    if health is not None:
        changes["health_service"] = health.text("serviceName")
        health.check_empty()
    top.check_empty()
    try:
        return replace(options or ChannelOptions(), **changes)
    except ValueError as error:
        raise ServiceConfigError(f"the service config: {error}") from error


class _Fields:
    """The fields of an object in JSON. Each is taken once; those that are left are errors.

    :param path: where the object is, for people
    """

    def __init__(self, path: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise ServiceConfigError(f"{path} must be an object, got {value!r}")
        self.path = path
        self._left = dict(value)

    @property
    def names(self) -> list[str]:
        """The names of the fields that were not taken."""
        return list(self._left)

    def take(self, name: str) -> Any:
        """Return a field; None if it is missing."""
        return self._left.pop(name, None)

    def take_fields(self, name: str) -> _Fields | None:
        """Return a field that is an object; None if it is missing."""
        value = self.take(name)
        return None if value is None else _Fields(f"{self.path}: {name}", value)

    def take_list(self, name: str) -> Sequence[Any]:
        """Return a field that is a list; an empty one if it is missing."""
        value = self.take(name)
        if value is not None and (not isinstance(value, Sequence) or isinstance(value, str)):
            raise ServiceConfigError(f"{self.path}: {name} must be a list, got {value!r}")
        return value or ()

    def take_all(self, name: str) -> list[_Fields]:
        """Return the objects in a list; none if it is missing."""
        return [_Fields(f"{self.path}: {name}[{number}]", each) for number, each in enumerate(self.take_list(name))]

    def text(self, name: str) -> str:
        """Return a field that is a text; "" if it is missing."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise ServiceConfigError(f"{self.path}: {name} must be a text, got {value!r}")
        return value or ""

    def number(self, name: str) -> Any:
        """Return a field that is a number."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ServiceConfigError(f"{self.path}: {name} must be a number, got {value!r}")
        return value

    def flag(self, name: str) -> bool | None:
        """Return a field that is true or false; None if it is missing."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise ServiceConfigError(f"{self.path}: {name} must be true or false, got {value!r}")
        return value

    def duration(self, name: str, default: float | None = None) -> float:
        """Return the seconds of a field such as "0.1s"."""
        value = self.take(name)
        if value is None and default is not None:
            return default
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ServiceConfigError(f'{self.path}: {name} must be seconds such as "0.1s", got {value!r}')
        return float(match[1])

    def make(self, kind: type[Any], **values: Any) -> Any:
        """Return an object of `kind`, after all fields were taken."""
        self.check_empty()
        try:
            return kind(**values)
        except ValueError as error:
            raise ServiceConfigError(f"{self.path}: {error}") from error

    def check_empty(self) -> None:
        """Raise an error that names the fields that nobody has taken."""
        if self._left:
            raise ServiceConfigError(f"{self.path} has fields that are not supported: {', '.join(sorted(self._left))}")


def _methods(configs: Iterable[_Fields]) -> dict[str, MethodConfig]:
    methods: dict[str, MethodConfig] = {}
    for fields in configs:
        names = [_name(each) for each in fields.take_all("name")]
        policy = fields.take_fields("retryPolicy")
        config = fields.make(
            MethodConfig,
            retry=None if policy is None else _retry_policy(policy),
            timeout=fields.duration("timeout", default=math.inf),
            wait_for_ready=fields.flag("waitForReady"),
        )
        for name in names:
            if name in methods:
                raise ServiceConfigError(f"{fields.path}: the name {name!r} has two configs")
            methods[name] = config
    return methods


def _name(fields: _Fields) -> str:
    service, method = fields.text("service"), fields.text("method")
    fields.check_empty()
    if method and not service:
        raise ServiceConfigError(f"{fields.path} has a method and no service")
    return f"{service}/{method}" if method else service


def _retry_policy(fields: _Fields) -> RetryPolicy:
    names = fields.take_list("retryableStatusCodes")
    for name in names:
        if not isinstance(name, str) or name not in Status.__members__:
            raise ServiceConfigError(f"{fields.path}: retryableStatusCodes has an unknown status: {name!r}")
    policy: RetryPolicy = fields.make(
        RetryPolicy,
        max_attempts=min(fields.number("maxAttempts"), _MOST_ATTEMPTS),
        initial_backoff=fields.duration("initialBackoff"),
        max_backoff=fields.duration("maxBackoff"),
        backoff_multiplier=fields.number("backoffMultiplier"),
        retryable_status_codes={Status[name] for name in names},
    )
    return policy


def _load_balancing(top: _Fields) -> str | None:
    """Return the first policy that is known; None if the config names none."""
    old = top.text("loadBalancingPolicy")
    names = [name for each in top.take_all("loadBalancingConfig") for name in each.names]
    if not names and old:
        names = [old.lower()]
    known = [name for name in names if name in _POLICIES]
    if names and not known:
        raise ServiceConfigError(f"{top.path} knows only load balancing policies that are not supported: {names}")
    return known[0] if known else None
