"""Answers to GetTask that are larger than the client takes.

grpc-go, and with it Flyte's executor, takes 4 MiB. It counts an answer that is larger as a failed poll, so its task is
lost after six. Outputs that are too large for an answer are written to `output_prefix/outputs.pb`. There the executor
reads the outputs of jobs whose answer has none: a LiteralMap, which is the same as `Outputs` on the wire.
"""

from __future__ import annotations

import importlib
import secrets
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from grpclib.const import Status

from connectrio.connector.base import Phase
from connectrio.diagnostics import LONGEST_TEXT, shorten
from connectrio.idl.flyteidl2.connector import GetTaskResponse, Resource
from connectrio.logs import get_logger
from connectrio.rpc.codec import encode, encode_ahead
from connectrio.service.errors import RequestError, describe_error
from connectrio.service.settings import ServiceSettings
from connectrio.service.workers import Workers

__all__ = ["OutputStoreError", "OutputWriter"]

logger = get_logger("connectrio.service")

# threads that may write at once. They are not the connectors' threads: a store that hangs takes none of those
_WRITERS = 4
_FILE = "outputs.pb"
# log links beyond which an answer is measured
_FEW_LINKS = 20
# bytes that the outputs add to an answer beside their own: the tag and length of the field, a longer length around it
_FRAMING = 16

_FOR_GOOD = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError)


class OutputStoreError(RequestError):
    """Outputs could not be written now; the next poll may succeed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Status.UNAVAILABLE)


class _NotWritableError(Exception):
    """Outputs cannot be written there. The text depends on the request alone, so it may go to the client."""


class OutputWriter:
    """Makes the states of jobs fit into answers.

    :param workers: those of the connectors, which tell of further threads that are stuck
    """

    def __init__(self, settings: ServiceSettings, workers: Workers) -> None:
        self._most = settings.max_response_size
        self._schemes = frozenset(settings.storage_schemes)
        self._writers = workers.further(
            _WRITERS, purpose="outputs", remedy="find out why the storage of output_prefix does not answer"
        )

    def fits(self, answer: GetTaskResponse, *, is_final: bool) -> bool:
        """Return whether `answer` may be as large as it is.

        :param is_final: it will not change any more, if it fits
        """
        resource = cast("Resource", answer.resource)
        is_small = resource.outputs is None and resource.custom_info is None and len(resource.log_links) <= _FEW_LINKS
        if is_small and len(resource.message) <= LONGEST_TEXT:
            return True
        return len(encode_ahead(answer) if is_final else encode(answer)) <= self._most

    async def fit(self, resource: Resource, output_prefix: str) -> None:
        """Make `resource` smaller: leave out what no task depends on, then write its outputs to a file.

        If the outputs cannot be written, the job has FAILED.

        :raises OutputStoreError: they cannot be written now
        """
        outputs, resource.outputs = resource.outputs, None
        size = _size(resource)
        if size > self._most // 4:
            logger.warning(
                "an answer to GetTask was too large; custom_info and log links are left out, and the message is cut",
                size=size,
                limit=self._most // 4,
            )
            resource.custom_info, resource.log_links = None, []
            resource.message = shorten(resource.message, min(LONGEST_TEXT, self._most // 32))
            size = _size(resource)
        if outputs is None:
            return
        data = encode(outputs)
        if size + len(data) + _FRAMING <= self._most:
            resource.outputs = outputs
            return
        if resource.phase is not Phase.SUCCEEDED:  # outputs are read of no other job
            return
        problem = await self._write(output_prefix, data)
        if problem is None:
            where = f"the outputs ({len(data)} bytes) are in {_FILE} below output_prefix"
            resource.message = f"{resource.message}; {where}" if resource.message else where
        else:
            resource.phase = Phase.FAILED
            resource.message = (
                f"the job has succeeded, but its outputs are lost: they have {len(data)} bytes, this host answers with"
                f" at most {self._most} (max_response_size), and {problem}. Return large values as File, Dir or"
                " DataFrame; or raise max_response_size, if the client takes larger messages"
            )

    async def _write(self, output_prefix: str, data: bytes) -> str | None:
        """Write `data`; return why it cannot be written, None if it was.

        :raises OutputStoreError: it cannot be written now
        """
        try:
            write = self._destination(output_prefix)
            await self._writers.run(partial(write, data), name="writing outputs")
        except _NotWritableError as error:
            return str(error)
        except Exception as error:
            # any: each of fsspec's filesystems has errors of its own. Their texts are for the log alone: a client
            # could find out by them which files the host has
            logger.warning("outputs could not be written", error=shorten(describe_error(error), 1000))
            if isinstance(error, ImportError):
                return "to write them to output_prefix, the host needs fsspec and its package for that kind of store"
            if isinstance(error, _FOR_GOOD):
                return "they could not be written to output_prefix; the host's log says why"
            raise OutputStoreError(
                f"the outputs ({len(data)} bytes) could not be written to output_prefix; the host's log says why"
            ) from error
        return None

    def _destination(self, output_prefix: str) -> Any:
        """Return the function that writes to `output_prefix`.

        :raises _NotWritableError: nothing is written there
        """
        if not output_prefix:
            raise _NotWritableError("the request has no output_prefix to write them to")
        if "://" not in output_prefix:
            scheme, path = "file", output_prefix
        else:
            try:
                parts = urlsplit(output_prefix)
            except ValueError as error:
                raise _NotWritableError("output_prefix is no valid URL") from error
            scheme, path = parts.scheme, unquote(parts.path)
            if scheme == "file" and parts.netloc not in ("", "localhost"):
                raise _NotWritableError("output_prefix is on another machine")
        if scheme not in self._schemes or "::" in output_prefix:
            raise _NotWritableError("output_prefix is of a kind that this host does not write to (storage_schemes)")
        if scheme != "file":
            return partial(_write_url, f"{output_prefix.rstrip('/')}/{_FILE}")
        if not path.startswith("/"):
            raise _NotWritableError("output_prefix is not an absolute path")
        return partial(_write_file, Path(path))


def _size(resource: Resource) -> int:
    return len(encode(GetTaskResponse(resource=resource)))


def _write_file(directory: Path, data: bytes) -> None:
    """Write all of the file or nothing. It replaces what has its name; a link is not followed."""
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f".{_FILE}.{secrets.token_hex(8)}"
    try:
        with unfinished.open("xb") as file:
            file.write(data)
        unfinished.replace(directory / _FILE)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def _write_url(url: str, data: bytes) -> None:
    # an optional dependency, and slow to load; ImportError: it, or its package for this kind of store, is not installed
    fsspec: Any = importlib.import_module("fsspec.core")
    filesystem, path = fsspec.url_to_fs(url)
    filesystem.pipe_file(path, data)
