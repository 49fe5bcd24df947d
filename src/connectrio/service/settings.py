"""The settings of Flyte's RPC methods. Each stands here once, with its default; a host's settings inherit them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from connectrio.connector.policy import Policies
from connectrio.rpc.options import AT_LEAST_1, KIB, MIB, NOT_NEGATIVE, POSITIVE, Bound, check_bound
from connectrio.service.job_store.url import check_url

__all__ = ["ServiceSettings"]

_RESPONSE: Bound = (lambda value: value >= 64 * KIB, f"must be at least {64 * KIB}, for messages and log links")


# of the object stores that Flyte supports, as fsspec spells them
_OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "az")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What `AsyncConnectorService` may do and for how long. Times are in seconds, sizes in bytes.

    Flyte's executor waits 10 s for any call unless it is configured otherwise. The limits of operations are well above
    that, so that the executor's timeouts can be raised without touching the host. They are for clients that set no
    deadline: a hung vendor must not hold a call, and with it a drain, for ever.

    :ivar worker: the most plain `def` methods of connectors that run at once, each in a thread, shared equally among
        the connectors. A connector whose share others have taken may use further threads, at most as many again. Also
        the most event loops that a package of connectors for flyte-sdk may have while its first one is blocked
    :ivar create_limit: for one CreateTask, whatever deadline the client sets
    :ivar get_limit: for one GetTask
    :ivar delete_limit: for one DeleteTask
    :ivar metrics_limit: for one GetTaskMetrics
    :ivar logs_limit: for one GetTaskLogs stream; none by default, because following the logs takes as long as the job
    :ivar execute_limit: for one ExecuteTaskSync of Flyte 1: a whole job, for which its client waits. The executor of
        Flyte 1 gives up after ten seconds by default, and hardly any client waits for more than ten minutes
    :ivar create_memory: the time for which a repeated CreateTask is answered with the existing job, and a lost job is
        kept for the next attempt. The executor repeats within seconds, or when it has restarted
    :ivar create_memory_size: the most jobs that are remembered for that; about 4 KB each, and their resource_meta
    :ivar create_memory_bytes: the most bytes of resource_meta that are remembered for that. A usual one has a few
        hundred
    :ivar job_store: the URL of a database that hosts share, so that a job is created once whichever host is asked for
        it: postgresql://host/database for replicas (extra `postgres`), sqlite:///path for processes of one machine. By
        default a host remembers for itself; with several processes, they share a file in a temporary directory. Let
        libpq's variables or password file have the password, or give the URL in a variable or in the TOML file:
        everyone on a machine can read command lines
    :ivar job_store_required: answer creates UNAVAILABLE while the job store does not answer. By default a host then
        remembers for itself
    :ivar job_lease: the time after which another host takes over what a host was creating when it gave its last sign of
        life. It must be below the ten seconds that the executor waits, and longer than a machine is ever too busy to
        give a process a turn
    :ivar poll_retry: the time for which a GetTask that fails transiently is retried, at most half of the time until its
        deadline. The executor waits 10 s; 0 turns it off
    :ivar poll_absorb: the time for which such failures are answered with the last known phase. The executor gives up a
        task after the sixth error in its whole life, and incidents of other systems last minutes; 0 turns it off
    :ivar max_calls: the most calls in connectors at once, except streams of logs. Half of them is divided equally among
        the connectors, so that none takes all; the other half is for any connector
    :ivar max_calls_per_connector: the most calls of one task type
    :ivar max_waiting_calls: the most calls that wait for a free place, divided equally among the connectors; further
        ones are answered RESOURCE_EXHAUSTED. With max_calls and max_log_streams this is less than
        max_concurrent_streams, so that every connection has room for health checks and listings
    :ivar max_log_streams: the most GetTaskLogs streams at once, half of them to one address (of IPv6: one /64);
        they can last as long as a job, so none waits for another to end
    :ivar max_stored_input_size: the most bytes to read for the inputs of one task that Flyte has stored outside of the
        request. Flyte stores what is larger than 10 MB; the values take several times as much memory as their bytes
    :ivar max_response_size: the most bytes of an answer to GetTask or CreateTask. Flyte's executor takes 4 MiB, as
        grpc-go does by default. Larger outputs are written to outputs.pb below the task's output_prefix
    :ivar storage_schemes: where stored inputs may be read from and large outputs written to: `file` for absolute paths
        and file:// URLs, and schemes of fsspec. Whoever may send a request chooses the place, and the host reads and
        writes with its own rights. So by default these are the stores in which Flyte keeps data, and not those that
        reach any address, such as http
    :ivar connector_options: options of single connectors, in place of what their authors have set: TYPE.OPTION=VALUE,
        such as snowflake.rate_calls=30. The options are the fields of ConnectorPolicy, such as limits for the calls
        that are made to the other system
    :ivar unsafe_pickle: LET ANYONE WHO CAN SEND REQUESTS TO THIS HOST RUN ANY CODE IN IT. Flyte sends values of types
        that it does not know as Python pickles, and reading a pickle runs the code that its sender has put in it. Only
        for hosts that nobody but a trusted Flyte can reach; it needs cloudpickle, and the modules of the values' types
    """

    worker: int = 10
    create_limit: float = 60.0
    get_limit: float = 30.0
    delete_limit: float = 60.0
    metrics_limit: float = 30.0
    logs_limit: float | None = None
    execute_limit: float = 600.0
    create_memory: float = 600.0
    create_memory_size: int = 4096
    create_memory_bytes: int = 32 * MIB
    job_store: str | None = field(default=None, repr=False)
    job_store_required: bool = False
    job_lease: float = 6.0
    poll_retry: float = 4.0
    poll_absorb: float = 600.0
    max_calls: int = 700
    max_calls_per_connector: int = 400
    max_waiting_calls: int = 150
    max_log_streams: int = 100
    max_stored_input_size: int = 32 * MIB
    max_response_size: int = 4 * MIB - 64 * KIB
    storage_schemes: list[str] = field(default_factory=lambda: ["file", *_OBJECT_STORES])
    connector_options: list[str] = field(default_factory=list)
    unsafe_pickle: bool = False

    def __post_init__(self) -> None:
        check_bound(self, AT_LEAST_1, "worker", "create_memory_size")
        check_bound(self, AT_LEAST_1, "max_calls", "max_calls_per_connector", "max_log_streams")
        check_bound(self, _RESPONSE, "max_response_size")
        check_bound(self, NOT_NEGATIVE, "create_memory", "poll_retry", "poll_absorb")
        check_bound(self, NOT_NEGATIVE, "max_waiting_calls", "max_stored_input_size", "create_memory_bytes")
        check_bound(self, POSITIVE, "create_limit", "get_limit", "delete_limit")
        check_bound(self, POSITIVE, "metrics_limit", "logs_limit", "execute_limit", "job_lease")
        if self.job_store is not None:
            check_url(self.job_store)
            if self.create_memory == 0:
                raise ValueError("job_store is of no use with create_memory 0, which forgets jobs at once")
        for scheme in self.storage_schemes:
            if _SCHEME.fullmatch(scheme) is None:
                raise ValueError(f"storage_schemes must be schemes such as s3, without ://, got {scheme!r}")
        try:
            self.policies  # noqa: B018 - it reads the options
        except ValueError as error:
            raise ValueError(f"connector_options {error}") from None

    @cached_property
    def policies(self) -> Policies:
        """What the operator has set for single connectors."""
        return Policies(self.connector_options)
