"""The root in which a Debian source package is built: exact .debs and what their scripts would do.

Three trees of one overlay, the top first: `fix` (what depends on all of them), the addition of this
source, and the base that all sources share. Each has the files of its .debs and, as dpkg would
leave it below /var/lib/dpkg, their control members; `fix` is made of what is in the others, without
a process for any .deb. Any change here, to a byte or a rule, raises `CHROOT`; one to how scripts
are read, `MAINTAINER_RULES`, which is in the name of `fix`. The rules, each of which some package
needs (DEBIAN §2):

1. `/etc/dpkg/origins/default`: without it dpkg-buildflags says nothing, and a package is built
   without optimisation and hardening, in silence.
2. The database of dpkg, whole: `status` in `fix`, `info/` in the trees; for dh_shlibdeps,
   dpkg-checkbuilddeps and .buildinfo. Lists have the paths that the .debs have, not merged.
3. The links of update-alternatives, and `/bin/sh`.
4. `/etc/passwd` and `/etc/group` of base-passwd's masters, and the user of the build.
5. The root catalogs of XML and SGML.
6. `/etc/hosts` with the sandbox's own name, `/etc/nsswitch.conf` with files only.
7. The bundle of certificates, and their links.
8. `/etc/mtab`, `/var/run`, `/var/lock`, the links of a merged /usr, and directories.
9. Nothing of manuals, translations, lintian, nor documentation but `copyright`.

Left out on purpose, as no build needed it: byte code, caches of icons and fonts, `ld.so.cache`,
initial configuration. All files are 0644 or 0755 and directories 0755, without set-id.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.contents import HOSTS, MERGED_LINKS, MERGED_USR, NSSWITCH, merged_path
from buildit.archive.deb import read_control
from buildit.archive.unpack import unpack_entries
from buildit.digest import Digest, canonical, digest_bytes
from buildit.errors import IntegrityError
from buildit.make.debtree import Filling, set_times
from buildit.make.scripts.certificates import SHIPPED, certificate_files
from buildit.make.scripts.instead import ROOT
from buildit.make.scripts.read import script_rules
from buildit.make.scripts.registered import chosen_links, xml_catalog
from buildit.make.scripts.state import ScriptRules
from buildit.model.plan import DebRef
from buildit.model.tree import YEAR_1980, Entry, Kind
from buildit.plan.identity import CHROOT, MAINTAINER_RULES
from buildit.store.cas import Store
from buildit.store.upkeep import prune_trees

DPKG = "var/lib/dpkg"
INFO = f"{DPKG}/info"
"""Where the files of dpkg's database are, in a root."""
_UNWANTED = re.compile(
    r"usr/share/(?:(?:info|lintian|locale|man)/.*|doc/(?:[^/]+/)*(?!copyright)[^/]*)"
)
_DIRECTORIES = """
    build dev etc/alternatives etc/dpkg/origins etc/xml home input mnt opt proc root run srv sys tmp
    usr/local/bin usr/local/lib var/cache var/lib/dpkg/info var/lib/dpkg/triggers
    var/lib/dpkg/updates var/log var/tmp
"""
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{,200}")
_USER = "build:x:1000:1000:build:/build/home:/bin/sh\n"
_GROUP = "build:x:1000:\n"
_MASTERS = "usr/share/base-passwd"
_LINKS: Mapping[str, str] = {
    "etc/dpkg/origins/default": "debian",
    "etc/mtab": "../proc/self/mounts",
    "var/lock": "../run/lock",
    "var/run": "../run",
}


def enters_root(path: str) -> bool:
    """Whether a package's file or directory enters the root."""
    return _UNWANTED.fullmatch(path) is None


# -- the database of dpkg


def info_name(control: bytes) -> str:
    """How files of a package below `info/` begin: NAME, or NAME:ARCH where it may be there for
    several architectures (dpkg's `pkg_infodb`)."""
    fields = control_fields(control)
    name, same = control_name(fields), fields.get("multi-arch") == "same"
    return f"{name}:{fields.get('architecture', 'all')}" if same else name


