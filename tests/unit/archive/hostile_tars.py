"""The hostile corpus: every archive here must be refused, or be harmless where it says so.

`says` is for the strict reading of layers, images and .debs. A source, whose digest is pinned, is
read as GNU tar reads it: `AS_SOURCE` has the cases where that differs.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.unit.archive.tarmaker import (
    END,
    base256,
    directory,
    file,
    hardlink,
    header,
    longname,
    padded,
    pax,
    raw_pax,
    record,
    symlink,
)


@dataclass(frozen=True)
class Hostile:
    name: str
    data: bytes
    says: str
    """Part of the error's message; "" where the archive is unpacked without harm."""


@dataclass(frozen=True)
class Read:
    """It is unpacked without harm; one of the remarks has this text, "" where there is none."""

    remark: str


ABSOLUTE, AGAIN, KEPT, TYPE = (
    Read("'/'"),
    Read("again"),
    Read("out of the source"),
    Read("as a file"),
)
LEFT_OUT, SILENT = Read("left out"), Read("")
AS_SOURCE: dict[str, Read | str] = {
    **dict.fromkeys(
        (
            "absolute path",
            "double slash path",
            "ustar prefix absolute",
            "PAX path absolute",
            "GNU name absolute",
        ),
        ABSOLUTE,
    ),
    **dict.fromkeys(
        (
            "duplicate file",
            "duplicate by dot",
            "duplicate by slashes",
            "duplicate manifest",
            "directory over file",
            "replace a link",
            "directory over link",
            "hard link to a link, then written through",
        ),
        AGAIN,
    ),
    **dict.fromkeys(
        ("absolute link", "relative link out", "link out by another link", "link in proc"), KEPT
    ),
    **dict.fromkeys(("character device", "block device", "FIFO"), LEFT_OUT),
    **dict.fromkeys(("solaris ACL", "unknown type", "type of a high byte"), TYPE),
    **dict.fromkeys(
        (
            "link to itself",
            "two links in a ring",
            "PAX linkpath on a file",
            "PAX size on a link",
            "PAX key twice",
            "two PAX headers",
            "PAX keyword unknown",
            "PAX character set",
            "PAX owner huge",
            "global in the middle of one",
            "GNU name twice",
            "GNU link on a file",
            "volume label",
            "GNU dump directory",
            "directory with content",
            "negative owner",
            "owner of -1",
            "malformed base-256",
        ),
        SILENT,
    ),
    "time after the year 9999": Read("times after"),
    "PAX time huge": Read("times after"),
    "single zero block": Read("not read"),
    "bytes after the end": Read("not read"),
    "second archive after the end": Read("not read"),
    "one byte after the end": Read("not read"),
    "gzip trailing garbage": Read("not read"),
    "gzip trailing member": Read("not read"),
    "link with content": "checksum",
    "hard link with content": "checksum",
    "hard link out": "no earlier",
    "PAX linkpath out": "no earlier",
    "GNU link out": "no earlier",
    "gzip then bzip2": "truncated",
    "lzip": "damaged",
}

GOOD = file(b"a/ok") + END
LIMITS = {"entries": 60, "depth": 12, "path_bytes": 600, "total_bytes": 1 << 20}


def corpus(canary: bytes) -> tuple[Hostile, ...]:
    """All cases; `canary` is the absolute path of a file outside that must stay as it is."""
    groups = (names, links, extended, records_damaged, records_refused, long_names)
    return *(Hostile(*case) for group in groups for case in group(canary)), *_fixed()


@cache
def _fixed() -> tuple[Hostile, ...]:
    groups = (kinds(), headers(), truncated(), bombs(), compressed())
    return tuple(Hostile(*case) for group in groups for case in group)


Case = tuple[str, bytes, str]


