"""Certificates in files, as servers and clients have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

AUTHORITY = trustme.CA()
STRANGERS = trustme.CA()  # an authority that nobody knows


@dataclass(frozen=True)
class Certificate:
    """A certificate, with what lies between it and the root, and its key: one file each."""

    cert: Path
    key: Path


def issue(directory: Path, file: str, *names: str, authority: trustme.CA = AUTHORITY, **options: Any) -> Certificate:
    """A new certificate for `names`, in files called `file`."""
    issued = authority.issue_cert(*names, **options)
    found = Certificate(directory / f"{file}.pem", directory / f"{file}.key")
    found.cert.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    found.key.write_bytes(issued.private_key_pem.bytes())
    return found


class Pki:
    """What a server, its clients and strangers have, in one directory.

    :ivar ca: the authority that server and clients trust
    :ivar strangers: the one that nobody does
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = self._write(AUTHORITY, "ca.pem")
        self.strangers = self._write(STRANGERS, "strangers.pem")
        self.server = issue(directory, "server", "localhost", "127.0.0.1", "::1")
        self.client = issue(directory, "client", "me@example.com", common_name="me")
        self.stranger = issue(directory, "stranger", "localhost", "127.0.0.1", authority=STRANGERS)

    def _write(self, authority: trustme.CA, name: str) -> Path:
        authority.cert_pem.write_to_path(self.directory / name)
        return self.directory / name


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Files for a server and a client; a conftest.py imports it for the tests beside it."""
    return Pki(tmp_path)
