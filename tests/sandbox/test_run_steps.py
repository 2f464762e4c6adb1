"""`run` steps: a command over layers, and the layer that it leaves, in the real sandbox."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from buildit.archive.contents import parse_contents
from buildit.archive.streams import Content
from buildit.digest import digest_bytes
from buildit.errors import BuildError, BuilditError, Interrupted, StoreError
from buildit.events import Event, Notice
from buildit.image.merge import LayerChange
from buildit.make.layer import put_layer
from buildit.make.makers import BuildPlace, make_task
from buildit.make.run_step import trees_below
from buildit.make.run_task import run_task
from buildit.model.artifact import RUNTIME
from buildit.model.config import Limits
from buildit.model.plan import LayerRef, RunStep, Task
from buildit.model.platform import build_platform
from buildit.model.tree import Entry, Kind, sort_key
from buildit.sandbox.container import Mounted
from buildit.sandbox.owned import OwnedTrees
from buildit.sandbox.spaces import ids_for, own_name
from buildit.sandbox.step import room, run_step
from buildit.store.cas import Store
from buildit.store.names import find_failure
from tests.base_images import Foreign, folder, member, symbolic, tar
from tests.making import place as place_of
from tests.sandbox.test_images import libraries, tool

pytestmark = pytest.mark.sandbox

EPOCH = 1_700_000_000
HERE = str(build_platform(os.uname().machine))
PROGRAMS = (
    *("dash", "cat", "chmod", "chown", "ln", "ls", "mkdir", "rm", "stat", "touch", "id"),
    *("sleep", "mknod", "perl", "base64", "cp"),
)


@dataclass
class Steps:
    """A store, and the layers so far."""

    store: Store
    project: Path
    below: list[LayerRef] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    place: BuildPlace = field(init=False)

    def __post_init__(self) -> None:
        self.place = replace(place_of(self.store, self.project), report=self.told.append)

    def lay(self, entries: list[Entry], texts: Mapping[str, bytes]) -> None:
        def content(entry: Entry) -> Content:
            return io.BytesIO(texts[entry.path])

        sized = [
            replace(one, size=len(texts[one.path]), digest=digest_bytes(texts[one.path]))
            if one.kind is Kind.FILE
            else one
            for one in sorted(entries, key=sort_key)
        ]
        with self.store.batch() as batch:
            output = put_layer(batch, sized, content, whiteouts=True)
        self.below.append(LayerRef(output.diff_id, output.contents))

    def task(
        self, script: str, ids: str = "range", secrets: tuple[str, ...] = (), **env: str
    ) -> Task:
        argv = ("/bin/sh", "-ec", script)
        step = RunStep(argv, tuple(env.items()), ids, script[:40], "container.yaml:3:3", secrets)
        return run_task(step, self.below, (), EPOCH, HERE)

    def with_secrets(self, **values: bytes) -> BuildPlace:
        return replace(self.place, secret=values.__getitem__)

    def run(self, script: str, ids: str = "range", **env: str) -> LayerChange:
        """The change of the step, which is then below the next one."""
        output = make_task(self.task(script, ids, (), **env), {}, self.place).outputs[RUNTIME]
        self.below.append(LayerRef(output.diff_id, output.contents))
        return LayerChange.of(parse_contents(self.store.read(output.contents)))

    def fails(self, script: str, ids: str = "range") -> BuilditError:
        with pytest.raises(BuilditError) as error:
            make_task(self.task(script, ids), {}, self.place)
        return error.value

    def warnings(self) -> list[str]:
        return [one.message for one in self.told if isinstance(one, Notice)]


def directory(path: str) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755)


SBIN = Entry("usr/sbin", Kind.DIRECTORY, 0o2750)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, target=target)


def programs() -> tuple[list[Entry], dict[str, bytes]]:
    texts: dict[str, bytes] = {}
    for name in PROGRAMS:
        program = Path(tool(name))
        texts[f"usr/bin/{name}"] = program.read_bytes()
        for host, path in libraries(program):
            texts[path if path.startswith("usr/") else f"usr/{path}"] = host.read_bytes()
    merged = [link(one, f"usr/{one}") for one in ("bin", "lib", "lib64")]
    made = [Entry(path, Kind.FILE, 0o755, 500) for path in texts]
    above = {path.rpartition("/")[0] for path in texts} | {"usr", "usr/lib"}
    above |= {one.rpartition("/")[0] for one in above} - {""}
    folders = [directory(one) for one in sorted(above - {""})]
    return [*merged, *made, *folders, link("usr/bin/sh", "dash")], texts


def shell_base(path: Path) -> None:
    """An OCI layout of one layer, which has a shell."""
    entries, texts = programs()
    members = [
        member(one.path, texts[one.path], 0o755)
        if one.path in texts
        else symbolic(one.path, one.target)
        if one.target
        else folder(one.path)
        for one in entries
    ]
    Foreign((tar(*members, folder("srv"), folder("run")),), {}).layout(path)


@contextmanager
def made_steps(where: Path) -> Iterator[Steps]:
    (where / "store").mkdir()
    with Store.open(where / "store") as store:
        made = Steps(store, where)
        made.lay(*programs())
        texts = {"etc/passwd": b"root:x:0:0::/root:/bin/sh\n", "srv/a": b"aaa", "srv/d/x": b"x"}
        folders = [directory(one) for one in ("etc", "srv", "srv/d", "root")]
        files = [Entry(path, Kind.FILE, 0o644, 700) for path in texts]
        made.lay([*folders, *files], texts)
        yield made


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[Steps]:
    with made_steps(tmp_path) as made:
        yield made


def entries(change: LayerChange) -> dict[str, Entry]:
    return {one.path: one for one in change.entries}


def test_a_difference_is_a_layer_and_twice_the_same(steps: Steps) -> None:
    script = """
        echo hello > /srv/new; chmod 0640 /srv/new; chown 33:34 /srv/new
        rm /srv/a; rm -r /srv/d; mkdir /srv/d; echo y > /srv/d/y
        ln /srv/new /srv/also; chmod u+s /usr/bin/id; touch -d @1000 /srv/old
        echo left > /tmp/gone; echo left > /run/gone; echo "$SOURCE_DATE_EPOCH $HOME $WORD"
    """
    task = steps.task(script, WORD="w")
    first = make_task(task, {}, steps.place)
    second = make_task(task, {}, steps.place)
    assert first.outputs == second.outputs
    assert first.log is not None
    assert steps.store.read(first.log) == b"=== run\n%d /root w\n" % EPOCH
    change = steps.run(script, WORD="w")
    found = entries(change)
    assert set(change.deleted) == {"srv/a"}
    assert change.opaque == ("srv/d",)
    assert sorted(found) == [
        *("srv", "srv/also", "srv/d", "srv/d/y", "srv/new", "srv/old"),
        *("usr", "usr/bin", "usr/bin/id"),
    ]
    assert (found["srv/also"].kind, found["srv/new"].kind) == (Kind.FILE, Kind.HARDLINK)
    also = found["srv/also"]
    assert (also.uid, also.gid, also.mode, also.mtime) == (33, 34, 0o640, EPOCH)
    assert (found["srv/old"].mtime, found["usr/bin/id"].mode) == (1000, 0o4755)
    assert found["srv"].mtime == 0
    assert any("set-id bits are kept: usr/bin/id (4755)" in one for one in steps.warnings())
    tar = steps.store.read(steps.below[-1].diff_id)
    with tarfile.open(fileobj=io.BytesIO(tar)) as read:  # somebody else's reader
        names = read.getnames()
    assert {"srv/.wh.a", "srv/d/.wh..wh..opq"} <= {*names}


def test_a_step_sees_what_those_before_it_left(steps: Steps) -> None:
    steps.run("rm /srv/a; rm -r /srv/d; mkdir /srv/d; echo 2 > /srv/d/y; chown 7:8 /srv/d")
    change = steps.run(
        '[ ! -e /srv/a ]; [ ! -e /srv/d/x ]; [ "$(cat /srv/d/y)" = 2 ]; '
        '[ "$(stat -c %u:%g:%a /srv/d)" = 7:8:755 ]; [ "$(stat -c %Y /srv/d/y)" = 1700000000 ]'
    )
    assert change == LayerChange(())


def test_deletions_of_layers_that_others_wrote_are_of_what_lies_below(steps: Steps) -> None:
    texts = dict.fromkeys(("srv/.wh.a", "srv/.wh.d", "etc/.wh.passwd"), b"")
    texts |= {"srv/a": b"new", "srv/d/y": b"y"}  # what is in the layer itself stays
    files = [Entry(path, Kind.FILE, 0o644, 700) for path in texts]
    steps.lay([directory("srv"), directory("srv/d"), *files], texts)
    steps.run("cat /srv/a; echo /srv/d/*; test ! -e /etc/passwd; test -d /etc; echo 1 > /srv/new")
    found, texts = programs()
    mark = Entry(".wh..wh..opq", Kind.FILE, 0o644)
    steps.lay([mark, *found], {**texts, mark.path: b""})
    task = steps.task("echo /*")
    log = make_task(task, {}, steps.place).log
    assert log is not None
    assert steps.store.read(log) == b"=== run\n/bin /dev /lib /lib64 /proc /run /tmp /usr\n"


def test_steps_that_change_nothing_are_the_same_layer(steps: Steps) -> None:
    for word in ("true", ":", "test -e /srv"):
        assert steps.run(word) == LayerChange(())


def test_one_id_needs_no_range_and_leaves_owners_alone(steps: Steps) -> None:
    steps.run("chown 33:33 /srv/a /srv/d; chmod 0700 /srv/d")
    change = steps.run("echo b >> /srv/a; touch /srv/d/new; id -u", "one")
    found = entries(change)
    assert [(found[one].uid, found[one].mode) for one in ("srv/a", "srv/d", "srv/d/new")] == [
        *((33, 0o644), (33, 0o700), (0, 0o644))
    ]
    assert isinstance(steps.fails("chown 33 /srv/a", "one"), BuildError)


def test_a_step_has_no_way_out(steps: Steps) -> None:
    """What a hostile script would try first."""
    change = steps.run(
        "mknod /srv/n c 1 3 2>/dev/null && exit 1; mknod /srv/w c 0 0 2>/dev/null && exit 2;"
        "[ -e /sys/kernel ] && exit 3; [ -e /proc/1/root/work ] && exit 4;"
        "cat /proc/net/dev > /srv/net; ls /proc > /dev/null; read x < /dev/stdin && exit 5; true"
    )
    assert set(entries(change)) == {"srv", "srv/net"}


def test_a_failing_step_keeps_its_tree_and_log_and_says_the_place(steps: Steps) -> None:
    error = steps.fails("echo before > /srv/before; echo said; exit 3; echo never")
    assert (error.message, error.place) == ("run failed with status 3", "container.yaml:3:3")
    assert error.details == ("said",)
    failure = find_failure(
        steps.store, steps.task("echo before > /srv/before; echo said; exit 3; echo never").key
    )
    assert failure is not None
    assert failure.work is not None
    assert (failure.work / "upper/srv/before").read_text() == "before\n"
    assert error.hint is not None
    assert str(failure.work) in error.hint
    assert b"said\n" in failure.log.read_bytes()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("touch /srv/.wh.a", "names that begin with .wh."),
        ("exec /usr/bin/nothing-such", "status 127"),
        ("kill -9 $$", "signal 9"),
    ],
)
def test_what_is_refused(script: str, said: str, steps: Steps) -> None:
    assert said in steps.fails(script).message


_ATTRIBUTE = """perl -e 'my ($p, $n, $v) = ("/%s", "%s", pack("H*", "%s"));
    syscall(188, $p, $n, $v, length $v, 0) == 0 or exit 9'"""  # setxattr(2)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of a system call")
