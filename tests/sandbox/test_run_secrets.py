"""Secrets of `run` steps: twenty canaries that a step spreads wherever it can, looked for in all
that buildit leaves and says, and in the processes of the machine while it works."""

from __future__ import annotations

import base64
import gzip
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from buildit.digest import digest_bytes
from buildit.errors import BuilditError, UsageError
from buildit.make.makers import make_task
from buildit.store.names import find_failure
from tests.planning import Checkout, checkout
from tests.sandbox.test_run_steps import Steps, shell_base, steps  # noqa: F401 - a fixture

pytestmark = pytest.mark.sandbox

COUNT = 20


def canary(number: int) -> bytes:
    value = b"CANARY%02d-%b" % (number, secrets.token_hex(12).encode())
    if number == 8:
        return b"".join(b"%b-%d/line of it\n" % (value, line) for line in range(9))
    if number == 9:
        return b"\0\xff\n" + secrets.token_bytes(40) + b"\x80"
    return value + b'"q\\' if number == 13 else value + b"\n" * (number % 2)


SPREADING = """
cd /run/secrets; [ "$(stat -c %a:%u c00)" = 400:0 ]; [ ! -w . ]
cat c00; cat c01 >&2
printf "user:"; base64 -w0 c02; echo; (printf x; cat c02) | base64
perl -0777 -ne 'print unpack("H*", $_), "\\n"' c03
perl -0777 -ne 's/(.)/sprintf "%%%02x", ord $1/ges; print' c04
perl -e '$| = 1; open F, "c05"; for (split //, <F>) { print; select undef, undef, undef, 0.01 }'
TOKEN="$(cat c06)" sleep 3457.6 & A=$!
perl -e 'sleep 3457' "$(cat c07)" & B=$!
cat c08; perl -ne 'print "$.: $_"' c08; cat c09
cat c10 > /tmp/kept; cat c11 > /srv/gone; rm /srv/gone; cat c12 > /dev/shm/kept
perl -e 'open F, "c13"; $_ = <F>; s/([\\\\"])/\\\\$1/g; print "{\\"$_\\"}\\n"'
i=0; while [ $i -lt 400 ]; do cat c14; i=$((i + 1)); done
(cat c15; sleep 0.2; cat c15) &
ls "/$(cat c17)" 2>&1 || true; "$(cat c18)" || true
cat c19; sleep 3458.5 & C=$!
sleep 3
kill $A $B $C; echo done > /srv/done
"""
FAILING = """
cd /run/secrets; for one in c*; do cat $one; done
cp c00 /srv/file; mkdir "/srv/$(cat c01)"; echo x > "/srv/$(cat c01)/inside"
ln -s "$(cat c02)" /srv/link; base64 c03 > /srv/coded
mkdir -p /srv/deep/er; cat c08 c09 > /srv/deep/er/two; echo fine > /srv/fine
ln /srv/file /srv/second; chmod 0 /srv/file; echo "at the end: $(cat c04)" >&2; exit 3
"""


