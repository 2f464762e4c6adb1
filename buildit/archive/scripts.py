"""What maintainer scripts of Debian packages would do, read from their text; none is run. Pure.

Nearly all of what they say is literal (DEBIAN §2): lines are joined at backslashes, split as the
shell does, and variables of the script with a literal value are put in. What still has a `$` in it
is not guessed: it is returned as not understood, or stands in the one table below.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise


@dataclass(frozen=True, slots=True)
class Slave:
    """A link that follows its master: it is made where `path` exists."""

    link: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """One call of `update-alternatives --install` (update-alternatives(1)); absolute paths."""

    link: str
    name: str
    path: str
    priority: int
    slaves: tuple[Slave, ...] = ()


@dataclass(frozen=True, slots=True)
class Delegation:
    """One entry of the XML catalog: identifiers of `kind` (`public`, `system`, `uri`) that begin
    with `start` are looked up in the catalog `local`, an absolute path."""

    kind: str
    start: str
    local: str


_XZ = "cat more less diff cmp grep egrep fgrep"
_XZ_SLAVES = [("unlzma", "unxz"), *((f"lz{one}", f"xz{one}") for one in _XZ.split())]
TABLE: Mapping[str, tuple[Alternative, ...]] = {
    "php8.2-cli": tuple(
        Alternative(f"/usr/bin/{name}", name, f"/usr/bin/{name}8.2", 82)
        for name in ("php", "phar", "phar.phar")
    ),
    "procps": (),  # for files that its own version does not have
    "xz-utils": (
        Alternative(
            "/usr/bin/lzma",
            "lzma",
            "/usr/bin/xz",
            20,
            tuple(Slave(f"/usr/bin/{one}", one, f"/usr/bin/{to}") for one, to in _XZ_SLAVES),
        ),
    ),
}
"""The alternatives of packages whose scripts compute them."""

_ASSIGNED = re.compile(r"""[ \t]*([A-Za-z_]\w*)=("[^"$`\\]*"|'[^']*'|[A-Za-z0-9_./:+-]*)[ \t]*;?""")
_COMMENT = re.compile(r"(^|[ \t])#.*")


def commands(script: str) -> Iterator[tuple[str, ...]]:
    """The lines of a script as words, joined where a backslash ends them; lines that the shell's
    quoting rules do not split as they stand are left out. Words with a `$` are kept as they are."""
    known: dict[str, str] = {}
    for line in script.replace("\\\n", " ").splitlines():
        line = _COMMENT.sub("", line).strip()
        if found := _ASSIGNED.fullmatch(line):
            known[found[1]] = found[2].strip("\"'")
            continue
        for name, value in known.items():
            line = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value.replace("\\", r"\\"), line)
        try:
            words = tuple(shlex.split(line))
        except ValueError:
            continue
        if words:
            yield words


def alternatives(name: str, script: str) -> tuple[tuple[Alternative, ...], tuple[str, ...]]:
    """What the postinst of the package `name` registers, and the lines that were not understood."""
    if name in TABLE:
        return TABLE[name], ()
    found, lost = [], []
    for words in commands(script):
        if "update-alternatives" not in words or "--install" not in words:
            continue
        words = words[words.index("--install") + 1 :]
        alternative = None if any("$" in word for word in words[:4]) else _alternative(words)
        if alternative is None:
            lost.append(" ".join(words))
        else:
            found.append(alternative)
    return tuple(found), tuple(lost)


def _alternative(words: tuple[str, ...]) -> Alternative | None:
    if len(words) < 4 or not re.fullmatch(r"-?\d+", words[3]):
        return None
    link, name, path, priority = words[:4]
    slaves = []
    rest = words[4:]
    while rest[:1] == ("--slave",) and len(rest) >= 4:
        slaves += [Slave(*rest[1:4])] if not any("$" in word for word in rest[1:4]) else []
        rest = rest[4:]
    return Alternative(link, name, path, int(priority), tuple(slaves))


def chosen_links(
    every: Iterable[Alternative], exists: Callable[[str], bool]
) -> dict[str, tuple[str, str]]:
    """The links of the alternatives in automatic mode: link -> (name, path), absolute paths.

    Of one name the highest priority wins, of equal ones the first; only what `exists` counts.
    """
    best: dict[str, Alternative] = {}
    for one in every:
        if exists(one.path):
            before = best.setdefault(one.name, one)
            if one.priority > before.priority:
                best[one.name] = one
    found: dict[str, tuple[str, str]] = {}
    for one in best.values():
        slaves = (slave for slave in one.slaves if exists(slave.path))
        for link in chain((Slave(one.link, one.name, one.path),), slaves):
            found.setdefault(link.link, (link.name, link.path))
    return found


def delegations(script: str) -> tuple[Delegation, ...]:
    """What a postinst adds to the catalogs of XML with `update-xmlcatalog --add … --local FILE`
    (update-xmlcatalog(8)); its lines for the catalogs between are not needed."""
    found = []
    for words in commands(script):
        if "update-xmlcatalog" not in words or "--add" not in words:
            continue
        said = dict(pairwise(words))
        kind, start, local = (said.get(f"--{name}", "") for name in ("type", "id", "local"))
        if kind in _DELEGATES and start and local.startswith("/") and "$" not in start + local:
            found.append(Delegation(kind, start, local))
    return tuple(found)


_DELEGATES = {
    "public": ("delegatePublic", "publicIdStartString"),
    "system": ("delegateSystem", "systemIdStartString"),
    "uri": ("delegateURI", "uriStartString"),
}


def xml_catalog(every: Iterable[Delegation]) -> str:
    """The text of /etc/xml/catalog (OASIS XML Catalogs 1.1), sorted."""
    lines = []
    for one in every:
        element, attribute = _DELEGATES[one.kind]
        start, local = _quoted(one.start), _quoted(f"file://{one.local}")
        lines.append(f'<{element} {attribute}="{start}" catalog="{local}"/>\n')
    name = "urn:oasis:names:tc:entity:xmlns:xml:catalog"
    body = "".join(sorted(set(lines)))
    return f'<?xml version="1.0"?>\n<catalog xmlns="{name}">\n{body}</catalog>\n'


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


# -- files of a chroot that no package has

HOSTS = "127.0.0.1 localhost\n127.0.0.1 buildit\n::1 localhost\n::1 buildit\n"
"""A line for each name: the first of a line is the canonical one, which `hostname -f` says."""

NSSWITCH = (
    "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n"
    "protocols: files\nnetworks: files\nethers: files\nrpc: files\n"
)
"""Files only: a build has no network."""
