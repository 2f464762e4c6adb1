"""systemd-nspawn: a tree, and the settings that nspawn finds beside it (systemd.nspawn(5)).

`rootfs.nspawn` is the settings file of a root called `rootfs` in its own directory. The tree is a
tar, as `machinectl import-tar` takes it; as root it lies unpacked beside that, ready for `-D`.
Settings beside a tree are not privileged: what would need that (Port=, Bind=) is not written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from buildit.digest import oci_digest
from buildit.errors import RecipeError
from buildit.image import rules
from buildit.image.formats import oci
from buildit.image.formats.rootfs import write_rootfs
from buildit.image.formats.table import Document, Format, LayerBlob, Plan
from buildit.image.laying import joined_digest, laid, unpacking
from buildit.image.merge import Rootfs
from buildit.image.output import UNPACKED, BlobPath, write_documents
from buildit.model.image import Emission, Image

SETTINGS_FILE = f"{UNPACKED}.nspawn"
ARCHIVE = f"{UNPACKED}.tar"
_GETENT = ("usr/bin/getent", "bin/getent")
_UNHOLDABLE = re.compile(r"""[\x00-\x08\x0a-\x1f\x7f]|\\(?=["']|$)""")
"""Control characters, and a backslash before a quote or the end: nspawn cuts words at quotes, in
which a backslash takes the next character with it and stays (extract-word.c, RETAIN_ESCAPE)."""


def quoted_word(word: str) -> str:
    """A word as systemd cuts a list of them: in quotes, changed at each quote of the other kind."""
    parts = re.split(r"('+)", word)
    return "".join(f'"{one}"' if "'" in one else f"'{one}'" for one in parts if one) or '""'


def _check(image: Image) -> Document:
    """The lines of the section [Exec], as (key, value).

    Raises:
        RecipeError: the user wrote a manifest, or nspawn's file cannot hold a word.
    """
    rules.no_content(image, "an nspawn image")
    app = image.started
    if app is None:
        return {"lines": []}
    variables = [f"{name}={value}" for name, value in app.environment]
    for word in (*app.argv, *variables, app.working_directory, app.user):
        if _UNHOLDABLE.search(word):
            message = (
                f"nspawn's settings cannot hold {word!r}: a line break, or `\\` before a quote"
            )
            hint = "put it into a file or a script in the image, and name that"
            raise RecipeError(message, place=image.place or None, hint=hint)
    # The first process, as engines start it: one that nspawn puts before it passes no signal on.
    # And without this word nspawn takes no parameters.
    lines = [("ProcessTwo", "no")]
    lines.append(("Parameters", " ".join(map(quoted_word, app.argv))))
    lines += [("Environment", quoted_word(one)) for one in variables]
    if app.user not in ("0", "root"):
        lines.append(("User", app.user))
    lines.append(("WorkingDirectory", app.working_directory))
    lines.append(("KillSignal", app.stop_signal or "SIGTERM"))
    return {"lines": lines}


def _unspoken(image: Image) -> Iterator[str]:
    app = image.started
    if app is None:
        return
    if app.group not in (None, app.own_group, app.user):
        yield f"the nspawn image runs with {app.user}'s own groups: nspawn can name no other"
    if app.ports:
        ports = " ".join(f"--port={one.protocol}:{one.number}" for one in app.ports)
        yield f"the nspawn image publishes no port by itself: --network-veth {ports}"
    if app.health:
        yield "the nspawn image has no healthcheck: nspawn has none"


def _plan(image: Image, document: Document, _layers: Sequence[LayerBlob] = ()) -> Plan:
    head = f"# {image.name} {image.version}, built by buildit\n"
    lines = "".join(f"{key}={value}\n" for key, value in document["lines"])
    return Plan({SETTINGS_FILE: f"{head}[Exec]\n{lines}".encode()})


def _write(
    image: Image, document: Document, rootfs: Rootfs, blob: BlobPath, fresh: Path
) -> Emission:
    """Write the directory. Its digest is of the settings and the archive behind each other.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: a file cannot be written.
    """
    fresh.mkdir()
    fresh.chmod(0o755)  # whatever the umask
    write_documents(fresh, _plan(image, document).documents)
    write_rootfs(rootfs, image.epoch, blob, fresh / ARCHIVE)
    (fresh / ARCHIVE).chmod(0o644)
    otherwise = (
        f"only root can lay down the nspawn image's tree: in it, as root: {unpacking(ARCHIVE)}"
    )
    notices = [*rootfs.notices, *laid(rootfs, image.epoch, blob, fresh, otherwise)]
    named = dict(document["lines"]).get("User")
    if named is not None and not any(map(rootfs.find, _GETENT)):
        notices.append(
            f"nspawn will not start as {named}: it asks the image's `getent`, which is not in it "
            "(Debian's is in libc-bin)"
        )
    digest = joined_digest((fresh / SETTINGS_FILE, fresh / ARCHIVE))
    return Emission(fresh, image.format, digest, oci_digest(digest), tuple(notices))


NSPAWN = Format(
    name="nspawn",
    title="an nspawn image",
    codecs=("none",),
    spelling=oci.spelling,
    check=_check,
    plan=_plan,
    write=_write,
    unspoken=_unspoken,
    stem=rules.file_reference,
    only=": machinectl takes it plain",
    command=f"machinectl import-tar {{file}}/{ARCHIVE} {{name}} && "
    f"cp {{file}}/{SETTINGS_FILE} /var/lib/machines/{{name}}.nspawn && systemd-nspawn -M {{name}}",
)
