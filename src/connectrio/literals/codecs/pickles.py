"""Python pickles: what flyte-sdk sends for values that it has no type for. Reading one runs code of the sender's."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from connectrio.idl.flyteidl2.core import Literal
from connectrio.literals.codecs.base import Codec
from connectrio.literals.describe import describe_value
from connectrio.literals.errors import LiteralError, StoredElsewhereError, mismatch
from connectrio.literals.storage import Storage

__all__ = ["Pickle"]


@dataclass(frozen=True)
class Pickle(Codec):
    """Whatever the sender has pickled, in the literal itself or in a file. For hosts that allow it alone.

    :ivar storage: reads files. Without it nothing is read, pickles in literals included: they may take any time as well
    """

    storage: Storage | None
    label = "pickle"

    def to_python(self, literal: Literal) -> Any:
        scalar = literal.scalar
        if scalar is not None and scalar.blob is not None:
            return _unpickle(self._given_storage().read(scalar.blob.uri))
        if scalar is not None and scalar.binary is not None and not scalar.binary.tag:
            self._given_storage()
            return _unpickle(scalar.binary.value)
        return self.unusual(literal)

    def _given_storage(self) -> Storage:
        if self.storage is None:
            raise StoredElsewhereError("got a pickle, which is read with a Storage alone")
        return self.storage

    def from_plain(self, value: Any) -> Any:
        return value

    def to_literal(self, value: Any) -> Literal:
        raise mismatch("a type that is data", f"pickle for {describe_value(value)}")


def _unpickle(data: bytes) -> Any:
    try:
        return pickle.loads(data)  # noqa: S301 - what the host has been told to allow
    except ModuleNotFoundError as error:
        advice = "pip install cloudpickle" if error.name == "cloudpickle" else "install what the sender has installed"
        raise LiteralError(
            f"this pickle needs the module {error.name}, which is not installed here: {advice}"
        ) from error
    except Exception as error:
        # any: a pickle runs code of its own
        raise LiteralError(f"this pickle cannot be read: {type(error).__name__}: {error}") from error
