"""What the errors of vendors' clients say: whether they may pass, and of what kind they are.

1. Clients are known by the full names of their classes, so none is imported. Of a class's bases, the closest that is
   known decides.
2. What a vendor answered comes before what the client calls it: first a status of gRPC or a code of the vendor's, then
   an HTTP status, then the class.
3. A failed TLS handshake lasts, in whatever error it is wrapped, unless the connection was cut meanwhile.
4. An error that says nothing by itself counts as the one that it was raised from (`raise … from …`) or that it holds.
   An error that was only raised while another was handled says nothing of that one.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, Literal, NamedTuple

from grpclib import GRPCError

from connectrio.connector.failures import ConnectorError, TransientError, UnknownJobError

__all__ = ["FailureKind", "failure_kind", "is_one_of", "origins", "passes"]

FailureKind = Literal[
    "throttled", "timeout", "connection", "unavailable", "server_error", "denied", "not_found", "other"
]
"""What an error says of the system that a connector calls, in one word.

`throttled`: it asks to come again later; `timeout`: it was too slow; `connection`: it could not be reached, or the
connection was lost; `unavailable`: it says that it cannot answer now; `server_error`: it has failed; `denied`: it does
not accept the credentials; `not_found`: it does not know the job; `other`: anything else, a bug of the connector too.
"""


class _Verdict(NamedTuple):
    kind: FailureKind
    passes: bool


_LASTS = _Verdict("other", passes=False)

# the kinds of the errors that clients raise when a connection fails, something takes too long or a service asks them to
# come again; None: what a subclass says of itself, which lasts although its base may pass
_CLASSES: dict[str, FailureKind | None] = {
    "aiohttp.client_exceptions.ClientConnectionError": "connection",
    "aiohttp.client_exceptions.ClientPayloadError": "connection",
    "aiohttp.client_exceptions.ServerFingerprintMismatch": None,
    "anthropic.APIConnectionError": "connection",
    "anyio._core._exceptions.IncompleteRead": "connection",
    "asyncio.exceptions.IncompleteReadError": "connection",
    "asyncssh.misc.ChannelOpenError": "connection",
    "asyncssh.misc.ConnectionLost": "connection",
    "asyncssh.sftp.SFTPConnectionLost": "connection",
    "asyncssh.sftp.SFTPNoConnection": "connection",
    "azure.core.exceptions.IncompleteReadError": "connection",
    "azure.core.exceptions.ServiceRequestError": "connection",
    "azure.core.exceptions.ServiceResponseError": "connection",
    "botocore.exceptions.ConnectionClosedError": "connection",
    "botocore.exceptions.ConnectionError": "connection",
    "botocore.exceptions.IncompleteReadError": "connection",
    "botocore.exceptions.ReadTimeoutError": "timeout",
    "botocore.exceptions.ResponseStreamingError": "connection",
    "databricks.sdk.errors.platform.DataLoss": None,
    "databricks.sdk.errors.platform.DeadlineExceeded": "timeout",
    "databricks.sdk.errors.platform.InternalError": "server_error",
    "databricks.sdk.errors.platform.TemporarilyUnavailable": "unavailable",
    "databricks.sdk.errors.platform.TooManyRequests": "throttled",
    "google.api_core.exceptions.BadGateway": "unavailable",
    "google.api_core.exceptions.GatewayTimeout": "timeout",
    "google.api_core.exceptions.InternalServerError": "server_error",
    "google.api_core.exceptions.RetryError": "timeout",
    "google.api_core.exceptions.ServiceUnavailable": "unavailable",
    "google.api_core.exceptions.TooManyRequests": "throttled",
    "google.auth.exceptions.TimeoutError": "timeout",
    "google.auth.exceptions.TransportError": "connection",
    "grpc.FutureTimeoutError": "timeout",
    "grpclib.exceptions.StreamTerminatedError": "connection",
    "http.client.IncompleteRead": "connection",
    "httpcore.NetworkError": "connection",
    "httpcore.RemoteProtocolError": "connection",
    "httpcore.TimeoutException": "timeout",
    "httpx.LocalProtocolError": None,
    "httpx.TransportError": "connection",
    "httpx.UnsupportedProtocol": None,
    "httpx2.LocalProtocolError": None,
    "httpx2.SSEError": None,
    "httpx2.TransportError": "connection",
    "httpx2.UnsupportedProtocol": None,
    "openai.APIConnectionError": "connection",
    "paramiko.ssh_exception.ChannelException": "connection",
    "paramiko.ssh_exception.NoValidConnectionsError": "connection",
    "requests.exceptions.ChunkedEncodingError": "connection",
    "requests.exceptions.ConnectionError": "connection",
    "requests.exceptions.Timeout": "timeout",
    "snowflake.connector.errors.BadGatewayError": "unavailable",
    "snowflake.connector.errors.GatewayTimeoutError": "timeout",
    "snowflake.connector.errors.HttpError": "server_error",
    "snowflake.connector.errors.InternalServerError": "server_error",
    "snowflake.connector.errors.OperationalError": "connection",
    "snowflake.connector.errors.OtherHTTPRetryableError": "server_error",
    "snowflake.connector.errors.RequestTimeoutError": "timeout",
    "snowflake.connector.errors.RevocationCheckError": None,
    "snowflake.connector.errors.ServiceUnavailableError": "unavailable",
    "snowflake.connector.errors.TooManyRequests": "throttled",
    "urllib.error.HTTPError": None,
    "urllib.error.URLError": "connection",
    "urllib3.exceptions.EmptyPoolError": "timeout",
    "urllib3.exceptions.NewConnectionError": "connection",
    "urllib3.exceptions.ProtocolError": "connection",
    "urllib3.exceptions.ResponseNotChunked": None,
    "urllib3.exceptions.TimeoutError": "timeout",
}
_PASSING_ERRNOS = {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH}
# classes of TLS errors that say that the connection was cut
_TLS_CUT = {"ssl.SSLEOFError", "ssl.SSLSyscallError", "ssl.SSLZeroReturnError"}

_KINDS_OF_STATUSES: dict[str, FailureKind] = {
    "RESOURCE_EXHAUSTED": "throttled",
    "DEADLINE_EXCEEDED": "timeout",
    "UNAVAILABLE": "unavailable",
    "INTERNAL": "server_error",
    "UNKNOWN": "server_error",
    "DATA_LOSS": "server_error",
    "UNAUTHENTICATED": "denied",
    "PERMISSION_DENIED": "denied",
    "NOT_FOUND": "not_found",
}
_PASSING_STATUSES = {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
_KINDS_OF_HTTP_STATUSES: dict[int, FailureKind] = {
    401: "denied",
    403: "denied",
    404: "not_found",
    408: "timeout",
    410: "not_found",
    429: "throttled",
    502: "unavailable",
    503: "unavailable",
    504: "timeout",
    # of proxies: 520 to 524 of Cloudflare, 529 of vendors that are overloaded
    521: "unavailable",
    522: "timeout",
    523: "unavailable",
    524: "timeout",
    529: "throttled",
}
_PASSING_HTTP_STATUSES = {408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
# parts of the codes of AWS's services whose HTTP status is often 400. A "LimitExceededException" is a quota of most
_AWS_CODES: dict[str, FailureKind] = {
    "BandwidthLimitExceeded": "throttled",
    "PriorRequestNotComplete": "throttled",
    "ProvisionedThroughputExceeded": "throttled",
    "RequestLimitExceeded": "throttled",
    "SlowDown": "throttled",
    "Throttl": "throttled",
    "TooManyRequests": "throttled",
    "RequestTimeout": "timeout",
    "ServiceUnavailable": "unavailable",
    "InternalFailure": "server_error",
    "InternalServer": "server_error",
}
# SQLSTATE and its first two digits, see PostgreSQL's appendix A
_SQLSTATES: dict[str, FailureKind] = {
    "08": "connection",
    "40001": "server_error",
    "40P01": "server_error",
    "53300": "throttled",
    "57P01": "unavailable",
    "57P02": "unavailable",
    "57P03": "unavailable",
    "57P05": "connection",
}
# what PostgreSQL answers at the start of a connection when it will take it later; everything else that is FATAL lasts
_POSTGRES_LATER = ("starting up", "shutting down", "in recovery mode", "too many", "connection slots")
# texts of errors of paramiko that have no class of their own: the connection was cut, or was too slow
_PARAMIKO_CUT = (
    "protocol banner",
    "No existing session",
    "session not active",
    "Timeout opening channel",
    "timed out",
    "Negotiation failed",
)
# the codes of an account that has to be paid for; their HTTP status is 429
_UNPAID = {"insufficient_quota", "billing_hard_limit_reached"}

# what clients name classes for one cause, whatever their module; and parts of such names
_KINDS_OF_CLASSES: dict[str, FailureKind] = {
    "Forbidden": "denied",
    "NotFound": "not_found",
    "PermissionDenied": "denied",
    "Unauthenticated": "denied",
    "Unauthorized": "denied",
}
_TIMEOUTS = ("Timeout", "TimeLimit", "DeadlineExceeded")

# errors of a chain that are looked at
_MOST_ERRORS = 20


def passes(error: BaseException) -> bool:
    """Return whether `error` says that the other system is unreachable or overloaded for the moment."""
    verdict = _judge(error)
    return verdict is not None and verdict.passes


def failure_kind(error: BaseException) -> FailureKind:
    """Return what `error` says of the system that a connector calls, in one word. Raises nothing."""
    try:
        verdict = _judge(error)
        if verdict is not None:
            return verdict.kind
        names = _class_names(error)
        if any(part in name for part in _TIMEOUTS for name in names):
            return "timeout"
        found = (_KINDS_OF_CLASSES.get(name.rpartition(".")[2]) for name in names)
        return next((kind for kind in found if kind is not None), "other")
    except BaseException:  # noqa: BLE001 - the error's class is the connector's, and its attributes may do anything
        return "other"


def is_one_of(error: BaseException, words: Collection[str]) -> bool:
    """Return whether `error`, or one that it was raised from, is named by `words`.

    :param words: HTTP statuses ("409") and classes ("asyncssh.ConnectionLost", in any module of that package)
    """
    for each in origins(error):
        if str(_http_status(each)) in words:
            return True
        for name in _class_names(each):
            parts = name.split(".")
            if any(f"{'.'.join(parts[:count])}.{parts[-1]}" in words for count in range(1, len(parts))):
                return True
    return False


def _judge(error: BaseException) -> _Verdict | None:
    """Return what `error` and those that it was raised from say; None if they say nothing."""
    verdicts = (_own_verdict(each) for each in origins(error))
    verdict = next((verdict for verdict in verdicts if verdict is not None), None)
    if verdict is None or not verdict.passes or isinstance(error, TransientError):
        return verdict
    if verdict.kind in ("connection", "timeout") and _tls_failed(error):
        return _Verdict("connection", passes=False)
    return verdict


def _own_verdict(error: BaseException) -> _Verdict | None:
    """Return what `error` says by itself."""
    if isinstance(error, TransientError):
        return _Verdict(_kind_of_origins(error) or "unavailable", passes=True)
    if isinstance(error, ConnectorError):
        return _Verdict("not_found", passes=False) if isinstance(error, UnknownJobError) else _LASTS
    names = _class_names(error)
    if isinstance(error, TimeoutError):  # clients that try again for a while say so at last
        return _Verdict(_kind_of_origins(error) or "timeout", passes=True)
    if isinstance(error, ConnectionError) or not {"socket.gaierror", "ssl.SSLError"}.isdisjoint(names):
        return _Verdict("connection", passes=True)
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNOS:
        return _Verdict("connection", passes=True)
    name = error.status.name if isinstance(error, GRPCError) else _grpc_status_name(error, names)
    if name is not None:
        return _Verdict(_KINDS_OF_STATUSES.get(name, "other"), name in _PASSING_STATUSES)
    verdict = _of_code(error, names)
    if verdict is not None:
        return verdict
    status = _http_status(error)
    if status is not None:
        other: FailureKind = "server_error" if status >= 500 else "other"
        kind = _KINDS_OF_HTTP_STATUSES.get(status, other)
        return _Verdict(kind, status in _PASSING_HTTP_STATUSES)
    return _of_class(names)


def _kind_of_origins(error: BaseException) -> FailureKind | None:
    """Return what the errors say that `error` was raised from; None if they say nothing."""
    for each in islice(origins(error), 1, None):
        verdict = None if isinstance(each, TransientError | TimeoutError) else _own_verdict(each)
        if verdict is not None and verdict.kind != "other":
            return verdict.kind
    return None


def _tls_failed(error: BaseException) -> bool:
    """Return whether TLS failed at the bottom of `error`, but not because the connection was cut."""
    names = {name for each in origins(error) for name in _class_names(each)}
    return "ssl.SSLError" in names and _TLS_CUT.isdisjoint(names)


def _of_class(names: list[str]) -> _Verdict | None:
    known = next((name for name in names if name in _CLASSES), None)
    if known is None:
        return None
    kind = _CLASSES[known]
    if kind is None:
        return _LASTS
    if kind == "connection" and any(part in names[0] for part in _TIMEOUTS):
        kind = "timeout"
    return _Verdict(kind, passes=True)


def _of_code(error: Any, names: list[str]) -> _Verdict | None:
    """Return what a vendor's own code for the failure says."""
    package = names[0].partition(".")[0]
    if "botocore.exceptions.ClientError" in names:
        code = str(error.response.get("Error", {}).get("Code", ""))
        return next((_Verdict(kind, passes=True) for part, kind in _AWS_CODES.items() if part in code), None)
    if "google.api_core.exceptions.Forbidden" in names:
        reasons = [each.get("reason") for each in error.errors if isinstance(each, dict)]
        is_throttled = not {"rateLimitExceeded", "userRateLimitExceeded"}.isdisjoint(reasons)
        return _Verdict("throttled", passes=True) if is_throttled else None
    if "google.auth.exceptions.GoogleAuthError" in names and getattr(error, "retryable", False) is True:
        return _Verdict("unavailable", passes=True)
    if "snowflake.connector.errors.DatabaseError" in names and "HTTP request failed after retries" in str(error):
        return _Verdict("connection", passes="certificate" not in str(error))
    if "asyncssh.misc.DisconnectError" in names and getattr(error, "code", None) == 12:
        return _Verdict("throttled", passes=True)  # SSH_DISCONNECT_TOO_MANY_CONNECTIONS, RFC 4253, 11.1
    if names[0] == "paramiko.ssh_exception.SSHException":
        return _Verdict("connection", passes=True) if any(text in str(error) for text in _PARAMIKO_CUT) else _LASTS
    if package == "openai" and getattr(error, "code", None) in _UNPAID:
        return _Verdict("denied", passes=False)
    if package in ("asyncpg", "psycopg", "psycopg2", "psycopg_pool"):
        return _of_postgres(error, names)
    return None