def names(canary: bytes) -> Iterator[Case]:
    outside = canary.rpartition(b"/")[2]
    yield "absolute path", file(canary) + END, "absolute"
    yield "double slash path", file(b"/" + canary) + END, "absolute"
    yield "parent", file(b"../" + outside) + END, "'..'"
    yield "parent behind a directory", file(b"a/../../" + outside) + END, "'..'"
    yield "parent at the end", file(b"a/..") + END, "'..'"
    yield "parent that stays inside", directory(b"a") + file(b"a/../b") + END, "'..'"
    yield "dot slash parent", file(b"./../" + outside) + END, "'..'"
    yield "slashes and parent", file(b".//..//" + outside) + END, "'..'"
    yield "empty name", file(b"") + END, "empty"
    yield "root as file", file(b".") + END, "root"
    yield "root as link", symlink(b"./", canary) + END, "root"
    yield "file with slash at the end", file(b"a/") + END, "slash"
    yield "ustar prefix absolute", file(b"x", prefix=canary) + END, "absolute"
    yield "ustar prefix parent", file(outside, prefix=b"..") + END, "'..'"
    yield "newline and two dots", file(b"a\n../b") + END, ""
    yield "newline in a plain name", file(b"a\nb") + END, ""
    yield "escape sequence", file(b"\x1b]0;x\x07\x1b[2J") + END, ""
    yield "not UTF-8", file(b"caf\xe9/\xff\xfe") + END, ""
    yield "overlong UTF-8 parent", file(b"\xc0\xae\xc0\xae/x") + END, ""
    yield "backslash parent", file(b"..\\..\\x") + END, ""
    yield "windows drive", file(b"C:\\x") + file(b"C:/x") + END, ""
    yield "tilde and dollar", file(b"~root/x") + file(b"$HOME/y") + file(b"`id`") + END, ""
    yield "option as a name", file(b"--checkpoint-action=exec=sh") + file(b"-rf") + END, ""
    yield "spaces only", file(b"   ") + END, ""
    yield "whiteout name", file(b"a/.wh.b") + END, ""
    yield "duplicate file", file(b"a") + file(b"a", b"other") + END, "twice"
    yield "duplicate by dot", file(b"a") + file(b"./a", b"other") + END, "twice"
    yield "duplicate by slashes", file(b"a/b") + file(b"a//b", b"other") + END, "twice"
    yield "duplicate manifest", file(b"manifest") * 2 + END, "twice"
    yield "file over directory", directory(b"a") + file(b"a/b") + file(b"a") + END, "below it"
    yield "file over implied directory", file(b"a/b") + file(b"a") + END, "below it"
    yield "directory over file", file(b"a") + directory(b"a") + END, "twice"
    yield "below a file", file(b"a") + file(b"a/b") + END, "below"
    yield "deep below a file", file(b"a") + file(b"a/b/c/d") + END, "below"


def links(canary: bytes) -> Iterator[Case]:
    above = canary.rpartition(b"/")[0]
    yield "write through link", symlink(b"l", above) + file(b"l/pwned") + END, "below"
    yield "write through dot link", symlink(b"l", b"..") + file(b"l/pwned") + END, "below"
    yield "replace a link", symlink(b"l", canary) + file(b"l", b"pwned") + END, "twice"
    yield "directory over link", symlink(b"l", above) + directory(b"l") + END, "twice"
    yield (
        "link chain (CVE-2025-4517)",
        directory(b"d") + symlink(b"d/l", b"..") + symlink(b"e", b"d/l/..") + file(b"e/x") + END,
        "below",
    )
    yield "absolute link", symlink(b"l", canary) + END, ""
    yield "relative link out", symlink(b"a/l", b"../../x") + END, ""
    yield ("link out by another link", symlink(b"s", b".") + symlink(b"t", b"s/..") + END, "")
    yield "link to itself", symlink(b"l", b"l") + END, ""
    yield "two links in a ring", symlink(b"a", b"b") + symlink(b"b", b"a") + END, ""
    yield "link in proc", symlink(b"l", b"/proc/self/root" + canary) + END, ""
    yield "empty link text", symlink(b"l", b"") + END, "empty"
    yield "link with content", header(b"l", b"2", link=b"x", size=5) + padded(b"evil!") + END, "yet"
    yield "hard link out", hardlink(b"h", canary) + END, "unsafe"
    yield "hard link to parent", hardlink(b"h", b"../x") + END, "unsafe"
    yield "hard link to nothing", hardlink(b"h", b"") + END, "unsafe"
    yield "hard link to what is not there", hardlink(b"h", b"a") + file(b"a") + END, "no earlier"
    yield "hard link to itself", hardlink(b"h", b"h") + END, "no earlier"
    yield "hard link to a directory", directory(b"d") + hardlink(b"h", b"d") + END, "no earlier"
    yield "hard link to the root", hardlink(b"h", b"./") + END, "root"
    yield (
        "hard link to a link, then written through",
        symlink(b"l", canary) + hardlink(b"h", b"l") + file(b"h", b"pwned") + END,
        "twice",
    )
    yield (
        "hard link through a link",
        symlink(b"l", above) + hardlink(b"h", b"l/" + canary.rpartition(b"/")[2]) + END,
        "no earlier",
    )
    yield (
        "hard link to a link is a link",
        file(b"f") + symlink(b"l", b"f") + hardlink(b"h", b"l") + END,
        "",
    )
    yield (
        "hard link with content",
        file(b"f") + header(b"h", b"1", link=b"f", size=5) + padded(b"evil!") + END,
        "yet",
    )
    yield (
        "hard link amplification",
        file(b"f", b"x" * 9000) + b"".join(hardlink(b"h%d" % i, b"f") for i in range(100)) + END,
        "entries",
    )


