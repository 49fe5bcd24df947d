"""The databases that the tests of the job store run on."""

from __future__ import annotations

import pytest

from service.job_store.servers import postgres_server, why_not


@pytest.fixture(scope="session")
def postgres():
    if reason := why_not():
        pytest.skip(reason)
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/jobs.db"
    server = request.getfixturevalue("postgres")
    server.execute("DROP TABLE IF EXISTS connectrio_jobs, connectrio_schema")
    return server.url
