from __future__ import annotations

import base64
import gzip
import hashlib
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.patch.form import (
    SYMLINK,
    Action,
    Binary,
    FilePatch,
    Hunk,
    Patch,
    canonical_bytes,
    settled,
)
from buildit.patch.read import MAX_LINES, MOST_PATCH_BYTES, parse_canonical, parse_patch
from tests.scale import examples

pytestmark = pytest.mark.unit

HUNK = b"@@ -1,2 +1,2 @@ int main(void)\n one\n-two\n+2\n"
CHANGE = b"--- a/x.c\n+++ b/x.c\n" + HUNK


SERIES = (
    b"From %s Mon Sep 17 00:00:00 2001\nSubject: [PATCH 1/2] x\n\n---\n" % (b"1" * 40)
    + CHANGE
    + b"-- \n2.39.5\n\nFrom %s Mon Sep 17 00:00:00 2001\n\n---\n" % (b"2" * 40)
    + b"diff --git a/x.c b/y\nsimilarity index 90%\nrename from x.c\nrename to y\n"
    + CHANGE.replace(b"b/x.c", b"b/y").replace(b"two", b"three")
)
BINARY_DELTA = b"""diff --git a/x b/x
index fdfbec445bd816f42e6e92069312891f39792a04..3b0d7b89c293dd40e4fb21a358c4a152a69a22b8 100644
GIT binary patch
delta 12
TcmZ3(w2o;)3R7az#FP^N9S8)~

delta 9
QcmZ3-w1#Oy%EYu201}=A5&!@I

"""
"""git's own, of a file of 300 bytes that gets two more."""
BINARY = b"diff --git a/x b/x\nindex %s..%s\nGIT binary patch\n" % (b"1" * 40, b"2" * 40)


def refused(data: bytes, strip: int = 1) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_patch(data, "evil.patch", strip=strip)
    assert caught.value.place is not None
    assert caught.value.place.startswith("evil.patch")
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def test_only_what_changes_the_tree_is_kept() -> None:
    mail = (
        b"From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n"
        b"From: A <a@example.org>\nSubject: [PATCH] Change\n\n---\n x.c | 2 +-\n"
        b" 1 file changed, 1 insertion(+), 1 deletion(-)\n\n"
        b"diff --git a/x.c b/x.c\nindex 0123456..789abcd 100644\n" + CHANGE + b"-- \n2.39.5\n\n"
    )
    form = b"--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
    for spelling in (
        mail,
        CHANGE,
        mail.replace(b"0123456..789abcd", b"0" * 40 + b".." + b"1" * 40),
        mail.replace(b"2.39.5", b"2.45.2.windows.1"),
        mail.replace(b"-- \n", b"--\n"),
        CHANGE.replace(b"x.c\n", b"x.c\t2024-01-01 00:00:00.000000000 +0000\n"),
        CHANGE.replace(b"x.c\n", b"x.c 2024-01-01 00:00:00\n"),
        CHANGE.replace(b"x.c\n", b"x.c\tThu Jan  1 00:00:00 2024\n"),
        CHANGE.replace(b"--- a/x.c", b"--- a/x.c.orig"),
        CHANGE.replace(b"a/x.c", b"nginx-1.22.1.orig/x.c"),
        CHANGE.replace(b"a/x.c", b"a//./x.c"),
        b"Index: x.c\n====\nPrereq: 1\n" + CHANGE,
    ):
        assert canonical_bytes(parse_patch(spelling, "p")) == form


def test_the_value_of_a_section() -> None:
    patch = parse_patch(b"Hello\n" + CHANGE, "p")
    body = b" one\n-two\n+2\n"
    expected = FilePatch(Action.CHANGE, "x.c", "x.c", hunks=(Hunk(1, 2, 1, 2, body),))
    assert patch == Patch(((expected,),))
    assert patch.files[0].line == 2


def test_a_change_of_nothing_is_left_out() -> None:
    form = canonical_bytes(
        parse_patch(b"diff --git a/q b/q\nindex 00000..11111 100644\n\n" + CHANGE, "p")
    )
    assert b"q" not in form


