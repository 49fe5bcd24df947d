"""Which phase an error ends a job in. The table is in the package's docstring."""

from __future__ import annotations

from connectrio.connectors.duckdb._records import JobState, shorten
from connectrio.connectors.duckdb._task import TaskError
from connectrio.logs import get_logger

__all__ = ["state_after"]

log = get_logger("connectrio.connectors.duckdb")

# DuckDB has one class for all errors of input and output; only the text tells which of them would happen again
_LASTING_IO_ERRORS = (
    "No files found that match",
    "No such file or directory",
    "Permission denied",
    "Is a directory",
    "do not support",
)


def state_after(error: Exception) -> tuple[JobState, str]:
    """The final state of a job that ended with `error`, and the message for the user."""
    if isinstance(error, ImportError):
        return JobState.RETRYABLE_FAILED, shorten(f"DuckDB cannot be loaded on this host: {error}")

    import duckdb

    match error:
        case TaskError():
            state = JobState.FAILED
        case duckdb.IOException():
            lasting = any(text in str(error) for text in _LASTING_IO_ERRORS)
            state = JobState.FAILED if lasting else JobState.RETRYABLE_FAILED
        case (
            duckdb.OutOfMemoryException()
            | duckdb.TransactionException()
            | duckdb.InterruptException()
            | duckdb.InternalException()
            | duckdb.FatalException()
        ):
            state = JobState.RETRYABLE_FAILED
        case duckdb.Error():
            # without a class of its own: an extension that could not be downloaded
            state = JobState.RETRYABLE_FAILED if type(error) is duckdb.Error else JobState.FAILED
        case PermissionError() | NotADirectoryError() | FileExistsError():
            state = JobState.FAILED
        case OSError() | MemoryError():
            state = JobState.RETRYABLE_FAILED
        case _:
            log.error("the DuckDB connector has a bug", exc_info=error)
            return JobState.RETRYABLE_FAILED, shorten(f"error in the DuckDB connector: {type(error).__name__}: {error}")
    return state, shorten(str(error))
