"""Where tasks are, whatever they wait for."""

from __future__ import annotations

import pytest

from connectrio.telemetry.stacks import frames_of, line_of


class Itself:
    """Says that it waits for itself."""

    @property
    def cr_await(self):
        return self

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return None


class Failing(Itself):
    """Does not say what it waits for."""

    @property
    def cr_await(self):
        raise SystemExit("no")


async def wait(awaitable):
    await awaitable


@pytest.mark.parametrize("kind", [Itself, Failing])
def test_an_object_that_does_not_say_what_it_waits_for(kind):
    coroutine = wait(wait(kind()))
    coroutine.send(None)
    try:
        assert [frame.f_code.co_name for frame in frames_of(coroutine)] == ["wait", "wait"]
    finally:
        coroutine.close()


def test_a_line_of_generated_code_is_cut(tmp_path):
    path = tmp_path / "generated.py"
    path.write_text(f"import sys\nframe = [sys._getframe(), '{'x' * 1_000_000}'][0]\n")
    names = {}
    exec(compile(path.read_text(), path, "exec"), names)
    line = line_of(names["frame"])
    assert line.startswith(f"{path}:2 in <module>: frame = [sys._getframe(), 'xxx")
    assert len(line) < 1000