def control_name(fields: Mapping[str, str], place: str = "") -> str:
    """The name of a package, by its control fields.

    Raises:
        IntegrityError: it is none that a package can have (Debian Policy 5.6.1).
    """
    name = fields.get("package", "")
    if not _PACKAGE.fullmatch(name):
        message = f"its control file names no package: {name[:60]!r}"
        hint = "take another version of the package, or the .deb from another place"
        raise IntegrityError(message, place=place, hint=hint)
    return name


def control_fields(control: bytes) -> dict[str, str]:
    """The one-line fields of a paragraph, their names in lower case."""
    lines = control.decode("utf-8", "replace").splitlines()
    said = (line.partition(":") for line in lines if line[:1].strip())
    return {name.lower(): value.strip() for name, _, value in said}


def status_paragraph(
    control: bytes,
    conffiles: bytes,
    state: str = "installed",
    digest: Callable[[str], str] = lambda _: "newconffile",
) -> bytes:
    """A package's paragraph of `status`: as its control file, in a state of dpkg(1); ends in a
    blank line. `digest` is what dpkg has of a conffile, by its absolute path: by default none is
    known, which dpkg writes as `newconffile`.
    """
    first, _, rest = control.strip(b"\n").partition(b"\n")
    names = [line.strip() for line in conffiles.splitlines() if line.strip()]
    # `remove-on-upgrade /etc/x` (deb-conffiles(5)) is of a file that is not there
    names = [name for name in names if name.startswith(b"/")]
    lines = [b" %s %s\n" % (name, digest(os.fsdecode(name)).encode()) for name in names]
    said = b"".join((b"Conffiles:\n", *lines)) if lines else b""
    return b"%s\nStatus: install ok %s\n%s\n%s\n" % (first, state.encode(), rest, said)


def info_files(members: Mapping[str, bytes], names: Sequence[str]) -> dict[str, bytes]:
    """What dpkg has of a package below `info/`; `names` are its paths as the .deb has them."""
    stem = info_name(members["control"])
    found = {f"{stem}.{name}": text for name, text in members.items() if name != "control"}
    lines = "".join(("/.\n", *(f"/{name}\n" for name in names)))
    return {**found, f"{stem}.list": lines.encode("utf-8", "surrogateescape")}


def merged_status(parts: Iterable[bytes]) -> bytes:
    """Several `status` files as one, by package."""
    every = (one for part in parts for one in part.split(b"\n\n") if one.strip())
    return b"".join(one.strip(b"\n") + b"\n\n" for one in sorted(every))


# -- trees of .debs


BASE, ADDITION, FIX = "root-base", "root-more", "root-fix"
"""How the names of trees begin."""

MOST, UNUSED = 16, 14 * 86400.0
"""How many additions a store keeps besides those in use, and for how many seconds after their last
use: of a desktop's packages one has 500 MB. The base stays."""


def root_names(chroot: Sequence[Sequence[DebRef]]) -> tuple[str, ...]:
    """The names of the trees of a root, the top first."""
    names = [tree_name(debs, bool(number)) for number, debs in enumerate(chroot) if debs]
    names.reverse()
    return (f"{FIX}-{_digest([MAINTAINER_RULES, *names])}", *names)


def tree_name(debs: Iterable[DebRef], is_addition: bool) -> str:
    """The name of the tree of these .debs; only their digests count, not their order."""
    digests = sorted({deb.digest for deb in debs})
    return f"{ADDITION if is_addition else BASE}-{_digest(digests)}"


def _digest(what: Sequence[str]) -> Digest:
    record = {"scheme": "buildit-root-1", "of": [*what], "chroot": CHROOT, "merged-usr": MERGED_USR}
    return digest_bytes(canonical(record))


def fill_tree(
    tree: Path, debs: Iterable[DebRef], blob: Callable[[Digest], Path], stop: threading.Event
) -> None:
    """Unpack .debs and their control members into the empty directory `tree`.

    Raises:
        IntegrityError, StoreError, Vanished, Interrupted: as `debtree.Filling.unpack`.
    """
    status: dict[str, bytes] = {}

    def control(deb: DebRef, path: Path, names: list[str]) -> None:
        with path.open("rb") as packed:
            members = read_control(packed, f"{deb.name} {deb.version}")
        status[deb.name] = status_paragraph(members["control"], members.get("conffiles", b""))
        with Root.open(tree) as root:
            _put(
                root, {f"{INFO}/{name}": text for name, text in info_files(members, names).items()}
            )

    Filling(tree, blob, enters_root, stop).unpack(debs, control)
    with Root.open(tree) as root:
        _put(root, {f"{DPKG}/status": merged_status(status.values())})
        set_times(root)


