"""The catalogue of metrics in docs/reference/metrics.md, made from what a host and a supervisor register.

`uv run python tests/host/catalogue.py` writes it; `test_catalogue.py` fails while it is not up to date.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import anyio
import yaml
from grpclib.const import Status
from h2.errors import ErrorCodes
from prometheus_client import CollectorRegistry

TESTS = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))

from connectrio.connector.policy import ConnectorPolicy  # noqa: E402 - the tests' folders are modules
from connectrio.connector.registry import Registry  # noqa: E402
from connectrio.host.host import Host  # noqa: E402
from connectrio.host.metrics import CertificateMetrics  # noqa: E402
from connectrio.host.settings import HostSettings  # noqa: E402
from connectrio.processes.control import ServeOptions  # noqa: E402
from connectrio.processes.supervisor import Supervisor  # noqa: E402
from connectrio.service.job_store.store import JobStore  # noqa: E402
from connectrio.service.operations import Operation  # noqa: E402
from connectrio.service.workers import _Run  # noqa: E402
from service.harness import Complete  # noqa: E402

DOCS = TESTS.parent / "docs"
DOCUMENT = DOCS / "reference" / "metrics.md"
ALERTS = TESTS.parent / "deploy" / "helm" / "connectrio" / "files" / "alerts.yaml"
BEGIN, END = "<!-- written by tests/host/catalogue.py -->\n", "<!-- up to here -->\n"
OURS = ("flyte_connector_", "connectrio_")


@dataclass(frozen=True)
class Entry:
    """A family of the catalogue, with the name that queries use."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


async def entries() -> list[Entry]:
    """Return all families of a host that has done everything, and those that a supervisor adds."""
    with TemporaryDirectory() as folder:
        store = f"sqlite://{folder}/jobs.db"
        return await _entries(HostSettings(host="127.0.0.1", port=0, prometheus_port=0, job_store=store))


async def _entries(settings: HostSettings) -> list[Entry]:
    registry = Registry()
    registry.register(type("Limited", (Complete,), {"policy": ConnectorPolicy(rate_calls=1)})())
    host = Host(settings, registry=registry)
    async with anyio.create_task_group() as tasks:
        await tasks.start(host.serve)
        do_everything(host)
        supervisor = Supervisor(ServeOptions(settings, 2, "asyncio", "info", "json"))
        found = {entry.name: entry for each in (host.collectors, supervisor._own) for entry in of_registry(each)}
        await host.shutdown()
    return sorted(found.values(), key=lambda entry: (not entry.name.startswith(OURS[0]), entry.name))


def do_everything(host: Host) -> None:
    """Let each family of our own collectors have a sample, from which its labels are read."""
    host.metrics.request_ended("tiny", "get", Status.OK, 0.1)
    host.metrics.request_ended("tiny", "get", Status.INTERNAL, 0.1)
    host.metrics.registry.register(CertificateMetrics({"gRPC": SimpleNamespace(certfile="server.pem", expires_at=1.0)}))
    [server] = [each._server for each in host.metrics.registry._collector_to_names if hasattr(each, "_server")]
    server._traffic.stream_reset("peer", ErrorCodes.CANCEL)
    assert host.service is not None
    workers = host.service.workers
    workers._slots.divide_among(["tiny"])
    workers._stuck[_Run(lambda: None, "Tiny.get", "tiny", lambda _: None)] = None
    [store] = [each for each in host.metrics.registry._collector_to_names if isinstance(each, JobStore)]
    store.doubts["tiny"] += 1
    host.account.jobs.obtain(("tiny", 0, b""), "Tiny")
    known = host.service.known_jobs
    known.of(known.method(host.registry.get_connector("tiny"), Operation.GET), None)
    known.count("tiny", Operation.GET)


def of_registry(registry: CollectorRegistry) -> list[Entry]:
    """Return what is ours in a registry."""
    found = []
    for collector in list(registry._collector_to_names):
        declared = getattr(collector, "_labelnames", None)  # of prometheus-client's own objects
        for family in collector.collect():
            if not family.name.startswith(OURS):
                continue
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels: dict[str, None] = dict.fromkeys(declared or ())
            for sample in family.samples if declared is None else ():
                labels |= dict.fromkeys(sample.labels)
            labels.pop("le", None)
            found.append(Entry(family.name + suffix, family.type, tuple(labels), family.documentation))
    return found


def rules() -> list[dict[str, Any]]:
    """Return the rules of the chart, those that record included."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, str]:
    """Return the expression of each alert, by its name, with what the recorded names in it stand for."""
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    return {
        rule["alert"]: re.sub(r"connectrio:[\w:]+", lambda match: f"({recorded[match[0]]})", rule["expr"])
        for rule in rules()
        if "alert" in rule
    }


def family_of(sample: str, names: set[str]) -> str | None:
    """Return the family of the catalogue that has samples of this name."""
    stem = re.sub(r"_(bucket|count|sum)$", "", sample)
    return next((name for name in (sample, stem) if name in names), None)


def families_in(text: str) -> set[str]:
    """Return the names of our samples in queries."""
    return set(re.findall(rf"\b(?:{'|'.join(OURS)})\w+", text))


def table(found: list[Entry]) -> str:
    """Return the catalogue."""
    names = {entry.name for entry in found}
    uses: dict[str, list[str]] = {}
    for alert, expression in alerts().items():
        for family in sorted({str(family_of(sample, names)) for sample in families_in(expression)}):
            uses.setdefault(family, []).append(f"`{alert}`")
    lines = ["| family | type | labels | what it is | alerts |", "|---|---|---|---|---|"]
    for entry in found:
        labels = ", ".join(f"`{label}`" for label in entry.labels)
        lines.append(
            f"| `{entry.name}` | {entry.kind} | {labels} | {entry.text} | {', '.join(uses.get(entry.name, []))} |"
        )
    return "\n".join(lines) + "\n"


def document(found: list[Entry]) -> str:
    """Return the document as it should be."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    return f"{before}{BEGIN}{table(found)}{END}{rest.partition(END)[2]}"


def main(*_: Any) -> None:
    """Write the document."""
    DOCUMENT.write_text(document(anyio.run(entries)))


if __name__ == "__main__":
    main()