def test_crlf_of_content_is_kept_and_of_headers_is_not() -> None:
    windows = CHANGE.replace(b"\n", b"\r\n")
    form = canonical_bytes(parse_patch(windows, "p"))
    assert form == b"--- a/x.c\r\n+++ b/x.c\r\n@@ -1,2 +1,2 @@\r\n one\r\n-two\r\n+2\r\n"
    mixed = CHANGE.replace(b"two\n", b"two\r\n").replace(b"x.c\n", b"x.c\r\n")
    form = canonical_bytes(parse_patch(mixed, "p"))
    assert form == b"--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@\n one\n-two\r\n+2\n"


def test_a_missing_last_newline_is_added() -> None:
    assert parse_patch(CHANGE[:-1], "p") == parse_patch(CHANGE, "p")


def test_the_no_newline_marker_is_the_same_in_every_language() -> None:
    text = b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n\\ Kein Zeilenumbruch am Dateiende.\n+b\n\\ foo\n"
    form = canonical_bytes(parse_patch(text, "p"))
    assert form.count(b"\\ No newline at end of file\n") == 2


def test_a_mixed_patch_has_git_headers_throughout() -> None:
    mode = b"diff --git a/m b/m\nold mode 100644\nnew mode 100755\n"
    plain = b"--- a/n\n+++ b/n\n@@ -0,0 +1 @@\n+n\n--- a/o\n+++ /dev/null\n@@ -1 +0,0 @@\n-o\n"
    form = canonical_bytes(parse_patch(mode + b"\nmore:\n" + CHANGE + plain, "p"))
    assert form.count(b"diff --git") == 4
    assert b"new file mode 100644\n--- /dev/null\n+++ b/n\n" in form
    assert b"deleted file mode 100644\n--- a/o\n" in form
    assert canonical_bytes(parse_patch(form, "p")) == form


@pytest.mark.parametrize(
    "after",
    [
        b" surplus\n \n",
        b" \n",
        b"---\n",
        b"-- \n2.39.5\n",
        b"-----BEGIN PGP SIGNATURE-----\n",
        b"--===============0123456789==--\n",
        b"_______\nx-devel mailing list\n- see the archive\n",
        b"Only in new: y\n",
        b"\nProperty changes on: x.c\n____\nAdded: p\n## -0,0 +1 ##\n+*\n",
    ],
)
def test_what_follows_a_hunk_and_is_none_of_it(after: bytes) -> None:
    assert parse_patch(CHANGE + after, "p") == parse_patch(CHANGE, "p")
    assert len(parse_patch(CHANGE + after + CHANGE.replace(b"x.c", b"y.c"), "p").files) == 2


@pytest.mark.parametrize(
    "before",
    [
        b"***************\nsome text\n***************\n",
        b"the hunk\n@@ -1,3 +1,3 @@\nis quoted here\n",
        b"3d\n1,2c\nx\n.\n",
        b"- a bullet\n+ a plus\n--- a dash\n",
        b"--- p\t(revision 1)\n+++ p\t(working copy)\n\nProperty changes on: p\n",
        b"diff --git a/q b/q\n\n",
        b"diff --git a/q b/q\nindex 1111111..2222222 100644\n--- a/q\n+++ b/q\n",
        b"diff --git a/q b/q\nold mode 100644\nnew mode 100644\n\n",
    ],
)
def test_what_stands_before_a_section_and_changes_nothing(before: bytes) -> None:
    assert parse_patch(before + CHANGE, "p") == parse_patch(CHANGE, "p")
    mail = b"From %s Mon Sep 17 00:00:00 2001\n" % (b"1" * 40)
    series = parse_patch(CHANGE + b"-- \n2.39\n\n" + mail + before + CHANGE, "p")
    assert [len(piece) for piece in series.pieces] == [1, 1]


def names(patch: Patch) -> list[list[str]]:
    return [[file.new for file in piece] for piece in patch.pieces]


