"""LXC: the pair of archives that `lxc-create -t local` and LXD take, and a config beside the tree
for lxc-start and lxc-execute (lxc.container.conf(5); lxc-local(1), "metadata" and "fstree").

A config names its root file system by an absolute path, which no image can know: `config` names
that of LXC's own place. The keys are those of LXC 3 and later.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from buildit.archive.compress import compress_layer
from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest, canonical, oci_digest
from buildit.errors import RecipeError
from buildit.image import rules
from buildit.image.formats import oci
from buildit.image.formats.rootfs import write_rootfs
from buildit.image.formats.table import Document, Format, LayerBlob, Plan
from buildit.image.layertar import file_entry, write_tree
from buildit.image.laying import joined_digest, laid, unpacking
from buildit.image.merge import Rootfs
from buildit.image.output import UNPACKED, BlobPath, write_documents
from buildit.model.image import App, Emission, Image
from buildit.model.services import INIT

CONFIG = "config"
META = "meta.tar.xz"
TREE = "rootfs.tar.xz"
_INITS = ("sbin/init", "usr/sbin/init")
_NO_INIT = (
    "nothing says what runs, and the image has no /sbin/init, which lxc-start starts then: install "
    "one (systemd-sysv), say `entrypoint`, or use lxc-execute"
)
_PLAIN = re.compile(r"[^\s\"'\\]+")
"""A word that `lxc.init.cmd` can hold: it is cut at blanks, and quotes are part of words."""


def _check(image: Image) -> Document:
    """The lines of the config that `app` gives, as (key, value).

    Raises:
        RecipeError: the user wrote a manifest, or a line would have a line break in it.
    """
    rules.no_content(image, "an LXC image")
    for word in image.started.argv if image.started is not None else ():
        if "'" in word and '"' in word:
            message = f"LXC cannot hold a word with both kinds of quotes: {word!r}"
            hint = "put the command into a script in the image, and name that in `exec`"
            raise RecipeError(message, place=image.place or None, hint=hint)
    lines = [("lxc.arch", rules.machine(image).uname), *_lines(image.started)]
    if image.started is None and image.app is not None:  # LXC starts /sbin/init by itself
        lines += (("lxc.environment", f"{n}={value}") for n, value in image.app.environment)
    for key, value in lines:
        if "\n" in value or "\r" in value:
            message = f"LXC's {key} cannot hold a line break: {value!r}"
            raise RecipeError(message, place=image.place or None, hint="put it into a file")
    return {"lines": lines}


def _lines(app: App | None) -> Iterator[tuple[str, str]]:
    """As `lxc-create -t oci` translates an OCI config."""
    if app is None:
        return
    yield "lxc.execute.cmd", _quoted(app.argv)
    if all(map(_PLAIN.fullmatch, app.argv)):
        yield "lxc.init.cmd", " ".join(app.argv)
    for name, value in app.environment:
        yield "lxc.environment", f"{name}={value}"
    group = app.group if app.group is not None else app.own_group
    yield "lxc.init.uid", app.user
    yield "lxc.init.gid", group or "0"
    yield "lxc.init.cwd", app.working_directory
    # The init that lxc-execute puts before ours passes SIGINT on; on SIGTERM it kills all at once.
    halt = "SIGINT" if app.argv == (INIT,) else app.stop_signal
    if halt is not None:
        yield "lxc.signal.halt", halt


def _quoted(words: Sequence[str]) -> str:
    """Words as LXC cuts them: each in quotes of one kind, with no way to write that kind in it, and
    a pair around the whole, which its reader of configs takes off (confile.c, string_utils.c)."""
    return "'" + " ".join(f"'{one}'" if '"' in one else f'"{one}"' for one in words) + "'"


def _unspoken(image: Image) -> Iterator[str]:
    if image.started is None:
        return
    if not all(map(_PLAIN.fullmatch, image.started.argv)):
        yield (
            "the LXC image starts by lxc-execute, not by lxc-start: `lxc.init.cmd` takes no words "
            "with blanks or quotes"
        )
    for what, there in (("ports", image.started.ports), ("healthcheck", image.started.health)):
        if there:
            yield f"the LXC image has no {what}: LXC has none"


def _plan(image: Image, document: Document, _layers: Sequence[LayerBlob] = ()) -> Plan:
    """`config` as it lies beside the archives, and the members of the metadata archive."""
    name = rules.file_reference(image.name.rpartition("/")[2])
    lines = "".join(f"{key} = {value}\n" for key, value in document["lines"])
    own = (
        f"# {image.name} {image.version}\n"
        f"# As /var/lib/lxc/{name} this directory is a container for\n"
        f"# lxc-start and lxc-execute; {UNPACKED}, where only an ordinary user built it, as root:\n"
        f"# {unpacking(TREE)}\n"
        "# Where root built it, only root may enter: the tree may hold set-id programs. With\n"
        "# lxc.idmap, the first id outside needs x here (setfacl -m u:ID:x .), and its own tree.\n"
        "# Elsewhere give the path:\n"
        f"# lxc-execute -n {name} -f config -s lxc.rootfs.path=dir:$PWD/{UNPACKED}\n"
        f"lxc.rootfs.path = dir:/var/lib/lxc/{name}/rootfs\n"
        f"lxc.uts.name = {name}\n"
        "lxc.net.0.type = empty\n"
        "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\n"
        "lxc.tty.max = 0\n"
        "lxc.pty.max = 16\n"
        "lxc.console.path = none\n"
    )
    shared = "lxc.include = LXC_TEMPLATE_CONFIG/common.conf\n"
    unprivileged = "lxc.include = LXC_TEMPLATE_CONFIG/userns.conf\n"
    metadata = {
        "architecture": rules.machine(image).uname,
        "creation_date": image.epoch,
        "properties": {
            "description": f"{image.name} {image.version}",
            "name": image.name,
            "os": image.os,
            "release": image.version,
        },
    }
    documents = {
        CONFIG: own + lines,
        "meta/config": shared + lines,
        "meta/config-user": shared + unprivileged + lines,
        "meta/create-message": f"{image.name} {image.version}, built by buildit\n",
    }
    encoded = {path: text.encode() for path, text in documents.items()}
    return Plan({**encoded, "meta/metadata.yaml": canonical(metadata) + b"\n"})


def _write(
    image: Image, document: Document, rootfs: Rootfs, blob: BlobPath, fresh: Path
) -> Emission:
    """Write the directory. Its digest is LXD's fingerprint of a split image: of the metadata and
    the tree behind each other.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: a file cannot be written.
    """
    fresh.mkdir()
    fresh.chmod(0o755)  # whatever the umask
    documents = _plan(image, document).documents
    meta = {path[5:]: text for path, text in documents.items() if path.startswith("meta/")}

    def fill(tar: TarWriter) -> None:
        for path in sorted(meta):
            tar.add_file(file_entry(path, len(meta[path]), image.epoch), io.BytesIO(meta[path]))

    plain = fresh.with_name("plain")
    packed, _ = write_tree(plain, fill)
    _squeeze(plain, packed, fresh / META)
    tree, _ = write_rootfs(rootfs, image.epoch, blob, plain)
    _squeeze(plain, tree, fresh / TREE)
    write_documents(fresh, {CONFIG: documents[CONFIG]})
    otherwise = "only root can lay down the LXC image's tree: its `config` says how"
    notices = (*rootfs.notices, *laid(rootfs, image.epoch, blob, fresh, otherwise))
    if image.started is None and not any(rootfs.find(path) for path in _INITS):
        notices += (_NO_INIT,)
    fingerprint = joined_digest((fresh / META, fresh / TREE))
    return Emission(fresh, image.format, fingerprint, oci_digest(fingerprint), notices)


def _squeeze(plain: Path, digest: Digest, target: Path) -> None:
    with plain.open("rb") as source:
        compress_layer(source, digest, "xz", target)
    plain.unlink()


LXC = Format(
    name="lxc",
    title="an LXC image",
    codecs=("xz",),
    spelling=oci.spelling,
    check=_check,
    plan=_plan,
    write=_write,
    unspoken=_unspoken,
    stem=rules.file_reference,
    only=": lxc-create takes xz",
    command="lxc-create -n {name} -t local -- --metadata $PWD/{file}/meta.tar.xz "
    "--fstree $PWD/{file}/rootfs.tar.xz",
)
