"""Checks HTTP requests and answers against a Google API's own description (a discovery document)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from flyte_sdk.plugins.fakes import Request

# what `type` and `format` of a schema mean in JSON; 64-bit integers travel as strings
_TYPES = {"string": str, "boolean": bool, "integer": int, "number": int | float, "object": dict, "array": list}
_INTEGER = re.compile(r"-?\d+")


class Discovery:
    """A Google API's description.

    :param undescribed: parameters that Google's own client sends all the same
    """

    def __init__(self, document: Path, undescribed: frozenset[str] = frozenset()) -> None:
        self._document = json.loads(document.read_text())
        self._undescribed = undescribed
        self._methods = dict(_methods(self._document))

    def find(self, request: Request) -> tuple[str, dict[str, str]]:
        """The method that `request` calls, such as "bigquery.jobs.get", and the parameters in its path.

        The request's parameters and its body have been checked.

        :raises AssertionError: there is none, or it is not called like this
        """
        for name, method in self._methods.items():
            parameters = self._match(method, request)
            if parameters is not None:
                self._check_parameters(name, method, {**parameters, **request.query})
                if "request" in method:
                    self.check(request.json, method["request"]["$ref"])
                else:
                    assert not request.body, f"{name} takes no body"
                return name, parameters
        raise AssertionError(f"there is no method {request.method} {request.path}")

    def check_answer(self, name: str, body: Any) -> None:
        """:raises AssertionError: the method does not answer this"""
        self.check(body, self._methods[name]["response"]["$ref"])

    def check(self, value: Any, schema: str) -> None:
        """:raises AssertionError: `value` is not of that schema"""
        self._check(value, {"$ref": schema}, schema)

    def _match(self, method: dict[str, Any], request: Request) -> dict[str, str] | None:
        pattern = re.sub(r"\{\+?(\w+)\}", r"(?P<\1>[^/]+)", "/" + self._document["servicePath"] + method["path"])
        found = re.fullmatch(pattern, request.path)
        return found.groupdict() if found and method["httpMethod"] == request.method else None

    def _check_parameters(self, name: str, method: dict[str, Any], given: dict[str, str]) -> None:
        known = {**self._document["parameters"], **method.get("parameters", {})}
        given = {key: value for key, value in given.items() if key not in self._undescribed}
        assert given.keys() <= known.keys(), f"{name} has no parameter {given.keys() - known.keys()}"
        missing = {key for key, each in known.items() if each.get("required")} - given.keys()
        assert not missing, f"{name} needs {missing}"
        for key, value in given.items():
            assert value in known[key].get("enum", [value]), f"{name}: {key} is {value}"

    def _check(self, value: Any, schema: dict[str, Any], where: str) -> None:
        if "$ref" in schema:
            schema = self._document["schemas"][schema["$ref"]]
        kind = schema.get("type", "any")
        if kind == "any":
            return
        assert isinstance(value, _TYPES[kind]), f"{where} is {value!r}, not of type {kind}"
        assert not (isinstance(value, bool) and kind != "boolean"), f"{where} is {value!r}"
        if kind == "string":
            self._check_string(value, schema, where)
        elif kind == "array":
            for index, item in enumerate(value):
                self._check(item, schema["items"], f"{where}[{index}]")
        elif kind == "object":
            for key, item in value.items():
                known = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
                assert known is not None, f"{where} has no {key}"
                self._check(item, known, f"{where}.{key}")

    def _check_string(self, value: str, schema: dict[str, Any], where: str) -> None:
        if schema.get("format") in ("int64", "uint64"):
            assert _INTEGER.fullmatch(value), f"{where} is {value!r}, not an integer"
        assert value in schema.get("enum", [value]), f"{where} is {value!r}"


def _methods(resource: dict[str, Any]) -> Any:
    for method in resource.get("methods", {}).values():
        yield method["id"], method
    for each in resource.get("resources", {}).values():
        yield from _methods(each)
