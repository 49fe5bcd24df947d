"""python -m connectrio.processes supervise|host DESCRIPTOR: what `connectrio serve --processes` becomes and starts."""

import sys

if __name__ == "__main__":
    role, descriptor = sys.argv[1:]
    if role == "supervise":
        from connectrio.processes.supervisor import main
    else:
        from connectrio.processes._worker import main
    main(int(descriptor))
