"""The list of requests that our host answers differently from flyte-sdk's, with the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["DIFFERENCES", "Difference", "difference_of"]


@dataclass(frozen=True)
class Difference:
    """Requests that are answered differently for one reason.

    :ivar what: what the requests are about
    :ivar theirs: what flyte-sdk's host does
    :ivar ours: what our host does
    :ivar why: the reason
    :ivar statuses: flyte-sdk's and ours, a pair for each kind of request
    :ivar cases: patterns of the requests' names
    :ivar but: patterns of names that are excluded from `cases`
    :ivar is_general: whether it has only those requests of `cases` that have these statuses and belong to no other
        difference
    """

    what: str
    theirs: str
    ours: str
    why: str
    statuses: tuple[tuple[str, str], ...]
    cases: tuple[str, ...]
    but: tuple[str, ...] = ()
    is_general: bool = False

    def names(self, request: str) -> bool:
        """Whether the request of that name is meant."""
        return any(fnmatchcase(request, case) for case in self.cases) and not any(
            fnmatchcase(request, case) for case in self.but
        )

    def unused(self, requests: Iterable[str]) -> Iterator[str]:
        """The patterns that name none of these requests."""
        names = list(requests)
        return (case for case in (*self.cases, *self.but) if not any(fnmatchcase(name, case) for name in names))


def difference_of(request: str, statuses: tuple[str, str]) -> list[Difference]:
    """The differences that a request has, if its answers differ and have these statuses."""
    found = [difference for difference in DIFFERENCES if difference.names(request) and not difference.is_general]
    return found or [
        difference
        for difference in DIFFERENCES
        if difference.is_general and difference.names(request) and statuses in difference.statuses
    ]


REFUSED, TAKEN, CHANGED = (("OK", "INVALID_ARGUMENT"),), (("INTERNAL", "OK"),), (("OK", "OK"),)
OUTPUT_REFUSED = (("OK", "INTERNAL"),)
MSGPACK = ("* <- msgpack *", "* <- pickle")

DIFFERENCES: list[Difference] = [
    Difference(
        "an input that cannot be converted",
        "INTERNAL, with Python's error and the whole literal in the text; for a name that is not declared, `'z'`",
        "INVALID_ARGUMENT, with a sentence that names the input, its declared type and what was sent",
        "the request is wrong, not the connector; and a literal may be secret, or megabytes long",
        (("INTERNAL", "INVALID_ARGUMENT"),),
        ("* <- *", "edge: *", "object: *", "schema of *", "inputs: *", "stored: *"),
        is_general=True,
    ),
    Difference(
        "an integer from 5.9",
        "`5`",
        "an error; 5.0 is 5 on both sides",
        "part of the number would be lost without an error",
        REFUSED,
        ("int <- float 5.9", "int or text <- float 5.9", "perhaps an int <- float 5.9", "dataclass: integer <- float"),
    ),
    Difference(
        "an integer beyond 64 bits",
        "a Python int",
        "an error",
        "it could not be returned as a literal",
        REFUSED,
        ("edge: int from a great float", "edge: int from msgpack beyond"),
    ),
    Difference(
        "a bool where a number is declared",
        "`True`, 1 or one second",
        "an error",
        "a bool is not a number in Flyte's types",
        REFUSED,
        (
            "int <- msgpack true", "int or text <- msgpack true", "int or float <- msgpack true",
            "perhaps an int <- msgpack true", "duration <- msgpack true", "*: integer <- true", "*: number <- true",
        ),
    ),
    Difference(
        "a number of the other kind in MessagePack",
        "an error",
        "5.0 is 5, and 7 is 7.0, as in literals",
        "it may come from JSON, which does not distinguish them",
        TAKEN,
        (
            "int <- msgpack 5.0", "int or text <- msgpack 5.0", "perhaps an int <- msgpack 5.0", "float <- msgpack 7",
        ),
    ),
    Difference(
        "anything but a boolean where one is declared",
        "`False`",
        "an error",
        "the connector would do the opposite of what the user meant",
        REFUSED,
        ("bool <- *", "edge: bool from an empty primitive"),
        but=("bool <- true", *(case.replace("*", "bool", 1) for case in MSGPACK)),
    ),
    Difference(
        "anything but a collection where a list is declared",
        "`[]`",
        "an error",
        "the connector would do nothing, although the list was not empty",
        REFUSED,
        ("list <- *",),
        but=("list <- list", "list <- empty list", "list <- list of text",
             *(case.replace("*", "list", 1) for case in MSGPACK)),
    ),
    Difference(
        "bytes where a list of integers is declared",
        "the list of the bytes' numbers",
        "an error",
        "bytes are not a list in Flyte's types",
        REFUSED,
        ("list <- msgpack bytes",),
    ),
    Difference(
        "anything but a structured dataset where one is declared",
        "`DataFrame(uri='')`",
        "an error",
        "it would point to no table",
        REFUSED,
        ("table <- *",),
        but=("table <- table", *(case.replace("*", "table", 1) for case in MSGPACK)),
    ),
    Difference(
        "a file, a directory or a data frame in MessagePack",
        "an error",
        "a File, Dir or DataFrame, from its fields or from a path",
        "they are sent like this as attributes of a dataclass",
        TAKEN,
        (
            "file <- msgpack file", "file <- msgpack text", "file <- msgpack RED", "file <- msgpack time",
            "edge: dir in msgpack", "table <- msgpack table", "table <- msgpack text", "table <- msgpack RED",
            "table <- msgpack time",
        ),
    ),
    Difference(
        "MessagePack where binary data is declared",
        "an error: it is taken for a pickle, whatever its tag",
        "the decoded MessagePack value",
        "the tag says that it is MessagePack",
        TAKEN,
        ("binary <- msgpack *",),
    ),
    Difference(
        "a Python pickle",
        "it is loaded, which runs the code in it",
        "an error, unless the host is started with `--unsafe-pickle`",
        "anyone who can send a request could run code in the host",
        REFUSED,
        ("binary <- pickle", "pickle <- pickle", "stored: pickle"),
    ),
    Difference(
        "an enum",
        "a member of a generated enum, with the text as its name and value",
        "the text, which must be one of the declared ones",
        "the host does not have the enum's class",
        CHANGED,
        ("enum <- text RED", "flyte: Colour 0", "flyte: Level 0"),
    ),
    Difference(
        "an enum in MessagePack",
        "an error",
        "the text, which must be one of the declared ones",
        "it is sent like this as an attribute of a dataclass",
        TAKEN,
        ("enum <- msgpack RED",),
    ),
    Difference(
        "a union of int and float",
        "an error: ambiguous",
        "an int for an integer, a float for a float",
        "the literal says which of the two it is",
        TAKEN,
        ("int or float <- integer 7", "int or float <- float 5.0", "int or float <- float 5.9"),
    ),
    Difference(
        "a union value whose type, or whose variants, have no tag",
        "an error",
        "the variant with the same type, or the one that fits",
        "it is not ambiguous",
        TAKEN,
        (
            "int or text <- union of no type", "int or float <- union of no type", "perhaps an int <- union of no type",
            "edge: union of untagged variants",
        ),
    ),
    Difference(
        "a time in MessagePack's own form, in a struct",
        "an object of the msgpack package",
        "a datetime",
        "the connector does not see how its inputs were encoded",
        CHANGED,
        ("edge: struct of a date",),
    ),
    Difference(
        "a struct whose metadata is not a JSON schema",
        "an error",
        "a dict",
        "such metadata says nothing about the value",
        TAKEN,
        ("edge: struct with metadata of its own", "edge: struct with a title alone"),
    ),
    Difference(
        "a struct with a JSON schema and an unknown tag",
        "an error",
        "an object of the schema",
        "the schema is sufficient",
        TAKEN,
        ("schema of another tag",),
    ),
    Difference(
        "an attribute of another type than its schema has",
        "converted: texts to numbers, anything to texts (`'None'`) and to booleans (`'false'` is true in a dataclass)",
        "an error; only integral floats are taken as integers, and integers as floats",
        "the connector would not get what was sent",
        REFUSED,
        (
            "object: Flat with b null", "object: Flat with b text", "object: Flat with b number",
            "object: Flat with b object", "object: Flat with s null", "object: Flat with s number",
            "object: Flat with s object", "*: integer <- number text", "*: number <- number text",
            "dataclass: text <- *", "model: text <- bytes", "dataclass: boolean <- *", "model: boolean <- text false",
            "dataclass: list of int <- object", "dataclass: tuple <- short",
        ),
        but=("dataclass: text <- text", "dataclass: text <- number text", "dataclass: text <- text false",
             "dataclass: boolean <- true"),
    ),
    Difference(
        "an attribute that may be anything, and bytes",
        "a text: `'5'`, `'None'`, `\"b'raw'\"`; bytes in a model decoded",
        "the value as it was sent",
        "the connector would not get what was sent",
        CHANGED,
        (
            "dataclass: anything <- *", "model: anything <- bytes", "flyte: Free 1", "flyte: Times 0",
        ),
        but=("dataclass: anything <- text", "dataclass: anything <- number text", "dataclass: anything <- text false"),
    ),
    Difference(
        "an attribute of a model that may be anything",
        "an error, except for texts",
        "the value as it was sent",
        "the schema allows it",
        TAKEN,
        ("model: anything <- *", "flyte: PFree 1"),
        but=("model: anything <- *text", "model: anything <- text*", "model: anything <- bytes"),
    ),
    Difference(
        "an attribute that is one of several types",
        "the first of the types, or an error",
        "the type that fits",
        "the schema allows each of them",
        (("INTERNAL", "OK"), ("OK", "OK")),
        (
            "flyte: Either 1", "flyte: Either 2", "flyte: PEither 1", "*: int or text <- text", "*: text or int <- int",
        ),
    ),
    Difference(
        "objects in lists and dictionaries of a dataclass",
        "dictionaries with values that are not checked",
        "objects with attributes, which can also be read like dictionaries",
        "the schema is the same as of any other object",
        CHANGED,
        ("flyte: Holders 0", "flyte: Holders as a struct"),
    ),
    Difference(
        "a tuple that is an attribute",
        "a list of texts in a dataclass, an error in a model",
        "a tuple",
        "the schema has the type of each item",
        (("OK", "OK"), ("INTERNAL", "OK")),
        (
            "flyte: Pair 0", "flyte: Pair as a struct", "*: tuple <- it", "flyte: tuple in a tuple 0",
            "flyte: tuple in a tuple as a struct",
        ),
    ),
    Difference(
        "an enum of integers that is an attribute",
        "the text `'1'`, or `'1.0'`, in a dataclass, an error in a model",
        "the integer",
        "the connector would not get what was sent",
        (("OK", "OK"), ("INTERNAL", "OK")),
        ("flyte: Levels 0", "flyte: Levels as a struct", "*: enum of int <- *", "*: enum <- int"),
    ),
    Difference(
        "integer keys in a dictionary of a model",
        "an error",
        "texts, as in flyte-sdk's dataclasses",
        "the schema does not give the type of keys",
        TAKEN,
        ("model: map of int <- int keys",),
    ),
    Difference(
        "a class with an attribute of its own class, or without attributes",
        "an error",
        "an object",
        "flyte-sdk can send them",
        TAKEN,
        (
            "flyte: Tree 0", "flyte: Tree as a struct", "flyte: PTree 0", "flyte: PTree as a struct",
            "flyte: Nothing 0", "flyte: Nothing as a struct",
        ),
    ),
    Difference(
        "a default of an integer that is an attribute",
        "a float: `5.0`",
        "an integer",
        "a protobuf Struct has only floats; the schema says that it is an integer",
        CHANGED,
        ("flyte: WholeDefault of nothing", "flyte: PDefaults of nothing"),
    ),
    Difference(
        "fields that a model's schema does not have",
        "attributes as well",
        "ignored, as in dataclasses",
        "they are not declared",
        CHANGED,
        ("object: PFlat with a further field", "model: inner object <- further"),
    ),
    Difference(
        "a schema with a reference to a schema that it does not contain",
        "the attribute is left out, or is a text",
        "an error",
        "its type is unknown",
        REFUSED,
        ("*: reference to nothing <- *",),
        but=("model: reference to nothing <- int",),
    ),
    Difference(
        "inputs of a task that declares none",
        "they are left out",
        "an error",
        "an input that is not declared is an error for every other task",
        REFUSED,
        ("inputs: undeclared without an interface",),
    ),
    Difference(
        "the order of inputs",
        "random, different after each start",
        "that of the interface",
        "a connector may pass them on by position",
        CHANGED,
        ("inputs: order",),
    ),
    Difference(
        "a stored literal in a union",
        "an error",
        "it is fetched, as outside of a union",
        "a literal may be stored whatever contains it",
        TAKEN,
        ("stored: in a union",),
    ),
    Difference(
        "an output that is a list, a tuple or bytes",
        "a Python pickle",
        "a collection, or binary data",
        "only the same version of Python could read it",
        CHANGED,
        ("output: list*", "output: tuple", "output: bytes"),
    ),
    Difference(
        "an output of another class",
        "a Python pickle",
        "an error that names the output and its class",
        "only the same version of Python with the same packages could read it",
        OUTPUT_REFUSED,
        ("output: set", "output: time", "output: unknown", "output: function", "output: class"),
    ),
    Difference(
        "an output that is a duration of more than ten thousand years",
        "it is sent, but is not a valid protobuf Duration",
        "an error",
        "otherwise its reader fails",
        OUTPUT_REFUSED,
        ("output: timedelta longest",),
    ),
    Difference(
        "an output that is a dict with dates or objects in it, or a subclass of dict",
        "an error",
        "they are written as in dataclasses",
        "they mean the same",
        TAKEN,
        ("output: dict with a datetime", "output: dict with an object", "output: dict ordered", "resource: info date"),
    ),
    Difference(
        "outputs that cannot be written",
        "Python's error",
        "a sentence that names the connector's method, the output and what is wrong with it",
        "the connector's author reads it",
        (("INTERNAL", "INTERNAL"),),
        ("output: int of 64 bits", "output: int of 100 bits", "resource: outputs key"),
    ),
    Difference(
        "an output that is not valid Unicode",
        "Python's error",
        "half of a pair, as in a file name that is not UTF-8, is sent as `\\ud800`",
        "a job that has ended well is not lost for it",
        TAKEN,
        ("output: text surrogate",),
    ),
    Difference(
        "an unknown phase, or UNDEFINED",
        "it is sent",
        "an error that lists the phases",
        "Flyte's executor treats it as a system error",
        OUTPUT_REFUSED,
        ("resource: phase 0", "resource: phase 9"),
    ),
    Difference(
        "custom_info with NaN or infinite numbers",
        "it is sent",
        "they are sent as the texts `NaN`, `Infinity` and `-Infinity`",
        "it is shown as JSON, which has no such numbers",
        CHANGED,
        ("resource: info nan", "resource: info infinite"),
    ),
    Difference(
        "a method that returns a value of a wrong type",
        "Python's error; from `create`, any object with a method `encode` is accepted",
        "a sentence that names the method and what it returned",
        "the connector's author reads it",
        (("INTERNAL", "INTERNAL"), ("UNKNOWN", "INTERNAL"), ("OK", "INTERNAL")),
        (
            "CreateTask: junk", "GetTask: junk", "GetTaskMetrics: junk", "GetTask: nothing",
            "CreateTask: a resource_meta that cannot be encoded",
        ),
    ),
    Difference(
        "errors of GetTaskMetrics and GetTaskLogs",
        "UNKNOWN",
        "INTERNAL, with the same text as for the other calls",
        "the connector has failed, not gRPC",
        (("UNKNOWN", "INTERNAL"),),
        ("GetTaskMetrics: raises *", "GetTaskLogs: raises *"),
        but=("*: raises NotImplementedError*", "*: raises long"),
    ),
    Difference(
        "an error without a text, or with a text that says nothing",
        "an empty text; `'key'`; the number of errors in a group",
        "the error's class as well; every error in the group",
        "its reader has no other information",
        (("INTERNAL", "INTERNAL"),),
        (
            "*Task: raises no text", "*Task: raises KeyError", "*Task: raises ExceptionGroup",
            "*Task: raises TimeoutError",
        ),
        but=("GetTask: raises TimeoutError",),
    ),
    Difference(
        "a poll that fails transiently, for example with a time-out",
        "INTERNAL",
        "the poll is tried again for some seconds; then, for a bounded time, the last known phase with a message",
        "Flyte's executor gives up a task after the sixth error in its whole life",
        TAKEN,
        ("GetTask: raises TimeoutError",),
    ),
    Difference(
        "an error text of 20 kB",
        "the client sees RESOURCE_EXHAUSTED instead",
        "the status, and the text cut to fit and marked",
        "gRPC clients limit the size of a status",
        (("RESOURCE_EXHAUSTED", "INTERNAL"),),
        ("*: raises long",),
    ),
    Difference(
        "NotImplementedError, raised or because the connector does not have the method",
        "INTERNAL or UNKNOWN",
        "UNIMPLEMENTED",
        "a client can tell it from a failure",
        (("INTERNAL", "UNIMPLEMENTED"), ("UNKNOWN", "UNIMPLEMENTED")),
        ("*: raises NotImplementedError*", "*: not implemented"),
    ),
    Difference(
        "a connector that raises CancelledError",
        "no answer, ever",
        "INTERNAL",
        "the client waits for one",
        (("DEADLINE_EXCEEDED", "INTERNAL"),),
        ("*: raises CancelledError",),
    ),
    Difference(
        "a connector that raises SystemExit or KeyboardInterrupt",
        "no answer to this call and all later ones",
        "INTERNAL, for this call only",
        "one connector must not end the others",
        (("DEADLINE_EXCEEDED", "INTERNAL"), ("DEADLINE_EXCEEDED", "OK")),
        ("GetTask: raises SystemExit", "GetTask: raises KeyboardInterrupt", "GetTask: after *"),
    ),
    Difference(
        "a `resource_meta` that the connector did not make",
        "INTERNAL or UNKNOWN, with Python's error; fields of wrong types are accepted",
        "INVALID_ARGUMENT",
        "the request is wrong, not the connector",
        (("INTERNAL", "INVALID_ARGUMENT"), ("UNKNOWN", "INVALID_ARGUMENT"), ("OK", "INVALID_ARGUMENT")),
        ("*: resource_meta *",),
    ),
    Difference(
        "secrets or configs for which the method has no parameter",
        "INTERNAL",
        "INVALID_ARGUMENT, with a sentence that names them",
        "the request is wrong, not the connector",
        (("INTERNAL", "INVALID_ARGUMENT"),),
        ("GetTask: connection, no such parameters", "GetTask: connection with the name of a parameter"),
    ),
    Difference(
        "a version that is not served",
        "NOT_FOUND, or UNKNOWN for metrics and logs",
        "NOT_FOUND, with the versions that are served",
        "the type exists; the version does not",
        (("NOT_FOUND", "NOT_FOUND"), ("UNKNOWN", "NOT_FOUND")),
        ("*: unknown version",),
    ),
    Difference(
        "metrics or logs of an unknown type, and an unknown connector",
        "UNKNOWN",
        "NOT_FOUND",
        "as for the other calls",
        (("UNKNOWN", "NOT_FOUND"),),
        (
            "GetTaskMetrics: unknown type", "GetTaskLogs: unknown type", "GetConnector: mirror", "GetConnector: nobody",
            "GetConnector: ",
        ),
    ),
    Difference(
        "a request that cannot be decoded",
        "UNKNOWN",
        "INTERNAL",
        "as gRPC's statuscodes.md says",
        (("UNKNOWN", "INTERNAL"),),
        ("request: undecodable",),
    ),
    Difference(
        "a message that is too large, and an unknown method",
        "RESOURCE_EXHAUSTED and UNIMPLEMENTED, in the words of gRPC's C core",
        "the same statuses; the text names the method",
        "people read these texts, clients do not",
        (("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"), ("UNIMPLEMENTED", "UNIMPLEMENTED")),
        ("request: of *", "request: to an unknown service"),
    ),
    Difference(
        "health of an unknown service, and of all services",
        "NOT_FOUND without a text; List is not implemented",
        "NOT_FOUND that names it; List lists them",
        "the protocol defines both",
        (("NOT_FOUND", "NOT_FOUND"), ("UNIMPLEMENTED", "OK")),
        ("Check: no.such.Service", "List: all services"),
    ),
]  # fmt: skip
