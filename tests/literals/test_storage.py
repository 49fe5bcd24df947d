"""Inputs that a request only names: literals that were too large for it, and pickles."""

from __future__ import annotations

import builtins
import os
import pickle
import sys
from types import ModuleType

import fsspec
import pytest

from connectrio.idl.flyteidl2.core import (
    Literal,
    LiteralCollection,
    LiteralMap,
    LiteralOffloadedMetadata,
    LiteralType,
    SimpleType,
)
from connectrio.literals import (
    LiteralError,
    Storage,
    StorageError,
    StoredElsewhereError,
    inputs_to_python,
    python_to_literal,
)
from connectrio.rpc.codec import decode
from literals.makers import (
    BINARY,
    FILE,
    INTEGER,
    PICKLE,
    STRING,
    binary,
    blob,
    dict_of,
    generic,
    inputs,
    integer,
    interface,
    list_of,
    msgpack,
    sent,
    string,
    union_literal,
    union_of,
)

LIMIT = 10_000


def stored(uri):
    return sent(Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=str(uri), size_bytes=10)))


def read(literal, literal_type=INTEGER, *, limit=LIMIT, pickles=False):
    storage = Storage(limit, lambda data: decode(data, Literal))
    return inputs_to_python(inputs(x=literal), interface(x=literal_type), storage=storage, pickles=pickles)["x"]


@pytest.fixture
def seven(tmp_path):
    """A file that holds the literal of 7."""
    path = tmp_path / "seven of them"
    path.write_bytes(bytes(integer(7)))
    return path


def test_paths_and_file_urls(seven):
    assert read(stored(seven)) == 7
    assert read(stored(f"file://{seven}")) == 7
    assert read(stored(seven.as_uri())) == 7
    assert read(stored(seven.as_uri().replace("file://", "file://localhost"))) == 7


def test_what_fsspec_has_a_filesystem_for(seven):
    with fsspec.open("memory://bucket/seven", "wb") as file:
        file.write(seven.read_bytes())
    assert read(stored("memory://bucket/seven")) == 7
    with pytest.raises(LiteralError, match="cannot be read: FileNotFoundError"):
        read(stored("memory://bucket/eight"))


def test_wherever_a_literal_may_be(seven):
    elsewhere = stored(seven)
    assert read(Literal(collection=LiteralCollection(literals=[integer(1), elsewhere])), list_of(INTEGER)) == [1, 7]
    assert read(Literal(map=LiteralMap(literals={"a": elsewhere})), dict_of(INTEGER)) == {"a": 7}
    assert read(union_literal(elsewhere, INTEGER), union_of(INTEGER, STRING)) == 7
    assert read(elsewhere, union_of(INTEGER, STRING)) == 7


def test_what_is_stored_may_name_more_that_is_stored(tmp_path, seven):
    (tmp_path / "list").write_bytes(bytes(Literal(collection=LiteralCollection(literals=[stored(seven)] * 2))))
    assert read(stored(tmp_path / "list"), list_of(INTEGER)) == [7, 7]


def test_the_hash_is_that_of_what_is_stored(tmp_path):
    (tmp_path / "file").write_bytes(bytes(blob("s3://bucket/a", hash="h")))
    assert read(stored(tmp_path / "file"), FILE).hash == "h"


def test_the_declared_type_decides(seven):
    with pytest.raises(LiteralError, match=r"^input 'x': expected str, got int 7$"):
        read(stored(seven), STRING)


def problem_of(uri, **options):
    with pytest.raises(LiteralError) as caught:
        read(stored(uri), **options)
    assert str(caught.value).startswith("input 'x': ")
    return caught.value


def test_what_cannot_be_read_says_why(tmp_path, seven):
    assert "FileNotFoundError: No such file" in problem_of(tmp_path / "nothing").problem
    assert "is not a file" in problem_of(tmp_path).problem
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in problem_of(tmp_path / "pipe").problem
    assert problem_of("").problem == "it is stored elsewhere, but its URI is empty"
    assert "names a file on another machine" in problem_of("file://elsewhere/file").problem
    (tmp_path / "no literal").write_bytes(b"\xff\xff")
    assert "are not a literal" in problem_of(tmp_path / "no literal").problem
    (tmp_path / "name").write_bytes(bytes(stored(seven)))
    assert "is only a reference to another stored literal" in problem_of(tmp_path / "name").problem
    assert "fsspec cannot open 'nosuch://a'" in problem_of("nosuch://a").problem
    for malformed in ("s3://[a", "file://[a"):
        assert problem_of(malformed).problem == f"the literal stored at '{malformed}' cannot be read: Invalid IPv6 URL"


def test_long_urls_which_may_be_signed_are_not_quoted():
    assert "secret" not in str(problem_of("nosuch://bucket/" + "a" * 40 + "?signature=secret"))


def test_failures_that_may_pass_are_told_apart(monkeypatch, seven):
    def fail(*_, **__):
        raise TimeoutError("no answer")

    monkeypatch.setattr(fsspec, "open", fail)
    with pytest.raises(StorageError, match="cannot be read now: TimeoutError: no answer"):
        read(stored("memory://bucket/seven"))


