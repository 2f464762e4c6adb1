"""What a `run` step mounts, and no layer has: files, caches, texts and secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from buildit.archive.contents import contents_blob
from buildit.digest import Digest, digest_bytes
from buildit.errors import UsageError
from buildit.make.laid_trees import laid_name, lay_directories, lay_layer
from buildit.model.copying import MountedFiles
from buildit.model.secret import Secret
from buildit.model.tree import YEAR_1980, Entry, Kind
from buildit.plan.identity import RunInputs
from buildit.sandbox.container import Mounted, SecretFile
from buildit.sandbox.owned import OwnedTrees
from buildit.store.cas import Store

_CACHE = "cache"
"""The directory of a cache in its tree."""


@dataclass(slots=True)
class RunMounts:
    """The mounts of one step, ready: those of files, the secrets that are given, and where these
    are to be seen besides."""

    files: list[Mounted] = field(default_factory=list)
    secrets: list[Secret] = field(default_factory=list)
    secret_files: list[SecretFile] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


def given_secrets(inputs: RunInputs, secret: Callable[[str], bytes]) -> RunMounts:
    """The secrets of a step: those that it must have, and of its mounts those that are given.

    Raises:
        UsageError: one that it must have is not given, or cannot be a variable.
    """
    made = RunMounts()
    values = {name: secret(name) for name in inputs.secrets}
    for one in (each.mount for each in inputs.mounts if each.mount.kind == "secret"):
        if one.id not in values:
            try:
                values[one.id] = secret(one.id)
            except UsageError:
                continue  # a step that need not have it runs without
        mode = int(one.mode or "0400", 8)
        made.secret_files.append(SecretFile(one.id, one.dest, mode, one.uid, one.gid))
        if one.variable:
            made.variables[one.variable] = _text(one.id, values[one.id])
    made.secrets += (Secret(name, value) for name, value in values.items())
    return made


def _text(name: str, value: bytes) -> str:
    try:
        if b"\0" in value:
            raise ValueError
        return value.decode()
    except ValueError as error:
        hint = "let the step read the file instead: leave `env` out"
        raise UsageError(f"the secret {name} is no text, as a variable is", hint=hint) from error


def mount_files(
    inputs: RunInputs, owned: OwnedTrees, layer: Path, store: Store, stack: ExitStack
) -> Iterator[Mounted]:
    """Binds, texts and caches; what may be written to lies in `layer`, which goes at the end, but
    for caches that are kept.

    Raises:
        StoreError, CorruptBlob: a layer cannot be laid down.
    """
    for number, one in enumerate(inputs.mounts):
        kind = one.mount.kind
        if kind in ("secret", "tmpfs"):
            continue
        lay, path = _laying(one, owned, store)
        if one.mount.kept or not one.mount.writable:
            tree, _ = stack.enter_context(owned.tree(_name(one, owned), lay))
        else:
            work = layer / f"mount{number}"
            work.mkdir(0o755)
            lay(work)
            tree = work / "tree"
        yield Mounted(tree / path, one.mount.dest, not one.mount.writable)


def _laying(
    one: MountedFiles, owned: OwnedTrees, store: Store
) -> tuple[Callable[[Path], bytes], str]:
    """What lays the tree of a mount, and the path in it that is seen."""
    if one.layer:
        return partial(lay_layer, owned.ids, store, Digest(one.layer)), one.path
    mount, mode = one.mount, int(one.mount.mode or "0755", 8)
    entry = Entry(_CACHE, Kind.DIRECTORY, mode, YEAR_1980, mount.uid, mount.gid)
    return partial(lay_directories, owned.ids, contents_blob([entry])), _CACHE


def _name(one: MountedFiles, owned: OwnedTrees) -> str:
    mount = one.mount
    said = f"cache {mount.id} {mount.mode} {mount.uid}:{mount.gid} {one.layer}"
    return laid_name(digest_bytes(said.encode()) if mount.kept else Digest(one.layer), owned.ids)