@pytest.mark.parametrize(
    "line",
    [
        b"From " + b"1" * 40 + b" Mon Sep 17 00:00:00 2001",
        b"From " + b"1" * 64 + b" Mon Sep 17 00:00:00 2001",
        b"commit " + b"1" * 40,
        b"commit " + b"1" * 40 + b" (HEAD -> main, tag: v1, origin/main)",
        b"commit 1234567 (tag: v1)",
        b"1234567 (HEAD -> main) one line",
        b"# HG changeset patch",
        b"changeset:   12:0123456789ab",
        b"Subject: [PATCH 2/2] saved by a mail program",
        b"-- ",
    ],
)
def test_commits_are_cut(line: bytes) -> None:
    other = CHANGE.replace(b"x.c", b"y.c")
    patch = parse_patch(line + b"\nDate: x\n" + CHANGE + line + b"\n\n    text\n\n" + other, "p")
    assert names(patch) == [["x.c"], ["y.c"]]
    assert parse_canonical(canonical_bytes(patch), "p") == patch
    assert names(parse_patch(CHANGE + other, "p")) == [["x.c", "y.c"]]


def test_a_byte_order_mark_and_blanks_hide_no_header() -> None:
    mode = bits(b"x", b"100644", b"100755") + b"\n"
    assert parse_patch(b"\xef\xbb\xbf" + mode + CHANGE, "p") == parse_patch(mode + CHANGE, "p")
    assert parse_patch(mode.replace(b"100644", b"100644 ") + CHANGE, "p") == parse_patch(
        mode + CHANGE, "p"
    )


A, B, C = b"a" * 8, b"b" * 8, b"c" * 8


def logged(number: int, date: bytes, body: bytes) -> bytes:
    return b"commit %s\nAuthor: x\n%s\n\n    text\n\n" % (b"%d" % number * 40, date) + body


def indexed(old: bytes, new: bytes, path: bytes = b"x.c") -> bytes:
    header = b"diff --git a/x.c b/x.c\nindex %s..%s 100644\n" % (old, new)
    return (header + CHANGE).replace(b"x.c", path)


def bits(path: bytes, old: bytes, new: bytes) -> bytes:
    return b"diff --git a/%s b/%s\nold mode %s\nnew mode %s\n" % (path, path, old, new)


@pytest.mark.parametrize(
    ("dates", "turned"),
    [
        (
            (b"Date:   Tue Jan 2 10:00:00 2024 +0000", b"Date:   Mon Jan 1 10:00:00 2024 +0000"),
            True,
        ),
        ((b"Date:   2024-01-02 10:00:00 +0000", b"Date:   2024-01-02 10:00:00 +0100"), True),
        ((b"Date:   2024-01-02T10:00:00Z", b"Date:   2024-01-01T10:00:00Z"), True),
        (
            (b"date:        Tue Jan 02 10:00:00 2024 +0000", b"date: 2024-01-01 10:00:00 +0000"),
            True,
        ),
        (
            (b"Date:   Mon Jan 1 10:00:00 2024 +0000", b"Date:   Tue Jan 2 10:00:00 2024 +0000"),
            False,
        ),
        (
            (b"Date:   Mon Jan 1 10:00:00 2024 +0000", b"Date:   Mon Jan 1 10:00:00 2024 +0000"),
            False,
        ),
        ((b"Date:   2 days ago", b"Date:   3 days ago"), False),
        ((b"Date:   Tue Jan 2 10:00:00 2024 +0000", b"Merge: 1 2"), False),
    ],
)
def test_a_log_that_runs_backwards_by_its_dates_is_turned_round(
    dates: tuple[bytes, bytes], turned: bool
) -> None:
    later = logged(2, dates[0], bits(b"x", b"100755", b"100644"))
    earlier = logged(1, dates[1], bits(b"y", b"100644", b"100755"))
    expected = [["y"], ["x"]] if turned else [["x"], ["y"]]
    assert names(parse_patch(later + earlier, "p")) == expected
    assert names(parse_patch(later.replace(b"commit 2", b"From 2") + earlier, "p")) == [
        ["x"],
        ["y"],
    ]


