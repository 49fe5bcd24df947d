"""Groups of exceptions, and cancellations among them."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from connectrio.rpc.exceptions import is_cancellation, leaves, only_leaf

ONE, TWO, EXIT = ValueError("1"), ValueError("2"), SystemExit()


def test_the_leaves_of_a_tree():
    group = BaseExceptionGroup("", [ExceptionGroup("", [ONE, ExceptionGroup("", [TWO])]), EXIT])
    assert list(leaves(group)) == [ONE, TWO, EXIT]
    assert list(leaves(ONE)) == [ONE]


def test_the_only_error_of_a_group_is_meant():
    pair = ExceptionGroup("", [ONE, TWO])
    assert only_leaf(ONE) is ONE
    assert only_leaf(ExceptionGroup("", [ExceptionGroup("", [ONE])])) is ONE
    assert only_leaf(pair) is pair
    alone = BaseExceptionGroup("", [EXIT])
    assert only_leaf(alone) is alone, "an exit is not an error of the work"


async def test_a_cancellation_from_outside_is_found_in_a_group():
    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(anyio.get_cancelled_exc_class()) as cancelled:
            await anyio.lowlevel.checkpoint()
        assert is_cancellation(cancelled.value)
        assert is_cancellation(BaseExceptionGroup("", [BaseExceptionGroup("", [cancelled.value]), ONE]))
        assert not is_cancellation(ONE)
        assert not is_cancellation(ExceptionGroup("", [ONE]))
        raise cancelled.value
    assert not is_cancellation(cancelled.value), "no scope around this is cancelled"


def test_groups_without_end_have_leaves():
    """Nested more deeply than Python's stack, and with more paths to one leaf than anybody can walk."""
    deep: BaseException = ONE
    for _ in range(5000):
        deep = ExceptionGroup("", [deep, TWO])
    assert list(leaves(deep)) == [ONE, TWO]
    shared: BaseException = ONE
    for _ in range(60):
        shared = ExceptionGroup("", [shared, shared])
    assert list(leaves(shared)) == [ONE]


def test_a_group_that_says_otherwise_has_the_members_that_it_was_made_of():
    class Endless(ExceptionGroup):
        @property
        def exceptions(self):
            raise SystemExit

    group = Endless("", [ONE])
    assert list(leaves(group)) == [ONE]
    assert only_leaf(group) is ONE
