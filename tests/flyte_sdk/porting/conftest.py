"""Hosts of Flyte's plugins with changed imports, and fakes of what they call."""

from __future__ import annotations

import signal
import ssl
from contextlib import ExitStack
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
from flyte_sdk.porting.imports import port, tables
from flyte_sdk.porting.slurm import Slurm

# seconds; the plugins take many to import, where all cores are busy
PATIENCE = 120.0
PLUGINS = ["bigquery", "databricks", "slurm", "snowflake"]


@pytest.fixture(scope="session")
def plugins_python(pytestconfig):
    """The Python of an environment with the plugins."""
    return find_plugins(pytestconfig)


@pytest.fixture(scope="session")
def ported(plugins_python, tmp_path_factory):
    """A directory with the plugins, their imports changed; one where what may be changed is changed too."""
    (published,) = plugins_python.parents[1].glob("lib/*/site-packages/flyteplugins")
    needed, every = tables()
    directories = {}
    for how, table in [("as little as needed", needed), ("as much as can be", {**needed, **every})]:
        directories[how] = tmp_path_factory.mktemp("ported")
        for plugin in PLUGINS:
            port(published / plugin, directories[how] / f"ported_{plugin}", table)
    return directories


KINDS = {
    # which tables, and the plugins whose clients work there
    "asyncio": ("as little as needed", PLUGINS),
    "uvloop": ("as much as can be", PLUGINS),
    "trio": ("as little as needed", ["bigquery"]),
}


@pytest.fixture(scope="module")
def plugins(request, ported, plugins_python, tmp_path_factory):
    """A host of all plugins, its client, and what the plugins call; it must end in good order."""
    how, served = KINDS[request.param]
    ca = trustme.CA()
    directory = tmp_path_factory.mktemp("fakes")
    ca.cert_pem.write_to_path(directory / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    with ExitStack() as stack:
        bigquery = BigQuery(Discovery(bigquery_description(plugins_python), undescribed=frozenset({"projection"})))
        snowflake, databricks, slurm = Snowflake(), Databricks(), Slurm(directory)
        for fake, context in [(bigquery.fake, None), (snowflake.fake, None), (databricks.fake, tls)]:
            stack.enter_context(fake.serving(context))
        stack.enter_context(slurm.serving())
        env = {
            "BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{bigquery.fake.port}",
            "FLYTE_SLURM_SSH_PRIVATE_KEY": slurm.private_key,
            "FLYTE_SLURM_SKIP_HOST_KEY_VERIFICATION": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ported[how]),
            "SSL_CERT_FILE": str(directory / "ca.pem"),
        }
        modules = [f"ported_{plugin}.connector" for plugin in served]
        host = stack.enter_context(HostProgram(request.param, python=plugins_python, env=env, modules=modules))
        client = stack.enter_context(Client(host.ready(PATIENCE).target))
        yield SimpleNamespace(
            host=host, client=client, bigquery=bigquery, snowflake=snowflake, databricks=databricks,
            slurm=slurm, credentials=bigquery.credentials(), private_key=snowflake.private_key(),
        )  # fmt: skip
        host.send(signal.SIGTERM)
        assert host.wait() == 0


@pytest.fixture
def wait():
    """Waits for what nobody announces."""
    return eventually