def test_index_lines_tell_the_order_of_a_log_better_than_dates() -> None:
    newer, older = b"Date:   2024-01-02 10:00:00 +0000", b"Date:   2024-01-01 10:00:00 +0000"
    y = bits(b"y", b"100644", b"100755")
    forth = logged(2, newer, indexed(A, B)) + logged(1, older, y + indexed(B, C))
    assert names(parse_patch(forth, "p")) == [["x.c"], ["y", "x.c"]]
    back = logged(1, older, indexed(B, C)) + logged(2, newer, y + indexed(A, B))
    assert names(parse_patch(back, "p")) == [["y", "x.c"], ["x.c"]]
    toggled = logged(2, newer, indexed(A, B)) + logged(1, older, y + indexed(B, A))
    assert names(parse_patch(toggled, "p")) == [["y", "x.c"], ["x.c"]]


def test_the_log_of_mercurial_is_cut_and_turned_round() -> None:
    def entry(number: int, body: bytes) -> bytes:
        head = b"changeset:   %d:%s\nuser:        a\ndate:        Mon Jan 0%d 10:00:00 2024 +0000\n"
        return head % (number, b"%d" % number * 12, number) + b"summary:     s\n\n" + body + b"\n"

    copy = b"diff --git a/x.c b/y.c\ncopy from x.c\ncopy to y.c\n"
    fix = indexed(A, B)
    for log in (entry(1, fix) + entry(2, copy), entry(2, copy) + entry(1, fix)):
        assert names(parse_patch(log, "p")) == [["x.c"], ["y.c"]]


def section(action: str, old: str, new: str = "") -> bytes:
    new = new or old
    head = f"diff --git a/{old} b/{new}\n"
    match action:
        case "change":
            return head.encode() + f"--- a/{old}\n+++ b/{old}\n@@ -1 +1 @@\n-a\n+b\n".encode()
        case "create":
            return f"{head}new file mode 100644\n".encode()
        case "delete":
            return f"{head}deleted file mode 100644\n".encode()
        case _:
            moved = f"{action} from {old}\n{action} to {new}\n"
            return f"{head}similarity index 100%\n{moved}".encode()


@pytest.mark.parametrize(
    ("first", "second", "pieces"),
    [
        (("change", "a"), ("change", "a"), 2),
        (("change", "a"), ("rename", "a", "b"), 2),
        (("change", "a"), ("copy", "a", "b"), 1),
        (("change", "a"), ("delete", "a"), 2),
        (("create", "a"), ("change", "a"), 2),
        (("create", "a"), ("delete", "a"), 2),
        (("create", "a"), ("rename", "a", "b"), 1),
        (("delete", "a"), ("create", "a"), 1),
        (("delete", "a"), ("copy", "a", "b"), 1),
        (("delete", "a"), ("change", "a"), 2),
        (("rename", "a", "b"), ("change", "b"), 2),
        (("rename", "a", "b"), ("delete", "b"), 2),
        (("rename", "a", "b"), ("create", "a"), 1),
        (("rename", "a", "b"), ("copy", "a", "c"), 1),
        (("rename", "a", "b"), ("rename", "b", "a"), 1),
        (("rename", "a", "b"), ("rename", "a", "c"), 2),
        (("copy", "a", "b"), ("change", "a"), 1),
        (("copy", "a", "b"), ("change", "b"), 2),
    ],
)
def test_a_commit_is_cut_only_where_it_must(
    first: tuple[str, ...], second: tuple[str, ...], pieces: int
) -> None:
    assert len(parse_patch(section(*first) + section(*second), "p").pieces) == pieces


def test_a_binary_change_has_one_spelling() -> None:
    data = bytes(range(256)) * 3
    forms = set()
    for level in (0, 1, 6, 9):
        packed = zlib.compress(data, level)
        lines = b"".join(
            b"%c%s\n" % (len(row) + (64 if len(row) <= 26 else 70), base64.b85encode(row, pad=True))
            for row in (packed[at : at + 52] for at in range(0, len(packed), 52))
        )
        name = hashlib.sha1(b"blob 768\0" + data, usedforsecurity=False).hexdigest().encode()
        text = b"diff --git a/x b/x\nnew file mode 100644\nindex %s..%s\n" % (b"0" * 40, name)
        patch = parse_patch(text + b"GIT binary patch\nliteral 768\n" + lines + b"\n", "p")
        forms.add(canonical_bytes(patch))
    assert len(forms) == 1


