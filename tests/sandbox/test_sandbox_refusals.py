"""Sandboxes that cannot start: one error each, with place and next step, and nothing left."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.sandbox.probe import Level, probe
from tests.sandbox.probes.harness import Answer, Sandbox

pytestmark = pytest.mark.sandbox


def refused(sandbox: Sandbox, answer: Answer) -> str:
    assert answer.outcome == {}
    assert {path.name for path in sandbox.work.iterdir()} <= {"build", "link"}
    return f"{answer.error['kind']}: {answer.error['message']} ({answer.error['hint']})"


def test_a_missing_tree(sandbox: Sandbox) -> None:
    sandbox.lowers = ["tiny", "absent"]
    assert "no such tree: absent" in refused(sandbox, sandbox.shell("true"))


def test_a_missing_bind(sandbox: Sandbox) -> None:
    sandbox.binds.append({"source": "absent/x", "dest": "/x", "writable": False})
    assert "nothing to bind at /x" in refused(sandbox, sandbox.shell("true"))


@pytest.mark.parametrize("inner", ["", "/inner"])
def test_a_bind_through_a_link(sandbox: Sandbox, inner: str) -> None:
    """What an earlier build left in the work directory must not lead out of it."""
    target = sandbox.store / "trees"
    (target / "inner").mkdir()
    (sandbox.work / "link").symlink_to(target)
    sandbox.binds.append({"source": f"link{inner}", "dest": "/x", "writable": True})
    assert "link" in refused(sandbox, sandbox.shell("true"))
    assert (target / "inner").stat().st_uid == os.geteuid()


def test_a_command_that_is_not_there(sandbox: Sandbox) -> None:
    answer = sandbox.run("/usr/bin/absent")
    said = refused(sandbox, answer)
    assert said.startswith("BuildError: the chroot cannot run /usr/bin/absent: No such file")
    assert "depends: {build: [debian:NAME]}" in said
    assert "/usr/bin/absent: No such file" in answer.error["details"][-1]


def test_a_tree_without_a_shell_is_not_the_machines_fault(sandbox: Sandbox) -> None:
    (sandbox.store / "trees/tiny/usr/bin/sh").unlink()
    said = refused(sandbox, sandbox.shell("true"))
    assert said.startswith("StoreError: the chroot cannot run sh: No such file or directory")
    assert "buildit store verify" in said


def test_what_a_build_prints_is_not_taken_for_bubblewraps_words(sandbox: Sandbox) -> None:
    answer = sandbox.shell("echo 'bwrap: execvp sh: No such file or directory'; exit 1")
    assert answer.outcome["status"] == 1
    assert answer.error == {}


def test_a_log_that_cannot_be_written(sandbox: Sandbox) -> None:
    answer = sandbox.run("true", log=str(sandbox.store / "absent/log"))
    assert refused(sandbox, answer).startswith("StoreError")


def test_too_long_an_argument(sandbox: Sandbox) -> None:
    assert "Argument list too long" in refused(sandbox, sandbox.run("true", "x" * 200_000))


def test_forbidden_user_namespaces_name_the_sysctl(sandbox: Sandbox) -> None:
    """Within a user namespace of the test's own, so that the machine's setting stays."""
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    argv = (*sandbox.argv[:-1], "unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    nested = replace(sandbox, argv=(*argv, sandbox.argv[-1]))
    said = refused(nested, nested.shell("true"))
    assert said.startswith("BuildError")
    assert "sysctl user.max_user_namespaces" in said


def test_root_of_a_namespace_with_one_user_runs_as_that_user(sandbox: Sandbox) -> None:
    argv = (*sandbox.argv[:-1], "unshare", "--user", "--map-root-user", sandbox.argv[-1])
    nested = replace(sandbox, argv=argv)
    answer = nested.shell("id; echo x >/build/x")
    assert answer.log == b"uid=1000 gid=1000 groups=1000\n", answer.error


def test_a_directory_closed_to_the_build_user(sandbox: Sandbox) -> None:
    if os.geteuid() != 0 or len(sandbox.argv) > 1:
        pytest.skip("only root builds as somebody else")
    (sandbox.store / "trees").chmod(0o700)
    said = refused(sandbox, sandbox.shell("true"))
    assert f"chmod o+x {sandbox.store / 'trees'}" in said


def test_the_probe_finds_this_machine_fit(tmp_path: Path) -> None:
    found = probe(tmp_path / "not/yet")
    subjects = {finding.subject for finding in found}
    needed = {"kernel", "bwrap", "unshare", "mount", "user namespaces", "overlay", "limits"}
    assert needed | {"gpgv", "git", "ssh-keygen", "disk"} <= subjects
    assert [finding for finding in found if finding.level is Level.MISSING] == []
    assert all(finding.hint for finding in found if finding.level is not Level.FINE)
    groups = subprocess.run(
        ["find", "/sys/fs/cgroup", "-path", f"*/buildit/{os.getpid()}-*"],
        capture_output=True,
        check=True,
    )
    assert groups.stdout == b""