def kinds() -> Iterator[Case]:
    yield "character device", header(b"null", b"3") + END, "character device"
    yield "block device", header(b"sda", b"4") + END, "block device"
    yield "FIFO", header(b"pipe", b"6") + END, "FIFO"
    yield "old GNU sparse", file(b"s", kind=b"S") + END, "sparse"
    yield "multi-volume", file(b"m", kind=b"M") + END, "volume"
    yield "volume label", header(b"v", b"V") + END, "volume"
    yield "GNU dump directory", header(b"d", b"D") + END, "not known"
    yield "solaris ACL", file(b"a", kind=b"A") + END, "not known"
    yield "unknown type", file(b"z", kind=b"Z") + END, "not known"
    yield "type of a high byte", file(b"z", kind=b"\xff") + END, "not known"
    yield "set-uid", file(b"su", mode=0o4755) + END, ""
    yield "set-gid and sticky", file(b"sg", mode=0o7777) + directory(b"d", 0o7777) + END, ""
    yield "no permission at all", file(b"n", mode=0) + directory(b"d", 0) + file(b"d/x") + END, ""
    yield "contiguous file", file(b"c", kind=b"7") + END, ""
    yield "old directory", header(b"d/", b"\0", magic=b"") + END, ""
    yield "directory with content", header(b"d", b"5", size=512) + bytes(512) + END, "yet"
    yield "someone's file", file(b"o", uid=0o7777777, gid=12) + END, ""


def headers() -> Iterator[Case]:
    yield "wrong checksum", file(b"a", checksum=b"000001\0 ") + END, "checksum"
    yield "no checksum", file(b"a", checksum=b"        ") + END, "checksum"
    yield "checksum of letters", file(b"a", checksum=b"abcdefgh") + END, "checksum"
    yield "one bit flipped", bytes([GOOD[0] ^ 1]) + GOOD[1:], "checksum"
    yield "second header damaged", file(b"a") + b"\x01" + GOOD[1:], "checksum"
    yield "size of letters", file(b"a", size=b"zzzzzzzzzzz\0") + END, "octal"
    yield "negative octal size", file(b"a", size=b"-0000000005\0") + END, "octal"
    yield "negative base-256 size", file(b"a", size=base256(-512, 12)) + END, "negative"
    yield "size beyond 63 bits", file(b"a", size=base256(1 << 80, 12)) + END, "63 bits"
    yield "size beyond the archive", file(b"a", size=100_000) + END, "truncated"
    yield "size of a petabyte", file(b"a", size=base256(1 << 50, 12)) + END, "total_bytes"
    yield "plausible base-256", file(b"a", size=base256(5, 12)) + END, ""
    yield "negative owner", file(b"a", uid=base256(-1, 8)) + END, "owner"
    yield "owner of -1", file(b"a", gid=base256((1 << 32) - 1, 8)) + END, "owner"
    yield "time after the year 9999", file(b"a", mtime=base256(1 << 50, 12)) + END, "time"
    yield "time before 1970", file(b"a", mtime=base256(-86400, 12)) + END, ""
    yield "malformed base-256", file(b"a", uid=b"\xff" + b"\0" * 7) + END, "base-256"
    yield "no tar at all", b"<html>not found</html>" * 100, "checksum"
    yield "empty file", b"", "end mark"
    yield "zip in a tar's place", b"PK\x03\x04" + bytes(600), "zip"
    yield "bytes after the end", GOOD + b"x" * 512, "follow the end"
    yield "second archive after the end", GOOD + GOOD, "follow the end"
    yield "one byte after the end", GOOD + bytes(9000) + b"\x01", "follow the end"
    yield "single zero block", file(b"a") + bytes(512) + file(b"b") + END, "single zero"
    yield "zeros after the end", GOOD + bytes(9216), ""
    yield "gnu times are no prefix", file(b"a", magic=b"ustar  \0", prefix=b"12345") + END, ""