@dataclass
class World:
    """A container over a base that has a shell, and how its secrets are given."""

    project: Checkout
    values: Mapping[str, bytes]
    given: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def write(self, script: str) -> None:
        lines = "".join(f"    {line}\n" for line in script.strip().splitlines())
        self.project.write(
            "container/container.yaml",
            "- vars: {name: web, version: 1.0}\n- from: {oci: oci:../base.oci}\n"
            f"- run:\n   secrets: [{', '.join(self.values)}]\n   script: |\n{lines}"
            "- image: {type: oci}\n- image: {type: aci}\n- image: {type: squashfs}\n",
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.project.root), **self.env}
        env["BUILDIT_STORE"] = str(self.project.root / "store")
        return subprocess.Popen(
            [sys.executable, "-m", "buildit", *words],
            *(-1, None, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE),
            env=env,
            cwd=self.project.root,
        )

    def build(self, *words: str) -> tuple[int, bytes]:
        made = self.start("container", *words)
        out, err = made.communicate(timeout=120)
        return made.returncode, out + err

    def forms(self) -> dict[bytes, str]:
        """Made here, not by what is tested."""
        found: dict[bytes, str] = {}
        for name, value in self.values.items():
            bare = value.strip()
            lines = bare.split(b"\n")
            coded = base64.b64encode(bare)[:-4]
            forms = [bare, *lines, bare.hex().encode(), quote(bare, safe="").encode(), coded]
            forms += [digest_bytes(value).encode(), digest_bytes(bare).encode()]
            found |= dict.fromkeys(filter(lambda one: len(one) >= 12, forms), name)
        return found

    def seen_in(self, data: bytes) -> set[str]:
        return {name for form, name in self.forms().items() if form in data}

    def left(self) -> Iterator[tuple[str, bytes]]:
        """All that lies on the disk, but what the secrets are given by."""
        for directory, below, files in os.walk(self.project.root):
            if directory == str(self.project.root):
                below.remove("given")
            for name in (*below, *files):
                path = Path(directory, name)
                yield str(path), os.fsencode(name)
                if path.is_symlink():
                    yield str(path), os.fsencode(os.readlink(path))
                elif path.is_file():
                    content = path.read_bytes()
                    yield str(path), content
                    if content[:2] == b"\x1f\x8b":
                        yield f"{path}, inflated", gzip.decompress(content)


@pytest.fixture
def world(tmp_path: Path) -> World:
    project = checkout(tmp_path)
    shell_base(tmp_path / "base.oci")
    values = {f"c{number:02}": canary(number) for number in range(COUNT)}
    made = World(project, values)
    config = []
    (tmp_path / "given").mkdir()
    for number, (name, value) in enumerate(values.items()):
        if number % 3 == 0 and b"\0" not in value:
            made.env[f"GIVEN_{number}"] = value.decode()
            where = f"env=GIVEN_{number}"
        else:
            path = tmp_path / "given" / name
            path.write_bytes(value)
            where = f"src={path}"
        if number in (12, 13):  # one of each kind
            word, _, place = where.partition("=")
            config.append(f"  {name}: {{{word.replace('src', 'file')}: {place}}}\n")
        else:
            made.given += ["--secret", f"id={name},{where}"]
    binhost = "upload-type: file, upload-path: ./binhost, unsigned: yes"
    text = f"trees: [./pkgs]\nrepository: {{name: mine, {binhost}}}\nsecrets:\n"
    project.write(".buildit-config.yaml", text + "".join(config))
    return made


def processes() -> Iterator[tuple[bool, str, bytes]]:
    """Whether each process of the machine is beside this one, its name, command and environment."""
    here = os.readlink("/proc/self/ns/pid")
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            beside = os.readlink(f"/proc/{name}/ns/pid") == here
            read = [Path("/proc", name, one).read_bytes() for one in ("cmdline", "environ")]
        except OSError:
            continue
        yield beside, name, b"\0".join(read)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_canaries(world: World) -> None:
    world.write(SPREADING)
    made = world.start("container", "--offline", "--push", *world.given)
    if os.geteuid() == 0:  # who may read all environments
        sleeping = b"sleep\x003458.5\0"
        wait_for(lambda: made.poll() is not None or any(sleeping in one[2] for one in processes()))
        looked_at = inside = 0
        for beside, pid, shown in processes():
            looked_at += beside
            inside += not beside
            # what the script itself gives its own children is their own
            assert world.seen_in(shown) <= (set() if beside else {"c06", "c07"}), pid
        assert looked_at > 3
        assert inside > 3
    out, err = made.communicate(timeout=120)
    assert made.returncode == 0, err.decode()
    assert world.seen_in(out + err) == set()
    assert _found(world) == []
    published = [str(path) for path in (world.project.root / "binhost").rglob("*")]
    assert any(path.endswith(".aci") for path in published)
    statements = {path.stem for path in (world.project.root / "store/k").glob("*/*")}
    assert statements
    assert not [one for one in published if any(key in one for key in statements)]
    log = _log(world)
    assert log.count(b"***") > 400
    assert b"user:***" in log
    # found by its key, with no secret at hand
    world.env.clear()
    for path in (world.project.root / "given").iterdir():
        path.unlink()
    world.project.write("container/other", "x")
    written = (world.project.container / "container.yaml").read_text()
    world.project.write("container/container.yaml", f"{written}- sync: {{src: ./other, dest: /}}\n")
    code, told = world.build("--offline")
    assert code == 0, told


