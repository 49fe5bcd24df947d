"""Inputs that a request only names: literals that were too large for it, and pickles."""

from __future__ import annotations

import builtins
import errno
import os
import pickle
import re
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
    StoredInputError,
    inputs_to_python,
    python_to_literal,
)
from connectrio.literals.storage import fetched
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
SCHEMES = ("file", "memory", "nosuch", "s3")
# what a client is told, whatever went wrong
UNREADABLE = "input 'x': the stored value could not be read; the host's log says why"


def stored(uri):
    return sent(Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=str(uri), size_bytes=10)))


def storage_of(limit=LIMIT, schemes=SCHEMES, **options):
    return Storage(limit, schemes, lambda data: decode(data, Literal), **options)


def read(literal, literal_type=INTEGER, *, pickles=False, **options):
    storage = storage_of(**options)
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
    assert "cannot be read: FileNotFoundError" in problem_of("memory://bucket/eight")


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
    assert problem_of(seven, STRING) == "expected str, got int 7"


def problem_of(uri, literal_type=INTEGER, **options):
    """Return why it cannot be read, which only the log says."""
    return problem_in(stored(uri), literal_type, **options)


def problem_in(literal, literal_type, **options):
    with pytest.raises(StoredInputError) as caught:
        read(literal, literal_type, **options)
    assert str(caught.value) == UNREADABLE
    return caught.value.reason.problem


def test_what_cannot_be_read_says_why(tmp_path, seven):
    assert "FileNotFoundError: No such file" in problem_of(tmp_path / "nothing")
    assert problem_of("") == "it is stored elsewhere, but its URI is empty"
    assert "it names a file on another machine" in problem_of("file://elsewhere/file")
    assert re.search("ValueError: .*embedded null", problem_of("file:///%00"))  # the words differ between versions
    (tmp_path / "no literal").write_bytes(b"\xff\xff")
    assert "are not a literal" in problem_of(tmp_path / "no literal")
    (tmp_path / "name").write_bytes(bytes(stored(seven)))
    assert "is only a reference to another stored literal" in problem_of(tmp_path / "name")
    assert "fsspec cannot open it" in problem_of("nosuch://a")
    for malformed in ("s3://[a", "file://[a"):
        assert "Invalid IPv6 URL" in problem_of(malformed)


def test_long_urls_which_may_be_signed_are_not_quoted():
    assert "secret" not in problem_of("nosuch://bucket/" + "a" * 40 + "?signature=secret")


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "local", "zip", "data", "github", "reference"])
def test_schemes_that_are_not_allowed_are_not_read(monkeypatch, scheme):
    monkeypatch.setattr(fsspec, "open", None)
    for spelling in (scheme, scheme.upper()):
        assert f"URLs with the scheme '{scheme}' are not read" in problem_of(f"{spelling}://a/b")


def test_files_are_read_only_if_that_is_allowed(seven):
    for uri in (seven, seven.as_uri(), f"FILE://{seven}"):
        assert "URLs with the scheme 'file' are not read" in problem_of(uri, schemes=["s3"])


@pytest.mark.parametrize("uri", ["simplecache::memory://a", "memory://a::file:///b", "file::memory://a"])
def test_urls_that_contain_others_are_not_read(monkeypatch, uri):
    monkeypatch.setattr(fsspec, "open", None)
    assert "it is a URL that contains another" in problem_of(uri, schemes=[*SCHEMES, "simplecache"])


@pytest.mark.parametrize("prefix", ["", "file://", "local://"])
def test_only_regular_files_are_opened(monkeypatch, tmp_path, seven, prefix):
    schemes = ["file", "local"]
    (tmp_path / "link").symlink_to(seven)
    assert read(stored(f"{prefix}{tmp_path}/link"), schemes=schemes) == 7
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    monkeypatch.setattr(os, "open", None)
    for path, problem in [
        (tmp_path, "it is not a regular file"),
        (tmp_path / "pipe", "it is not a regular file"),
        ("/dev/zero", "it is not a regular file"),
        (tmp_path / "empty", "it is an empty file"),
        ("/proc/self/environ", "it is an empty file"),
    ]:
        assert problem in problem_of(f"{prefix}{path}", schemes=schemes)