def extended(canary: bytes) -> Iterator[Case]:
    yield "PAX path absolute", pax((b"path", canary)) + file(b"ok") + END, "absolute"
    yield "PAX path parent", pax((b"path", b"../x")) + file(b"ok") + END, "'..'"
    yield "PAX path with NUL", pax((b"path", b"a\0b")) + file(b"ok") + END, "NUL"
    yield "PAX path empty", pax((b"path", b"")) + file(b"ok") + END, "empty"
    yield "PAX linkpath out", pax((b"linkpath", canary)) + hardlink(b"h", b"a") + END, "unsafe"
    yield "PAX linkpath NUL", pax((b"linkpath", b"a\0")) + symlink(b"l", b"a") + END, "NUL"
    yield "PAX linkpath on a file", pax((b"linkpath", canary)) + file(b"a") + END, "link target"
    inner = file(b"hidden")
    yield (
        "PAX size desync (CVE-2025-62518)",
        pax((b"size", b"1024")) + file(b"a", inner, size=5) + END,
        "PAX record",
    )
    yield (
        "PAX size over a header of 0",
        pax((b"size", b"%d" % len(inner))) + file(b"a", inner, size=0) + END,
        "",
    )
    yield "PAX size negative", pax((b"size", b"-1")) + file(b"a") + END, "PAX size"
    yield "PAX size as float", pax((b"size", b"5.0")) + file(b"a") + END, "PAX size"
    yield (
        "PAX size with digits of another script",
        (pax((b"size", "\u0665".encode())) + file(b"a") + END),
        "PAX size",
    )
    yield "PAX size huge", pax((b"size", b"9" * 19)) + file(b"a", size=0) + END, "PAX size"
    yield "PAX size on a link", pax((b"size", b"512")) + symlink(b"a", b"b") + END, "yet"
    yield "PAX key twice", pax((b"path", b"a"), (b"path", b"b")) + file(b"c") + END, "twice"
    yield "PAX key empty", pax((b"", b"a")) + file(b"c") + END, "empty"
    yield "two PAX headers", pax((b"path", b"a")) + pax((b"path", b"b")) + file(b"c") + END, "two"


def records_damaged(_: bytes) -> Iterator[Case]:
    yield "PAX length too long", raw_pax(b"99 path=a\n") + file(b"c") + END, "its length"
    yield "PAX length too short", raw_pax(b"5 path=a\n") + file(b"c") + END, "its length"
    yield "PAX length zero", raw_pax(b"0 path=a\n") + file(b"c") + END, "no length"
    yield "PAX length negative", raw_pax(b"-10 path=a\n") + file(b"c") + END, "no length"
    yield "PAX length of letters", raw_pax(b"ab path=a\n") + file(b"c") + END, "no length"
    yield "PAX length huge", raw_pax(b"9" * 18 + b" path=a\n") + file(b"c") + END, "its length"
    yield "PAX without equals", raw_pax(b"8 patha\n") + file(b"c") + END, "its length"
    yield "PAX without newline", raw_pax(b"10 path=ab") + file(b"c") + END, "its length"
    yield "PAX of zeros", raw_pax(bytes(30)) + file(b"c") + END, "no length"
    yield "PAX header of 2 MiB", raw_pax(record(b"comment", b"x" * 2_000_000)) + GOOD, "beyond"
    yield "PAX before nothing", pax((b"path", b"a")) + END, "to come"


