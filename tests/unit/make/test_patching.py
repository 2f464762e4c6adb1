"""The patch phase on a directory: what is written, its time, and what a refusal says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildit.archive.beneath import Root
from buildit.errors import BuildError, Interrupted
from buildit.make.patching import PatchToApply, apply_patches, patched_time
from buildit.patch.form import canonical_bytes
from buildit.patch.read import parse_patch

pytestmark = pytest.mark.unit

NEWEST = 1_600_000_000
GOOD = b"--- a/file\n+++ b/file\n@@ -1,2 +1,2 @@\n one\n-two\n+TWO\n"
COMMIT = b"From %s Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\n---\n"
FIRST, SECOND = COMMIT % (b"1" * 40), COMMIT % (b"2" * 40)


def tree(tmp_path: Path, files: dict[str, bytes] | None = None) -> Path:
    root = tmp_path / "tree"
    for path, data in (files if files is not None else {"file": b"one\ntwo\n"}).items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(0o644)
        os.utime(place, (NEWEST - 5, NEWEST - 5))
    return root


def apply(root: Path, *patches: bytes, strip: int = 1) -> list[str]:
    log: list[str] = []
    wanted = [
        PatchToApply(canonical_bytes(parse_patch(text, "p", strip=strip)), strip, f"p{number}")
        for number, text in enumerate(patches)
    ]
    with Root.open(root) as opened:
        apply_patches(opened, wanted, patched_time(NEWEST), None, log.append)
    return log


def refused(root: Path, *patches: bytes, strip: int = 1) -> BuildError:
    before = snapshot(root)
    with pytest.raises(BuildError) as caught:
        apply(root, *patches, strip=strip)
    if len(patches) == 1:
        assert snapshot(root) == before, "a patch that is refused changes nothing"
    return caught.value


def snapshot(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): os.readlink(path).encode()
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def change(path: str, old: str, new: str, git: bool = True) -> bytes:
    header = f"diff --git a/{path} b/{path}\nindex 1111111..2222222 100644\n" if git else ""
    return (
        f"{header}--- a/{path}\n+++ b/{path}\n@@ -1,3 +1,3 @@\n int a;\n-{old}\n+{new}\n int c;\n"
    ).encode()


C = {"a.c": b"int a;\nint b;\nint c;\n", "keep.c": b"int k;\n"}
TO_B = b"diff --git a/a.c b/b.c\nsimilarity index 100%\nrename from a.c\nrename to b.c\n"


def test_good_patch(tmp_path: Path) -> None:
    root = tree(tmp_path)
    apply(root, GOOD)
    assert snapshot(root) == {"file": b"one\nTWO\n"}


def test_commits_of_one_file_apply_in_turn(tmp_path: Path) -> None:
    root = tree(tmp_path, C)
    apply(root, FIRST + change("a.c", "int b;", "B") + SECOND + change("a.c", "B", "C"))
    assert snapshot(root)["a.c"] == b"int a;\nC\nint c;\n"


@pytest.mark.parametrize("between", [SECOND, b"commit " + b"3" * 40 + b" (HEAD -> main)\n", b""])
def test_the_fix_before_a_rename_is_in_the_new_file(tmp_path: Path, between: bytes) -> None:
    root = tree(tmp_path, C)
    apply(root, FIRST + change("a.c", "int b;", "FIXED") + between + TO_B)
    assert snapshot(root) == {"b.c": b"int a;\nFIXED\nint c;\n", "keep.c": b"int k;\n"}


def test_a_copy_beside_a_change_is_of_the_old_file(tmp_path: Path) -> None:
    root = tree(tmp_path, C)
    copy = TO_B.replace(b"rename", b"copy")
    apply(root, change("a.c", "int b;", "FIXED") + copy)
    assert snapshot(root)["b.c"] == C["a.c"]
    assert b"FIXED" in snapshot(root)["a.c"]


def test_a_copy_of_another_commit_is_of_the_new_file(tmp_path: Path) -> None:
    root = tree(tmp_path, C)
    copy = TO_B.replace(b"rename", b"copy")
    apply(root, FIRST + change("a.c", "int b;", "FIXED") + SECOND + copy)
    assert snapshot(root)["b.c"] == snapshot(root)["a.c"] == b"int a;\nFIXED\nint c;\n"


def test_a_link_becomes_a_directory_and_a_link_again(tmp_path: Path) -> None:
    root = tree(tmp_path, C)
    for name, target in (("l", "a.c"), ("away", ".."), ("dir", "sub")):
        (root / name).symlink_to(target)
    (root / "sub").mkdir()
    (root / "sub/in.c").write_bytes(b"other\n")
    there, back = b"", b""
    for link, text in ((b"l", b"a.c"), (b"away", b".."), (b"dir", b"sub")):
        gone = b"diff --git a/%s b/%s\ndeleted file mode 120000\n--- a/%s\n+++ /dev/null\n"
        gone = gone % (link, link, link) + b"@@ -1 +0,0 @@\n-%s\n\\ No newline\n" % text
        made = (
            b"diff --git a/%s/in.c b/%s/in.c\nnew file mode 100644\n--- /dev/null\n+++ b/%s/in.c\n"
        )
        made = made % (link, link, link) + b"@@ -0,0 +1 @@\n+in\n"
        there += gone + made
        back += (
            made.replace(b"new file", b"deleted file")
            .replace(b"-0,0 +1 ", b"-1 +0,0 ")
            .replace(b"--- /dev/null\n+++ b/", b"--- a/")
            .replace(b"in.c\n@@", b"in.c\n+++ /dev/null\n@@")
            .replace(b"+in\n", b"-in\n")
        )
        if link == b"l":
            back += (
                gone.replace(b"deleted file", b"new file")
                .replace(b"--- a/l\n+++ /dev/null", b"--- /dev/null\n+++ b/l")
                .replace(b"-1 +0,0", b"-0,0 +1")
                .replace(b"-a.c", b"+a.c")
            )
    apply(root, there)
    assert snapshot(root) == C | {f"{name}/in.c": b"in\n" for name in ("l", "away", "dir")} | {
        "sub/in.c": b"other\n"
    }
    apply(root, back)
    assert snapshot(root) == C | {"l": b"a.c", "sub/in.c": b"other\n"}
    apply(
        root,
        there[: there.index(b"diff --git a/away")]
        + SECOND
        + back[: back.index(b"diff --git a/away")],
    )
    assert snapshot(root) == C | {"l": b"a.c", "sub/in.c": b"other\n"}


def test_two_names_are_swapped_within_a_commit(tmp_path: Path) -> None:
    root = tree(tmp_path, C | {"b.c": b"the other\n"})
    back = b"diff --git a/b.c b/a.c\nsimilarity index 100%\nrename from b.c\nrename to a.c\n"
    apply(root, TO_B + back)
    assert snapshot(root) == {"a.c": b"the other\n", "b.c": C["a.c"], "keep.c": b"int k;\n"}


def test_a_rename_of_what_was_renamed(tmp_path: Path) -> None:
    root = tree(tmp_path, C)
    on = b"diff --git a/b.c b/c.c\nsimilarity index 100%\nrename from b.c\nrename to c.c\n"
    apply(root, TO_B + on)
    assert snapshot(root) == {"c.c": C["a.c"], "keep.c": b"int k;\n"}


def test_a_file_becomes_a_link_and_is_a_file_again(tmp_path: Path) -> None:
    root = tree(tmp_path, C)
    gone = b"--- a/keep.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-int k;\n"
    to_link = (
        b"diff --git a/keep.c b/keep.c\ndeleted file mode 100644\nindex 1111111..0000000\n"
        + gone
        + b"diff --git a/keep.c b/keep.c\nnew file mode 120000\nindex 0000000..2222222\n"
        b"--- /dev/null\n+++ b/keep.c\n@@ -0,0 +1 @@\n+a.c\n\\ No newline at end of file\n"
    )
    apply(root, to_link)
    assert os.readlink(root / "keep.c") == "a.c"
    back = (
        b"diff --git a/keep.c b/keep.c\ndeleted file mode 120000\nindex 1111111..0000000\n"
        b"--- a/keep.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-a.c\n\\ No newline at end of file\n"
        b"diff --git a/keep.c b/keep.c\nnew file mode 100755\nindex 0000000..2222222\n"
        b"--- /dev/null\n+++ b/keep.c\n@@ -0,0 +1 @@\n+int k;\n"
    )
    apply(root, back)
    assert snapshot(root) == C
    assert (root / "keep.c").stat().st_mode & 0o777 == 0o755
    assert snapshot(root)["a.c"] == C["a.c"], "nothing was written through the link"


def test_empty_files_come_and_go(tmp_path: Path) -> None:
    root = tree(tmp_path, C | {"d/void": b""})
    gone = b"diff --git a/d/void b/d/void\ndeleted file mode 100644\nindex e69de29..0000000\n"
    come = b"diff --git a/here b/here\nnew file mode 100644\nindex 0000000..e69de29\n"
    apply(root, gone + come)
    assert snapshot(root) == C | {"here": b""}
    assert not (root / "d").exists(), "git leaves no empty directory"
    found = refused(tree(tmp_path, {"d/void": b"not empty\n"}), gone)
    assert "would be deleted, but has more" in found.message


def test_a_directory_becomes_a_file_and_a_file_a_directory(tmp_path: Path) -> None:
    root = tree(tmp_path, {"d/x": b"x\n", "f": b"f\n"})
    move = b"diff --git a/%s b/%s\nsimilarity index 100%%\nrename from %s\nrename to %s\n"
    apply(root, b"".join(move % (a, b, a, b) for a, b in ((b"d/x", b"d"), (b"f", b"f/y"))))
    assert snapshot(root) == {"d": b"x\n", "f/y": b"f\n"}
    root = tree(tmp_path / "more", {"d/x": b"x\n", "d/other": b"f\n"})
    found = refused(root, move % (b"d/x", b"d", b"d/x", b"d"))
    assert "a directory with other files is there" in found.message


def test_subversion_says_nonexistent(tmp_path: Path) -> None:
    root = tree(tmp_path)
    text = (
        b"Index: fresh\n%s\n--- fresh\t(nonexistent)\n+++ fresh\t(working copy)\n"
        b"@@ -0,0 +1 @@\n+f\n"
        b"Index: file\n%s\n--- file\t(revision 1)\n+++ file\t(nonexistent)\n"
        b"@@ -1,2 +0,0 @@\n-one\n-two\n"
        b"Index: prop\n%s\n--- prop\t(revision 1)\n+++ prop\t(working copy)\n\n"
        b"Property changes on: prop\n%s\nAdded: svn:executable\n## -0,0 +1 ##\n+*\n"
        b"\\ No newline at end of property\n"
    ) % (b"=" * 67, b"=" * 67, b"=" * 67, b"_" * 67)
    apply(root, text, strip=0)
    assert snapshot(root) == {"fresh": b"f\n"}


def test_all_files_that_patches_touch_get_one_later_time(tmp_path: Path) -> None:
    files = {"configure": b"1\n", "configure.ac": b"1\n", "Makefile.in": b"1\n"}
    root = tree(tmp_path, files)
    text = b"".join(
        b"--- a/%s\n+++ b/%s\n@@ -1 +1 @@\n-1\n+2\n" % (name, name)
        for name in (b"configure", b"configure.ac")
    )
    apply(root, text, b"--- /dev/null\n+++ b/d/new\n@@ -0,0 +1 @@\n+n\n")
    times = {name: (root / name).stat().st_mtime_ns for name in (*files, "d/new", "d")}
    patched = (NEWEST + 1) * 10**9
    assert patched > NEWEST * 10**9
    assert times.pop("Makefile.in") == (NEWEST - 5) * 10**9
    assert set(times.values()) == {patched}


def test_crlf_of_the_patch_and_of_the_file(tmp_path: Path) -> None:
    windows = GOOD.replace(b"\n", b"\r\n")
    new = windows + b"--- /dev/null\r\n+++ b/new\r\n@@ -0,0 +1 @@\r\n+n\r\n"
    root = tree(tmp_path / "lf")
    apply(root, new)
    assert snapshot(root) == {"file": b"one\nTWO\n", "new": b"n\n"}
    root = tree(tmp_path / "crlf", {"file": b"one\r\ntwo\r\n"})
    apply(root, new)
    assert snapshot(root) == {"file": b"one\r\nTWO\r\n", "new": b"n\r\n"}
    found = refused(tree(tmp_path / "other", {"file": b"one\r\ntwo\r\n"}), GOOD)
    assert "differs in line endings only (the file has CR LF, the patch not)" in found.message
    assert "dos2unix" in str(found.hint)
    content = GOOD.replace(b" one\n-two\n+TWO\n", b" one\r\n-two\r\n+TWO\r\n")
    found = refused(tree(tmp_path / "content"), content)
    assert "differs in line endings only (the file has LF, the patch not)" in found.message


def test_links_are_not_written_through(tmp_path: Path) -> None:
    root = tree(tmp_path, {"src/a.c": b"int a;\n"})
    (root / "lib").symlink_to("src")
    (root / "a.c").symlink_to("src/a.c")
    text = b"--- a/%s\n+++ b/%s\n@@ -1 +1 @@\n-int a;\n+int A;\n"
    found = refused(root, text % (b"lib/a.c", b"lib/a.c"))
    assert "lib/a.c leads through lib, a symlink to 'src'" in found.message
    found = refused(root, text % (b"a.c", b"a.c"))
    assert "a.c is a symlink to 'src/a.c'" in found.message
    assert "real path" in str(found.hint)


def test_context_that_differs_is_no_fuzz(tmp_path: Path) -> None:
    found = refused(tree(tmp_path), GOOD.replace(b" one", b" won"))
    assert found.message == (
        "the patch p0 does not apply: file: hunk #1 does not fit at line 1: "
        "line 1 is `one`, not `won` (section 1)"
    )
    assert "nothing is applied with fuzz" in str(found.hint)


def test_white_space_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, {"file": b"{\n\ttwo\n}\n"})
    found = refused(root, b"--- a/file\n+++ b/file\n@@ -1,3 +1,3 @@\n {\n-        two\n+2\n }\n")
    assert "differs in white space only" in found.message
    assert "raw text" in str(found.hint)


def test_a_hunk_that_is_there_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, {"file": b"1\n2\n3\n4\n5\n6\n"})
    text = b"--- a/file\n+++ b/file\n@@ -1,1 +1,1 @@\n-one\n+1\n@@ -6 +6 @@\n-6\n+six\n"
    found = refused(root, text)
    assert "file: hunk #1 does not fit at line 1: is there already (section 1)" in found.message


def test_second_patch_is_the_one_that_is_named(tmp_path: Path) -> None:
    found = refused(tree(tmp_path), GOOD, GOOD.replace(b"TWO", b"2"))
    assert found.message.startswith("the patch p1 ")
    assert found.details == ()


def test_applied_already(tmp_path: Path) -> None:
    found = refused(tree(tmp_path), GOOD, GOOD)
    assert found.message.startswith("the patch p1 is already applied: ")


def test_a_series_that_is_applied_already(tmp_path: Path) -> None:
    series = FIRST + change("a.c", "int b;", "FIXED") + SECOND + TO_B
    found = refused(tree(tmp_path, C), series, series)
    assert found.message.startswith("the patch p1 is already applied: ")


def test_absent_file_is_named_once(tmp_path: Path) -> None:
    found = refused(tree(tmp_path), GOOD.replace(b"file", b"absent"))
    assert found.message == "the patch p0 does not apply: absent does not exist (section 1)"
    assert found.details == ()


def test_the_strip_that_fits_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, {"sub/file": b"one\ntwo\n"})
    found = refused(root, GOOD.replace(b"a/file", b"sub/file").replace(b"b/file", b"sub/file"))
    assert str(found.hint).startswith("sub/file is there:")
    assert "`strip: 0`" in str(found.hint)
    found = refused(root, GOOD.replace(b"file", b"x-1.0/sub/file"))
    assert found.hint == "say `strip: 2` for this patch: then its names fit"


def test_deleting_an_absent_file(tmp_path: Path) -> None:
    found = refused(tree(tmp_path), b"--- a/absent\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n")
    assert found.message.startswith("the patch p0 is already applied: ")


def test_creating_a_file_that_is_there(tmp_path: Path) -> None:
    found = refused(tree(tmp_path), b"--- /dev/null\n+++ b/file\n@@ -0,0 +1,1 @@\n+three\n")
    assert "file exists already, with other content" in found.message


def test_several_files_and_their_sections(tmp_path: Path) -> None:
    absent = GOOD.replace(b"file", b"absent")
    found = refused(tree(tmp_path), absent + GOOD.replace(b" one", b" won"))
    assert [line.partition(" (section ")[::2] for line in found.details] == [
        ("absent does not exist", "1)"),
        ("file: hunk #1 does not fit at line 1: line 1 is `one`, not `won`", "2)"),
    ]


def test_hard_links_keep_their_content(tmp_path: Path) -> None:
    root = tree(tmp_path)
    os.link(root / "file", root / "other")
    apply(root, GOOD)
    assert (root / "other").read_bytes() == b"one\ntwo\n"


def test_a_stop_inside_of_a_patch_is_no_refusal(tmp_path: Path) -> None:
    def say(line: str) -> None:
        if not line.startswith("==>"):
            raise Interrupted("the build was interrupted")

    wanted = [PatchToApply(canonical_bytes(parse_patch(GOOD, "p")))]
    with Root.open(tree(tmp_path)) as opened, pytest.raises(Interrupted):
        apply_patches(opened, wanted, NEWEST, None, say)
    assert snapshot(tmp_path / "tree") == {"file": b"one\ntwo\n"}


def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    root = tree(tmp_path, {"file/inner": b"x"})
    found = refused(root, GOOD)
    assert "file is a directory" in found.message
    assert "another version of the file" in str(found.hint), "no link is in the way"
