"""What is made from the chart: its schema, tables of documents, rendered installs. `python tests/deploy/generated.py`.

A table stands in its page between `<!-- of the chart: NAME -->` and `<!-- up to here -->`. `test_chart_generated.py`
fails while something is not up to date. The rendered installs need helm.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))

from connectrio.cli.commands.serve import serve  # noqa: E402 - the tests' folders are modules
from connectrio.cli.settings_help import settings_help  # noqa: E402
from connectrio.host.settings import HostSettings  # noqa: E402
from connectrio.logs._levels import LEVELS  # noqa: E402
from deploy.chart import CHART, DOCS, INSTALLS, THEIRS, manifests_of, why_no_helm  # noqa: E402
from docs.generated import cell, code, table, types  # noqa: E402

SCHEMA = CHART / "values.schema.json"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

# values of Flyte's charts and settings that the chart refuses itself, because it has more to say than a schema
REFUSED_VALUES = ("configPath", "extraArgs", "connectorSecret", "agentSecret", "forceNamespace", "flyteconnector")
REFUSED_SETTINGS = (
    "port", "prometheus_port", "processes", "job_store", "tls_cert", "tls_key", "config", "host", "timeout"
)  # fmt: skip

_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_COUNT = {"type": "integer", "minimum": 1}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
# a number, or a share of all
_PODS = {"type": ["integer", "string", "null"], "minimum": 0, "pattern": "^[0-9]+%?$"}
_LEVEL = rf"([^\s,]+=)?({'|'.join(LEVELS)})"
_TEXT_LIST = {"type": "array", "items": {"type": "string"}}
# what the default of a value does not tell
_FORMS: dict[str, dict[str, Any]] = {
    "replicaCount": _COUNT,
    "processes": _COUNT,
    "image.pullPolicy": {"enum": ["IfNotPresent", "Always", "Never"]},
    # null, because helm warns of a list in place of a map, even of an empty one
    "podEnv": {"type": ["object", "array", "null"]},
    "ports.containerPort": _PORT,
    "ports.name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$"},
    "ports.metricsPort": _PORT,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "podDisruptionBudget.maxUnavailable": _PODS,
    "podDisruptionBudget.minAvailable": _PODS,
    "autoscaling.minReplicas": _COUNT,
    "autoscaling.maxReplicas": _COUNT,
    "networkPolicy.vendorPorts": {"type": "array", "items": _PORT},
    "tls.certManager.dnsNames": _TEXT_LIST,
    "connectorSecrets": {
        "type": "object",
        # of other names the chart says what is wrong
        "patternProperties": {
            "^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$": {
                "type": "object",
                "properties": {
                    "existingSecret": {"type": "string"},
                    "stringData": _TEXTS,
                    "data": _TEXTS,
                    "mountPath": {"type": "string", "pattern": "^/"},
                },
                "additionalProperties": False,
            },
        },
    },
    **dict.fromkeys(("commonLabels", "commonAnnotations", "podAnnotations", "podLabels", "nodeSelector"), _TEXTS),
    **dict.fromkeys(("service.annotations", "headlessService.annotations", "serviceAccount.annotations"), _TEXTS),
    **dict.fromkeys(
        (f"monitoring.{name}.labels" for name in ("serviceMonitor", "prometheusRule", "dashboard")), _TEXTS
    ),
    "monitoring.dashboard.annotations": _TEXTS,
}
_NULLABLE = {"integer": ["integer", "null"], "integer or text": ["integer", "string", "null"]}
_KINDS = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


def described() -> dict[str, tuple[str, str]]:
    """The values of values.yaml that have a description: path → (type where it is said, description)."""
    found: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    text = ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if begins := re.match(r" *# -- (.*)", line):
            text = begins[1]
        elif text and (goes_on := re.match(r" *# (.*)", line)):
            text += f" {goes_on[1]}"
        elif key := re.match(r"( *)(\w+):", line):
            path[len(key[1]) // 2 :] = [key[2]]
            if text:
                kind, rest = re.fullmatch(r"(?:\(([a-z ]+)\) )?(.*)", text).groups("")
                found[".".join(path)] = kind, rest
            text = ""
    return found


def value_at(path: str, values: Any = VALUES) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def schema_of_setting(name: str, annotation: str) -> dict[str, Any]:
    """The JSON schema of a setting, from its type and from what HostSettings takes."""
    kind = annotation.removesuffix(" | None")
    if kind in ("int", "float"):
        return {"type": "integer" if kind == "int" else "number", **lower_bound(name, kind)}
    if name == "log_level":
        texts = {"type": "string", "pattern": rf"^{_LEVEL}([\s,]+{_LEVEL})*$"}
        return {**texts, "type": ["array", "string"], "items": texts}
    if kind in ("list[str]", "tuple[str, ...]"):
        return {"type": "array", "items": {"type": "string", "pattern": "^\\S+$"}}
    choices = {
        "bool": {"type": "boolean"},
        "str": {"type": "string"},
        "Path": {"type": "string"},
        "Backend": {"enum": ["asyncio", "uvloop", "trio"]},
        "LogFormat": {"enum": ["auto", "console", "json"]},
    }
    return choices[kind] if kind in choices else {"enum": re.findall(r"[\d.]+", kind)}


def lower_bound(name: str, kind: str) -> dict[str, float]:
    def takes(value: float) -> bool:
        try:
            HostSettings(**{name: value})
        except ValueError:
            return False
        return True

    if name not in {each.name for each in fields(HostSettings)} or takes(-1):
        return {}
    if takes(0):
        return {"minimum": 0}
    if kind == "float" and takes(1e-9):
        return {"exclusiveMinimum": 0}
    refused, taken = 0, next(2**power for power in range(40) if takes(2**power))
    while taken - refused > 1:
        middle = (refused + taken) // 2
        refused, taken = (refused, middle) if takes(middle) else (middle, taken)
    return {"minimum": taken}


def schema_of_settings() -> dict[str, Any]:
    kinds = types()
    properties = {}
    for name, help_text in settings_help(serve).items():
        if name in REFUSED_SETTINGS:
            properties[name] = {"description": "not given here: see the other values"}
        else:
            properties[name] = {"description": help_text.summary, **schema_of_setting(name, kinds[name])}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def schema_at(path: str, value: Any, texts: dict[str, tuple[str, str]]) -> dict[str, Any]:
    if path not in texts and isinstance(value, dict):
        below = {key: schema_at(f"{path}.{key}" if path else key, each, texts) for key, each in value.items()}
        scalars = [key for key, each in value.items() if isinstance(each, bool | int | str)]
        # a null in a user's values takes the default away
        needed = [key for key in scalars if not texts[f"{path}.{key}" if path else key][0]]
        return {"type": "object", "properties": below, "required": needed, "additionalProperties": False}
    kind, text = texts[path]
    if path == "settings":
        return {"description": text, **schema_of_settings()}
    form = _FORMS.get(path) or {"type": _NULLABLE[kind] if kind else _KINDS[type(value)]}
    return {"description": text, **form}


def schema() -> dict[str, Any]:
    """The schema of values.yaml."""
    made = schema_at("", VALUES, described())
    made["properties"] |= {name: {"description": "refused; the chart says what to use"} for name in REFUSED_VALUES}
    # helm gives it to each chart that is part of another
    made["properties"]["global"] = {"type": "object"}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "values of connectrio's chart", **made}


def schema_text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def shown(value: Any) -> str:
    """A value as YAML in one line, for a cell."""
    if value is None or value in ("", {}, []):
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return code(text.removesuffix("\n...\n").strip())


def values() -> Iterator[str]:
    """Each value with its default and description."""
    rows = [(code(path), shown(value_at(path)), cell(text)) for path, (_, text) in described().items()]
    yield from table("value | default | what it is", rows)


def comparison() -> Iterator[str]:
    """Each value of Flyte's chart: whether this one has it, and its own."""
    known, theirs = described(), json.loads(THEIRS.read_text())
    rows = []
    for path, fact in theirs["values"].items():
        rows.append(
            (code(path), here_of(fact), shown(fact["default"]), ours_beside(path, fact), cell(fact.get("note", "")))
        )
    yield from table("value of flyteconnector | here | its default there | its default here | what is different", rows)
    new = dict.fromkeys(path for path in known if path not in theirs["values"])
    whole = {path.split(".")[0] for path in new} - {path.split(".")[0] for path in theirs["values"]}
    names = dict.fromkeys(path.split(".")[0] if path.split(".")[0] in whole else path for path in new)
    yield f"New are {', '.join(map(code, names))}."
    yield ""


