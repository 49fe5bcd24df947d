"""`connectrio new`: writes the package of a new connector, from the files in `cli/templates`.

They are the files of a package that works as it is, named `my-connector`; in a new package, its own names stand in
place of these. Each template is a folder. The files beside these folders belong to every package. The texts in which
they differ stand there as `{{check}}`, and come from `template.toml`.
"""

from __future__ import annotations

import keyword
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from connectrio.cli.errors import CommandError, UsageError
from connectrio.terminal import print_code, print_heading, print_line

__all__ = ["TEMPLATES", "new"]

Template = Literal["http", "sql", "subprocess"]

TEMPLATES = Path(__file__).parent.parent / "templates"

# with a longer name, lines of the files would become too long
_LONGEST_NAME = 32
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_TASK_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*")


def new(
    name: str, /, *, template: Template = "http", task_type: str | None = None, directory: Path | None = None
) -> None:
    """Write the package of a new connector: the connector, its tests, and what builds and checks them.

    It works as it is, on a system that is made up: replace that by yours. No file is overwritten.

    :param name: the package's name, such as acme-reports
    :param template: what the connector runs: jobs of an HTTP API, queries of an SQL database, or a program
    :param task_type: the type of the tasks that it serves; by default the name, with _ for -
    :param directory: where to write it; by default a directory of that name
    """
    module = name.replace("-", "_")
    _check_name(name, module, template)
    task_type = module if task_type is None else task_type
    if not _TASK_TYPE.fullmatch(task_type) or len(task_type) > _LONGEST_NAME:
        raise UsageError(
            f"--task-type {task_type!r} must be letters, digits and single - _ . between them, {_LONGEST_NAME} at most"
        )
    directory = directory or Path(name)
    words = [word.capitalize() for word in module.split("_")]
    facts = tomllib.loads((TEMPLATES / template / "template.toml").read_text(encoding="utf-8"))
    names = {
        "my_connector": module,
        "my-connector": name,
        "MY_CONNECTOR": module.upper(),
        "MyConnector": _class_name(words, template),
        "My Connector": " ".join(words),
        "my_task": task_type,
        "my-dependencies": '", "'.join(facts["dependencies"]),
    }
    texts = _texts(facts)
    any_name = re.compile("|".join(names))

    def own(text: str) -> str:
        for key, value in texts.items():
            text = text.replace(f"{{{{{key}}}}}", value)
        return any_name.sub(lambda found: names[found[0]], text)

    try:
        if directory.exists() and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty, and nothing is overwritten", hint="choose another --directory")
        for source, target in _files(template):
            path = directory / own(target)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(own(source.read_text(encoding="utf-8")), encoding="utf-8")
            print_line(str(path))
    except OSError as error:
        raise CommandError(f"cannot write the package to {directory}: {error.strerror}") from error
    print_heading("Try next")
    steps = ["uv sync", "uv run pytest", own(texts["check"]), own(texts["dev"])]
    print_code("\n".join([shlex.join(["cd", str(directory)]), *steps]), "console")


def _check_name(name: str, module: str, template: Template) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"the name {name!r} must be lower-case letters, digits and single - or _ between them, beginning with a"
            f" letter, {_LONGEST_NAME} at most"
        )
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise UsageError(f"the name {name!r} is taken by Python itself")
    if module.startswith("test") or any(path.stem == module for path, _ in _files(template)):
        raise UsageError(f"the name {name!r} is one of the package's tests", hint="choose another name")
    installed = find_spec(module)
    if installed is not None and installed.origin is not None:
        raise UsageError(f"a module {module!r} is installed already, at {installed.origin}", hint="choose another name")


def _class_name(words: list[str], template: Template) -> str:
    """Return the name of the connector's class, which is no other name in the files of the template."""
    name = "".join(words)
    sources = [path.read_text(encoding="utf-8") for path, _ in _files(template) if path.suffix == ".py"]
    return f"{name}Connector" if any(re.search(rf"\b{name}\b", source) for source in sources) else name


def _texts(facts: dict[str, Any]) -> dict[str, str]:
    """Return the texts in which templates differ, by their names in the files."""
    connectrio = f"{facts['environment']} uv run connectrio".strip()
    return {
        "system": facts["system"],
        "notes": facts["notes"].strip(),
        "check": f"{connectrio} check {facts['module']} {facts['sample']}",
        # dev watches the module's own package or folder
        "dev": f"{connectrio} dev {facts['module']}" + (" --watch src" if facts["module"].endswith(".py") else ""),
        "run": f"{connectrio} run my_task {facts['sample']}",
    }


def _files(template: str) -> Iterator[tuple[Path, str]]:
    """Yield each file of a template, and where it belongs in the package."""
    templates = get_args(Template)
    for root in (TEMPLATES, TEMPLATES / template):
        for path in sorted(root.rglob("*")):
            target = path.relative_to(root)
            # caches: pip compiles what it installs, and ruff looks at these files where this is developed
            is_cache = {"__pycache__", ".ruff_cache"} & {*target.parts}
            if path.is_file() and not is_cache and target.parts[0] not in {*templates, "template.toml"}:
                yield path, str(target)
