"""What the site does beside mkdocs: links to files outside docs/ lead to the repository, and dialogs have names."""

from __future__ import annotations

import posixpath
import re
from typing import Any

# a fenced block, in which nothing is a link; or the target of a link or an image
_BLOCK_OR_TARGET = re.compile(r"^( *)(```+).*?^\1\2$|(?<=\]\()(?!\w+:|#)[^)\s]+(?=\))", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Replace the targets that are outside docs/ by their addresses in the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def address(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, found[0]))
        if found[2] or target.startswith("docs/"):
            return found[0]
        return f"{config.repo_url}/blob/main/{target}"

    return _BLOCK_OR_TARGET.sub(address, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Give the theme's dialog a name, which screen readers say."""
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, f'{dialog} aria-label="Search"')