def test_a_file_that_becomes_a_pipe_while_it_is_opened_blocks_nobody(monkeypatch, tmp_path, seven):
    original = os.open

    def swapped(path, flags, *arguments, **options):
        seven.unlink()
        os.mkfifo(seven)
        return original(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", swapped)
    assert "it is not a regular file" in problem_of(seven)


def test_of_a_file_that_grows_only_what_it_held_at_first_is_read(monkeypatch, tmp_path, seven):
    (tmp_path / "text").write_bytes(bytes(string("x" * 5)))
    size = (tmp_path / "text").stat().st_size
    original = os.fstat

    def grow(descriptor):
        status = original(descriptor)
        with (tmp_path / "text").open("ab") as file:
            file.write(b"y" * 100)
        return status

    monkeypatch.setattr(os, "fstat", grow)
    storage = storage_of(limit=size)
    assert len(storage.read(str(tmp_path / "text"))) == size


def test_failures_that_may_pass_are_told_apart(monkeypatch, seven):
    def fail(*_, **__):
        raise TimeoutError("no answer")

    monkeypatch.setattr(fsspec, "open", fail)
    with pytest.raises(StoredInputError) as caught:
        read(stored("memory://bucket/seven"))
    assert caught.value.passes
    assert isinstance(caught.value.reason, StorageError)
    assert "cannot be read: TimeoutError: no answer" in caught.value.reason.problem
    assert str(caught.value) == UNREADABLE
    with pytest.raises(StoredInputError) as caught:
        read(stored("/nowhere"))
    assert not caught.value.passes


@pytest.mark.parametrize(("number", "passes"), [(errno.EIO, True), (errno.EMFILE, True), (errno.ENAMETOOLONG, False)])
def test_which_errors_of_files_may_pass(monkeypatch, seven, number, passes):
    def fail(*_, **__):
        raise OSError(number, "cannot")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StoredInputError) as caught:
        read(stored(seven))
    assert caught.value.passes is passes


def test_no_more_is_read_than_is_allowed(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(bytes(string("x" * 100)))
    size = path.stat().st_size
    assert read(stored(path), STRING, limit=size) == "x" * 100
    too_large = f"it is too large: for one task this host reads {size - 1} bytes"
    assert too_large in problem_of(path, STRING, limit=size - 1)
    twice = Literal(collection=LiteralCollection(literals=[stored(path)] * 2))
    assert len(read(twice, list_of(STRING), limit=2 * size)) == 2
    assert "is too large" in problem_in(twice, list_of(STRING), limit=2 * size - 1)


class Endless:
    """A file of an object store that does not say how long it is, and never ends."""

    def __init__(self):
        self.given = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, size):
        self.given += size
        return b"x" * size


def test_a_stored_object_without_an_end_is_read_up_to_the_limit(monkeypatch):
    endless = Endless()
    monkeypatch.setattr(fsspec, "open", lambda *_: endless)
    assert "is too large" in problem_of("memory://endless", limit=3_000_000)
    assert endless.given == 3_000_001


def test_a_stored_object_that_says_that_it_is_too_large_is_not_read(monkeypatch):
    endless = Endless()
    endless.size = LIMIT + 1
    monkeypatch.setattr(fsspec, "open", lambda *_: endless)
    assert "is too large" in problem_of("memory://large")
    assert endless.given == 0


def test_reading_ends_when_nobody_waits_for_it(monkeypatch):
    class GoneError(BaseException):
        pass

    endless = Endless()

    def check():
        if endless.given:
            raise GoneError

    monkeypatch.setattr(fsspec, "open", lambda *_: endless)
    with pytest.raises(GoneError):
        read(stored("memory://endless"), limit=10**9, check_cancelled=check)
    assert 0 < endless.given < 10**7


def test_files_that_name_themselves_end(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(bytes(Literal(collection=LiteralCollection(literals=[stored(path)]))))
    assert problem_of(path, list_of(INTEGER)) == "nested more than 64 levels deep"


def test_a_request_can_have_a_few_hundred_literals_fetched(seven):
    def many(count):
        return Literal(collection=LiteralCollection(literals=[stored(seven)] * count))

    assert read(many(190), list_of(INTEGER)) == [7] * 190
    assert "takes more than" in problem_in(many(210), list_of(INTEGER))


def test_what_is_not_stored_is_not_copied(seven):
    plain = Literal(collection=LiteralCollection(literals=[integer(1), integer(2)]))
    whole = Literal(collection=LiteralCollection(literals=[plain, stored(seven)]))
    found = fetched(whole, storage_of())
    assert found.collection.literals[0] is plain
    assert found.collection.literals[1] == integer(7)


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
    assert "needs fsspec: pip install 'connectrio[fsspec]'" in problem_of("s3://bucket/seven")


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
    nothing = blob(str(tmp_path / "nothing"), "PythonPickle")
    assert "FileNotFoundError" in problem_in(nothing, PICKLE, pickles=True)


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