def test_attributes_that_overlays_go_by_are_refused_and_capabilities_stay(steps: Steps) -> None:
    error = steps.fails(_ATTRIBUTE % ("srv", "user.overlay.opaque", "79"))
    assert "/srv: the attribute user.overlay.opaque was set" in error.message
    assert "status 9" in steps.fails(_ATTRIBUTE % ("srv", "trusted.overlay.opaque", "79")).message
    net_raw = f"01000002{'00200000':0<32}"  # linux/capability.h, vfs_cap_data of revision 2
    change = steps.run(_ATTRIBUTE % ("srv/a", "security.capability", net_raw))
    assert entries(change)["srv/a"].xattrs == {"security.capability": bytes.fromhex(net_raw)}
    assert steps.run("[ -e /srv/a ]") == LayerChange(())  # and it can be laid below another step


def test_a_program_that_is_not_there(steps: Steps) -> None:
    step = RunStep(("nothing-such",), (), "range", "x", "container.yaml:3:3")
    with pytest.raises(BuildError, match="nothing-such cannot be started: No such file") as error:
        make_task(run_task(step, steps.below, (), EPOCH, HERE), {}, steps.place)
    assert error.value.place == "container.yaml:3:3"


def test_limits_end_a_step_and_all_that_it_started(steps: Steps) -> None:
    steps.place = replace(steps.place, limits=replace(steps.place.limits, seconds=1.0))
    begun = time.monotonic()
    error = steps.fails("sleep 3456 & sleep 3456")
    assert "ran longer than" in error.message
    assert time.monotonic() - begun < 20
    assert not _running("sleep\0003456")


