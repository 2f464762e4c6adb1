"""What maintainer scripts would have done for a chroot, as data, and the name of its tree; pure.

Any change here, to a byte, a mode or a rule, raises `FIXUPS`; but not a program in `ALTERNATIVES`
that no .deb had before (automake-1.17 of Debian 13).

1. `bin sbin lib lib32 lib64` are links to `usr/…` (merged /usr), where that exists.
2. `cc c++ c89 c99 awk nawk`, …: the link that update-alternatives would have made, to
   the first program of the list that is there. `sh` is dash's, or else bash's.
3. `/etc/passwd` and `/etc/group`: root, the user of the build (1000, the only id besides that the
   sandbox maps), nobody. No shadow.
4. `/etc/hosts` with localhost and the sandbox's own name (`build.jail.Jail.hostname`), both by
   IPv4 and IPv6; `/etc/nsswitch.conf` with files only; no `resolv.conf`.
5. Mount points and work directories: `/build /dev /proc /root /run /sys /tmp /var/tmp`.
6. No `/etc/ld.so.conf`, its directory or cache: the loader's own directories are used.
7. No documentation, translations or manuals: see `UNWANTED`.
8. No set-id or sticky bits; directories 0755, files 0644 or 0755; all belongs to one owner.
9. No configuration of apt, dpkg, cron, logrotate, PAM, systemd and the like: see `UNWANTED`.
10. Directories, and all that we add, have the time `model.tree.YEAR_1980`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

from buildit.archive.contents import HOSTS, MERGED_LINKS, MERGED_USR, NSSWITCH
from buildit.digest import Digest, canonical, digest_bytes
from buildit.model.plan import DebRef
from buildit.model.tree import YEAR_1980, Entry, Kind

FIXUPS = "3"
"""The version of our choice of files and fix-ups; part of every build's key."""

_UNWANTED = """
    etc/apt/ etc/cron.d/ etc/cron.daily/ etc/dpkg/ etc/init.d/ etc/ld.so.conf.d/ etc/ld.so.conf/
    etc/logrotate.d/ etc/pam.d/ etc/systemd/ usr/lib/systemd/ usr/share/apport/ usr/share/bug/
    usr/share/doc/ usr/share/doc-base/ usr/share/info/ usr/share/lintian/ usr/share/linda/
    usr/share/locale/ usr/share/man/ usr/share/menu/ var/cache/ var/lib/ var/log/
"""
UNWANTED = tuple(_UNWANTED.split())
"""What is left out of the tree: directories with all in them, and one file."""

ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "awk": ("gawk", "mawk", "original-awk"),
    "c++": ("g++", "clang++"),
    "c89": ("c89-gcc",),
    "c99": ("c99-gcc",),
    "cc": ("gcc", "clang"),
    "nawk": ("gawk", "mawk"),
    "sh": ("dash", "bash"),
    "yacc": ("bison.yacc", "byacc"),
    "lex": ("flex",),
    "automake": ("automake-1.16", "automake-1.17"),
    "aclocal": ("aclocal-1.16", "aclocal-1.17"),
    "fakeroot": ("fakeroot-sysv", "fakeroot-tcp"),
    "faked": ("faked-sysv", "faked-tcp"),
}
"""Names in /usr/bin, and what they lead to, the most wanted first."""

_PATHS = "build dev etc proc root run sys tmp usr usr/bin var var/lib var/tmp"
TREE_DIRECTORIES = tuple(_PATHS.split())

TREE_FILES: Mapping[str, str] = {
    "etc/group": "root:x:0:\nbuild:x:1000:\nnogroup:x:65534:\n",
    "etc/hosts": HOSTS,
    "etc/nsswitch.conf": NSSWITCH,
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "build:x:1000:1000:build:/build:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
}
"""Replaces a file of the same name that a package brings."""


def enters_tree(path: str) -> bool:
    """Whether a package's file or directory enters the tree."""
    return path not in TREE_FILES and not f"{path}/".startswith(UNWANTED)


def links(present: Container[str]) -> Iterator[Entry]:
    """The links of fix-ups 1 and 2, for a tree that has the paths in `present`."""
    for link in MERGED_LINKS:
        if link.target in present:
            yield Entry(link.path, Kind.SYMLINK, 0o777, mtime=YEAR_1980, target=link.target)
    for name, programs in sorted(ALTERNATIVES.items()):
        path = f"usr/bin/{name}"
        found = next((one for one in programs if f"usr/bin/{one}" in present), None)
        if found is not None and path not in present:
            yield Entry(path, Kind.SYMLINK, 0o777, mtime=YEAR_1980, target=found)


def toolchain_identity(debs: Iterable[DebRef]) -> Digest:
    """The name of the merged tree of these .debs. Only their digests count, not their order."""
    record = {
        "scheme": "buildit-toolchain-1",
        "debs": sorted({deb.digest for deb in debs}),
        "fixups": FIXUPS,
        "merged-usr": MERGED_USR,
    }
    return digest_bytes(canonical(record))