def _found(world: World) -> list[tuple[str, set[str]]]:
    return [(path, seen) for path, data in world.left() if (seen := world.seen_in(data))]


def _log(world: World) -> bytes:
    logs = [data for _, data in world.left() if data.startswith(b"=== run\n")]
    assert logs
    return max(logs, key=len)


def test_a_failing_step_keeps_a_tree_and_log_without(world: World) -> None:
    world.write(FAILING)
    code, told = world.build("--offline", *world.given)
    assert code == 1
    assert b"run failed with status 3" in told
    assert b"at the end: ***" in told
    assert world.seen_in(told) == set()
    assert _found(world) == []
    kept = next((world.project.root / "store/logs/failed").glob("*/work/upper"))
    assert [one.name for one in (kept / "srv").iterdir()] != []
    assert (kept / "srv/fine").read_text() == "fine\n"
    assert not (kept / "srv/second").exists()
    shown = world.start("log", kept.parents[1].name).communicate(timeout=60)[0]
    assert b"***" in shown
    assert world.seen_in(shown) == set()
    code, told = world.build("--offline", "--json", *world.given)
    assert (code, world.seen_in(told), _found(world)) == (1, set(), [])


def test_a_missing_secret_is_said_before_anything_runs(world: World) -> None:
    world.write("echo x > /srv/x")
    at = next(at for at, one in enumerate(world.given) if one.startswith("id=c04,"))
    words = world.given[: at - 1] + world.given[at + 1 :]
    code, told = world.build("--offline", *words)
    assert code == 2
    assert b"the secret 'c04' is needed, and not given" in told
    assert b"container.yaml:3:3" in told
    assert b"--secret id=c04,src=FILE" in told
    assert not [*(world.project.root / "store/blobs/sha256").glob("*")]
    (world.project.root / "given/c04").unlink()
    code, told = world.build("--offline", *world.given)
    assert code == 2
    assert b"given/c04 cannot be read: No such file or directory" in told


def test_a_step_at_hand_or_behind_the_end_needs_no_secret(world: World) -> None:
    world.write("[ -s /run/secrets/c00 ]; echo x > /srv/x")
    recipe = world.project.container / "container.yaml"
    before, sep, after = recipe.read_text().partition("- image:")

    def then(*further: str) -> None:
        recipe.write_text(before + "".join(further) + sep + after)

    code, told = world.build("--offline", "--until", "2")
    assert code == 0, told
    code, told = world.build("--offline", *world.given)
    assert code == 0, told
    code, told = world.build("--offline", "--rebuild")
    assert code == 2
    assert b"container.yaml:3:3: the secret 'c00' is needed" in told
    then("- run: {script: echo y > /srv/y}\n")  # over the one that is at hand
    code, told = world.build("--offline")
    assert code == 0, told
    then("- run: {script: echo z > /srv/z}\n", "- run: {script: 'true', secrets: [c19]}\n")
    code, told = world.build("--offline")
    assert code == 2
    assert b"container.yaml:8:3: the secret 'c19' is needed" in told


