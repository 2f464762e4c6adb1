"""Debian's packages as a container directory: which program runs, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildit.commands.importing.directory import new_container
from buildit.commands.importing.programs import Program, obvious_program
from buildit.errors import StoreError, UsageError

pytestmark = pytest.mark.unit

UNITS = "usr/lib/systemd/system"

NGINX = r"""
[Unit]
After=network.target
[Service]
Type=forking
ExecStartPre=/usr/sbin/nginx -t
ExecStart=/usr/sbin/nginx -g 'daemon on; master_process on;'
"""
REDIS = """
[Service]
Type=notify
ExecStart=/usr/bin/redis-server /etc/redis/redis.conf --daemonize no
User=redis
"""
SSHD = r"""
[Service]
ExecStart=/usr/sbin/sshd -D \
    $SSHD_OPTS
Type=notify
"""


@pytest.mark.parametrize(
    ("name", "paths", "units", "found"),
    [
        ("hello", ["usr/bin/hello"], {}, Program(("/usr/bin/hello",))),
        ("git", ["usr/bin/git", "usr/bin/git-shell"], {}, Program(("/usr/bin/git",))),
        ("tool", ["usr/bin/other", "usr/share/doc/tool"], {}, Program(("/usr/bin/other",))),
        ("both", ["usr/bin/both", "usr/sbin/both"], {}, None),
        (
            "nginx-light",
            ["usr/sbin/nginx"],
            {"nginx": NGINX},
            Program(("/usr/sbin/nginx", "-g", "daemon off;")),
        ),
        (
            "redis-server",
            ["usr/bin/redis-server", "usr/bin/redis-check"],
            {"redis-server": REDIS},
            Program(
                ("/usr/bin/redis-server", "/etc/redis/redis.conf", "--daemonize", "no"), "redis"
            ),
        ),
    ],
)
def test_the_obvious_program(
    name: str, paths: list[str], units: dict[str, str], found: Program | None
) -> None:
    texts = {f"{UNITS}/{unit}.service": text for unit, text in units.items()}
    program = obvious_program(name, paths, texts)
    if found is None:
        assert program.exec == ()
        assert "it has /usr/bin/both, /usr/sbin/both" in program.remarks[0]
    else:
        assert program == found


def test_what_of_a_unit_is_systemds_is_said() -> None:
    program = obvious_program("ssh", ["usr/sbin/sshd"], {f"{UNITS}/ssh.service": SSHD})
    assert program.exec == ("/usr/sbin/sshd", "-D")
    assert program.remarks == (
        "ssh.service has /usr/sbin/sshd started with $SSHD_OPTS too, which is left out",
    )
    forking = "[Service]\nType=forking\nExecStart=/usr/sbin/old --detach\n"
    program = obvious_program("old", ["usr/sbin/old"], {f"{UNITS}/old.service": forking})
    assert program.exec == ("/usr/sbin/old",)
    assert program.remarks == (
        "old.service has /usr/sbin/old fork: add what keeps it in the foreground to `entrypoint`",
    )


def test_of_several_units_its_own_counts_and_jobs_do_not() -> None:
    job = "[Service]\nType=oneshot\nExecStart=/usr/bin/clean\n"
    units = {"redis-server": REDIS, "clean": job, "other": SSHD}
    texts = {f"{UNITS}/{unit}.service": text for unit, text in units.items()}
    assert obvious_program("redis-server", [], texts).user == "redis"
    # no unit is its own: the programs decide
    assert obvious_program("x", ["usr/bin/x"], texts).exec == ("/usr/bin/x",)


def test_a_package_without_programs_is_told() -> None:
    found = obvious_program("libc6", ["usr/lib/libc.so.6"], {})
    assert found == Program(remarks=("debian:libc6 has no program",))


def test_a_directory_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep/web"
    with new_container(target, {"container.yaml": "- vars: {}\n"}, "x") as directory:
        assert not target.exists()
        (directory / "buildit.lock").write_text("lock\n")
    assert sorted(os.listdir(target)) == ["buildit.lock", "container.yaml"]
    assert os.listdir(target.parent) == ["web"]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o777 & ~mask

    other = tmp_path / "other"
    with (
        pytest.raises(UsageError, match="no"),
        new_container(other, {"container.yaml": "x"}, "x") as directory,
    ):
        raise UsageError("no")
    assert not other.exists()
    assert sorted(os.listdir(tmp_path)) == ["deep"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    kept = tmp_path / "web/notes"
    kept.parent.mkdir()
    kept.write_text("mine")
    with (
        pytest.raises(UsageError, match="is there already") as caught,
        new_container(kept.parent, {"container.yaml": "x"}, "x"),
    ):
        pass
    assert "--output" in (caught.value.hint or "")
    assert kept.read_text() == "mine"
    assert os.listdir(tmp_path) == ["web"]
    # an empty one is nothing
    (tmp_path / "empty").mkdir()
    with new_container(tmp_path / "empty", {"container.yaml": "x"}, "x"):
        pass
    assert (tmp_path / "empty/container.yaml").read_text() == "x"
    # nor through a link, or beneath a file
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError), new_container(tmp_path / "link", {"c": "x"}, "x"):
        pass
    with (
        pytest.raises(StoreError, match="cannot be written"),
        new_container(kept / "below", {"c": "x"}, "x"),
    ):
        pass
