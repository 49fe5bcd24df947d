"""A task's inputs, as a connector gets them; what is stored elsewhere is read in a thread."""

from __future__ import annotations

from functools import partial
from typing import Any

from grpclib.const import Status

from connectrio.idl.flyteidl2.core import Literal, VariableMap
from connectrio.idl.flyteidl2.task import Inputs
from connectrio.literals import LiteralError, Storage, StorageError, StoredElsewhereError, inputs_to_python
from connectrio.rpc.codec import decode
from connectrio.service.errors import RequestError
from connectrio.service.workers import Workers

__all__ = ["InputReader"]

# threads that may read at once. They are not the connectors': a file server that hangs takes none of those
_READERS = 4
_MIB = 2**20


class InputReader:
    """Converts the literals of requests to Python values.

    :param max_stored_size: bytes that may be read for one task of what its inputs only refer to
    :param pickles: whether Python pickles among the inputs are read, which lets whoever sends them run code here
    """

    def __init__(self, *, max_stored_size: int = 32 * _MIB, pickles: bool = False) -> None:
        self._max_stored_size = max_stored_size
        self._pickles = pickles
        self._readers = Workers(_READERS)

    async def read(self, inputs: Inputs | None, variables: VariableMap | None) -> dict[str, Any]:
        """The inputs as Python values, in the order in which `variables` declares them.

        :raises RequestError: they do not fit what is declared, or cannot be read
        """
        try:
            try:
                return inputs_to_python(inputs, variables, pickles=self._pickles)
            except StoredElsewhereError:
                return await self._read_stored(inputs, variables)
        except StorageError as error:
            raise RequestError(str(error), Status.UNAVAILABLE) from error
        except LiteralError as error:
            raise RequestError(str(error)) from error

    async def _read_stored(self, inputs: Inputs | None, variables: VariableMap | None) -> dict[str, Any]:
        storage = Storage(self._max_stored_size, _decode)
        convert = partial(inputs_to_python, inputs, variables, storage=storage, pickles=self._pickles)
        return await self._readers.run(convert, name="reading stored inputs")

    async def wait_idle(self) -> None:
        """Wait until nothing is being read any more, for calls that were cancelled either."""
        await self._readers.wait_idle()


def _decode(data: bytes) -> Literal:
    literal: Literal = decode(data, Literal)
    return literal
