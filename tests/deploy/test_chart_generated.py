"""What is made from the chart is up to date: its schema, the tables and manifests in documents."""

from __future__ import annotations

import json
import re
import tomllib
from unittest.mock import ANY

import pytest
import yaml

from connectrio.host.settings import HostSettings
from deploy.chart import DOCS, INSTALLS, THEIRS, Install, RefusedError, manifests_of, rendered, why_no_helm
from deploy.generated import PARTS, SCHEMA, VALUES, current, described, schema_text

PAGES = [page for page in sorted((DOCS / "how-to").glob("*.md")) if "<!-- of the chart: " in page.read_text()]
WRITE = "write it with: python tests/deploy/generated.py"


def test_the_schema_is_up_to_date():
    assert SCHEMA.read_text() == schema_text(), WRITE


def test_each_table_stands_in_one_page():
    found = [name for page in PAGES for name in re.findall(r"<!-- of the chart: (\w+) -->", page.read_text())]
    assert sorted(found) == sorted(PARTS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_up_to_date(page):
    assert page.read_text() == current(page.read_text()), WRITE


def leaves(values: dict, below: str = ""):
    for key, value in values.items():
        path = f"{below}.{key}".lstrip(".")
        if path not in described() and isinstance(value, dict) and value:
            yield from leaves(value, path)
        else:
            yield path


def test_every_value_is_described():
    assert set(leaves(VALUES)) == described().keys()


def test_flytes_values_are_sorted_into_same_renamed_and_refused():
    """What is the same has the same path here, and a renamed one says its name."""
    for path, fact in json.loads(THEIRS.read_text())["values"].items():
        if fact["here"] == "same":
            assert path in described()
        elif fact["here"] == "renamed":
            assert fact["use"].partition(".")[0] in described()
        else:
            assert (fact["here"], bool(fact["note"])) == ("refused", True)


@pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())
@pytest.mark.parametrize("install", INSTALLS, ids=lambda path: path.stem)
def test_the_manifests_of_a_documented_install_are_up_to_date(install):
    assert install.with_suffix(".manifests.yaml").read_text() == manifests_of(install), WRITE


@pytest.mark.parametrize("install", INSTALLS, ids=lambda path: path.stem)
def test_the_page_shows_the_values_of_an_install(install):
    assert f'```yaml title="{install.name}"\n{install.read_text()}```' in (DOCS / "how-to" / "helm.md").read_text()


@pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())
def test_the_page_counts_the_seconds_of_a_drain_right():
    """Each column of its table is an install."""
    page = (DOCS / "how-to" / "helm.md").read_text()
    rows = [
        re.findall(r"\| (\d+)(?= \|)", row) for row in re.findall(r"^\| [`t].*(?:\| \d+ ){4}\|$", page, re.MULTILINE)
    ]
    headless = {"headlessService": {"enabled": True}}
    tracing = {"settings": {"tracing": True}}
    columns = [Install(values) for values in ({}, tracing, headless, {**headless, "processes": 2})]
    store = {"jobStore": {"url": "postgresql://db/jobs", "password": "x"}}
    waits = "terminationGracePeriodSeconds"
    assert Install(store).pod[waits] == columns[1].pod[waits]
    assert Install({**headless, **tracing, "processes": 2}).pod == {
        **columns[-1].pod,
        "containers": [{**columns[-1].container, "env": ANY}],
    }
    delay, grace, closing, total = ([int(number) for number in row] for row in rows)
    assert delay == [int(each.env["CONNECTRIO_DRAIN_DELAY"]) for each in columns]
    assert set(grace) == {HostSettings().grace}
    assert total == [each.pod["terminationGracePeriodSeconds"] for each in columns]
    assert total == [sum(parts) for parts in zip(delay, grace, closing, strict=True)]


@pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())
def test_the_page_shows_what_helm_says_of_a_drain_that_is_too_short():
    page = (DOCS / "how-to" / "helm.md").read_text()
    begin, text = re.search(r"^(Error: execution error at )\(…\): (.*)$", page, re.MULTILINE).groups()
    with pytest.raises(RefusedError) as refused:
        rendered({"terminationGracePeriodSeconds": 30})
    assert str(refused.value).startswith(begin)
    assert text in str(refused.value)


@pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())
def test_the_values_of_the_migration_keep_names_and_files():
    page = (DOCS / "how-to" / "from-flyteconnector.md").read_text()
    values = yaml.safe_load(re.search(r'^```yaml title="values.yaml"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)[1])
    found = Install(values)
    theirs = json.loads(THEIRS.read_text())["values"]
    assert found.one("Service", "flyteconnector")["spec"]["ports"][0]["name"] == theirs["ports.name"]["default"]
    pod = found.one("Deployment", "flyteconnector")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert theirs["ports.name"]["default"] in [each["name"] for each in container["ports"]]
    assert "/etc/secrets" in [each["mountPath"] for each in container["volumeMounts"]]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 1000)


def test_the_image_of_the_migration_has_extras_that_exist():
    page = (DOCS / "how-to" / "from-flyteconnector.md").read_text()
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    section = page[page.index("## The image") : page.index("## The values")]
    rows = "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", rows)) | set(re.search(r"'connectrio\[(.*?)\]'", section)[1].split(","))
    assert len(named) == 5
    assert named <= project["optional-dependencies"].keys()


def test_the_executors_configurations_have_known_keys():
    """The page of all keys names each key that the page of the migration gives."""
    known = set(re.findall(r"`(\w+)`", (DOCS / "how-to" / "connect-flyte.md").read_text()))
    page = (DOCS / "how-to" / "from-flyteconnector.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    found = [block["configuration"]["inline"] for block in blocks if "configuration" in block]
    assert len(found) == 2
    for configuration in found:
        plugin = configuration["plugins"]["connector-service"]
        assert plugin.keys() | plugin["defaultConnector"].keys() <= known
        routes = configuration["tasks"]["task-plugins"]["default-for-task-types"]
        assert {name for name, route in routes.items() if route == "connector-service"} == {
            *plugin["supportedTaskTypes"]
        }
