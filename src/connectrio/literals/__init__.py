"""Convert Flyte literals to Python values and back. Synchronous; only a `Storage` does I/O.

What comes in is read by its declared type: `declared.codec_for` finds its codec. The codecs are in `codecs/`; structs
with a JSON schema are read by `shapes`, which `json_schema` makes of the schema. What goes out is written by the class
of the value, in `untyped`. `unconverted` checks what flyte-sdk converts. Every error is a `LiteralError`.
"""

from __future__ import annotations

from connectrio.literals.declared import inputs_to_python, literal_to_python, python_to_literal_as, type_name
from connectrio.literals.errors import MAX_DEPTH, LiteralError, StoredElsewhereError
from connectrio.literals.literal_types import literal_type_of
from connectrio.literals.steps import TooManyStepsError
from connectrio.literals.storage import Storage, StorageError, StoredInputError
from connectrio.literals.unconverted import checked_inputs
from connectrio.literals.untyped import outputs_to_literals, python_to_literal
from connectrio.literals.values import DataFrame, Dir, File, Record

__all__ = [
    "MAX_DEPTH",
    "DataFrame",
    "Dir",
    "File",
    "LiteralError",
    "Record",
    "Storage",
    "StorageError",
    "StoredElsewhereError",
    "StoredInputError",
    "TooManyStepsError",
    "checked_inputs",
    "inputs_to_python",
    "literal_to_python",
    "literal_type_of",
    "outputs_to_literals",
    "python_to_literal",
    "python_to_literal_as",
    "type_name",
]