def here_of(fact: dict[str, Any]) -> str:
    return f"now {code(fact['use'])}" if fact["here"] == "renamed" else fact["here"]


def ours_beside(path: str, fact: dict[str, Any]) -> str:
    if fact["here"] == "same":
        is_equal = shown(value_at(path)) == shown(fact["default"])
        return "the same" if is_equal else shown(value_at(path)) or "empty"
    return ""


PARTS: dict[str, Callable[[], Iterator[str]]] = {each.__name__: each for each in (values, comparison)}
_PART = re.compile(r"(?<=<!-- of the chart: )(\w+)( -->\n).*?(?=<!-- up to here -->)", re.DOTALL)


def current(page: str) -> str:
    """Return a page with its parts as they should be."""
    return _PART.sub(lambda part: "".join([part[1], part[2], "\n", *(line + "\n" for line in PARTS[part[1]]())]), page)


def outputs() -> Iterator[tuple[Path, str]]:
    """Yield each file that is made, with its content."""
    yield SCHEMA, schema_text()
    for page in (DOCS / "how-to").glob("*.md"):
        if _PART.search(page.read_text()):
            yield page, current(page.read_text())
    if not why_no_helm():
        for install in INSTALLS:
            yield install.with_suffix(".manifests.yaml"), manifests_of(install)


if __name__ == "__main__":
    for path, text in outputs():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(path.relative_to(TESTS.parent))
    if why_no_helm():
        print(why_no_helm(), file=sys.stderr)