def _put(root: Root, files: Mapping[str, bytes]) -> None:
    for path, text in files.items():
        unpack_entries([(Entry(path, Kind.FILE, 0o644, YEAR_1980), io.BytesIO(text))], root)


# -- what depends on all of them


@dataclass(frozen=True, slots=True)
class Below:
    """Trees of .debs as one, the top first."""

    trees: tuple[Root, ...]

    def exists(self, path: str) -> bool:
        """Whether a path of a running system, with or without a leading slash, is there."""
        return any(_has(tree, merged_path(path.lstrip("/"))) for tree in self.trees)

    def kind(self, path: str) -> Kind:
        """What a path is; a file where it is left out."""
        for tree in self.trees:
            if _has(tree, path):
                mode = tree.lstat(path).st_mode
                return _KINDS.get(stat.S_IFMT(mode), Kind.FILE)
        return Kind.FILE

    def read(self, path: str) -> bytes:
        """A file; empty where there is none."""
        for tree in self.trees:
            if _has(tree, path):
                with tree.open_file(path) as stream:
                    return stream.read()
        return b""

    def listed(self, directory: str) -> tuple[str, ...]:
        """The names in a directory, sorted bytewise."""
        found: set[str] = set()
        for tree in self.trees:
            with suppress(FileNotFoundError, NotADirectoryError):
                found.update(tree.listdir(directory))
        return tuple(sorted(found, key=lambda name: name.encode("utf-8", "surrogateescape")))

    def statuses(self) -> Iterator[bytes]:
        for tree in self.trees:
            with tree.open_file(f"{DPKG}/status") as stream:
                yield stream.read()


def _has(tree: Root, path: str) -> bool:
    try:
        tree.lstat(path)
    except (FileNotFoundError, NotADirectoryError, IntegrityError):
        return False
    return True


_KINDS = {stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}
REMAINDER = "usr/share/buildit/not-understood"
"""In the `fix` tree: lines of scripts that ask for what a rule does, and that it does not read."""


def fix_tree(tree: Path, trees: Sequence[Path]) -> None:
    """Fill the empty directory `tree` with what the rules add to the trees below it."""
    with ExitStack() as opened:
        below = Below(tuple(opened.enter_context(Root.open(one)) for one in trees))
        root = opened.enter_context(Root.open(tree))
        names = _DIRECTORIES.split()
        every = (Entry(path, Kind.DIRECTORY, 0o755, YEAR_1980) for path in names)
        unpack_entries(((entry, None) for entry in every), root)
        scripts = {name: _registered(below, name) for name in _registering(below)}
        links = _links(below, scripts.values())
        _put(root, _files(below, scripts.values()))
        _put(root, {REMAINDER: _remainder(scripts)})
        for path, target in sorted(links.items()):
            link = Entry(path, Kind.SYMLINK, 0o777, YEAR_1980, target=target)
            unpack_entries([(link, None)], root)
        set_times(root)


def _links(below: Below, scripts: Iterable[ScriptRules]) -> dict[str, str]:
    """Path -> text of each link."""
    found = {one.path: one.target for one in MERGED_LINKS if below.exists(one.target)}
    found |= _LINKS
    every = (one for script in scripts for one in script.alternatives)
    for link, (name, path) in chosen_links(every, below.exists).items():
        if not below.exists(link):
            found[merged_path(link.lstrip("/"))] = f"/etc/alternatives/{name}"
            found[f"etc/alternatives/{name}"] = path
    shells = [one for one in ("dash", "bash") if below.exists(f"usr/bin/{one}")]
    if shells and not below.exists("usr/bin/sh"):
        found["usr/bin/sh"] = shells[0]
    return found | {path: what for path, what in _certificates(below) if isinstance(what, str)}


_REGISTERS = re.compile(r"update-(alternatives|xmlcatalog)\b")


