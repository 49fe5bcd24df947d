"""The announcement that a host prints when it serves."""

from __future__ import annotations

from connectrio._version import __version__
from connectrio.host.host import Addresses, Host
from connectrio.terminal import is_terminal, print_line, print_table

__all__ = ["announce"]

_TITLE = "Connector Metadata"


def announce(host: Host, addresses: Addresses) -> None:
    """Print the host's addresses and connectors to standard output."""
    print_line(f"connectrio {__version__} is serving", "bold green")
    print_line(f"  gRPC     {addresses.target}" + (" with TLS" if host.settings.tls_cert is not None else ""))
    if addresses.unix_socket is not None:
        print_line(f"           unix:{addresses.unix_socket}")
    print_line(f"  metrics  {addresses.url}/metrics")
    print_line(f"  probes   {addresses.url}/healthz and {addresses.url}/readyz")
    rows: dict[tuple[str, str], list[str]] = {}
    for registered in host.registry.registered():
        connector = registered.connector
        task_type = f"{connector.task_type_name} ({connector.task_type_version})"
        rows.setdefault((connector.name, registered.source), []).append(task_type)
    if not is_terminal():
        print_line(_TITLE)
    print_table(
        _TITLE,
        ("Connector Name", "Support Task Types", "Loaded from"),
        [(name, " ".join(task_types), source) for (name, source), task_types in rows.items()],
    )
    for failure in host.registry.failures:
        print_line(f"not loaded: {failure.source}: {failure.error}", "yellow")
    settings = host.settings
    print_line(
        f"In production: probe gRPC health on port {addresses.port}, and give the pod a terminationGracePeriodSeconds"
        f" above --drain-delay + --grace ({settings.drain_delay + settings.grace:g} s).",
        "dim",
    )