def test_a_deleted_binary_is_known_by_its_name() -> None:
    text = b"diff --git a/x b/x\ndeleted file mode 100644\nindex %s..0000000\n" % (b"1" * 7)
    patch = parse_patch(text + b"Binary files a/x and /dev/null differ\n", "p")
    assert patch.files[0].binary == Binary("1111111", "0000000", delta=False, data=b"")
    assert parse_canonical(canonical_bytes(patch), "p") == patch


@pytest.mark.parametrize(
    ("mode", "new_mode"), [(b"100664", None), (b"10755", 0o100755), (b"100700", 0o100755)]
)
def test_modes_of_other_tools(mode: bytes, new_mode: int | None) -> None:
    text = (
        b"diff --git a/n b/n\nnew file mode %s\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+n\n" % mode
    )
    assert parse_patch(text, "p").files[0].new_mode == new_mode


@settings(max_examples=examples(150))
@given(st.integers(0, 3), st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 40))
def test_a_damaged_patch_is_read_or_refused(which: int, at: int, by: bytes, gone: int) -> None:
    text = (SERIES, BINARY_DELTA, symlink(b"l", b"x") + CHANGE, section("copy", "a", "b"))[which]
    at %= len(text)
    try:
        patch = parse_patch(text[:at] + by + text[at + gone :], "p")
    except RecipeError:
        return
    assert parse_canonical(canonical_bytes(patch), "p") == patch


def test_hunk_content_may_look_like_anything() -> None:
    body = b" --- a/q\n-- y\n+++ b/q\n+@@ -1 +1 @@\n \x00\x1b[31m\xff\n"
    text = b"--- a/x\n+++ b/x\n@@ -1,3 +1,4 @@\n" + body
    patch = parse_patch(text, "p")
    assert patch.files[0].hunks[0].body == body
    assert len(patch.files) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"a/../../etc/passwd", "a path with `..`"),
        (b"a/x/../y", "a path with `..`"),
        (b'"a/\\056\\056/x"', "a path with `..`"),
        (b"a//../x", "a path with `..`"),
        (b"a/.git/config", "a path in `.git`"),
        (b"a/sub/.GIT/hooks/x", "a path in `.git`"),
        (b'"a/\\000x"', "a path with a control character"),
        (b'"a/x\\ny"', "a path with a control character"),
        (b'"a/x\\033[31m"', "a path with a control character"),
        (b"a/x\x00y", "a path with a control character"),
        (b"a/x/", "a path of a directory"),
        (b"a/" + b"y" * 300, "a path that is too long"),
        (b"a/" + b"y/" * 2100 + b"x", "a path that is too long"),
        (b"x.c", "'x.c' has fewer than 2 parts"),
        (b"a/", "'a/' has fewer than 2 parts"),
        (b"a/.", "'a/.' has fewer than 2 parts"),
        (b'"a/x', "malformed quoted name"),
        (b'"a/\\q"', "malformed quoted name"),
        (b"\t", "an empty file name"),
    ],
)
def test_hostile_names(name: bytes, reason: str) -> None:
    for text in (
        b"--- " + name + b"\n+++ " + name + b"\n" + HUNK,
        b"--- /dev/null\n+++ " + name + b"\n@@ -0,0 +1 @@\n+x\n",
        b"--- " + name + b"\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n",
    ):
        assert refused(text).message.startswith(reason)


def test_absolute_names_are_refused_after_strip() -> None:
    text = b"--- /etc/passwd\n+++ /etc/passwd\n" + HUNK
    assert refused(text, strip=0).message.startswith("an absolute path")
    assert parse_patch(text, "p").files[0].new == "etc/passwd"


@pytest.mark.parametrize("verb", [b"rename", b"copy"])
def test_hostile_renames(verb: bytes) -> None:
    for source, target in ((b"../x", b"y"), (b"x", b"../y"), (b"x", b".git/y"), (b"x", b"/y")):
        text = b"diff --git a/x b/y\n%s from %s\n%s to %s\n" % (verb, source, verb, target)
        assert "path" in refused(text).message
    assert "without both names" in refused(b"diff --git a/x b/y\n%s from x\n" % verb).message


