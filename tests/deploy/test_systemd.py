"""deploy/systemd: systemd takes the units, and they agree with the host's settings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from connectrio.host.settings import HostSettings

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICE, SOCKET = UNITS / "connectrio.service", UNITS / "connectrio.socket"
PROGRAM = Path(sys.executable).parent / "connectrio"

# seconds that a host may need after `drain_delay` and `grace`; several processes are killed then
CLOSING = 21


def options(unit: Path) -> dict[str, list[str]]:
    """Return the values of all options of a unit, by their names."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def analyze(tmp_path):
    """Run systemd-analyze, which is not systemd itself, on copies whose program exists here."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed, which checks the units")
    for unit in (SERVICE, SOCKET):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/connectrio/bin/connectrio", str(PROGRAM)))

    def run(*arguments: str) -> str:
        ran = subprocess.run(
            [
                tool,
                *arguments,
                tmp_path / SERVICE.name,
                *([tmp_path / SOCKET.name] if arguments[0] == "verify" else []),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    return run


def test_systemd_takes_the_units(analyze):
    assert "connectrio" not in analyze("verify", "--man=no", "--recursive-errors=one")


def test_the_service_is_confined(analyze):
    """Of 100 points for what it could do to the machine, it has few."""
    assert "OK" in analyze("security", "--offline=yes", "--threshold=25", "--no-pager")


def test_the_ports_are_those_of_a_host():
    settings = HostSettings()
    assert options(SOCKET)["ListenStream"] == [str(settings.port), f"127.0.0.1:{settings.prometheus_port}"]


def test_systemd_waits_for_the_drain():
    service = options(SERVICE)
    (grace,) = [float(each.removeprefix("CONNECTRIO_GRACE=")) for each in service["Environment"]]
    assert float(*service["TimeoutStopSec"]) >= HostSettings().drain_delay + grace + CLOSING
    # the executor waits for ten seconds, and the next process has to start as well
    assert grace <= 5


def test_a_blocked_host_is_killed_as_late_as_a_frozen_process():
    assert float(*options(SERVICE)["WatchdogSec"]) == HostSettings().hang_limit
