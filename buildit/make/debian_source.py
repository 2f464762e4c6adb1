"""The maker of `debian-source`: a Debian source package, built as Debian's builders do, offline.

Its root is made of exact .debs (`debian_root`); it is unpacked and built by their dpkg, as uid
1000, in the directory that Debian's builders use, since programs and debug data keep its name. Each
.deb that comes out is an output by its name, split as the archive's .debs are; the .debs themselves
are the output `debs`.

build/reproducible-path/NAME-UPSTREAM   the tree, and beside it the .debs
input/                                  .dsc and its files, patches, the shim: read-only
run, var-tmp                            /run and /var/tmp, writable
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.errors import BuildError, BuilditError, IntegrityError
from buildit.events import PhaseStarted
from buildit.make.build_directory import TREES, BuildDirectory, kept_where_it_fails, place_blob
from buildit.make.debian_configure import NOTES, SHIM, calls_nothing, not_used, problem, shim
from buildit.make.debian_outputs import put_outputs
from buildit.make.debian_root import REMAINDER, root_trees
from buildit.make.debian_tree import changelog_entry, changers, dsc_misfit, holder, source_directory
from buildit.make.emulator import emulator_of
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.make.patching import Refused
from buildit.model.plan import Inputs, Task, Toolchain
from buildit.model.platform import CPU_VARIABLE, EMULATIONS
from buildit.model.tree import YEAR_1980
from buildit.plan.identity import DebianSourceInputs, read_source_record
from buildit.plan.steps import BUILD_DIRECTORY
from buildit.sandbox.jail import Bind
from buildit.store.cas import Store
from buildit.store.disk import host_owner, make_directory

PLACE = f"{BUILD_DIRECTORY}/reproducible-path"
"""Where Debian's own builders build; DEBIAN §3."""

BINDS = (
    Bind("build", BUILD_DIRECTORY, writable=True),
    Bind("input", "/input"),
    Bind("run", "/run", writable=True),
    Bind("var-tmp", "/var/tmp", writable=True),  # noqa: S108 - of the sandbox
)
_SHIM = "input/shim"
_PATH = "/usr/sbin:/usr/bin"
_MADE = ("build/reproducible-path", "build/home", "input", "run/lock", "var-tmp")