def _registering(below: Below) -> Iterator[str]:
    """The packages, as `info/` names them, whose postinst registers something."""
    for name in below.listed(INFO):
        if name.endswith(".postinst"):
            script = below.read(f"{INFO}/{name}").decode("utf-8", "replace")
            if _REGISTERS.search(script):
                yield name.removesuffix(".postinst")


def _registered(below: Below, stem: str) -> ScriptRules:
    """What the scripts of a package come to, those too that an image does without."""
    names = below.read(f"{INFO}/{stem}.list").decode("utf-8", "surrogateescape").split("\n")
    paths = (merged_path(name.lstrip("/")) for name in names if name not in ("", "/."))
    kinds = {path: below.kind(path) for path in paths}
    members = ("preinst", "postinst", "templates")
    control = {one: text for one in members if (text := below.read(f"{INFO}/{stem}.{one}"))}

    def read(path: str) -> str:
        is_file = kinds.get(path) is Kind.FILE
        return below.read(path).decode("utf-8", "replace") if is_file else ""

    return script_rules(stem.partition(":")[0], control, kinds, read, ROOT)


def _remainder(scripts: Mapping[str, ScriptRules]) -> bytes:
    """A line for each command that registers something, or script, that was not understood."""
    lines = (
        f"{stem.partition(':')[0]}: {one.said}\n"
        for stem, found in scripts.items()
        for one in found.remainder
        if ":" not in one.place or (one.why == "not literal" and _REGISTERS.match(one.text))
    )
    return "".join(lines).encode("utf-8", "surrogateescape")


def _certificates(below: Below) -> Iterator[tuple[str, bytes | str]]:
    for tree in below.trees:
        if _has(tree, SHIPPED):
            yield from certificate_files(tree)
            return


def _files(below: Below, scripts: Iterable[ScriptRules]) -> dict[str, bytes]:
    every = [one for script in scripts for one in script.catalogs]
    found = {
        "etc/hosts": HOSTS.encode(),
        "etc/nsswitch.conf": NSSWITCH.encode(),
        f"{DPKG}/status": merged_status(below.statuses()),
        f"{INFO}/format": b"1\n",
        "etc/passwd": accounts(below.read(f"{_MASTERS}/passwd.master"), _USER),
        "etc/group": accounts(below.read(f"{_MASTERS}/group.master"), _GROUP),
    }
    found |= {f"{DPKG}/{name}": b"" for name in ("available", "diversions", "statoverride")}
    if every:
        found["etc/xml/catalog"] = xml_catalog(every).encode()
    if sgml := [name for name in below.listed("etc/sgml") if name.endswith(".cat")]:
        found["etc/sgml/catalog"] = "".join(f'CATALOG "/etc/sgml/{n}"\n' for n in sgml).encode()
    found |= {path: what for path, what in _certificates(below) if isinstance(what, bytes)}
    return found


def accounts(master: bytes, user: str) -> bytes:
    """A file of accounts: a master of base-passwd, whose passwords are `*`, and the build's own."""
    return master.replace(b":*:", b":x:") + user.encode()


# -- all of it, in a store


def root_trees(
    store: Store, chroot: Sequence[Sequence[DebRef]], stop: threading.Event
) -> tuple[str, ...]:
    """The names of the trees of a root, the top first, each filled where the store lacks it;
    `chroot` has the .debs of each, the lowest first.

    Raises:
        IntegrityError, StoreError, Vanished, Interrupted: as `debtree.Filling.unpack`.
    """
    fix, *names = root_names(chroot)
    store.pin((fix, *names))
    of_debs = {tree_name(debs, bool(number)): debs for number, debs in enumerate(chroot)}
    filled = [partial(fill_tree, debs=of_debs[n], blob=store.sound, stop=stop) for n in names]
    paths = [store.named_tree(name, fill) for name, fill in zip(names, filled, strict=True)]
    paths.insert(0, store.named_tree(fix, partial(fix_tree, trees=paths)))
    for path in paths:
        store.trees.touch(path)
    for prefix in (ADDITION, FIX):
        prune_trees(store, prefix, MOST, UNUSED)
    return (fix, *names)
