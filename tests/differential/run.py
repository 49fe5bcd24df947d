"""All requests to both hosts, and what they answered.

Run as a program, it prints what does not fit the table, and writes docs/explanation/differences.md anew:

    cd tests && python -m differential.run [PYTHON_WITH_FLYTE]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grpc

from differential.asking import DEADLINE, Request
from differential.cases_inputs import input_requests
from differential.cases_service import fatal_requests, service_requests
from differential.compare import compare
from differential.document import DOCUMENT, with_results
from differential.hosts import our_host, their_host
from differential.outcomes import Outcome, ask

__all__ = ["all_requests", "ask_all"]


def all_requests(directory: Path) -> list[Request]:
    """Every request, those that flyte-sdk's host does not survive last.

    :param directory: for files that requests refer to
    """
    return [*input_requests(directory), *service_requests(), *fatal_requests()]


def ask_all(target: str, requests: Sequence[Request], *, theirs: bool) -> dict[str, Outcome]:
    """The outcomes of all requests, by their names, one after the other."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options=options) as channel:
        return {
            request.name: ask(request, channel, request.their_deadline if theirs else DEADLINE) for request in requests
        }


def main() -> None:
    """Print what does not fit, and write the document."""
    python = Path(sys.argv[1] if len(sys.argv) > 1 else sys.executable)
    with tempfile.TemporaryDirectory() as directory:
        requests = all_requests(Path(directory))
        with their_host(python) as host:
            theirs = ask_all(host.ready().target, requests, theirs=True)
        with our_host("asyncio") as host:
            ours = ask_all(host.ready().target, requests, theirs=False)
    comparison = compare(theirs, ours)
    print("\n".join(comparison.problems))
    DOCUMENT.write_text(with_results(comparison))


if __name__ == "__main__":
    main()
