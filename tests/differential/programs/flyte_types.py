"""Run by the Python that has flyte-sdk: the types that it declares for Python's, and values as it sends them.

Writes a JSON object to standard output: name → {"type": LiteralType, "values": [Literal, …]} in protobuf's JSON. What
it wrote is in flyte_types.json, because schemas are a little different with other versions of pydantic.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import json
import logging
import typing
from dataclasses import dataclass, field

from flyte.io import DataFrame, Dir, File
from flyte.types import TypeEngine
from google.protobuf import json_format
from pydantic import BaseModel, Field

NOON = dt.datetime(2024, 5, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Point:
    x: int
    label: str = "here"


@dataclass
class Flat:
    i: int
    f: float
    s: str
    b: bool


@dataclass
class Times:
    moment: dt.datetime
    day: dt.date
    span: dt.timedelta
    clock: dt.time
    raw: bytes


@dataclass
class Nested:
    point: Point
    perhaps: Point | None
    perhaps_not: Point | None = None


@dataclass
class Holders:
    points: list[Point]
    by_name: dict[str, Point]


@dataclass
class Lists:
    ints: list[int]
    grid: list[list[int]]
    floats: dict[str, float]
    numbered: dict[int, str]
    lists: dict[str, list[int]]
    many: tuple[int, ...]
    unique: set[int]
    free: dict


@dataclass
class Free:
    anything: typing.Any
    items: list


@dataclass
class Pair:
    pair: tuple[int, str]


@dataclass
class Optionals:
    number: int | None
    colour: Colour
    perhaps: Colour | None
    colours: list[Colour]
    word: typing.Literal["a", "b"]
    numbers: list[int] | None = None
    by_name: dict[str, int] | None = None


@dataclass
class Either:
    value: int | str
    perhaps: int | str | None = None


@dataclass
class Defaults:
    word: str = "hello"
    share: float = 1.5
    on: bool = True
    colour: Colour = Colour.RED
    nothing: int | None = None
    numbers: list[int] = field(default_factory=list)
    by_name: dict[str, int] = field(default_factory=dict)


@dataclass
class WholeDefault:
    count: int = 5


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class Forest:
    tree: Tree


@dataclass
class Stored:
    file: File
    directory: Dir
    table: DataFrame
    perhaps: File | None = None


@dataclass
class Nothing:
    pass


@dataclass
class Levels:
    level: Level


class PPoint(BaseModel):
    x: int
    label: str = "here"


class PFlat(BaseModel):
    i: int
    f: float
    s: str
    b: bool


class PTimes(BaseModel):
    moment: dt.datetime
    day: dt.date
    span: dt.timedelta
    clock: dt.time
    raw: bytes


class PNested(BaseModel):
    point: PPoint
    points: list[PPoint]
    by_name: dict[str, PPoint]
    perhaps: PPoint | None
    perhaps_not: PPoint | None = None


class PLists(BaseModel):
    ints: list[int]
    grid: list[list[int]]
    floats: dict[str, float]
    numbered: dict[int, str]
    many: tuple[int, ...]
    unique: set[int]
    free: dict


class PFree(BaseModel):
    anything: typing.Any
    items: list


class POptionals(BaseModel):
    number: int | None
    colour: Colour
    perhaps: Colour | None
    colours: list[Colour]
    word: typing.Literal["a", "b"]
    one: typing.Literal["only"]
    numbers: list[int] | None = None
    bounded: int = Field(3, ge=0, le=10)


class PEither(BaseModel):
    value: int | str
    colour: Colour | int


class PDefaults(BaseModel):
    word: str = "hello"
    colour: Colour = Colour.RED
    numbers: list[int] = Field(default_factory=list)
    point: PPoint = Field(default_factory=lambda: PPoint(x=1))
    listed: list[int] = [1, 2]


class PTree(BaseModel):
    value: int
    children: list[PTree] = []


class Cat(BaseModel):
    kind: typing.Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: typing.Literal["dog"]
    age: int


class Owner(BaseModel):
    pet: typing.Annotated[Cat | Dog, Field(discriminator="kind")]


class PStored(BaseModel):
    file: File
    directory: Dir
    table: DataFrame
    perhaps: File | None = None


class PNothing(BaseModel):
    pass


class Aliased(BaseModel):
    model_config = {"populate_by_name": True}
    x: int = Field(alias="not-a-name", serialization_alias="not-a-name")


class PColoured(BaseModel):
    inner: Optionals


class Named(typing.NamedTuple):
    x: int
    label: str


class Names(typing.TypedDict):
    x: int
    label: str


POINT, PPOINT = Point(1, "there"), PPoint(x=1, label="there")
FLAT = {"i": 7, "f": 1.5, "s": "é", "b": True}
TIMES = {
    "moment": NOON, "day": NOON.date(), "span": dt.timedelta(minutes=1.5), "clock": dt.time(10, 30), "raw": b"abc"
}  # fmt: skip
LISTS = {
    "ints": [1, 2], "grid": [[1], []], "floats": {"a": 1.0}, "numbered": {1: "one"}, "many": (1, 2), "unique": {3},
    "free": {"a": 1, "b": [None, {"c": 1.5}]},
}  # fmt: skip
FILE = File(path="s3://bucket/a.csv", format="csv", hash="h")
STORED = {
    "file": FILE, "directory": Dir(path="s3://bucket/d"), "table": DataFrame(uri="s3://bucket/t", format="parquet")
}  # fmt: skip
CHOICES = {"number": None, "colour": Colour.RED, "perhaps": Colour.BLUE, "colours": [Colour.RED], "word": "a"}

VALUES: list[tuple[str, typing.Any, list[typing.Any]]] = [
    ("Point", Point, [POINT, Point(-1)]),
    ("Flat", Flat, [Flat(**FLAT)]),
    ("Times", Times, [Times(**TIMES)]),
    ("Nested", Nested, [Nested(POINT, None), Nested(POINT, Point(2), Point(3))]),
    ("Holders", Holders, [Holders([POINT, Point(2)], {"a": POINT}), Holders([], {})]),
    ("Lists", Lists, [Lists(lists={"a": [1]}, **LISTS)]),
    ("Free", Free, [Free("text", ["a"]), Free(5, [1, "a"])]),
    ("Pair", Pair, [Pair((1, "a"))]),
    ("Optionals", Optionals, [Optionals(**CHOICES), Optionals(**CHOICES, numbers=[1], by_name={"a": 1})]),
    ("Either", Either, [Either(1), Either("a"), Either(1, "b"), Either(1, 2)]),
    ("Defaults", Defaults, [Defaults()]),
    ("WholeDefault", WholeDefault, [WholeDefault()]),
    ("Tree", Tree, [Tree(1, [Tree(2)])]),
    ("Forest", Forest, [Forest(Tree(1, [Tree(2)]))]),
    ("Stored", Stored, [Stored(**STORED), Stored(**STORED, perhaps=FILE)]),
    ("Nothing", Nothing, [Nothing()]),
    ("Levels", Levels, [Levels(Level.HIGH)]),
    ("PPoint", PPoint, [PPOINT, PPoint(x=-1)]),
    ("PFlat", PFlat, [PFlat(**FLAT)]),
    ("PTimes", PTimes, [PTimes(**TIMES)]),
    ("PNested", PNested, [PNested(point=PPOINT, points=[PPOINT], by_name={"a": PPOINT}, perhaps=None)]),
    ("PLists", PLists, [PLists(**LISTS)]),
    ("PFree", PFree, [PFree(anything="text", items=["a"]), PFree(anything=5, items=[1, "a"])]),
    ("POptionals", POptionals, [POptionals(**CHOICES, one="only"), POptionals(**CHOICES, one="only", numbers=[1])]),
    ("PEither", PEither, [PEither(value=1, colour=Colour.RED), PEither(value="a", colour=1)]),
    ("PDefaults", PDefaults, [PDefaults()]),
    ("PTree", PTree, [PTree(value=1, children=[PTree(value=2)])]),
    ("Owner", Owner, [Owner(pet=Cat(kind="cat", lives=9)), Owner(pet=Dog(kind="dog", age=3))]),
    ("PStored", PStored, [PStored(**STORED), PStored(**STORED, perhaps=FILE)]),
    ("PNothing", PNothing, [PNothing()]),
    ("Aliased", Aliased, []),
    ("PColoured", PColoured, [PColoured(inner=Optionals(**CHOICES))]),
    ("tuple", tuple[int, str], [(1, "a")]),
    ("tuple of objects", tuple[list[int], PPoint, int | None], [([1], PPOINT, None)]),
    ("tuple in a tuple", tuple[int, tuple[str, float]], [(1, ("a", 1.5))]),
    ("Named", Named, [Named(1, "a")]),
    ("Names", Names, [{"x": 1, "label": "a"}]),
    ("dict", dict, [{"a": 1, "b": [None, {"c": 1.5}]}]),
    ("dict of int", dict[int, str], [{1: "one"}]),
    ("map of objects", dict[str, Point], [{"a": POINT}]),
    ("list of objects", list[Point], [[POINT, Point(2)]]),
    ("list of models", list[PPoint], [[PPOINT]]),
    ("Colour", Colour, [Colour.RED]),
    ("Level", Level, [Level.LOW]),
    ("word", typing.Literal["a", "b"], []),
    ("int or text", int | str, [1, "a"]),
    ("perhaps an int", int | None, [1, None]),
    ("perhaps a list", list[int] | None, [[1], None]),
    ("perhaps an object", Point | None, [POINT, None]),
    ("object or object", Point | Flat, [POINT, Flat(**FLAT)]),
    ("object or model", Point | PFlat, [POINT, PFlat(**FLAT)]),
    ("list of either", list[int | str], [[1, "a"]]),
    ("File", File, [FILE]),
    ("Dir", Dir, [Dir(path="s3://bucket/d", format="parquet")]),
    ("pickle", set, []),
]


async def describe(declared: typing.Any, values: list[typing.Any]) -> dict[str, typing.Any]:
    """The type and the literals of the values that flyte-sdk can send."""
    literal_type = TypeEngine.to_literal_type(declared)
    literals = [await TypeEngine.to_literal(value, declared, literal_type) for value in values]
    return {
        "type": json_format.MessageToDict(literal_type),
        "values": [json_format.MessageToDict(literal) for literal in literals],
    }


async def main() -> None:
    """Write all of them."""
    logging.disable(logging.CRITICAL)
    lines = [
        f"{json.dumps(name)}: {json.dumps(await describe(declared, values), sort_keys=True)}"
        for name, declared, values in VALUES
    ]
    print("{", ",\n".join(lines), "}", sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
