"""python -m connectrio.processes supervise|host DESCRIPTOR: what `connectrio serve --processes` becomes and starts."""

import sys

from connectrio.startup import load_structlog, starting

if __name__ == "__main__":
    role, descriptor = sys.argv[1:]
    load_structlog()
    if role == "supervise":
        from connectrio.processes.supervisor import main as supervise

        supervise(int(descriptor))
    else:
        with starting() as started:
            from connectrio.processes._worker import main as host

            host(int(descriptor), started)