def test_where_dpkg_is_no_service_starts_and_nothing_of_that_is_left(steps: Steps) -> None:
    policy = "usr/sbin/policy-rc.d"
    assert steps.run(f"test ! -e /{policy}") == LayerChange(())
    entry = Entry("usr/bin/dpkg", Kind.FILE, 0o755)
    steps.lay(
        [directory("usr"), directory("usr/bin"), replace(SBIN, gid=5), entry], {entry.path: b""}
    )
    forbidden = f"/{policy} x start && exit 9; [ $? = 101 ]; stat -c %a:%g /usr/sbin"
    assert steps.run(f"{forbidden}; chown -R 0:5 /usr/sbin; chown 0:0 /{policy}") == LayerChange(())
    assert steps.run(f"rm /{policy}; test ! -e /{policy}") == LayerChange(())
    log = make_task(steps.task(f"{forbidden}; ls /usr/sbin"), {}, steps.place).log
    assert log is not None
    assert steps.store.read(log) == b"=== run\n2750:5\npolicy-rc.d\n"
    own = steps.run(f"echo 'exit 0' > /{policy}")
    assert policy in entries(own)
    assert steps.run(f"/bin/sh /{policy}") == LayerChange(())


def test_answers_of_debconf_that_name_temporary_files_are_told(steps: Steps) -> None:
    path = "var/cache/debconf/config.dat"
    write = f"mkdir -p /var/cache/debconf; echo ' NEW = /tmp/'$((N)) > /{path}"
    assert path in entries(steps.run(write, N="1"))
    (said,) = steps.warnings()
    assert said.endswith(f"not reproducible: it names a temporary file: {path}")


