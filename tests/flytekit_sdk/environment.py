"""An environment with flytekit and the plugins that Flyte publishes for it, as they are on PyPI.

flytekit's stores and its plugins bring a hundred packages.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin_environments import python_with

VERSION = "1.16.31"
NAMES = (
    "awssagemaker", "bigquery", "k8sdataservice", "mmcloud", "openai", "perian-job", "slurm", "snowflake", "spark"
)  # fmt: skip
REQUIREMENTS = [
    f"flytekit=={VERSION}",
    *(f"flytekitplugins-{name}=={VERSION}" for name in NAMES),
    # of flytekit's own host
    "grpcio-health-checking", "prometheus-client",
    "perian<0.3",  # later releases lack what the plugin imports
    "pyarrow<22",  # later releases need a newer NumPy than a plugin allows
    "pyspark-client",
]  # fmt: skip


def find_flytekit(config: pytest.Config) -> Path:
    """Return the Python of that environment; skip the test where it cannot be made."""
    return python_with(config, "flytekit", "flytekit,trio", REQUIREMENTS)