def symlink(path: bytes, target: bytes, marker: bytes = b"\\ No newline at end of file\n") -> bytes:
    return (
        b"diff --git a/%s b/%s\nnew file mode 120000\nindex 0000000..1111111\n"
        b"--- /dev/null\n+++ b/%s\n@@ -0,0 +1 @@\n+%s\n%s" % (path, path, path, target, marker)
    )


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"l", b"/etc/passwd"),
        (b"l", b".."),
        (b"l", b"../x"),
        (b"d/l", b"../../x"),
        (b"d/l", b"x/../../.."),
        (b"d/l", b"x/../y"),
        (b"l", b"a\0b"),
    ],
)
def test_symlinks_that_may_leave(path: bytes, target: bytes) -> None:
    error = refused(symlink(path, target))
    assert "which may leave the tree" in error.message
    assert error.place == "evil.patch:1"


def test_symlinks_that_stay() -> None:
    for path, target in ((b"l", b"x"), (b"d/l", b"../x"), (b"d/l", b"./x/y"), (b"d/e/l", b"../..")):
        patch = parse_patch(symlink(path, target), "p")
        assert patch.files[0].new_mode == SYMLINK


def test_a_symlink_is_one_line_without_newline() -> None:
    assert "may leave" in refused(symlink(b"l", b"x", marker=b"")).message
    empty = b"diff --git a/l b/l\nnew file mode 120000\nindex 0000000..1111111\n"
    assert "without its lines" in refused(empty).message


def test_a_changed_symlink_is_checked_too() -> None:
    marker = b"\\ No newline at end of file\n"
    text = (
        b"diff --git a/l b/l\nindex 1111111..2222222 120000\n--- a/l\n+++ b/l\n"
        b"@@ -1 +1 @@\n-x\n" + marker + b"+/etc/shadow\n" + marker
    )
    assert "may leave" in refused(text).message


