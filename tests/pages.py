"""The files that a page of the documentation shows: what a newcomer copies is what tests build."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

_FENCED = re.compile(
    r"^```\w+\n((?:# |/\* )([\w.-]+/[\w./-]+)(?: \*/)?\n.*?)^```$", re.MULTILINE | re.DOTALL
)
"""A fenced block whose first line is a comment with a path: `# web/container.yaml`."""


def files(page: str) -> dict[str, str]:
    """The files of a page by path, such as `files("README.md")`; the line with the name stays."""
    text = (CHECKOUT / page).read_text("utf-8")
    return {name: content for content, name in _FENCED.findall(text)}


def write(page: str, root: Path) -> None:
    """Write the files of a page below `root`, as a newcomer copies them."""
    found = files(page)
    assert found, f"{page} shows no file"
    for name, content in found.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
