"""References to stored data: files, directories and data frames. Nothing here opens what they name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from connectrio.idl.flyteidl2.core import (
    Blob,
    BlobMetadata,
    BlobType,
    BlobTypeBlobDimensionality,
    Literal,
    Scalar,
    StructuredDataset,
    StructuredDatasetMetadata,
    StructuredDatasetType,
)
from connectrio.literals.codecs import ConvertingCodec, encodable
from connectrio.literals.errors import LiteralError, describe_value, mismatch
from connectrio.literals.steps import take_steps
from connectrio.literals.values import DataFrame, Dir, File

__all__ = ["BLOB_TYPES", "PICKLE_FORMAT", "BlobReference", "DataFrameReference", "read_blob", "read_dataframe"]

T = TypeVar("T")

PICKLE_FORMAT = "PythonPickle"
"""The format of blobs in which flyte-sdk stores values that it has no type for."""

_DIMENSIONALITY = {File: BlobTypeBlobDimensionality.SINGLE, Dir: BlobTypeBlobDimensionality.MULTIPART}
BLOB_TYPES: dict[int, type[File | Dir]] = {
    BlobTypeBlobDimensionality.SINGLE: File,
    BlobTypeBlobDimensionality.MULTIPART: Dir,
}
"""The class for blobs of each dimensionality."""


@dataclass(frozen=True)
class BlobReference(ConvertingCodec):
    """`File` or `Dir`. A text is taken as the path, a dictionary as the fields."""

    value_type: type[File | Dir]
    format: str = ""

    @property
    def label(self) -> str:
        return self.value_type.__name__

    def to_python(self, literal: Literal) -> Any:
        if literal.scalar is not None and literal.scalar.blob is not None:
            value = read_blob(literal.scalar.blob, literal.hash)
            if isinstance(value, self.value_type):
                return value
        return self.unusual(literal)

    def from_plain(self, value: Any) -> File | Dir:
        if isinstance(value, self.value_type):
            return value
        if self.converts and isinstance(value, str):
            return self.value_type(path=value, format=self.format)
        if self.converts and isinstance(value, dict):
            return _from_fields(value, self.value_type)
        raise mismatch(self.label, describe_value(value))

    def to_literal(self, value: Any) -> Literal:
        reference = self.from_plain(value)
        kind = BlobType(format=reference.format or self.format, dimensionality=_DIMENSIONALITY[self.value_type])
        blob = Blob(metadata=BlobMetadata(type=kind), uri=encodable(reference.path))
        return Literal(scalar=Scalar(blob=blob), hash=reference.hash or "")


@dataclass(frozen=True)
class DataFrameReference(ConvertingCodec):
    """`DataFrame`. A text is taken as the URI, a dictionary as the fields.

    :ivar declared: the declared type; by default any format and any columns
    """

    declared: StructuredDatasetType = field(default_factory=StructuredDatasetType)
    label = "DataFrame"

    def to_python(self, literal: Literal) -> Any:
        if literal.scalar is not None and literal.scalar.structured_dataset is not None:
            return read_dataframe(literal.scalar.structured_dataset, literal.hash)
        return self.unusual(literal)

    def from_plain(self, value: Any) -> DataFrame:
        if isinstance(value, DataFrame):
            return value
        if self.converts and isinstance(value, str):
            return DataFrame(uri=value, format=self.declared.format)
        if self.converts and isinstance(value, dict):
            return _from_fields(value, DataFrame)
        raise mismatch(self.label, describe_value(value))

    def to_literal(self, value: Any) -> Literal:
        reference = self.from_plain(value)
        if not reference.uri:
            raise LiteralError("a DataFrame needs the uri at which its data are stored")
        kind = dataclasses.replace(self.declared, format=reference.format or self.declared.format)
        metadata = StructuredDatasetMetadata(structured_dataset_type=kind)
        dataset = StructuredDataset(uri=encodable(reference.uri), metadata=metadata)
        return Literal(scalar=Scalar(structured_dataset=dataset), hash=reference.hash or "")


def _from_fields(fields: dict[Any, Any], value_type: type[T]) -> T:
    take_steps(len(fields))
    try:
        return msgspec.convert({name: value for name, value in fields.items() if value is not None}, value_type)
    except msgspec.ValidationError as error:
        raise LiteralError(f"expected {value_type.__name__}, got {describe_value(fields)}: {error}") from None


def read_blob(blob: Blob, digest: str) -> File | Dir:
    """Return the file or directory that a blob names.

    :param digest: the hash of the literal that holds the blob; "" for none
    :raises LiteralError: its dimensionality is unknown
    """
    kind = blob.metadata.type if blob.metadata is not None else None
    if kind is None:
        return File(path=blob.uri, hash=digest or None)
    value_type = BLOB_TYPES.get(kind.dimensionality)
    if value_type is None:
        raise LiteralError(f"expected File or Dir, got a blob of the unknown kind {int(kind.dimensionality)}")
    return value_type(path=blob.uri, format=kind.format, hash=digest or None)


def read_dataframe(dataset: StructuredDataset, digest: str) -> DataFrame:
    """Return the data frame that a structured dataset names.

    :param digest: the hash of the literal that holds the dataset; "" for none
    """
    kind = dataset.metadata.structured_dataset_type if dataset.metadata is not None else None
    return DataFrame(uri=dataset.uri, format="" if kind is None else kind.format, hash=digest or None)