def _of_postgres(error: Any, names: list[str]) -> _Verdict | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state:
        kind = _SQLSTATES.get(state) or _SQLSTATES.get(state[:2])
        return _LASTS if kind is None else _Verdict(kind, passes=True)
    if {"psycopg.OperationalError", "psycopg2.OperationalError"}.isdisjoint(names):
        return None
    # libpq tells why it has no connection in a text alone
    text = str(error)
    is_refused = "FATAL:" in text and not any(part in text for part in _POSTGRES_LATER)
    if is_refused or "certificate verify failed" in text:
        return _Verdict("denied", passes=False)
    return _Verdict("connection", passes=True)


def origins(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the errors that it was raised from or that it holds, the closest first; at most 20."""
    found = [error]
    for each in found:
        yield each
        kwargs = getattr(each, "kwargs", None)
        held = [
            each.__cause__,
            *each.args,
            # of urllib and urllib3; google-api-core; azure-core; urllib3
            *(getattr(each, name, None) for name in ("reason", "cause", "inner_exception", "original_error")),
            kwargs.get("error") if isinstance(kwargs, dict) else None,  # of botocore
            # a task group's; of several errors, none speaks for the others
            each.exceptions[0] if isinstance(each, BaseExceptionGroup) and len(each.exceptions) == 1 else None,
            # TLS that failed, of which kubernetes keeps a text alone
            each.__context__ if type(each).__module__ == "kubernetes.client.exceptions" else None,
        ]
        for one in held:
            is_new = isinstance(one, BaseException) and all(one is not known for known in found)
            if is_new and len(found) < _MOST_ERRORS:
                found.append(one)


def _class_names(error: BaseException) -> list[str]:
    """Return the full names of the error's class and those that it is made from, the closest first."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__]


def _grpc_status_name(error: BaseException, names: list[str]) -> str | None:
    """Return the name of the status of an error of grpcio's; None if it is not one, "" if it has none."""
    if "grpc.RpcError" not in names:
        return None
    code = getattr(error, "code", None)
    return str(getattr(code(), "name", "")) if callable(code) else ""


def _http_status(error: BaseException) -> int | None:
    """Return the status of the response that `error` is about, where HTTP clients keep it; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        candidates = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    else:
        names = ("status_code", "status", "http_status")
        candidates = [getattr(each, name, None) for each in (error, response) for name in names]
    found = next((status for status in candidates if isinstance(status, int) and 400 <= status < 600), None)
    if found is not None:
        return found
    known = type(error).__module__
    if known == "snowflake.connector.errors":  # 290503 is its number for 503
        number = getattr(error, "errno", None)
        return number - 290_000 if isinstance(number, int) and 290_400 <= number < 290_600 else None
    # urllib3 has tried several times and keeps the last status in a text alone
    match = re.fullmatch(r"too many (\d{3}) error responses", str(error)) if known == "urllib3.exceptions" else None
    return None if match is None else int(match[1])
