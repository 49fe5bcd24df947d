"""The command and the variables of rendered pods serve, here: each documented install, its probes and its test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from deploy.chart import INSTALLS, Install, why_no_helm
from e2e.programs import MARK

pytestmark = pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())

BIN = Path(sys.executable).parent
# seconds; only ends a test that fails
PATIENCE = 60.0


@dataclass
class Pod:
    """A host with the command and the variables of a rendered container, on ports of its own."""

    install: Install
    folder: Path

    def __post_init__(self) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        for name, pem in (("ca.crt", authority.cert_pem), ("tls.key", issued.private_key_pem)):
            pem.write_to_path(self.folder / name)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.folder / "tls.crt", append=True)

    def here(self, text: str) -> str:
        """A text of the pod with this folder in place of its mounts."""
        # this folder may itself be in /tmp
        return text.replace("/tmp", str(self.folder)).replace("/etc/connectrio/tls", str(self.folder))

    def variables(self) -> dict[str, str]:
        # nothing answers at these, which a host survives
        secret = {"CONNECTRIO_JOB_STORE": "postgresql://127.0.0.1:1/jobs", "PGPASSWORD": "x"}
        env = {name: value if isinstance(value, str) else secret[name] for name, value in self.install.env.items()}
        env |= {"CONNECTRIO_JOB_STORE": secret["CONNECTRIO_JOB_STORE"]} if "CONNECTRIO_JOB_STORE" in env else {}
        return {name: self.here(value) for name, value in env.items()} | {"CONNECTRIO_DRAIN_DELAY": "0"}

    def start(self) -> subprocess.Popen[str]:
        program, *arguments = self.install.container["command"]
        ports = ["--host", "127.0.0.1", "--port", "0", "--prometheus-port", "0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CONNECTRIO_")}
        return subprocess.Popen(
            [BIN / program, *arguments, *ports],
            cwd=self.folder,
            env={**environment, **MARK, **self.variables()},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def asked(self, target: str) -> subprocess.CompletedProcess[str]:
        """Ask as the pod of `helm test` does, at another address."""
        (pod,) = self.install.of("Pod")
        command = [self.here(word) for word in pod["spec"]["containers"][0]["command"]]
        command[command.index("--target") + 1] = target
        return subprocess.run(
            [BIN / command[0], *command[1:]], check=False, capture_output=True, text=True, timeout=PATIENCE
        )


def settings_of(values: Path) -> dict[str, Any]:
    return yaml.safe_load(values.read_text()).get("settings", {})


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.status


@pytest.mark.parametrize("values", INSTALLS, ids=lambda path: path.stem)
def test_an_install_serves_answers_its_probes_and_drains(values, tmp_path):
    pod = Pod(Install(values), tmp_path)
    host = pod.start()
    try:
        lines = (json.loads(line) for line in host.stderr)
        serving = next(line for line in lines if line["event"] == "serving")
        _, _, port = serving["grpc"].rpartition(":")
        asked = pod.asked(f"localhost:{port}")
        assert (asked.stdout.splitlines()[:1], asked.returncode) == (["SERVING"], 0), asked.stderr
        # a level of the log is no setting of the host itself
        given = {name: value for name, value in settings_of(values).items() if name != "log_level"}
        assert given.items() <= serving["settings"].items()
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = pod.install.container[name]
            if "httpGet" in probe:
                assert status_of(serving["http"].rstrip("/") + probe["httpGet"]["path"]) == 200
            else:
                assert probe["grpc"]["port"] == pod.install.ports["grpc"]
        host.send_signal(signal.SIGTERM)
        assert "stopped" in [line["event"] for line in lines]
        assert host.wait(PATIENCE) == 0
    finally:
        host.kill()
        host.wait(PATIENCE)
        host.stderr.close()
