"""An environment with the plugins that Flyte publishes, as they are on PyPI."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin_environments import python_with

VERSION = "2.12.1"
PLUGINS = [f"flyteplugins-{name}=={VERSION}" for name in ("bigquery", "snowflake", "databricks", "slurm")]
# flyte-sdk's own host, to compare with; and the description of BigQuery's API, which is in the wheel of its client
REQUIREMENTS = [*PLUGINS, f"flyte[connector]=={VERSION}", "google-api-python-client", "pyspark-client"]


def find_plugins(config: pytest.Config) -> Path:
    """Return the Python of that environment; skip the test where it cannot be made."""
    return python_with(config, "plugins", "flyte,trio,uvloop", REQUIREMENTS)


def bigquery_description(python: Path) -> Path:
    """BigQuery's discovery document."""
    (found,) = python.parents[1].glob("lib/*/site-packages/googleapiclient/discovery_cache/documents/bigquery.v2.json")
    return found
