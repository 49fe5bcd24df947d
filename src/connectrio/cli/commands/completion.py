"""`connectrio completion`: lets a shell complete our commands and their options at the key TAB."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.completion import ShellDetectionError, detect_shell

from connectrio.cli.app import connectrio_app
from connectrio.cli.errors import CommandError, UsageError
from connectrio.terminal import print_line

__all__ = ["completion"]

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Shell | None = None, /, *, install: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Print the script that lets a shell complete commands and options, or install it.

    Shells that are started afterwards use what --install has written.

    :param shell: by default the one that runs this
    :param install: write the script into your home directory, and for bash and zsh a line that loads it into .bashrc or
        .zshrc
    """
    try:
        chosen = shell or detect_shell()
    except ShellDetectionError as error:
        raise UsageError("it is not clear which shell this is", hint="name it: connectrio completion bash") from error
    app = connectrio_app()
    if not install:
        print(app.generate_completion(shell=chosen))
        return
    try:
        print_line(f"installed as {app.install_completion(shell=chosen)}; open a new shell to use it")
    except OSError as error:
        raise CommandError(f"cannot install it as {error.filename}: {error.strerror}") from error
