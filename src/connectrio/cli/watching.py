"""The files of connectors that somebody edits: where they are, and what has changed in them."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from connectrio.cli.errors import UsageError
from connectrio.host.lifecycle import HostError

__all__ = ["Watched", "forget_bytecode", "watched", "watching"]

# names of directories in which nobody edits; those that begin with a dot are left out too
_NOT_SOURCE = {"__pycache__", "node_modules", "site-packages"}
# milliseconds without a change after which several changes count as one, and the longest time until they do
_QUIET, _LONGEST = 50, 1600
# seconds after which a directory that was deleted is looked for again
_ABSENT = 0.2


@dataclass(frozen=True)
class Watched:
    """What is watched. All paths are absolute.

    :ivar packages: directories whose Python files are watched, with those below
    :ivar folders: directories whose own Python files are watched
    :ivar trees: directories of which all files are watched
    :ivar files: single files
    """

    packages: frozenset[Path]
    folders: frozenset[Path]
    trees: frozenset[Path]
    files: frozenset[Path]

    def has(self, path: Path) -> bool:
        """Return whether a change of this file counts."""
        if path in self.files:
            return True
        if path.suffix == ".py" and path.parent in self.folders:
            return not path.name.startswith(".")
        return any(_is_source(path, root) for root in self.trees) or (
            path.suffix == ".py" and any(_is_source(path, root) for root in self.packages)
        )

    def __str__(self) -> str:
        texts = [
            *(f"{each}/*.py" for each in sorted(self.folders)),
            *(f"{each}/**/*.py" for each in sorted(self.packages)),
            *(f"{each}/**" for each in sorted(self.trees)),
            *map(str, sorted(self.files)),
        ]
        return ", ".join(texts)


def _is_source(path: Path, root: Path) -> bool:
    """Return whether a file below `root` may be one that somebody edits, and is no copy that an editor makes."""
    if not path.is_relative_to(root):
        return False
    parts = path.relative_to(root).parts
    return not any(part.startswith(".") or part in _NOT_SOURCE for part in parts) and not path.name.endswith("~")


def watched(modules: Sequence[str], further: Sequence[Path]) -> Watched:
    """Return what to watch for these modules. None of them is imported.

    :param modules: module names, or .py files
    :param further: files, and directories with all that is in them
    :raises UsageError: one of them is not there
    """
    packages: set[Path] = set()
    folders: set[Path] = set()
    for module in modules:
        place, is_package = _place(module)
        (packages if is_package else folders).add(place)
    for path in further:
        if not path.exists():
            raise UsageError(f"--watch {path}: there is no such file or directory")
    return Watched(
        frozenset(packages),
        frozenset(folders),
        frozenset(path.resolve() for path in further if path.is_dir()),
        frozenset(path.resolve() for path in further if not path.is_dir()),
    )


def _place(module: str) -> tuple[Path, bool]:
    """Return the directory of a module, and whether it is that of the outermost package around it."""
    if module.endswith(".py"):
        file = Path(module).resolve()
        if not file.is_file():
            raise UsageError(f"there is no file {module}")
        folder = file.parent
        if not (folder / "__init__.py").exists():
            return folder, False
        while (folder.parent / "__init__.py").exists():
            folder = folder.parent
        return folder, True
    working_directory = str(Path.cwd())
    sys.path.append(working_directory)  # as a host does that loads it
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    finally:
        sys.path.remove(working_directory)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve(), True
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UsageError(
            f"there is no module {module}", hint="name a module, or a file: connectrio dev my_connector.py"
        )
    return Path(spec.origin).resolve().parent, False


@asynccontextmanager
async def watching(what: Watched, changed: Callable[[set[Path]], None]) -> AsyncIterator[None]:
    """Call `changed` with the files that have changed, as long as the block runs; none is missed.

    :raises HostError: the system cannot watch them
    """
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    stop = anyio.Event()

    async with anyio.create_task_group() as tasks:
        # the directories, not the files: an editor may put another file in the place of one
        for roots, recursive in (
            ({*what.packages, *what.trees}, True),
            ({*what.folders, *(file.parent for file in what.files)}, False),
        ):
            if roots:
                tasks.start_soon(_watch, what, changed, roots, recursive, stop)
        for _ in range(2):  # by then the tasks wait, and the system watches: trio runs them and this in any order
            await checkpoint()
        try:
            yield
        finally:
            stop.set()  # to cancel the thread that waits would take as long as it waits


async def _watch(
    what: Watched, changed: Callable[[set[Path]], None], roots: set[Path], recursive: bool, stop: anyio.Event
) -> None:
    """Call `changed` with the files that have changed in the directories `roots`, until `stop` is set."""
    from watchfiles import Change, awatch

    def counts(_: Change, path: str) -> bool:
        return what.has(Path(path)) or Path(path) in roots

    watch = partial(awatch, watch_filter=counts, debounce=_LONGEST, step=_QUIET, recursive=recursive, stop_event=stop)
    try:
        while not stop.is_set():
            async with aclosing(watch(*sorted(roots))) as batches:
                async for changes in batches:
                    if files := {Path(path) for _, path in changes} - roots:
                        changed(files)
                    if any(Path(path) in roots and change is Change.deleted for change, path in changes):
                        break
            # the system watches no directory that takes the place of one that was deleted
            while not stop.is_set() and not all(root.is_dir() for root in roots):
                with anyio.move_on_after(_ABSENT):
                    await stop.wait()
            if not stop.is_set():
                changed(roots)
    except OSError as error:
        raise HostError(f"cannot watch {', '.join(map(str, roots))}: {error}") from error


def forget_bytecode(files: set[Path]) -> None:
    """Remove the compiled forms of these files: Python takes an old one for the new file if size and second are the
    same."""
    for file in files:
        if file.suffix == ".py":
            with suppress(OSError):
                Path(importlib.util.cache_from_source(str(file))).unlink()