def records_refused(canary: bytes) -> Iterator[Case]:
    yield "PAX sparse", pax((b"GNU.sparse.major", b"1")) + file(b"c") + END, "sparse"
    yield "PAX sparse name", pax((b"GNU.sparse.name", canary)) + file(b"c") + END, "sparse"
    yield "PAX keyword unknown", pax((b"pathe", canary)) + file(b"c") + END, "not known"
    yield "PAX character set", pax((b"hdrcharset", b"UTF-7")) + file(b"c") + END, "character set"
    yield "PAX time of letters", pax((b"mtime", b"soon")) + file(b"c") + END, "mtime"
    yield "PAX time infinite", pax((b"mtime", b"inf")) + file(b"c") + END, "mtime"
    yield "PAX time huge", pax((b"mtime", b"999999999999")) + file(b"c") + END, "time"
    yield "PAX owner huge", pax((b"uid", b"4294967295")) + file(b"c") + END, "uid"
    yield (
        "PAX capability",
        (pax((b"SCHILY.xattr.security.capability", b"\1\0\0\2\xff")) + file(b"c") + END),
        "",
    )
    yield "global path", pax((b"path", canary), kind=b"g") + file(b"c") + END, "global"
    yield "global linkpath", pax((b"linkpath", b"/"), kind=b"g") + GOOD, "global"
    yield "global size", pax((b"size", b"0"), kind=b"g") + file(b"c") + END, "global"
    yield (
        "global in the middle of one",
        (pax((b"path", b"d")) + pax((b"comment", b"c"), kind=b"g") + file(b"c") + END),
        "out of place",
    )
    yield "global comment", pax((b"comment", b"1" * 40), kind=b"g") + GOOD, ""


def long_names(canary: bytes) -> Iterator[Case]:
    yield "GNU name absolute", longname(canary + b"\0") + file(b"ok") + END, "absolute"
    yield "GNU name parent", longname(b"../x\0") + file(b"ok") + END, "'..'"
    yield "GNU name without NUL", longname(b"abc") + file(b"ok") + END, "ends in NUL"
    yield "GNU name with two NULs", longname(b"a\0" + canary + b"\0") + file(b"ok") + END, "NUL"
    yield "GNU name empty", longname(b"\0") + file(b"ok") + END, "NUL"
    yield "GNU name twice", longname(b"a\0") + longname(b"b\0") + file(b"c") + END, "two"
    yield "GNU name before nothing", longname(b"a\0") + END, "to come"
    yield (
        "GNU name beside PAX",
        (pax((b"path", b"a")) + longname(b"b\0") + file(b"c") + END),
        "same member",
    )
    yield "GNU link out", longname(canary + b"\0", b"K") + hardlink(b"h", b"a") + END, "unsafe"
    yield "GNU link on a file", longname(b"x\0", b"K") + file(b"a") + END, "link target"
    yield (
        "GNU link beside PAX",
        (pax((b"linkpath", b"a")) + longname(b"b\0", b"K") + symlink(b"c", b"d") + END),
        "link",
    )
    yield "GNU name of 5000 bytes", longname(b"n" * 5000 + b"\0") + file(b"a") + END, "path_bytes"
    yield (
        "GNU name of a gigabyte",
        (header(b"././@LongLink", b"L", size=1 << 30) + bytes(4096)),
        "path_bytes",
    )
    yield "GNU name of 200 bytes", longname(b"n" * 200 + b"\0") + file(b"a") + END, ""


def truncated() -> Iterator[Case]:
    whole = (
        pax((b"path", b"long/name"))
        + file(b"short", b"x" * 700)
        + longname(b"g" * 120 + b"\0")
        + file(b"g", b"y" * 10)
        + END
    )
    for at in range(100, len(whole), 412):
        yield f"truncated at {at} of {len(whole)}", whole[:at], ""
    for at in (512, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 4608):
        yield f"truncated at block {at // 512}", whole[:at], ""