def test_what_a_step_writes_to_a_volume_counts_as_well(steps: Steps) -> None:
    owned = OwnedTrees.opened(steps.store.cache("layers"), ids_for(0, 0, own_name()))
    below = [one.diff_id for one in steps.below]
    fill = "for (1 .. 9) { open F, '>', \"/v/$_\"; print F 'x' x (9 << 20); close F } sleep 9"
    with owned.scratch() as layer, trees_below(owned, below, "", "here", steps.store) as trees:
        owned.make_layer(layer)
        (layer / "volume").mkdir()
        one = room(owned.ids, trees, layer, ("/bin/perl", "-e", fill), {})
        one = replace(one, volumes=(Mounted(layer / "volume", "/v"),))
        limits = replace(Limits(), disk_bytes=30 << 20)
        ended = run_step(one, log=layer / "log", limits=limits, stop=threading.Event())
    assert ended.limit == "disk"


def test_what_a_step_leaves_behind_ends_with_it(steps: Steps) -> None:
    steps.run("sleep 4567 & echo started > /srv/started")
    assert not _running("sleep\0004567")


def test_a_stop_ends_a_step(steps: Steps) -> None:
    stop = threading.Event()
    steps.place = replace(steps.place, stop=stop)
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(Interrupted):
        make_task(steps.task("sleep 5678"), {}, steps.place)
    assert not _running("sleep\0005678")