def test_the_container_below_is_built_first_with_what_it_needs(world: World) -> None:
    world.write("cat /run/secrets/c00; echo of the base > /srv/base")
    shutil.move(world.project.container, world.project.root / "below")
    shutil.copytree(world.project.root / "below", world.project.container)
    lines = "- vars: {name: web, version: 1.0}\n- from: {container: ../below}\n"
    lines += "- run: {script: '[ -e /srv/base ]; echo 2 > /srv/above'}\n- image: {type: rootfs}\n"
    world.project.write("container/container.yaml", lines)
    code, told = world.build("--offline")
    assert code == 2
    assert b"the secret 'c" in told
    code, told = world.build("--offline", *world.given)
    assert code == 0, told
    assert b"below is built first" in told
    world.env.clear()
    world.project.write("container/container.yaml", lines.replace("echo 2", "echo 3"))
    code, told = world.build("--offline")
    assert code == 0, told
    assert b"below is built first" not in told
    packed = next((world.project.root / "out").glob("*.rootfs.tar"))
    with tarfile.open(packed) as read:
        assert {"srv/base", "srv/above"} <= {*read.getnames()}
    assert _found(world) == []


# -- what a layer may not have


def blobs_of(made: Steps) -> set[str]:
    return {*os.listdir(made.store.root / "blobs/sha256")}


VALUE = b"CANARY-that-a-layer-must-not-have\n"


@pytest.mark.parametrize(
    ("script", "where"),
    [
        ("cat /run/secrets/token > /srv/x", "is in /srv/x"),
        ("(cat /usr/bin/perl /run/secrets/token) > /srv/x; ln /srv/x /srv/y", "is in /srv/x"),
        ('touch "/srv/a$(cat /run/secrets/token)"', "is in the name of something in /srv"),
        ('mkdir -p "/srv/$(cat /run/secrets/token)/b"', "is in the name of something in /srv"),
        ('ln -s "x/$(cat /run/secrets/token)" /srv/l', "is in the target of the link /srv/l"),
        ("(echo key; cat /run/secrets/token) | base64 > /srv/b", "is in /srv/b"),
        ("perl -0777 -ne 'print unpack q(H*), $_' /run/secrets/token > /root/h", "is in /root/h"),
        ("touch /srv/.wh.$(cat /run/secrets/token)", "is in the name of something in /srv"),
        (
            """perl -e 'open F, "/run/secrets/token"; my ($v, $p, $n) = (<F>, "/srv/a", "user.t");
            syscall(188, $p, $n, $v, length $v, 0) == 0 or exit 9'""",
            "is in an attribute of /srv/a",
        ),
    ],
)
def test_a_layer_with_a_secret_is_refused(script: str, where: str, steps: Steps) -> None:  # noqa: F811
    task = steps.task(script, secrets=("token",))
    place = steps.with_secrets(token=VALUE)
    blobs = blobs_of(steps)
    with pytest.raises(BuilditError, match="the secret 'token'") as error:
        make_task(task, {}, place)
    assert error.value.place == "container.yaml:3:3"
    assert where in str(error.value)
    assert VALUE.strip().decode() not in str(error.value)
    assert blobs_of(steps) == blobs
    failure = find_failure(steps.store, task.key)
    assert failure is not None
    assert VALUE.strip() not in failure.log.read_bytes()
    assert failure.work is not None
    for path in failure.work.rglob("*"):
        assert VALUE.strip().decode() not in str(path)
        if path.is_file() and not path.is_symlink():
            assert VALUE.strip() not in path.read_bytes()


@pytest.mark.parametrize("ids", ["one", "range"])
def test_root_alone_reads_them_and_nobody_writes(ids: str, steps: Steps) -> None:  # noqa: F811
    script = """
        cd /run/secrets; [ "$(ls)" = token ]; [ "$(stat -c %a:%u:%g token)" = 400:0:0 ]
        (echo x >> token) && exit 1; rm token && exit 2; touch other && exit 3
        cat token > /dev/null
    """
    if ids == "range":  # another user inside
        script += "perl -e '$> = 33; exit 4 if open my $file, q(<), q(token)'"
    task = steps.task(script, ids, ("token",))
    make_task(task, {}, steps.with_secrets(token=VALUE))


def test_a_step_without_secrets_has_no_directory_of_them(steps: Steps) -> None:  # noqa: F811
    steps.run("[ ! -e /run/secrets ]")
    with pytest.raises(UsageError, match="the secret 'token' is needed"):
        make_task(steps.task("true", secrets=("token",)), {}, steps.place)