def bombs() -> Iterator[Case]:
    yield "many entries", b"".join(file(b"f%d" % i, b"") for i in range(100)) + END, "entries"
    yield "many roots", directory(b"./") * 100 + END, "entries"
    yield "same directory again and again", directory(b"d") * 100 + END, "entries"
    yield "deep nesting", file(b"/".join([b"d"] * 40)) + END, "depth"
    yield "name of 5000 bytes", pax((b"path", b"n" * 5000)) + file(b"a") + END, "path_bytes"
    yield (
        "link text of 5000 bytes",
        (pax((b"linkpath", b"n" * 5000)) + symlink(b"a", b"b") + END),
        "path_bytes",
    )
    yield (
        "part longer than the system allows",
        (pax((b"path", b"n" * 400)) + file(b"a") + END),
        "name too long",
    )
    yield "two megabytes", file(b"big", bytes(2 << 20)) + END, "total_bytes"
    yield (
        "two megabytes in pieces",
        (b"".join(file(b"f%d" % i, bytes(200_000)) for i in range(11)) + END),
        "total_bytes",
    )
    yield "zeros without end", GOOD + bytes(4 << 20), "total_bytes"


def compressed() -> Iterator[Case]:
    small = gzip.compress(GOOD, mtime=0)
    yield "gzip bomb", gzip.compress(file(b"z", bytes(8 << 20)) + END), "exceeds the limit"
    yield "bzip2 bomb", bz2.compress(file(b"z", bytes(4 << 20)) + END), "exceeds the limit"
    yield "xz bomb", lzma.compress(file(b"z", bytes(4 << 20)) + END), "exceeds the limit"
    yield "xz dictionary of 1.5 GiB", _greedy_xz(), "memory"
    yield "gzip truncated", small[:-12], "truncated"
    yield "gzip without trailer", small[:-8], "truncated"
    yield "gzip wrong CRC", small[:-8] + b"\0\0\0\0" + small[-4:], "damaged"
    yield "gzip wrong length", small[:-4] + b"\1\0\0\0", "damaged"
    yield "gzip trailing garbage", small + b"garbage!", "other bytes follow"
    yield "gzip trailing zeros", small + bytes(700), ""
    yield "gzip trailing member", small + gzip.compress(b"evil" * 200), "follow the end"
    yield "gzip archive in two members", (gzip.compress(GOOD[:700]) + gzip.compress(GOOD[700:])), ""
    yield "gzip then bzip2", gzip.compress(GOOD[:700]) + bz2.compress(GOOD[700:]), "other bytes"
    yield "xz wrong check", _flipped(lzma.compress(GOOD), -40), "damaged"
    yield "xz truncated", lzma.compress(GOOD)[:-20], "truncated"
    yield "bzip2 wrong check", _flipped(bz2.compress(GOOD), 12), "damaged"
    yield "bzip2 truncated", bz2.compress(GOOD)[:-5], "truncated"
    yield "gzip of gzip", gzip.compress(small), "truncated"
    yield "lzip", b"LZIP\x01" + bytes(600), "lzip"
    yield "compress", b"\x1f\x9d\x90" + bytes(600), "compress"
    yield "7z", b"7z\xbc\xaf\x27\x1c" + bytes(600), "7z"


def _greedy_xz() -> bytes:
    """An xz whose block header asks for a dictionary of 1.5 GiB (xz-file-format, 5.3.1)."""
    data = bytearray(lzma.compress(GOOD, preset=0))
    header_size = (data[12] + 1) * 4
    data[12 + 4] = 37  # the dictionary's size: (2 | (37 & 1)) << (37 // 2 + 11) bytes
    block = bytes(data[12 : 12 + header_size - 4])
    data[12 + header_size - 4 : 12 + header_size] = zlib.crc32(block).to_bytes(4, "little")
    return bytes(data)


def _flipped(data: bytes, at: int) -> bytes:
    copy = bytearray(data)
    copy[at] ^= 0xFF
    return bytes(copy)
