"""The rules of a package's scripts, done to its unpacked tree."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from buildit.archive.admit import parents
from buildit.archive.beneath import Root
from buildit.errors import IntegrityError
from buildit.make.scripts.certificates import certificate_files
from buildit.make.scripts.state import ScriptRule
from buildit.model.accounts import group_id, user_id
from buildit.model.globs import glob_of
from buildit.plan.identity import RuleInput

_LARGEST = 16 << 20  # bytes of a file that a rule copies
_CLAUSE = re.compile(r"([ugoa]*)([-+=])([rwxXst]*)")
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}


@dataclass(slots=True)
class Attributes:
    """Modes with all bits, owners and capabilities of paths, as far as they differ from the disk's;
    no set-id bit ever reaches one."""

    modes: dict[str, int] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    owners: dict[str, tuple[int, int]] = field(default_factory=dict)
    capabilities: dict[str, str] = field(default_factory=dict)

    def file_rules(self, *, keep_set_id: bool) -> Iterator[RuleInput]:
        """What the capture of the tree is told, path by path."""
        for path in sorted({*self.modes, *self.owners, *self.capabilities}):
            mode, owner = self.modes.get(path), self.owners.get(path)
            bits = 0o7777 if keep_set_id else 0o3777 if path in self.directories else 0o1777
            yield RuleInput(
                glob_of(path),
                "" if mode is None else f"{mode & bits:04o}",
                "" if owner is None else f"{owner[0]}:{owner[1]}",
                tuple(self.capabilities.get(path, "").split()),
            )

    def set_ids(self) -> list[str]:
        """The files with a set-id bit: on a directory it gives nobody anything."""
        found = (path for path, mode in self.modes.items() if mode & 0o6000)
        return sorted(path for path in found if path not in self.directories)


_NOT_HERE = {
    errno.ENOENT: "its file is not there",
    errno.ENOTDIR: "it lies below a link or file",
    errno.EISDIR: "it is a directory",
    errno.ENAMETOOLONG: "no file has a name as long",
    errno.EINVAL: "no file can be called so",
}


def apply_rules(
    rules: Iterable[ScriptRule], tree: Root, found: Attributes
) -> dict[ScriptRule, str]:
    """Do each rule in turn; what has to do with modes and owners goes into `found`.

    What cannot be done is given back, with the reason: a path that lies below a link or a file is
    left alone, as what a package links to may be another's.

    Raises:
        OSError: the disk is full or fails.
    """
    left: dict[ScriptRule, str] = {}
    for rule in rules:
        why = ""
        try:
            with suppress(FileExistsError):
                _apply(rule, tree, found)
        except IntegrityError:
            why = _NOT_HERE[errno.ENOTDIR]
        except ValueError:  # a NUL in it
            why = _NOT_HERE[errno.EINVAL]
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            why = _NOT_HERE[error.errno]
        if why:
            left[rule] = why
    return left


def _apply(rule: ScriptRule, tree: Root, found: Attributes) -> None:
    match rule.kind:
        case "directory":
            _make_above(tree, rule.path)
            tree.mkdir(rule.path)
        case "write":
            _write(tree, rule.path, rule.value.encode("utf-8", "surrogateescape"))
        case "copy":
            with tree.open_file(rule.value) as stream:
                content = stream.read(_LARGEST)
            mode = tree.lstat(rule.value).st_mode
            _write(tree, rule.path, content, stat.S_IMODE(mode))
        case "link":
            with suppress(FileNotFoundError):
                if stat.S_ISLNK(tree.lstat(rule.path).st_mode):
                    tree.unlink(rule.path)
            _make_above(tree, rule.path)
            tree.symlink(rule.value, rule.path)
        case "certificates":
            for path, made in certificate_files(tree):
                if isinstance(made, bytes):
                    _write(tree, path, made)
                else:
                    _make_above(tree, path)
                    tree.symlink(made, path)
        case _:
            for path in [rule.path, *(_below(tree, rule.path) if rule.recursive else ())]:
                _attribute(rule, path, tree, found)


def _attribute(rule: ScriptRule, path: str, tree: Root, found: Attributes) -> None:
    status = tree.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return
    directory = stat.S_ISDIR(status.st_mode)
    match rule.kind:
        case "mode":
            before = found.modes.get(path, stat.S_IMODE(status.st_mode))
            found.directories |= {path} if directory else set()
            found.modes[path] = new_mode(rule.value, before, directory=directory)
        case "owner":
            user, _, group = rule.value.partition(":")
            uid, gid = found.owners.get(path, (0, 0))
            uid = _number(user, user_id) if user else uid
            gid = _number(group, group_id) if group else gid
            found.owners[path] = uid, gid
        case _:
            if not directory:
                found.capabilities[path] = rule.value


def _number(name: str, number_of: Callable[[str], int]) -> int:
    text = name.removeprefix("#")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else number_of(name)


def new_mode(text: str, before: int, *, directory: bool) -> int:
    """What chmod(1) makes of a mode; what cannot be read changes nothing."""
    if re.fullmatch(r"[0-7]{1,5}", text):
        return int(text, 8) & 0o7777
    mode = before
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            return before
        who, operator, letters = match.groups()
        mask = sum(_WHO[one] for one in set(who.replace("a", "ugo") or "ugo"))
        letters = letters.replace("X", "x" if directory or before & 0o111 else "")
        bits = sum(_BITS[one] for one in set(letters)) & mask
        if operator == "=":
            mode = mode & ~mask | bits
        else:
            mode = mode | bits if operator == "+" else mode & ~bits
    return mode


def _write(tree: Root, path: str, content: bytes, mode: int = 0o644) -> None:
    _make_above(tree, path)
    with os.fdopen(tree.create(path, mode), "wb") as stream:
        stream.write(content)
    tree.chmod(path, mode)


def _make_above(tree: Root, path: str) -> None:
    for above in reversed(list(parents(path))):
        with suppress(FileExistsError):
            tree.mkdir(above)


def _below(tree: Root, path: str) -> list[str]:
    return [one for one, _ in tree.walk() if one.startswith(f"{path}/")]
