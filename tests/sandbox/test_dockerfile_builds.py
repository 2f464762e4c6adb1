"""Whole builds of Dockerfiles over a local base: stages, what RUN sees, mounts, and what is
refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildit.image.verify import read_image
from buildit.model.tree import Entry
from tests.planning import Checkout, checkout
from tests.sandbox.test_run_steps import shell_base

pytestmark = pytest.mark.sandbox


@dataclass
class Dockerfiles:
    """A directory with a Dockerfile, over a base that has a shell."""

    project: Checkout

    def write(self, text: str, **files: str) -> None:
        self.project.write("container/Dockerfile", text)
        for name, content in files.items():
            self.project.write(f"container/{name}", content)

    def __call__(self, *words: str) -> tuple[int, str]:
        root = self.project.root
        environment = {"PATH": os.environ["PATH"], "HOME": str(root)}
        done = subprocess.run(
            [sys.executable, "-m", "buildit", *words],
            env={**environment, "BUILDIT_STORE": str(root / "store")},
            cwd=root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def build(self, *words: str) -> str:
        given = ("container", "--build-context", "base=oci:base.oci", *words)
        code, said = self(*given)
        assert code == 0, said
        return said

    def fails(self, *words: str) -> str:
        code, said = self("container", "--build-context", "base=oci:base.oci", *words)
        assert code != 0, said
        return said

    def tree(self) -> dict[str, Entry]:
        (path,) = (self.project.root / "out").glob("*.oci")
        return {one.path: one for one in read_image(path).entries or ()}

    def text(self, path: str) -> str:
        (image,) = (self.project.root / "out").glob("*.oci")
        code, said = self("run", str(image), "--", "/bin/cat", path)
        assert code == 0, said
        return said


@pytest.fixture
def dockerfiles(tmp_path: Path) -> Dockerfiles:
    project = checkout(tmp_path)
    shell_base(tmp_path / "base.oci")
    project.write(".buildit-config.yaml", "trees: [./pkgs]\nrepositories: []\n")
    return Dockerfiles(project)


NET = "--network=none"


def test_stages_that_are_needed_are_built_and_files_taken_of_them(dockerfiles: Dockerfiles) -> None:
    dockerfiles.write(
        f"""\
FROM base AS build
WORKDIR /work
COPY *.txt ./
RUN {NET} cat one.txt two.txt > both; chmod 0640 both; chown 7:8 both
FROM base AS unused
RUN {NET} exit 3
FROM build AS more
RUN {NET} echo more >> both
FROM base
COPY --from=build /work/both /srv/first
COPY --from=more /work/bo* /srv/
""",
        **{"one.txt": "1\n", "two.txt": "2\n"},
    )
    said = dockerfiles.build()
    assert "the stage build is built first" in said
    assert "unused" not in said
    found = dockerfiles.tree()
    assert (found["srv/first"].mode, found["srv/first"].uid, found["srv/first"].gid) == (
        0o640,
        7,
        8,
    )
    assert dockerfiles.text("/srv/both") == "1\n2\nmore\n"
    lock = (dockerfiles.project.container / "buildit.lock").read_text()
    heads = [line for line in lock.splitlines() if line.startswith("[")]
    assert [one.partition(" ")[2] for one in heads] == ["", "build]", "more]"]
    again = dockerfiles.build()
    assert "building" not in again
    assert "first" not in again
    said = dockerfiles.build("--locked", "--offline")
    assert "building" not in said


def test_a_change_of_a_stage_is_noticed_and_a_failing_one_named(dockerfiles: Dockerfiles) -> None:
    text = f"""\
FROM base AS build
RUN {NET} echo one > /srv/a
FROM base
COPY --from=build /srv/a /srv/b
"""
    dockerfiles.write(text)
    dockerfiles.build()
    assert dockerfiles.text("/srv/b") == "one\n"
    dockerfiles.write(text.replace("echo one", "echo two"))
    dockerfiles.build()
    assert dockerfiles.text("/srv/b") == "two\n"
    dockerfiles.write(text.replace("echo one", "nonsuch"))
    said = dockerfiles.fails()
    assert "Dockerfile:2:1" in said
    assert "in the stage build" in said
    assert "there is no 'srv/nothing' in stage:build" in _with(dockerfiles, text, "/srv/nothing")


def _with(dockerfiles: Dockerfiles, text: str, path: str) -> str:
    dockerfiles.write(text.replace("COPY --from=build /srv/a", f"COPY --from=build {path}"))
    return dockerfiles.fails()


def test_run_sees_what_holds_where_it_stands(dockerfiles: Dockerfiles) -> None:
    dockerfiles.write(
        f"""\
FROM base
ARG MORE=arg
ENV KEY=value PATH=/usr/bin:/bin
WORKDIR /w
RUN {NET} echo $KEY $MORE $HOME >> seen; chown 5:6 . seen; mkdir /tmp; echo kept > /tmp/x
USER 5:6
RUN {NET} stat -c %u:%g seen >> seen; ls /tmp >> seen; id -u >> seen
ENV KEY=later
RUN {NET} echo $KEY >> seen
CMD ["cat", "/w/seen"]
"""
    )
    dockerfiles.build("--build-arg", "MORE=given")
    assert dockerfiles.text("/w/seen") == "value given /\n5:6\nx\n5\nlater\n"
    assert "tmp/x" in dockerfiles.tree()


def test_mounts_are_seen_and_in_no_layer(dockerfiles: Dockerfiles) -> None:
    dockerfiles.write(
        f"""\
