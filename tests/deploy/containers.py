"""Container images: built from their own Containerfiles, and run, without a registry and without a daemon.

buildah builds. The images that FROM lines name are made here: Debian's by mmdebstrap, uv's from the program that this
machine has. Containers run in namespaces of their own (unshare). All of it needs root.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

_DEBIAN = "docker.io/library/debian:trixie-slim"
# how Debian's slim images set up dpkg
_SLIM = ["path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/man/*",
         "path-exclude=/usr/share/locale/*", "force-unsafe-io"]  # fmt: skip
_PROGRAMS = ("buildah", "mmdebstrap", "unshare", "setpriv")


class BuildError(Exception):
    """A program that makes or runs images has failed; the text is what it wrote."""


class UnreachableError(BuildError):
    """Debian's packages cannot be had here."""


def why_not() -> str | None:
    """Return the reason why no image can be built here; None if one can."""
    if os.geteuid() != 0:
        return "images are built by root: buildah and mmdebstrap make root file systems"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not installed, and needed to build and run images: {', '.join(missing)}"
    return None if _uv() else "uv is not on the PATH as a program of its own, which stands for its image"


def _uv() -> Path | None:
    """Return uv itself, and not a script that starts it."""
    candidates = [os.environ.get("UV", ""), *(f"{each}/uv" for each in os.get_exec_path())]
    for path in map(Path, filter(None, candidates)):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    return path.resolve()
    return None


def _run(command: Sequence[str | Path], **options: Any) -> str:
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options
    )  # fmt: skip
    if ran.returncode != 0:
        raise BuildError(f"{command[0]} ended with {ran.returncode}:\n{(ran.stdout + ran.stderr)[-4000:]}")
    return ran.stdout.strip()


def configuration() -> str:
    """Return a uv.toml for builds here: this machine's certificates, and wheels that no index has yet, in /wheels."""
    return 'system-certs = true\nfind-links = ["/wheels"]\n'


class Store:
    """Images in a directory of their own, which several processes may use.

    :param directory: holds everything
    :param progress: called before and after each step of `once`, and when another process has done one
    """

    def __init__(self, directory: Path, progress: Callable[[], None] = lambda: None) -> None:
        self._directory = directory
        self._progress = progress
        directory.mkdir(parents=True, exist_ok=True)

    def buildah(self, *arguments: str | Path) -> str:
        """Run buildah. Return what it wrote on standard output.

        :raises BuildError: it failed
        """
        places = ["--root", self._directory / "images", "--runroot", self._directory / "run"]
        return _run(["buildah", *places, *arguments], env={**os.environ, "TMPDIR": str(self._directory)})

    def once(self, name: str, make: Callable[[], object]) -> None:
        """Do this, unless any process has done it before. Others wait; if it failed, it fails for them as well.

        :raises BuildError: it failed
        """
        with (self._directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._progress()
            done = self._directory / f"{name}.done"
            if not done.exists():
                try:
                    make()
                except BuildError as error:
                    done.write_text(f"{type(error).__name__}\n{error}")
                    raise
                done.touch()
            self._progress()
            kind, _, text = done.read_text().partition("\n")
            if kind:
                raise (UnreachableError if kind == UnreachableError.__name__ else BuildError)(text)

    def make_base(self) -> None:
        """Make the images that the Containerfile begins with. Some 15 seconds of processor time.

        :raises UnreachableError: Debian's packages cannot be had
        """
        tree = self._directory / "debian.tar"
        options = [f"--dpkgopt={each}" for each in _SLIM]
        # the certificates are those of this machine, in whose network the build runs
        if _CERTIFICATES.exists():
            options.append(f"--customize-hook=upload {_CERTIFICATES} {_CERTIFICATES}")
        make = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", *options]
        try:
            _run([*make, "trixie", tree], env={**os.environ, "TMPDIR": str(self._directory)})
        except BuildError as error:
            raise UnreachableError(f"mmdebstrap cannot make Debian's root file system here: {error}") from error
        self._commit("add", tree, "/", _DEBIAN)
        tree.unlink()
        uv = re.search(r"^FROM (\S+) AS uv$", CONTAINERFILE.read_text(), re.MULTILINE)
        assert uv is not None
        self._commit("copy", _uv() or Path(), "/uv", uv[1])

    def _commit(self, verb: str, source: Path, destination: str, name: str) -> None:
        container = self.buildah("from", "scratch")
        self.buildah(verb, "--quiet", container, source, destination)
        self.buildah("commit", "--quiet", "--rm", container, name)

    def build(self, file: Path, tag: str, context: Path, *options: str | Path, **arguments: str) -> str:
        """Build an image; only from images that are here, with the network of this machine. Return its id.

        Steps that have been done before are not repeated, unless the options say so.

        :param arguments: build arguments
        :raises BuildError: it failed
        """
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        local = ["--isolation", "chroot", "--pull=never", "--layers", "--quiet"]
        return self.buildah("build", *local, "--file", file, "--tag", tag, *given, *options, context)

    def build_ours(self, tag: str, context: Path, version: str, *options: str | Path, **arguments: str) -> str:
        """Build the image of the host. Return its id.

        :param context: with `dist/` and `deploy/constraints.txt`
        """
        ignore = CONTAINERFILE.with_name("Containerfile.dockerignore")
        return self.build(
            CONTAINERFILE, tag, context, "--ignorefile", ignore, *options, VERSION=version, **arguments
        )  # fmt: skip

    def inspect(self, tag: str) -> dict[str, Any]:
        """Return the configuration of an image, as OCI describes it."""
        found: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", tag))["OCIv1"]["config"]
        return found

    @contextmanager
    def mounted(self, tag: str) -> Iterator[Path]:
        """Yield the root file system of an image."""
        container = self.buildah("from", "--pull=never", tag)
        try:
            yield Path(self.buildah("mount", container))
        finally:
            self.buildah("rm", container)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the images live while this is open in any process; the last one removes them."""
        with (self._directory / "users.lock").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            try:
                yield
            finally:
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
                for done in self._directory.glob("*.done"):
                    done.unlink()
                if (self._directory / "images").exists():
                    self.buildah("rm", "--all")
                    _run(["rm", "-rf", self._directory / "images"])


# $1: the root file system, $2: the working directory, $3: user:group; then the command
_ENTER = """
tree=$1 directory=$2 user=$3
shift 3
mount --bind "$tree" "$tree"
mount -o remount,bind,ro "$tree"
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$tree/tmp"
exec chroot --userspec="$user" "$tree" setpriv --no-new-privs env --chdir="$directory" "$@"
"""


def command_of(tree: Path, config: Mapping[str, Any], arguments: Sequence[str] = ()) -> list[str]:
    """Return the command that runs an image as Kubernetes would: read-only, without capabilities, with a /tmp.

    The container shares the network with this machine. Its process 1 is the child of the command's process, which has
    its exit code; if that one is killed, the container ends. The environment is that of the command: see
    `variables_of`.

    :param tree: the root file system
    :param config: of the image, from `Store.inspect`
    :param arguments: in place of the image's own
    """
    namespaces = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--propagation", "private"]
    entry = [*config.get("Entrypoint", []), *(arguments or config["Cmd"])]
    place = [str(tree), config.get("WorkingDir") or "/", config["User"]]
    return ["/usr/bin/unshare", *namespaces, "/bin/sh", "-ec", _ENTER, "enter", *place, *entry]


def variables_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables that an image sets."""
    return dict(each.split("=", 1) for each in config["Env"])
