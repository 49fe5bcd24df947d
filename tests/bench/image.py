"""The container image beside one of flyte-sdk's host that is built in the same way: size, cold start and memory.

    uv run just image-size                                    # ten starts of each
    uv run just image-size --rounds 3 --json figures.json

It needs root, and builds without a container engine: see tests/deploy/containers.py. A start is timed from the start
of the container's process, its namespaces included, to the first answer SERVING of gRPC health. Each round starts every
image once, in turn; the ratios are to c0's start in the same round. Our image is built twice, the second time without
anything from before, and must be the same.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures
from accounting import resident_bytes
from call import is_serving
from figures import Figure, Table
from peers import free_ports

from connectrio._version import __version__
from deploy.containers import ROOT, BuildError, Store, command_of, variables_of, why_not

HERE = Path(__file__).parent
# the extras of each image of ours; the first is the image as it is published
OURS = {
    "connectrio": "otel,postgres,trio,uvloop",
    "connectrio, uvloop alone": "uvloop",
    "connectrio with duckdb": "duckdb,otel,postgres,trio,uvloop",
    "connectrio with flyte": "flyte,otel,postgres,trio,uvloop",
}
_EPOCH = "1767225600"
# seconds; only ends what hangs
_PATIENCE = 60.0


def build(store: Store, context: Path) -> dict[str, str]:
    """Build all images. Return the tag of each.

    :raises SystemExit: the second build of ours gives another image
    """
    (context / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "constraints.txt", context / "deploy")
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", context / "dist", ROOT], check=True)
    store.make_base()
    tags = {"c0": "localhost/c0", **{name: f"localhost/ours-{number}" for number, name in enumerate(OURS)}}
    store.build(HERE / "c0.Containerfile", tags["c0"], context)
    start(store, tags["c0"])
    for name, extras in OURS.items():
        built = _build_ours(store, context, tags[name], extras)
        if name == "connectrio" and _build_ours(store, context, "localhost/again", extras, "--no-cache") != built:
            raise SystemExit("the second build of the same wheel has given another image")
    return tags


def _build_ours(store: Store, context: Path, tag: str, extras: str, *options: str) -> str:
    stamped = [*options, "--timestamp", _EPOCH]
    return store.build_ours(tag, context, __version__, *stamped, EXTRAS=extras, SOURCE_DATE_EPOCH=_EPOCH)


def sizes(store: Store, tag: str, directory: Path) -> dict[Figure, float]:
    """Return the size of an image's layers, and that of the compressed ones, which a machine pulls."""
    store.buildah("push", "--quiet", tag, f"oci:{directory}:it")
    blobs = directory / "blobs" / "sha256"
    (entry,) = json.loads((directory / "index.json").read_text())["manifests"]
    manifest = json.loads((blobs / entry["digest"].partition(":")[2]).read_text())
    layers = [blobs / layer["digest"].partition(":")[2] for layer in manifest["layers"]]
    compressed = sum(layer.stat().st_size for layer in layers)
    size = sum(_unpacked(layer) for layer in layers)
    shutil.rmtree(directory)
    return {figures.SIZE: size, figures.COMPRESSED: compressed}


def _unpacked(layer: Path) -> int:
    with gzip.open(layer) as content:
        return sum(iter(lambda: len(content.read(1 << 20)), 0))


def start(store: Store, tag: str) -> dict[Figure, float]:
    """Return how long an image takes from its start to SERVING, and its memory a second later.

    :raises SystemExit: it does not serve
    """
    port, metrics_port = free_ports(2)
    config = store.inspect(tag)
    ports = ["--port", str(port), "--prometheus_port", str(metrics_port)]
    options = ports if config["Entrypoint"] == ["c0"] else ["serve", "--host", "127.0.0.1", *ports]
    with store.mounted(tag) as tree, tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command_of(tree, config, options),
            env=variables_of(config), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            while not is_serving(port):
                if process.poll() is not None or time.perf_counter() - began > _PATIENCE:
                    output.seek(0)
                    raise SystemExit(f"{tag} does not serve; it wrote:\n{output.read().decode()[-3000:]}")
                time.sleep(0.002)
            cold_start = time.perf_counter() - began
            time.sleep(1)
            (inside,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return {figures.COLD_START: cold_start, figures.RESIDENT: resident_bytes(int(inside))}
        finally:
            process.kill()
            process.wait(_PATIENCE)


def measure(store: Store, directory: Path, rounds: int) -> Table:
    """Build the images, and start them so many times."""
    tags = build(store, directory / "context")
    table = Table("Image: size, start, and idle memory", {name: [] for name in tags})
    measured = {name: sizes(store, tag, directory / "pushed") for name, tag in tags.items()}
    for tag in tags.values():  # the files are read from disk once
        start(store, tag)
    for number in range(rounds):
        for name in tags if number % 2 == 0 else reversed(tags):
            print(f"\rround {number + 1}, {name}\033[K", end="", file=sys.stderr)
            table.add(name, {**measured[name], **start(store, tags[name])})
    print("\r\033[K", end="", file=sys.stderr)
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    lacks = why_not()
    if lacks:
        raise SystemExit(lacks)
    with tempfile.TemporaryDirectory(prefix="image-size-") as temporary:
        store = Store(Path(temporary, "store"))
        with store.used():
            try:
                table = measure(store, Path(temporary), options.rounds)
            except BuildError as error:
                raise SystemExit(str(error)) from None
    print(table.to_markdown())
    if options.json:
        figures.save([table], options.json)


if __name__ == "__main__":
    main()