FROM base AS tools
RUN {NET} mkdir /opt; echo tool > /opt/x
FROM base
RUN {NET} --mount=type=bind,source=src,target=/s \\
    --mount=type=bind,from=tools,source=/opt,target=/t \\
    --mount=type=cache,target=/c --mount=type=tmpfs,target=/m \\
    cat /s/one /t/x > /srv/got; echo c >> /c/f; cat /c/f >> /srv/got; echo > /m/x; \\
    echo > /s/new || echo read-only >> /srv/got
RUN {NET} --mount=type=bind,source=src,target=/s,rw echo > /s/new; ls /s >> /srv/got
""",
        **{"src/one": "one\n"},
    )
    dockerfiles.build()
    wanted = "one\ntool\nc\nread-only\nnew\none\n"
    assert dockerfiles.text("/srv/got") == wanted
    assert not dockerfiles.tree().keys() & {"s", "t", "c", "m"}
    dockerfiles.project.write("container/src/one", "other\n")
    dockerfiles.build()
    assert dockerfiles.text("/srv/got") == wanted.replace("one", "other", 1)


def test_a_cache_is_empty_unless_it_is_for_work(dockerfiles: Dockerfiles) -> None:
    text = f"""\
FROM base
RUN {NET} --mount=type=cache,target=/c echo first >> /c/f; cat /c/f > /srv/got
"""
    dockerfiles.write(text)
    dockerfiles.build()
    dockerfiles.write(text.replace("first", "second"))
    dockerfiles.build()
    assert dockerfiles.text("/srv/got") == "second\n"
    said = dockerfiles.build("--cache-mounts")
    assert "not for release: run" in said
    dockerfiles.write(text.replace("first", "third"))
    dockerfiles.build("--cache-mounts")
    assert dockerfiles.text("/srv/got") == "second\nthird\n"
    assert "had a cache of earlier runs" in dockerfiles.fails("--cache-mounts", "--locked")
    dockerfiles.build()
    assert dockerfiles.text("/srv/got") == "third\n"


def test_a_secret_is_where_it_is_said_and_in_no_layer(dockerfiles: Dockerfiles) -> None:
    mount = "--mount=type=secret,id=tok,target=/etc/tok,mode=0444,uid=5,env=TOK,required"
    text = f"""\
FROM base
RUN {NET} {mount} test "$TOK" = "$(cat /etc/tok)"; stat -c '%a %u' /etc/tok > /srv/got
"""
    dockerfiles.write(text)
    (dockerfiles.project.root / "tok").write_text("a-secret-value")
    assert "tok" in dockerfiles.fails()
    dockerfiles.build("--secret", "id=tok,src=tok")
    assert dockerfiles.text("/srv/got") == "444 5\n"
    assert "etc/tok" not in dockerfiles.tree()
    dockerfiles.write(text.replace("stat -c '%a %u'", "cat"))
    assert "the secret 'tok' is in /srv/got" in dockerfiles.fails("--secret", "id=tok,src=tok")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN --mount=type=bind,source=../x,target=/x ls", "'x' cannot be synced"),
        ("RUN --mount=type=cache,target=/proc/x ls", "nothing can be mounted at /proc/x"),
        ("RUN echo", "the step has a network, and --offline forbids it"),
        ("COPY --from=nowhere /a /b", "in which registry the image 'nowhere' is"),
        (
            'ENTRYPOINT ["nonsuch"]',
            "the image runs 'nonsuch', which is in no directory of its PATH",
        ),
        ("USER nobody-here\nRUN --network=none ls", "the image has no user 'nobody-here'"),
    ],
)
def test_what_is_refused_has_its_line(dockerfiles: Dockerfiles, line: str, message: str) -> None:
    dockerfiles.write("FROM base\nWORKDIR /w\n")
    dockerfiles.build()  # the toolchain is in the lock
    dockerfiles.write(f"FROM base\nWORKDIR /w\n{line}\n")
    said = dockerfiles.fails("--offline")
    assert message in said
    assert "Dockerfile:" in said


def test_a_plan_of_stages_that_are_not_built_is_theirs(dockerfiles: Dockerfiles) -> None:
    dockerfiles.write(
        f"""\
FROM base AS low
RUN {NET} echo low > /low
FROM base AS beside
RUN {NET} echo beside > /beside
FROM base
COPY --from=low /low /srv/
COPY --from=beside /beside /srv/
"""
    )
    lock = dockerfiles.project.container / "buildit.lock"
    before = lock.read_bytes()
    code, said = dockerfiles("plan", "container", "--build-context", "base=oci:base.oci")
    assert code == 0, said
    assert lock.read_bytes() == before
    assert ", the stage low, for linux/" in said
    assert ", the stage beside, for linux/" in said
    assert "echo low > /low" in said
    assert "container: known once these are built: the stage low, the stage beside" in said
    dockerfiles.build()
    code, said = dockerfiles("plan", "container", "--build-context", "base=oci:base.oci")
    assert (code, "known once" in said) == (0, False), said


def test_a_stage_is_no_image_that_must_start(dockerfiles: Dockerfiles) -> None:
    dockerfiles.write(
        f"""\
FROM base AS shared
CMD ["/opt/app"]
FROM shared
RUN {NET} mkdir -p /opt; printf '#!/bin/sh\\necho it runs\\n' > /opt/app; chmod 755 /opt/app
"""
    )
    dockerfiles.build()
    (image,) = (dockerfiles.project.root / "out").glob("*.oci")
    assert dockerfiles("run", str(image)) == (0, "it runs\n")
    told = dockerfiles.fails("--target", "shared")  # asked for, it is one
    assert "the image runs /opt/app" in told
