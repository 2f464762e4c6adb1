"""One build with all that a patch file can be: a series with a fix and then a rename, binary
content, links, empty files, and two files of which make(1) makes one from the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.compare import content
from tests.integration.seeds import Seed
from tests.integration.world import HELLO
from tests.patch_histories import History, git, stream

pytestmark = pytest.mark.sandbox

PLAIN, LINK = "100644", "120000"
BINARY = bytes(range(256)) * 8
MAKEFILE = """\
hello: main.c generated
	$(CC) $(CFLAGS) $(LOUD) $(LDFLAGS) -o $@ main.c -lgreet
generated: generated.in
	false made anew though both are patched
install: hello
	test -L again -a -e empty -a ! -s empty -a ! -e hello.c
	test -n "`find generated generated.in Makefile -newer main.c`" && exit 1 || :
	mkdir -p $(DESTDIR)/usr/bin $(DESTDIR)/usr/share/hello
	install -m 0755 hello $(DESTDIR)/usr/bin/
	cp again generated $(DESTDIR)/usr/share/hello/
"""


def series(root: Path) -> bytes:
    """What `git format-patch -M` writes of five commits on the tiny world's `hello`."""
    base = {path: (PLAIN, text.encode()) for path, text in HELLO.items()}
    fixed = base["hello.c"][1].replace(b"%s, world", b"FIXED %s, world")
    history = History([base])
    states = history.states
    states.append(base | {"hello.c": (PLAIN, fixed)})
    states.append({"main.c": (PLAIN, fixed), "Makefile": (PLAIN, MAKEFILE.encode())})
    generated = dict.fromkeys(("generated", "generated.in"), (PLAIN, b"one\n"))
    states.append(states[-1] | generated | {"data": (PLAIN, BINARY), "empty": (PLAIN, b"")})
    states.append(states[-1] | {"data": (PLAIN, BINARY[:999] + b"\0 changed" + BINARY[999:])})
    states.append(states[-1] | {"again": (LINK, b"data"), "generated.in": (PLAIN, b"two\n")})
    git(root, "init", "-q")
    git(root, "fast-import", "--quiet", stdin=b"".join(stream([history])))
    return git(root, "format-patch", "--stdout", "-M", "h0-0..h0-5")


def test_a_series_of_everything(seed: Seed, here: Path) -> None:
    project = seed.new_project(here / "project")
    repository = here / "repository"
    repository.mkdir()
    text = series(repository)
    assert b"\ndelta " in text
    assert b"\nrename from hello.c" in text
    project.patch.write_bytes(text)
    program = seed.program.with_store(seed.new_store(here))
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    (oci,) = (path for path in done.images() if path.suffix == ".oci")
    assert b"FIXED %s, world" in content(oci, "usr/bin/hello")
    assert b"\0 changed" in content(oci, "usr/share/hello/again")
    assert content(oci, "usr/share/hello/generated") == b"one\n"