def test_writing_through_a_link_of_the_patch() -> None:
    text = symlink(b"l", b"sub") + b"--- /dev/null\n+++ b/l/x\n@@ -0,0 +1 @@\n+x\n"
    assert refused(text).message == "'l/x' leads through 'l', a symlink of the same patch"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"3d\n1,2c\nx\n.\n", "this is an ed script"),
        (CHANGE + b"d\n!touch x\n1a\nfoo\n.\n", "this is an ed script"),
        (b"5c5\n< a\n---\n> b\n", "this is a normal diff"),
        (b"*** a/x\n--- b/x\n***************\n*** 1,2 ****\n", "this is a context diff"),
        (
            b"diff --cc x.c\nindex 1,2..3\n--- a/x.c\n+++ b/x.c\n@@@ -1 -1 +1 @@@\n",
            "this is a combined diff",
        ),
        (b"Binary files a/x and b/x differ\n", "this is a binary change without its content"),
        (
            b"diff --git a/x b/x\nindex 1111111..2222222 100644\nBinary files a/x and b/x differ\n",
            "this is a binary change",
        ),
        (b"GIT binary patch\nliteral 1\n", "this is a binary change without file names"),
        (b"=== renamed file 'x' => 'y'\n" + CHANGE, "this is a rename of Bazaar's"),
        (b"=== added symlink 'x'\n" + CHANGE, "this is a symlink of Bazaar's"),
        (CHANGE + b"\nAdded: svn:special\n## -0,0 +1 ##\n", "this is a symlink of Subversion's"),
        (CHANGE + b"Symbolic links a/l and b/l differ\n", "this is a change of a symlink without"),
        (
            CHANGE + b"File a/l is a regular file while file b/l is a symbolic link\n",
            "this is a change of what kind a file is",
        ),
        (b"Index: x.c\n======\n" + HUNK, "a hunk without `---` and `+++`"),
        (b"", "no change in this file"),
        (b"hello\n", "no change in this file"),
        (CHANGE.decode().encode("utf-16"), "this file is UTF-16"),
        (gzip.compress(CHANGE, mtime=0), "this file is compressed"),
        (b"diff --git a/x b/x\nold mode 100644x\nnew mode 100755\n", "malformed line in git's"),
        (b"diff --git a/x b/y\nrename from\nrename to y\n", "malformed line in git's"),
        (b"<!DOCTYPE html>\n<html>", "this is a web page, not a patch"),
        (b"--- a/x\n+++ b/x\n", "no change in this file"),
        (b"--- a/x\n+++ b/x\nfoo\n", "no change in this file"),
        (b"--- a/x\n+++ b/x\n@@ foo @@\n", "a hunk (`@@ -1,2 +1,3 @@`) expected"),
        (b"--- a/x\n+++ b/x\n+foo\n", "a hunk (`@@ -1,2 +1,3 @@`) expected"),
        (b"--- a/x\n+++ b/y\n" + HUNK, "`---` and `+++` name different files: 'x' and 'y'"),
        (b"--- a/x\n+++ b/x/y\n" + HUNK, "`---` and `+++` name different files"),
        (b"--- /dev/null\n+++ /dev/null\n" + HUNK, "both names are /dev/null"),
        (b"--- /dev/null\n+++ b/x\n" + HUNK, "a new file with lines on the other side"),
        (b"--- a/x\n+++ /dev/null\n" + HUNK, "a deleted file with lines on the other side"),
        (
            CHANGE.replace(b"-1,2", b"-1,3"),
            "the end of the file inside a hunk that lacks 1 old and 0 new",
        ),
        (CHANGE.replace(b"+1,2", b"+1,1"), "the hunk above has more lines than its header says"),
        (b"--- a/x\n+++ b/x\n@@ -1,2 +0,0 @@\n a\n-b\n", "the hunk has more lines than its header"),
        (CHANGE + b"+more\n", "the hunk above has more lines than its header says"),
        (CHANGE + b" more\n+and\n", "the hunk above has more lines"),
        (CHANGE.replace(b"-two", b"two"), "b'two' inside a hunk that lacks 1 old and 1 new lines"),
        (CHANGE + HUNK, "hunks overlap or are out of order"),
        (CHANGE.replace(b"-1,2", b"-0,2"), "line 0 in a hunk that has lines"),
        (
            b"--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n-a\n\\ No\n-b\n+c\n",
            "`\\ No newline` before the last line",
        ),
        (
            b"--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n\\ No\n-b\n+c\n",
            "`\\ No newline` before the last line",
        ),
        (b"diff --git a/x b/x\nnew file mode 160000\n", "a submodule in a patch"),
        (b"diff --git a/x b/x\nold mode 100644\nnew mode 104755\n", "mode 104755 in a patch"),
        (
            b"diff --git a/x b/x\nold mode 100644\nnew mode 120000\n",
            "a file that becomes a symlink",
        ),
        (b"diff --git a/x b/x\nold mode 100644\n", "`old mode` and `new mode` go together"),
        (b"diff --git a/x b/y\n--- a/x\n+++ b/y\n" + HUNK, "`diff --git` names different files"),
        (
            b"diff --git a/x b/x\n--- a/x\n+++ b/y\n" + HUNK,
            "`diff --git` names 'x', the lines below it 'y'",
        ),
        (
            b"diff --git a/x b/x\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+a\n",
            "`diff --git` names 'x', the line below it /dev/null",
        ),
        (
            b"diff --git a/x b/x\nnew file mode 100644\n--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+a\n",
            "`diff --git` says that 'x' is absent, the line below names 'x'",
        ),
        (b"diff --git x\n" + HUNK, "malformed `diff --git x`"),
        (
            b"diff --git a/x b/x\nindex 111111..222222\nGIT binary patch\nliteral 1\nIcmZ\n\n",
            "a binary change without object names",
        ),
        (BINARY + b"literal 1\n'\n\n", "malformed base85"),
        (BINARY + b"foo\n\n", "`literal N` or `delta N` expected"),
        (BINARY + b"literal 999999999\nIcmZQzWMT#Y01f~L\n\n", "a binary change of more than"),
    ],
)
def test_what_is_no_patch_is_refused_by_name(text: bytes, message: str) -> None:
    assert refused(text).message.startswith(message)