# Without the link of the vendor, or with a dpkg-buildflags that fails, packages are built without
# optimisation and hardening, and nothing says so.
_UNPACK = """\
vendor=$(dpkg-vendor --query Vendor) && [ "$vendor" = Debian ] ||
  { echo "buildit: the chroot has no vendor: dpkg-vendor says '$vendor', not Debian"; exit 1; }
[ -n "$(dpkg-buildflags --get CFLAGS)" ] ||
  { echo "buildit: the chroot has no flags: dpkg-buildflags gives no CFLAGS"; exit 1; }
exec dpkg-source --no-check -x "$1" "$2"
"""


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """Its sources and patches, the .debs of its root, and those that its needs are looked for in:
    these and the toolchain's."""
    inputs = task.inputs
    debs = {deb.digest: deb for tree in inputs.chroot for deb in tree}
    debs |= {deb.digest: deb for deb in (*inputs.beside, *toolchain.debs, *inputs.emulator)}
    return Inputs(sources=inputs.sources, patches=inputs.patches, debs=tuple(debs.values()))


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Build a Debian source package.

    Raises:
        BuildError, UnsatisfiableError, StoreError, Interrupted: as `makers.make_task`.
        Vanished: what it needs of the store was deleted meanwhile.
    """
    del at_hand
    record = read_source_record(task.record)
    place.report(PhaseStarted(task.key, task.label, "unpack"))
    lowers = root_trees(place.store, task.inputs.chroot, place.stop)
    above = place.store.root / TREES
    top = BuildDirectory(work, above, lowers, task.label, place.limits, place.stop, PLACE, BINDS)
    top = replace(top, emulator=emulator_of(task, place.store, place.stop))
    room = replace(top, cwd=f"{PLACE}/{source_directory(record.name, record.version)}")
    with kept_where_it_fails(task, room, place.store) as course:
        lay_out_source(record, top, place.store)
        remainder = (above / lowers[0] / REMAINDER).read_text("utf-8", "surrogateescape")
        room.note("chroot", remainder.splitlines())
        env = dpkg_environment(record)
        unpack = _unpack_argv(task, room)
        build = build_argv(record)
        top.keep_jail(env, {"unpack": unpack, "build": build})
        course.phase = "unpack"
        top.phase("unpack", unpack, env)
        top.keep_jail(env, {"build": build})
        if record.patches or record.suffix or record.configure:
            course.phase = "patch"
            place.report(PhaseStarted(task.key, task.label, course.phase))
            _change(task, record, room)
        room.keep_jail(env, {"build": build})
        course.phase = "build"
        place.report(PhaseStarted(task.key, task.label, course.phase))
        try:
            place.warn(task, room.phase(course.phase, build, env))
        except BuildError as error:
            raise _configured(record, room, failed=True) or error from error
        if wrong := _configured(record, room, failed=False):
            raise wrong
        course.phase = "pack"
        place.report(PhaseStarted(task.key, task.label, course.phase))
        with place.store.batch() as batch:
            outputs, epoch = put_outputs(task, room, place, batch)
            with batch.ingest() as sink:
                room.write_log(sink.write)
                return Made(outputs, put_record(task, batch), epoch, sink.commit())


def lay_out_source(record: DebianSourceInputs, room: BuildDirectory, store: Store) -> None:
    """Make the directories of a build, and lay out its .dsc, files, patches and shim.

    Raises:
        IntegrityError: a file would lie elsewhere, or the .dsc names others than the record.
    """
    work = room.work
    for name in _MADE:
        make_directory(work / name)
    (work / "logs").mkdir()
    for file in record.files:
        if "/" in file.name or file.name.startswith("."):
            raise IntegrityError(f"{file.name!r} is no file of a source package", place=room.label)
        place_blob(store, file.digest, work / "input" / file.name)
    dsc, *others = record.files
    listed = {file.name: file.digest for file in others}
    if wrong := dsc_misfit((work / "input" / dsc.name).read_bytes(), listed):
        hint = "the archive contradicts itself: name another mirror in the apt sources"
        raise IntegrityError(f"{dsc.name} {wrong}", place=room.label, hint=hint)
    if record.configure:
        (work / _SHIM).mkdir()
        (work / _SHIM / SHIM).write_text(shim(record.configure), "utf-8")
        (work / _SHIM / SHIM).chmod(0o755)
    room.place_patches(record.patches, store)
    if (owner := host_owner()) is not None:
        for path in (work / "input", *(work / "input").rglob("*"), *(work / one for one in _MADE)):
            os.chown(path, *owner, follow_symlinks=False)


def _unpack_argv(task: Task, room: BuildDirectory) -> tuple[str, ...]:
    record = read_source_record(task.record)
    directory = room.cwd.rpartition("/")[2]
    return ("sh", "-c", _UNPACK, "buildit-unpack", f"/input/{record.files[0].name}", directory)


def dpkg_environment(record: DebianSourceInputs) -> dict[str, str]:
    """The whole environment of a build. Nothing of a recipe's: a plain Makefile may read VERSION.
    `parallel` does not change the result, so it is not in the record."""
    options = (f"parallel={len(os.sched_getaffinity(0))}", *record.options)
    env = {
        "DEB_BUILD_OPTIONS": " ".join(options),
        "FAKEROOTDONTTRYCHOWN": "1",
        "HOME": f"{BUILD_DIRECTORY}/home",
        "LC_ALL": "C.UTF-8",
        "LOGNAME": "build",
        "PATH": f"/{_SHIM}:{_PATH}" if record.configure else _PATH,
        "SHELL": "/bin/sh",
        "TERM": "dumb",
        "TMPDIR": "/tmp",  # noqa: S108 - of the sandbox
        "TZ": "UTC0",
        "USER": "build",
    }
    if record.emulator:
        env[CPU_VARIABLE] = EMULATIONS[str(record.target_platform)].cpu
    if record.profiles:
        env["DEB_BUILD_PROFILES"] = " ".join(record.profiles)
    return env


def build_argv(record: DebianSourceInputs) -> tuple[str, ...]:
    """The command of the build, in the tree."""
    profiles = (f"-P{','.join(record.profiles)}",) if record.profiles else ()
    return ("dpkg-buildpackage", "-b", "-us", "-uc", *profiles)


def _configured(
    record: DebianSourceInputs, room: BuildDirectory, *, failed: bool
) -> BuilditError | None:
    """What is wrong with the switches of `configure:`; where the build `failed`, that they were not
    used is nothing yet."""
    if not record.configure:
        return None
    notes = {}
    with Root.open(room.work) as work:
        for name in ("called", "output", "help", "cache", "meson", "unknown"):
            path = f"build/home/{NOTES}/{name}"
            with suppress(FileNotFoundError, NotADirectoryError), work.open_file(path) as stream:
                notes[name] = stream.read()
    if failed and "called" not in notes:
        return None
    return problem(notes, record.configure, room.label)


def _change(task: Task, record: DebianSourceInputs, room: BuildDirectory) -> None:
    """Apply the user's patches to Debian's tree, and write what the version's suffix says.

    Raises:
        Refused: a patch does not fit.
        RecipeError: nothing will use the switches of `configure:`.
    """
    with Root.open(room.work) as work, work.inner(room.cwd.lstrip("/")) as tree:
        try:
            room.patch(record.patches, task.about.patch_names(), _patched_time(tree))
        except Refused as refused:
            series = _series(tree)
            if refused.already and (held := holder(refused.already, series)):
                refused.message += f"; Debian has it in debian/patches/{held}"
                refused.hint = "remove it from `patches:`"
            elif by := changers(refused.paths, series):
                refused.message += f"; Debian changes that file in debian/patches/{', '.join(by)}"
                refused.hint = "write the patch for the tree in which Debian's series is applied"
            raise
        if record.configure and calls_nothing(
            must_read(tree, "debian/rules").decode("utf-8", "replace")
        ):
            raise not_used(room.label)
        if record.suffix:
            text = must_read(tree, "debian/changelog").decode("utf-8", "surrogateescape")
            entry = changelog_entry(text, record.suffix)
            status = tree.lstat("debian/changelog")
            tree.unlink("debian/changelog")
            with os.fdopen(tree.create("debian/changelog", 0o644), "wb") as out:
                out.write((entry + text).encode("utf-8", "surrogateescape"))
            tree.utime("debian/changelog", int(status.st_mtime))
            if (owner := host_owner()) is not None:
                tree.chown("debian/changelog", *owner)


def must_read(tree: Root, path: str) -> bytes:
    """A file that every Debian source has (Debian Policy 4.4 and 4.9).

    Raises:
        BuildError: it is not there, or is a link.
    """
    try:
        with tree.open_file(path) as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError, IntegrityError) as error:
        hint = "is it removed by a patch? Every Debian source has it as a plain file"
        raise BuildError(f"{path} is missing, or is no file", hint=hint) from error


def _patched_time(tree: Root) -> int:
    """The time of all files that the user's patches touch: that which dpkg-source gave to those of
    Debian's series, as if they were of it, so that make(1) remakes nothing where a file and what is
    generated from it are patched; where there is no series, later than any other."""
    files = {path: status for path, status in tree.walk() if stat.S_ISREG(status.st_mode)}
    times = (int(one.st_mtime) for path, one in files.items() if not path.startswith(".pc/"))
    newest = max(times, default=YEAR_1980)
    return newest if ".pc/applied-patches" in files else newest + 1


def _series(tree: Root) -> Mapping[str, bytes]:
    """Debian's patches by their names below debian/patches."""
    found = {}
    with suppress(FileNotFoundError), tree.inner("debian/patches") as patches:
        for path, status in patches.walk():
            if stat.S_ISREG(status.st_mode):
                with patches.open_file(path) as stream:
                    found[path] = stream.read()
    return found
