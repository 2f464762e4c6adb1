"""Original and canonical patches, made by the real tools, must turn one tree into the same tree."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from buildit.patch.form import canonical_bytes
from buildit.patch.read import parse_patch

pytestmark = pytest.mark.unit

ENV = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C",
    "TZ": "UTC-3",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CEILING_DIRECTORIES": "/",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def run(cwd: Path, *argv: str, stdin: bytes = b"", ok: tuple[int, ...] = (0,)) -> bytes:
    done = subprocess.run(argv, cwd=cwd, env=ENV, input=stdin, capture_output=True, check=False)
    assert done.returncode in ok, (argv, done.stdout, done.stderr, stdin)
    return done.stdout


NUMBERS = "".join(f"line {n}\n" for n in range(40))


def old_tree(root: Path) -> None:
    (root / "src").mkdir(parents=True)
    (root / "src/a.c").write_text(NUMBERS)
    (root / "src/gone.c").write_text("gone\nfor ever\n")
    (root / "crlf.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    (root / "no-newline").write_bytes(b"x\ny")
    (root / "with blank").write_text("a\nb\n")
    (root / "latin-\udce9.c").write_text("e\nf\n")
    (root / "blanks.c").write_text("a\n\n\nb\n\n\nc\n")


def edit(root: Path) -> None:
    lines = NUMBERS.replace("line 3\n", "line three\nline three and a half\n")
    (root / "src/a.c").write_text(lines.replace("line 33\n", ""))
    (root / "src/gone.c").unlink()
    (root / "src/fresh.c").write_text("fresh\n")
    (root / "crlf.txt").write_bytes(b"one\r\n2\r\nthree\r\n")
    (root / "no-newline").write_bytes(b"x\nz\ny")
    (root / "with blank").write_text("a\nb\nc")
    (root / "latin-\udce9.c").write_text("e\ng\n")
    (root / "blanks.c").write_text("a\n\n\nB\n\n\nc\n")


def git_only_edit(root: Path) -> None:
    (root / "src/a.c").rename(root / "src/moved name.c")
    text = (root / "src/moved name.c").read_text()
    (root / "src/moved name.c").write_text(text.replace("line 20\n", "line twenty\n"))
    (root / "with blank").chmod(0o755)
    (root / "tool.sh").write_text("#!/bin/sh\n")
    (root / "tool.sh").chmod(0o755)
    (root / "empty").write_text("")
    (root / "src/link").symlink_to("moved name.c")
    (root / "link").unlink()
    (root / "link").symlink_to("crlf.txt")
    (root / "crlf.txt").write_bytes(b"one\r\n2\r\nthree\r\n")
    (root / "void").unlink()


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith(".git"):
            continue
        if path.is_symlink():
            found[name] = (0, os.readlink(path).encode())
        elif path.is_file():
            found[name] = (path.stat().st_mode & 0o777, path.read_bytes())
    return found


@pytest.fixture
def old(tmp_path: Path) -> Path:
    old_tree(tmp_path / "old")
    return tmp_path / "old"


def apply_gnu(base: Path, patch: bytes, *more: str) -> dict[str, tuple[int, bytes]]:
    into = base.parent / "applied"
    shutil.copytree(base, into, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    options = ("--fuzz=0", "--batch", "--no-backup-if-mismatch", "--quiet")
    run(into, "patch", "-p1", *options, *more, stdin=patch)
    result = snapshot(into)
    shutil.rmtree(into)
    return result


def apply_git(base: Path, patch: bytes) -> dict[str, tuple[int, bytes]]:
    into = base.parent / "applied"
    shutil.copytree(base, into, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    run(into, "git", "apply", "-p1", "--whitespace=nowarn", "-", stdin=patch)
    result = snapshot(into)
    shutil.rmtree(into)
    return result


def canonical(patch: bytes, strip: int = 1) -> bytes:
    parsed = parse_patch(patch, "p.patch", strip=strip)
    data = canonical_bytes(parsed)
    again = parse_patch(data, "p.patch")
    assert again == parsed
    assert canonical_bytes(again) == data
    return data


def commit(root: Path, message: str = "Change things") -> None:
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-q", "-m", message)


def repository(root: Path) -> None:
    run(root, "git", "init", "-q")
    commit(root)


def test_git_quilt_and_diff_spell_one_change_alike(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    shutil.copytree(old, new)
    edit(new)
    for path in (*old.rglob("*"), *new.rglob("*")):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    expected = snapshot(new)
    plain = run(tmp_path, "diff", "-ruN", "old", "new", ok=(1,))
    labelled = plain.replace(b"--- old/", b"--- pkg.orig/").replace(b"+++ new/", b"+++ pkg/")
    quilt = b"Description: things\n\nIndex: pkg/x\n" + b"=" * 67 + b"\n" + labelled
    repository(old)
    edit(old)
    git = run(old, "git", "diff", "HEAD", "--full-index")
    git += run(old, "git", "diff", "--no-index", "/dev/null", "src/fresh.c", ok=(1,))
    commit(old)
    mail = run(old, "git", "format-patch", "-1", "--stdout", "--abbrev=7")
    signature = "--signature=2.99.windows.1"
    full = run(old, "git", "format-patch", "-1", "--stdout", "--full-index", signature)
    run(old, "git", "checkout", "-q", "HEAD~1")
    forms = [canonical(text) for text in (plain, quilt, mail, full)]
    assert forms[0] == forms[1]
    assert forms[2] == forms[3]
    assert sorted(forms[0].split(b"--- ")) == sorted(forms[2].split(b"--- "))
    assert sorted(canonical(git).split(b"--- ")) == sorted(forms[2].split(b"--- "))
    for form in (plain, quilt, mail, forms[0], forms[2]):
        assert apply_gnu(old, form) == expected
    for form in (mail, forms[0], forms[2]):
        assert apply_git(old, form) == expected
    assert b"diff --git" not in forms[2]
    assert b"index" not in forms[2]


def test_what_only_git_can_say(old: Path) -> None:
    (old / "link").symlink_to("no-newline")
    (old / "void").write_text("")
    repository(old)
    git_only_edit(old)
    expected = snapshot(old)
    commit(old)
    mail = run(old, "git", "format-patch", "-1", "-M", "--stdout")
    bare = run(old, "git", "diff", "-M", "--no-prefix", "HEAD~1")
    run(old, "git", "checkout", "-q", "HEAD~1")
    form = canonical(mail)
    assert canonical(bare, strip=0) == form
    for text in (mail, form):
        assert apply_git(old, text) == expected
    # GNU patch itself cannot read git's bare `diff --git a/with blank b/with blank`
    assert apply_gnu(old, form) == expected


def test_binary_changes_can_still_be_read_by_git(old: Path) -> None:
    (old / "logo.png").write_bytes(bytes(range(256)) * 40)
    (old / "old.bin").write_bytes(b"\0\1" * 500)
    repository(old)
    (old / "logo.png").write_bytes(bytes(range(256)) * 39 + b"tail\0")
    (old / "new.bin").write_bytes(os.urandom(3000))
    (old / "old.bin").unlink()
    (old / "src/a.c").write_text(NUMBERS + "more\n")
    expected = snapshot(old)
    commit(old)
    mail = run(old, "git", "format-patch", "-1", "--stdout", "--binary")
    run(old, "git", "checkout", "-q", "HEAD~1")
    form = canonical(mail)
    assert apply_git(old, mail) == expected
    assert apply_git(old, form) == expected
    without = run(old, "git", "diff", "HEAD", "HEAD@{1}")
    with pytest.raises(Exception, match="a binary change without its content"):
        canonical(without)


def test_a_series_that_patches_one_file_twice(old: Path) -> None:
    repository(old)
    (old / "src/a.c").write_text(NUMBERS.replace("line 5\n", "five\n"))
    commit(old, "First\n\nWith a body:\n\n  --- not a name\n\n- a bullet\n+ a plus\n")
    (old / "src/a.c").write_text(NUMBERS.replace("line 5\n", "five\nand six\n"))
    (old / "run.sh").write_text("#!/bin/sh\n")
    (old / "run.sh").chmod(0o755)
    commit(old, "Second")
    expected = snapshot(old)
    mails = run(old, "git", "format-patch", "-2", "--stdout")
    run(old, "git", "checkout", "-q", "HEAD~2")
    form = canonical(mails)
    for text in (mails, form):
        assert apply_gnu(old, text) == expected
        assert apply_git(old, text) == expected


def test_names_that_need_quotes(tmp_path: Path) -> None:
    root = tmp_path / "old"
    root.mkdir()
    names = ['quo"te', "back\\slash", "ümläut", "raw\udcff", "trailing ", " lead", "a b c"]
    for name in names:
        (root / name).write_text("one\n")
    repository(root)
    for name in names:
        (root / name).write_text("two\n")
    (root / "exe cutable \u00e9").write_text("x\n")
    (root / "exe cutable \u00e9").chmod(0o755)
    expected = snapshot(root)
    commit(root)
    for quoting in ("true", "false"):
        mail = run(root, "git", "-c", f"core.quotepath={quoting}", "format-patch", "-1", "--stdout")
        run(root, "git", "checkout", "-q", "HEAD~1")
        form = canonical(mail)
        assert {file.new for file in parse_patch(mail, "p").files} == set(expected)
        assert apply_git(root, form) == expected
        assert apply_gnu(root, form) == expected
        run(root, "git", "checkout", "-q", "-")


def test_strip_is_done_once(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path / "new")
    edit(tmp_path / "new")
    deep = run(tmp_path, "diff", "-ruN", str(old), str(tmp_path / "new"), ok=(1,))
    level = len(old.parts) - 1 + 1
    shallow = run(tmp_path, "diff", "-ruN", "old", "new", ok=(1,))
    assert canonical(deep, strip=level) == canonical(shallow)
    assert apply_gnu(old, canonical(deep, strip=level)) == snapshot(tmp_path / "new")


def test_a_stripped_context_blank_is_restored(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path / "new")
    edit(tmp_path / "new")
    plain = run(tmp_path, "diff", "-ruN", "old", "new", ok=(1,))
    mangled = plain.replace(b"\n \n", b"\n\n").replace(b"\n \n", b"\n\n")
    assert mangled != plain
    assert canonical(mangled) == canonical(plain)


def test_an_emptied_file_stays_and_a_removed_one_goes(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    shutil.copytree(old, new)
    (new / "with blank").write_text("")
    (new / "src/gone.c").unlink()
    plain = run(tmp_path, "diff", "-ruN", "old", "new", ok=(1,))
    assert apply_gnu(old, plain) == snapshot(new)
    assert apply_gnu(old, canonical(plain)) == snapshot(new)
