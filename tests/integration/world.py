"""A tiny world: a tree of three packages that build in a second each, and a container of them.

`hello` is a program that links the library of `greet`; the container patches it. `notes` has
files and flags, and writes down what its build sees of the machine, so that a leak is a difference.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Nginx, Sshd

GREET = {
    "greet.h": "const char *greet(void);\n",
    "greet.c": '#include "greet.h"\nconst char *greet(void) { return "good day"; }\n',
    "Makefile": """\
LIBDIR = /usr/lib
libgreet.so.1: greet.c greet.h
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -fPIC -Wl,-soname,libgreet.so.1 -o $@ greet.c
install: libgreet.so.1
	mkdir -p $(DESTDIR)$(LIBDIR) $(DESTDIR)/usr/include
	install -m 0755 libgreet.so.1 $(DESTDIR)$(LIBDIR)/libgreet.so.1.0
	ln -s libgreet.so.1.0 $(DESTDIR)$(LIBDIR)/libgreet.so.1
	ln -s libgreet.so.1 $(DESTDIR)$(LIBDIR)/libgreet.so
	install -m 0644 greet.h $(DESTDIR)/usr/include/
""",
}
HELLO = {
    "hello.c": """\
#include <stdio.h>
#include <greet.h>
#ifndef LOUD
#define LOUD ""
#endif
int main(void)
{
    printf("%s, world%s\\n", greet(), LOUD);
    printf("from %s at %s %s\\n", __FILE__, __DATE__, __TIME__);
    return 0;
}
""",
    "Makefile": """\
LIBDIR = /usr/lib
hello: hello.c
	$(CC) $(CFLAGS) $(LOUD) $(LDFLAGS) -o $@ hello.c -lgreet
install: hello
	mkdir -p $(DESTDIR)/usr/bin
	install -m 0755 hello $(DESTDIR)/usr/bin/
""",
}
POLITE = """\
From: Somebody <somebody@example.org>
Subject: greet the reader

