"""A client that is killed during its calls: python victim.py HOST PORT CONNECTIONS FILE

It opens so many connections, sends on each what is in the file, and waits. It imports next to nothing, because it is
started thousands of times.
"""

import select
import socket
import sys


def main(host: str, port: str, connections: str, file: str) -> None:
    """Connect, send, and wait."""
    with open(file, "rb") as opened:  # noqa: PTH123 - pathlib takes long to import
        data = opened.read()
    held = []
    for _ in range(int(connections)):
        held.append(socket.create_connection((host, int(port))))
        held[-1].sendall(data)
    select.select([], [], [])


if __name__ == "__main__":
    main(*sys.argv[1:])
