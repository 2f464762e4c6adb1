"""Where the symbolic links of a tree lead, by the tree's own names, without a file system."""

from __future__ import annotations

from collections.abc import Mapping

from buildit.model.tree import MOST_LINKS


def escaping(path: str, links: Mapping[str, str]) -> bool:
    """Whether the link at `path` leads out of the tree; one that goes in a ring leads nowhere.

    `links` maps every link of the tree to its text. Resolved as the kernel would, part by part
    through other links; an absolute text always leads out. Parts that the tree lacks are taken as
    directories.
    """
    hops = 0
    at: list[str] = path.split("/")[:-1]
    waiting = list(reversed(links[path].split("/")))
    if links[path].startswith("/"):
        return True
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                return True
            at.pop()
            continue
        at.append(part)
        text = links.get("/".join(at))
        if text is None:
            continue
        hops += 1
        if hops > MOST_LINKS:
            return False
        if text.startswith("/"):
            return True
        at.pop()
        waiting.extend(reversed(text.split("/")))
    return False