--- a/hello.c
+++ b/hello.c
@@ -7,4 +7,4 @@
 {
-    printf("%s, world%s\\n", greet(), LOUD);
+    printf("%s, dear reader%s\\n", greet(), LOUD);
     printf("from %s at %s %s\\n", __FILE__, __DATE__, __TIME__);
     return 0;
"""
GREET_YAML = """\
description: A library that greets
license: Apache-2.0
versions:
  1.0:
    sources:
      - url: https://example.org/greet-1.0.tar.gz
        sha256: {greet}
style: make
"""
HELLO_YAML = """\
description: A program that greets
license: Apache-2.0
versions:
  1.0:
    sources:
      - url: https://example.org/hello-1.0.tar.gz
        sha256: {hello}
use:
  loud: {{default: off, description: Greet with an exclamation mark}}
depends:
  link: [libs/greet]
style: make
configure:
  - {{when: loud, then: 'LOUD=-DLOUD="\\"!\\""'}}
"""
NOTES_YAML = """\
description: Files, and what a build can see of the machine
license: Apache-2.0
versions:
  2.1: {}
use:
  extra: {default: on, description: Install a second file}
steps:
  install: |
    to="$DESTDIR/usr/share/notes"
    mkdir -p "$to" "$DESTDIR/usr/bin"
    cp "$FILES/note.txt" "$to/"
    case " $USE " in *" extra "*) echo more > "$to/extra.txt" ;; esac
    # Not the clock, and not how many jobs may run: a build sees those.
    { env -u JOBS | sort; id; pwd; umask; uname -n; ulimit -c; ulimit -s; wc -l < /proc/mounts
      for each in 1 self; do tr '\\0' '\\n' < "/proc/$each/environ" | sed '/^JOBS=/d' | sort; done
      tr '\\0' '\\n' < /proc/1/cmdline | sed '/^JOBS$/,+1d'; cut -d' ' -f5 /proc/self/mountinfo
      grep -E '^(Sig[BIC]|Cap|NoNew|Seccomp:)' /proc/self/status
      ulimit -a | grep -v -e process -e memory
      stat -c '%A %u %g %n' / "$SRC" "$FILES" "$FILES"/* /home /root /tmp
    } > "$to/machine" 2>&1
waivers:
  - {check: build-path, path: usr/share/notes/machine, reason: it is there to show the build}
"""
CONTAINER_YAML = """\
# a comment
- vars: {author: Tester, name: tiny, version: 1.0-p1}
- package: {type: embedded, path: ./pkgs/hello}
- package: {atom: app/notes}
- sync: {src: ./files, dest: /srv/data, recursive: yes}
- app: {exec: [/usr/bin/hello]}
- image: {type: aci}
- image: {type: oci}
"""
EMBEDDED_YAML = """\
base: app/hello-1.0
author: Tester <tester@example.org>
patches:
  patches/polite.patch: Greet the reader
use: {with: [loud]}
"""
CONFIG_YAML = "trees: [./tree]\nrepositories: []\n"
PACKAGES = ("libs/greet", "app/hello", "app/notes")


def archive(name: str, files: Mapping[str, str]) -> bytes:
    """A source archive, as upstream packs it: everything below `name/`."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}/{path}")
            member.size, member.mtime, member.mode = len(text.encode()), 1_600_000_000, 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(plain.getvalue(), mtime=0)


def sources() -> dict[str, bytes]:
    """The archives of the tiny world by file name."""
    return {
        "greet-1.0.tar.gz": archive("greet-1.0", GREET),
        "hello-1.0.tar.gz": archive("hello-1.0", HELLO),
    }


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write texts below `root`."""
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


@dataclass(frozen=True, slots=True)
class Project:
    """A container's directory `box` with its tree and configuration beside it."""

    root: Path

    @property
    def box(self) -> Path:
        return self.root / "box"

    @property
    def container(self) -> Path:
        return self.box / "container.yaml"

    @property
    def embedded(self) -> Path:
        return self.box / "pkgs/hello/pkg.yaml"

    @property
    def patch(self) -> Path:
        return self.box / "pkgs/hello/patches/polite.patch"

    @property
    def config(self) -> Path:
        return self.root / ".buildit-config.yaml"

    @property
    def lock(self) -> Path:
        return self.box / "buildit.lock"

    def recipe(self, name: str) -> Path:
        return self.root / "tree" / name / "pkg.yaml"

    def edit(self, path: Path, old: str, new: str) -> None:
        """Replace a text that stands there exactly once."""
        text = path.read_text()
        assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new))


def make_project(root: Path, distfiles: Path, lock: str = "") -> Project:
    """The tiny world below `root`. `distfiles` holds what is not to be downloaded again; `lock`
    is text that the container's lock begins with."""
    digests = {name.partition("-")[0]: sha256(data) for name, data in sources().items()}
    project = Project(root)
    write(
        root,
        {
            ".buildit-config.yaml": CONFIG_YAML,
            "tree/libs/greet/pkg.yaml": GREET_YAML.format(**digests),
            "tree/app/hello/pkg.yaml": HELLO_YAML.format(**digests),
            "tree/app/notes/pkg.yaml": NOTES_YAML,
            "tree/app/notes/files/note.txt": "a note\n",
            "box/container.yaml": CONTAINER_YAML,
            "box/pkgs/hello/pkg.yaml": EMBEDDED_YAML,
            "box/pkgs/hello/patches/polite.patch": POLITE,
            "box/files/run.sh": "#!/usr/bin/hello\n",
            **{f"box/files/data/{name}": f"{name}\n" for name in ("b", "a", "d", "c", "Z", "é")},
        },
    )
    (root / "box/files/run.sh").chmod(0o755)
    os.symlink(distfiles, root / "box/distfiles")
    if lock:
        project.lock.write_text(lock)
    return project


def publishing(name: str, key: Path, ssh: Sshd, site: Path, server: Nginx) -> str:
    """The configuration of who publishes over SSH to the directory of a web server."""
    return (
        "trees: [./tree]\n"
        f"signing-key: {key}\n"
        f"repository:\n  name: {name}\n"
        f"  upload-type: ssh\n  upload-path: 127.0.0.1:{ssh.port}/{site}/bin\n"
        f"  download-type: https\n  download-path: 127.0.0.1:{server.port}/bin\n"
    )
