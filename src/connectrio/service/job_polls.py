"""How the states of known jobs are asked for in the background: with `get`, or many at a time with `get_many`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import anyio

from connectrio.connector.phases import FINAL_PHASES
from connectrio.diagnostics import LONGEST_TEXT, format_error, shorten
from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.core import Connection
from connectrio.logs import get_logger, line_fields, line_mask
from connectrio.masking import SecretMask
from connectrio.rpc.exceptions import is_cancellation
from connectrio.rpc.left_open import leaving_nothing_open
from connectrio.service.conversion import expect, resource_to_message
from connectrio.service.errors import ConnectorFault, describe_error
from connectrio.service.methods import ConnectorMethod
from connectrio.service.operations import Operation
from connectrio.service.vendor_gate import VendorCall
from connectrio.service.workers import Workers
from connectrio.telemetry.jobs import JobName, job_id

__all__ = ["BackgroundPolls", "KnownJob"]

logger = get_logger("connectrio.service")

# how often jobs are polled one by one after `get_many` has failed for good
_TIMES_ALONE = 10


@dataclass(slots=True, eq=False)
class KnownJob:
    """A job that clients poll. Times are on the event loop's clock, if nothing else is said.

    :ivar asked: when a client asked for it last
    :ivar tried: when it was polled last; when it was asked for first, before that
    :ivar due: when it is polled in the background; `inf` while that goes on, None if it does not wait for that
    :ivar alone: how often it is polled with `get` from now on, although there is `get_many`
    :ivar resource: the last state that is known
    :ivar at: when that was reported, on the account's clock
    :ivar size: its bytes if it is large, else 0
    :ivar is_new: whether no client has got it yet
    :ivar error: why the last poll in the background failed
    :ivar places: where `error` was raised
    """

    name: JobName
    resource_meta: bytes
    output_prefix: str
    connection: Connection | None
    asked: float
    tried: float
    due: float | None = None
    alone: int = 0
    resource: Resource | None = None
    at: float = 0.0
    size: int = 0
    is_new: bool = False
    error: Exception | None = None
    places: TracebackType | None = None

    @property
    def is_final(self) -> bool:
        """Whether the state will not change any more."""
        return self.resource is not None and self.resource.phase in FINAL_PHASES


class BackgroundPolls:
    """Asks a connector for the states of known jobs. A call of it is no client's, and has lines of its own in the log.

    :param get: the connector's method
    :param many: its `get_many`; None if it has none
    :param limit: seconds for one call
    :param count: called for each call, with the method that it is for
    """

    def __init__(
        self,
        get: ConnectorMethod,
        many: ConnectorMethod | None,
        workers: Workers,
        limit: float,
        count: Callable[[Operation], None],
    ) -> None:
        self._get = get
        self._many = many
        self._workers = workers
        self._limit = limit
        self._count = count

    async def ask(self, jobs: Sequence[KnownJob], call: VendorCall) -> Sequence[Resource | Exception | None]:
        """Ask for these jobs with one call; return the state of each, why there is none, or None for `get`.

        :param call: of the account, which has begun and ends here
        """
        first = jobs[0]
        many = None if first.alone else self._many
        operation = Operation.GET if many is None else Operation.GET_MANY
        secrets = {} if first.connection is None else first.connection.secrets
        if secrets:
            line_mask.set(SecretMask(secrets).text)
        line_fields.set(partial(self.identity, operation, jobs))
        self._count(operation)
        try:
            with call, anyio.fail_after(self._limit), leaving_nothing_open():
                return [await self._ask_one(first)] if many is None else await self._ask_many(many, jobs)
        except BaseException as error:
            if is_cancellation(error) or isinstance(error, KeyboardInterrupt):
                raise
            failure = error if isinstance(error, Exception) else ConnectorFault(describe_error(error))
            return [failure] if many is None else self._many_failed(many, jobs, failure)

    async def _ask_one(self, job: KnownJob) -> Resource:
        get = self._get
        job.alone = max(0, job.alone - 1)
        arguments = get.arguments(job.resource_meta, {"output_prefix": job.output_prefix}, job.connection)
        return resource_to_message(await get(arguments, self._workers), get.label)

    async def _ask_many(self, many: ConnectorMethod, jobs: Sequence[KnownJob]) -> list[Any]:
        """Return the state of each job, why there is none, or None for `get`."""
        metas: dict[int, Any] = {}
        results: list[Any] = [None] * len(jobs)
        for number, job in enumerate(jobs):
            try:
                metas[number] = many.decode(job.resource_meta)
            except Exception as error:  # noqa: BLE001 - `get` would raise it for this job alone
                results[number] = error
        if not metas:
            return results
        arguments = many.with_connection({"resource_metas": list(metas.values())}, jobs[0].connection)
        found = expect(await many(arguments, self._workers), Sequence, f"{many.label} returned")  # type: ignore[type-abstract]  # isinstance takes it
        if len(found) != len(metas):
            raise ConnectorFault(
                f"{many.label} returned {len(found)} items for {len(metas)} jobs; return one for each, in their order,"
                " and None for a job that was not found"
            )
        for number, item in zip(metas, found, strict=True):
            try:
                is_none = item is None or isinstance(item, Exception)
                results[number] = item if is_none else resource_to_message(item, many.label)
            except ConnectorFault as error:
                results[number] = error
        return results

    def _many_failed(
        self, many: ConnectorMethod, jobs: Sequence[KnownJob], error: Exception
    ) -> Sequence[Exception | None]:
        """Return what to keep of each job when the call for all has failed."""
        if many.gate.is_vendors(error):
            return [error] * len(jobs)
        mask = line_mask.get()
        text = format_error(error, 2 * LONGEST_TEXT)
        logger.warning(
            "get_many failed; its jobs are polled one by one for a while",
            method=many.label,
            jobs=len(jobs),
            exception=shorten(text if mask is None else mask(text), LONGEST_TEXT),
        )
        for job in jobs:
            job.alone = _TIMES_ALONE
        return [None] * len(jobs)

    def identity(self, operation: Operation = Operation.GET, jobs: Sequence[KnownJob] = ()) -> dict[str, str | int]:
        """Return what the lines say that a connector writes."""
        connector = self._get.connector
        fields: dict[str, str | int] = {
            "operation": operation.value,
            "task_type": connector.task_type_name,
            "task_type_version": connector.task_type_version,
        }
        return fields | {"job": job_id(jobs[0].name)} if len(jobs) == 1 else fields