def test_no_more_is_read_than_is_allowed(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(bytes(string("x" * 100)))
    size = path.stat().st_size
    assert read(stored(path), STRING, limit=size) == "x" * 100
    with pytest.raises(LiteralError, match=f"for one task this host reads {size - 1} bytes"):
        read(stored(path), STRING, limit=size - 1)
    twice = Literal(collection=LiteralCollection(literals=[stored(path)] * 2))
    assert len(read(twice, list_of(STRING), limit=2 * size)) == 2
    with pytest.raises(LiteralError, match="is too large"):
        read(twice, list_of(STRING), limit=2 * size - 1)


def test_files_that_name_themselves_end(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(bytes(Literal(collection=LiteralCollection(literals=[stored(path)]))))
    with pytest.raises(LiteralError, match="nested more than 64 levels deep"):
        read(stored(path), list_of(INTEGER))


def test_devices_are_not_read():
    assert "is not a file" in problem_of("/dev/zero").problem


def without(monkeypatch, name):
    """Make the import of a module fail."""
    original = builtins.__import__

    def fail(module, *arguments, **options):
        if module == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(module, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", fail)
    monkeypatch.setitem(sys.modules, name, None)


def test_without_fsspec_only_files_can_be_read(monkeypatch, seven):
    without(monkeypatch, "fsspec")
    assert read(stored(seven)) == 7
    assert "needs fsspec: pip install 'connectrio[fsspec]'" in problem_of("s3://bucket/seven").problem


@pytest.mark.parametrize(
    ("literal", "declared"),
    [
        (stored("/a"), INTEGER),
        (Literal(collection=LiteralCollection(literals=[integer(1), stored("/a")])), list_of(INTEGER)),
        (Literal(map=LiteralMap(literals={"a": stored("/a")})), dict_of(INTEGER)),
        (union_literal(stored("/a"), INTEGER), union_of(INTEGER, STRING)),
        (stored("/a"), union_of(INTEGER, STRING)),
        (binary(pickle.dumps(1)), BINARY),
        (blob("/a", "PythonPickle"), PICKLE),
        (binary(pickle.dumps(1)), union_of(PICKLE, INTEGER)),
    ],
)
def test_without_a_storage_nothing_is_read(literal, declared):
    with pytest.raises(StoredElsewhereError):
        inputs_to_python(inputs(x=literal), interface(x=declared), pickles=True)


# a pickle as flyte-sdk sends it: in the literal, or where the literal says
ANY = union_of(PICKLE, LiteralType(simple=SimpleType.BINARY))


@pytest.mark.parametrize("declared", [BINARY, PICKLE, ANY])
def test_pickles_are_refused_unless_they_are_allowed(tmp_path, declared):
    path = tmp_path / "ran"
    literal = binary(pickle.dumps(Runs(str(path))))
    (tmp_path / "pickle").write_bytes(literal.scalar.binary.value)
    for refused in (literal, blob(str(tmp_path / "pickle"), "PythonPickle")):
        with pytest.raises(LiteralError):
            read(refused, declared)
        with pytest.raises(LiteralError):
            inputs_to_python(inputs(x=refused), interface(x=declared))
    assert not path.exists()


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("declared", [BINARY, PICKLE, ANY, union_of(ANY, INTEGER)])
def test_pickles_are_read_where_they_are_allowed(declared):
    assert read(binary(pickle.dumps({1, 2})), declared, pickles=True) == {1, 2}


def test_pickles_in_files_are_read_where_they_are_allowed(tmp_path):
    (tmp_path / "pickle").write_bytes(pickle.dumps({1, 2}))
    literal = blob(str(tmp_path / "pickle"), "PythonPickle")
    assert read(literal, PICKLE, pickles=True) == read(literal, ANY, pickles=True) == {1, 2}
    with pytest.raises(LiteralError, match="FileNotFoundError"):
        read(blob(str(tmp_path / "nothing"), "PythonPickle"), PICKLE, pickles=True)


def test_other_types_mean_the_same_where_pickles_are_allowed():
    assert read(msgpack({"a": 1}), BINARY, pickles=True) == {"a": 1}
    assert read(generic({"a": 1}), LiteralType(simple=SimpleType.STRUCT), pickles=True) == {"a": 1.0}
    assert read(blob("/a"), FILE, pickles=True).path == "/a"
    with pytest.raises(LiteralError, match="untagged binary data"):
        read(binary(pickle.dumps(1)), INTEGER, pickles=True)


def raising(error):
    raise error


class Raises:
    """Raises an error when it is unpickled."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return raising, (self.error,)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x80\x05", "this pickle cannot be read: EOFError"),
        (pickle.dumps(Raises(ValueError("boom"))), "this pickle cannot be read: ValueError: boom"),
        (b"cno_such_module\nname\n.", "this pickle needs the module no_such_module, which is not installed here"),
        (
            b"ccloudpickle\nname\n.",
            "this pickle needs the module cloudpickle, which is not installed here: pip install",
        ),
    ],
)
def test_a_pickle_that_cannot_be_read_says_why(monkeypatch, data, problem):
    monkeypatch.setitem(sys.modules, "cloudpickle", MissingModule("cloudpickle"))
    with pytest.raises(LiteralError) as caught:
        read(binary(data), BINARY, pickles=True)
    assert caught.value.problem.startswith(problem)


class MissingModule(ModuleType):
    """Stands for a module that is not installed."""

    def __getattr__(self, name):
        raise ModuleNotFoundError(f"No module named {self.__name__!r}", name=self.__name__)


def test_pickles_are_never_written():
    with pytest.raises(LiteralError, match="Flyte has no literal for set"):
        python_to_literal({1})