def _running(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if words in text:
            found.append(path.parent.name)
    return found


_OTHER_EACH_TIME = """\
    /var/log/dpkg.log /var/log/apt/history.log /var/cache/apt/pkgcache.bin /var/lib/apt/lists/x \
    /etc/passwd- /etc/.pwd.lock /etc/machine-id /var/cache/ldconfig/aux-cache"""
_CHANCE = "/proc/sys/kernel/random/uuid"
TWICE = (
    "mkdir -p /srv/m/n; touch /srv/m/x; rm /srv/a",
    "chown -R 33:34 /srv/d; chmod 2750 /srv/d; chmod u+s /usr/bin/id",
    "rm -r /srv/d; mkdir /srv/d; echo new > /srv/d/x",
    "perl -e 'rename q(/srv/d), q(/srv/e) and exit 9'; mkdir /srv/e; ln /srv/d/x /srv/e/x",
    "echo $$ > /tmp/pid; echo > /run/x; ln -s /srv/a /srv/l; ln /srv/a /srv/hard",
    f"for one in {_OTHER_EACH_TIME}; do mkdir -p ${{one%/*}}; cat {_CHANCE} > $one; done",
)
"""What is run twice, more than a second apart; docs/containers.md has what was tried of Debian's
own commands."""


def test_two_runs_at_other_times_leave_one_layer(steps: Steps) -> None:
    tasks = [steps.task(script) for script in TWICE]
    first = [make_task(task, {}, steps.place).outputs for task in tasks]
    time.sleep(1.1)
    again = [make_task(task, {}, steps.place).outputs for task in tasks]
    assert first == again
    left = parse_contents(steps.store.read(first[-1][RUNTIME].contents))
    files = [(one.path, one.size) for one in left if one.kind is Kind.FILE]
    assert files == [("etc/machine-id", 0)]


def test_more_layers_than_an_overlay_holds(steps: Steps) -> None:
    steps.below = [*steps.below, *[steps.below[-1]] * 450]
    error = steps.fails("true")
    assert "452 layers lie below, more than an overlay can hold" in error.message
    assert (error.place, bool(error.hint)) == ("container.yaml:3:3", True)


def test_what_a_step_left_is_the_tree_that_its_layer_would_be(steps: Steps) -> None:
    """The tree that is adopted, against the same layer laid down anew."""
    steps.run(
        "echo 1 > /srv/new; chmod 0640 /srv/new; rm /srv/a; rm -r /srv/d; mkdir /srv/d;"
        "chmod 700 /; ln /srv/new /srv/also; chown 7:8 /srv/d; : >> /etc/passwd;"
        "echo x > /etc/passwd-; mkdir /w; echo id > /etc/machine-id; ln /etc/machine-id /w/id"
    )
    look = "ls -lnR --time-style=+%s /srv /etc /w; stat -c '%a %u %n' / /srv/*"
    seen = []
    for _ in "twice":
        made = make_task(steps.task(look), {}, steps.place)
        assert made.log is not None
        seen.append(steps.store.read(made.log))
        for path in (steps.store.root / "cache/layers").glob("*.facts"):
            path.unlink()  # a tree without is laid down again
    assert seen[0] == seen[1]
    assert b"passwd-" not in seen[0]
    assert b" 3 1700000000 id\n" in seen[0]  # which shared its bytes with what is emptied


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_step_that_fills_the_disk_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m,mode=755", "none", small], check=True)
    try:
        (small / "store").mkdir()
        with Store.open(small / "store") as store:
            steps = Steps(store, tmp_path)
            steps.lay(*programs())
            error = steps.fails("cat /dev/zero > /fill")
            assert isinstance(error, StoreError)
            assert "the store's disk is nearly full" in error.message
            assert error.hint is not None
            assert shutil.disk_usage(small).free > 300 << 20  # nothing half-made stays
    finally:
        subprocess.run(["umount", "-l", small], check=True)
