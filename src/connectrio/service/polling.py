"""Asks connectors for the states of jobs, within the limits of the systems behind them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from connectrio.connector.base import AsyncConnector, EncodedResource
from connectrio.connector.phases import FAILED_PHASES
from connectrio.idl.flyteidl2.connector import CreateTaskRequest, GetTaskRequest, Resource
from connectrio.service.conversion import encoded_state, resource_to_message
from connectrio.service.known_jobs import JobRefresh
from connectrio.service.methods import ConnectorMethod, ConnectorMethods, Span
from connectrio.service.metrics import Metrics
from connectrio.service.operations import Operation
from connectrio.service.poll_shield import PollShield
from connectrio.service.settings import ServiceSettings
from connectrio.service.telemetry import CallRecord
from connectrio.service.workers import Workers

__all__ = ["Polling"]

# seconds to ask for a job of an earlier attempt, within the ten that its client waits
_LIFE_SIGN_TIMEOUT = 5.0


class Polling:
    """Asks connectors for the states of jobs.

    :param known_jobs: the states that are known, where a gate lets no call pass
    :param shield: tries again what fails transiently
    :param metrics: where further attempts are counted
    :param clock: the account's
    """

    def __init__(
        self,
        settings: ServiceSettings,
        workers: Workers,
        methods: ConnectorMethods,
        known_jobs: JobRefresh,
        shield: PollShield,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._most = settings.max_response_size
        self._workers = workers
        self._methods = methods
        self._known_jobs = known_jobs
        self._shield = shield
        self._metrics = metrics
        self._clock = clock

    async def state(
        self, method: ConnectorMethod, message: GetTaskRequest, record: CallRecord
    ) -> tuple[Resource | EncodedResource, float]:
        """Return a job's state, and when it was reported, on the account's clock.

        :raises LimitedError: a limit allows no call now, and the client has the last state already
        :raises OutageError: the circuit breaker is open
        :raises BaseException: what the connector raises
        """
        if method.gate.applies:
            return await self._through_gate(method, message, record)
        call = partial(self._call_get, method, message, record.span)
        state = await self._shield.retrying(call, method.gate, record.retried)
        # an answer that may hold secrets is decoded, to be masked
        encoded = encoded_state(state, 0 if record.mask is not None else self._most)
        return encoded or resource_to_message(state, method.label), self._clock()

    async def is_alive(
        self, connector: AsyncConnector[Any], message: CreateTaskRequest, span: Span | None, resource_meta: bytes
    ) -> bool:
        """Return whether a job can serve a later attempt than the one that it was created for."""
        request = GetTaskRequest(
            resource_meta=resource_meta, output_prefix=message.output_prefix, connection=message.connection
        )
        method = self._methods.get(connector, Operation.GET)
        poll: Callable[[], Awaitable[Resource]] = partial(self._poll, method, request, span)
        if method.gate.applies:
            account = method.gate.account(message.connection)
            if (call := account.try_begin()) is None:
                return True  # it counts as alive, as below
            poll = account.passing(call, poll)
        phase = None
        with anyio.move_on_after(_LIFE_SIGN_TIMEOUT):
            try:
                retried = partial(self._metrics.retried, connector.task_type_name, Operation.GET)
                phase = (await self._shield.retrying(poll, method.gate, retried)).phase
            except Exception as error:  # noqa: BLE001 - whatever the connector raises
                return method.gate.is_vendors(error)
        # a job that cannot be reached just now counts as alive: polls will tell
        return phase not in FAILED_PHASES

    async def _through_gate(
        self, method: ConnectorMethod, message: GetTaskRequest, record: CallRecord
    ) -> tuple[Resource, float]:
        """Poll a job if the limits allow it now; else return the state that is known."""
        jobs = self._known_jobs.of(method, message.connection)
        job = jobs.asked(record.name or record.about(message.resource_meta), message)
        resource = jobs.kept(job)
        if resource is None:
            begun = jobs.try_begin()
            if begun is not None:
                poll = jobs.account.passing(begun, partial(self._poll, method, message, record.span))
                resource = await self._shield.retrying(poll, method.gate, record.retried)
                jobs.reported(job, resource)
                return resource, self._clock()
            resource = jobs.wait(job)
            if resource is None:
                raise jobs.account.refusal(record.call.operation.phrase(record.call.task_type))
        age = self._clock() - job.at
        if age > method.gate.policy.poll_max_age and not job.is_final:
            seen = f"{resource.phase.name}, as of {age:.0f} s ago"
            resource.message = f"{seen}: {resource.message}" if resource.message else seen
        return resource, job.at

    async def _poll(self, method: ConnectorMethod, message: GetTaskRequest, span: Span | None) -> Resource:
        """Call the connector's `get`; return the job's state."""
        return resource_to_message(await self._call_get(method, message, span), method.label)

    async def _call_get(self, method: ConnectorMethod, message: GetTaskRequest, span: Span | None) -> Any:
        offered = {"output_prefix": message.output_prefix}
        arguments = method.arguments(message.resource_meta, offered, message.connection)
        try:
            return await method(arguments, self._workers, span)
        except Exception as error:
            if not method.gate.applies:
                method.gate.failed_unlimited(message.connection, error)
            raise
