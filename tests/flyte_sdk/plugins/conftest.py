"""Hosts of Flyte's plugins, each with services of its own to call."""

from __future__ import annotations

import signal
import ssl
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

from e2e.client import Client
from e2e.programs import HostProgram, eventually
from flyte_sdk.plugins.bigquery import BigQuery
from flyte_sdk.plugins.databricks import Databricks
from flyte_sdk.plugins.discovery import Discovery
from flyte_sdk.plugins.environment import bigquery_description, find_plugins
from flyte_sdk.plugins.snowflake import Snowflake

# a connector of ours beside the plugins
NATIVE = Path(__file__).parents[1] / "connectors" / "affinity.py"

# seconds; the plugins take many to import, where all cores are busy
PATIENCE = 120.0


@pytest.fixture(scope="session")
def plugins_python(pytestconfig):
    """The Python of an environment with the plugins."""
    return find_plugins(pytestconfig)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def plugins(request, plugins_python, tmp_path_factory):
    """A host of all plugins, its client, and what the plugins call; it must end in good order."""
    ca = trustme.CA()
    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(ca_file)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    with ExitStack() as stack:
        bigquery = BigQuery(Discovery(bigquery_description(plugins_python), undescribed=frozenset({"projection"})))
        snowflake, databricks = Snowflake(), Databricks()
        for fake, context in [(bigquery.fake, None), (snowflake.fake, None), (databricks.fake, tls)]:
            stack.enter_context(fake.serving(context))
        env = {
            "BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{bigquery.fake.port}",
            "SSL_CERT_FILE": str(ca_file),
            "NO_PROXY": "127.0.0.1",
        }
        host = stack.enter_context(
            HostProgram(request.param, python=plugins_python, env=env, entry_points=True, modules=[str(NATIVE)])
        )
        client = stack.enter_context(Client(host.ready(PATIENCE).target))
        yield SimpleNamespace(
            host=host, client=client, bigquery=bigquery, snowflake=snowflake, databricks=databricks,
            credentials=bigquery.credentials(), private_key=snowflake.private_key(),
        )  # fmt: skip
        bigquery.gate.open()
        databricks.gate.open()
        host.send(signal.SIGTERM)
        assert host.wait() == 0


@pytest.fixture
def wait():
    """Waits for what nobody announces."""
    return eventually