def test_errors_name_the_line() -> None:
    assert refused(b"Hi\n\n" + CHANGE + b"+more\n").place == "evil.patch:9"
    assert refused(b"Hi\n--- a/x\n+++ b/../x\n" + HUNK).place == "evil.patch:3"


def test_a_name_that_is_no_string_of_a_tree_tells_which_strip_fits() -> None:
    assert refused(b"--- x\n+++ x\n" + HUNK).hint == "say `strip: 0` for this patch"
    assert parse_patch(b"--- x\n+++ x\n" + HUNK, "p", strip=0).files[0].new == "x"


@pytest.mark.scale
def test_size_has_an_end() -> None:
    assert "64 MiB" in refused(CHANGE + b"x" * MOST_PATCH_BYTES).message
    assert str(MAX_LINES) in refused(CHANGE + b"\n" * (MAX_LINES + 1)).message


@pytest.mark.scale
def test_time_is_linear() -> None:
    hunks = b"".join(b"@@ -%d +%d @@\n-a\n+b\n" % (n, n) for n in range(1, 60_000))
    wide = b"--- a/x\n+++ b/x\n@@ -1,150000 +0,0 @@\n" + b"-a\n" * 150_000
    start = time.monotonic()
    parse_patch(b"--- a/x\n+++ b/x\n" + hunks, "p")
    parse_patch(wide, "p")
    refused(b"diff --git " + b"a/b " * 8_000 + b"\n")
    refused(b"diff --git " + b"a b " * 100_000 + b"\n")
    refused(b"Files " + b" and " * 100_000 + b"\n")
    refused(b"--- a/x" + b" " * 200_000 + b"\n+++ b\n")
    refused(b'--- "' + b"\\" * 200_000 + b"\n+++ b\n")
    assert time.monotonic() - start < 60  # a second; what is not linear takes minutes


PATHS = st.from_regex(r"[a-z]{1,3}(/[a-z \"\\é]{1,4}[a-z])?", fullmatch=True)
LINES = st.lists(st.sampled_from([b" a\n", b"-b\n", b"+c\n", b"+\r\n"]), min_size=1, max_size=4)


@st.composite
def patches(draw: st.DrawFn) -> Patch:
    files = []
    for path in draw(st.lists(PATHS, min_size=1, max_size=3, unique=True)):
        lines = draw(LINES)
        old = sum(line[:1] in b" -" for line in lines)
        new = sum(line[:1] in b" +" for line in lines)
        hunk = Hunk(3, old, 3, new, b"".join(lines))
        modes = draw(st.sampled_from([(None, None), (0o100644, 0o100755), (0o100755, 0o100644)]))
        git = modes[0] is not None
        action = draw(st.sampled_from([Action.CHANGE, Action.RENAME])) if git else Action.CHANGE
        target = path + ".moved" if action is Action.RENAME else path
        files.append(FilePatch(action, path, target, *modes, (hunk,), git=git))
    return settled([files])


@settings(max_examples=examples(30))
@given(patches())
def test_canonical_bytes_read_back_as_the_same_patch(patch: Patch) -> None:
    data = canonical_bytes(patch)
    assert parse_patch(data, "p") == patch
    assert canonical_bytes(parse_patch(data, "p")) == data


@settings(max_examples=examples(80))
@given(
    st.lists(
        st.sampled_from(
            [
                b"diff --git a/x b/x",
                b"--- a/x",
                b"+++ b/x",
                b"@@ -1 +1 @@",
                b"-a",
                b"+b",
                b" c",
                b"",
                b"old mode 100644",
                b"new mode 100755",
                b"rename from x",
                b"rename to y",
                b"3d",
                b"\\ No",
                b"GIT binary patch",
                b"literal 3",
                b"-- ",
                b"--- /dev/null",
                b'--- "a/x',
            ]
        ),
        max_size=9,
    )
)
def test_any_lines_parse_or_are_refused(lines: list[bytes]) -> None:
    try:
        patch = parse_patch(b"\n".join(lines), "p")
    except RecipeError:
        return
    data = canonical_bytes(patch)
    assert parse_patch(data, "p") == patch
