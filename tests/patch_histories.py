"""Random histories made with git, exported as patches, applied by buildit's patch phase.

`python -m tests.patch_histories [COUNT [SEED]]` runs COUNT histories (5000) and prints the figures;
docs/packages.md has those of the last whole run. Every export must leave git's own tree.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.errors import BuildError, RecipeError
from buildit.make.patching import PatchToApply, apply_patches, patched_time
from buildit.patch.form import canonical_bytes
from buildit.patch.read import parse_patch

PLAIN, EXECUTABLE, LINK = "100644", "100755", "120000"
NEWEST = 1_600_000_000

State = dict[str, tuple[str, bytes]]
"""Path to mode and content (a link's text), as git has them."""

ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "TZ": "UTC",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}
NAMES = ("a.c", "b.c", "README", "src/a.c", "src/b.h", "src/deep/x", "with blank", "ümlaut", 'q"t')
WORDS = ("int main(void)", "{", "}", "", "\treturn 0;", "-- dash", "--- a/x", "+++ plus", "@@ at")


@dataclass(slots=True)
class History:
    """States from the base on, and whether a path was touched by two commits."""

    states: list[State]
    touches: Counter[str] = field(default_factory=Counter)

    @property
    def touched_twice(self) -> bool:
        return max(self.touches.values(), default=0) > 1


def text(dice: random.Random, lines: int) -> bytes:
    made = [
        dice.choice(WORDS) if dice.random() < 0.3 else f"line {dice.randrange(10**6)}"
        for _ in range(lines)
    ]
    end = "" if dice.random() < 0.15 else "\n"
    ending = "\r\n" if dice.random() < 0.1 else "\n"
    return (ending.join(made) + end).encode()


def binary(dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice((1, 40, 700, 5000))) + b"\0"


def content(dice: random.Random) -> bytes:
    kind = dice.random()
    if kind < 0.12:
        return b""
    return binary(dice) if kind < 0.27 else text(dice, dice.choice((1, 5, 40)))


def edited(dice: random.Random, data: bytes) -> bytes:
    if b"\0" in data:
        at = dice.randrange(len(data))
        return data[:at] + dice.randbytes(dice.randrange(1, 30)) + data[at:]
    lines = data.splitlines(keepends=True) or [b"was empty\n"]
    for _ in range(dice.choice((1, 1, 3))):
        at = dice.randrange(len(lines) + 1)
        new = [f"new {dice.randrange(10**6)}\n".encode()] * (dice.random() < 0.7)
        lines[at : at + dice.randrange(3)] = new
        if not lines:
            break
    return b"".join(lines)


def fresh(dice: random.Random, state: State) -> str:
    """A path that is free, and neither below a file nor above one."""
    while True:
        name = (
            dice.choice(NAMES)
            if dice.random() < 0.5
            else f"d{dice.randrange(4)}/f{dice.randrange(30)}"
        )
        if not any(
            name == p or p.startswith(name + "/") or name.startswith(p + "/") for p in state
        ):
            return name


def target_of(path: str) -> bytes:
    """A link's text that stays inside: another name beside it."""
    return b"elsewhere-%d" % (len(path) % 7)


def step(dice: random.Random, state: State, history: History) -> None:
    """One random operation on the state."""
    hot = [path for path in state if history.touches[path]]
    pool = hot if hot and dice.random() < 0.5 else list(state)
    path = dice.choice(pool) if pool else ""
    action = dice.choices(
        ("edit", "create", "delete", "rename", "copy", "mode", "link", "swap", "directory"),
        (8, 3, 2, 4, 3, 2, 2, 1, 1),
    )[0]
    if action == "create" or not path:
        path = fresh(dice, state)
        state[path] = (dice.choice((PLAIN, PLAIN, EXECUTABLE)), content(dice))
    elif action == "edit":
        mode, data = state[path]
        link = b"new-" + target_of(path) + b"%d" % dice.randrange(9)
        state[path] = (mode, link if mode == LINK else edited(dice, data))
    elif action == "delete":
        del state[path]
    elif action in ("rename", "copy"):
        mode, data = state[path]
        to = fresh(dice, state)
        if action == "rename":
            del state[path]
        elif dice.random() < 0.5 and mode != LINK:
            state[path] = (mode, edited(dice, data))
        state[to] = (mode, edited(dice, data) if dice.random() < 0.4 and mode != LINK else data)
        history.touches[to] += 1
    elif action == "mode" and state[path][0] != LINK:
        mode, data = state[path]
        state[path] = (PLAIN if mode == EXECUTABLE else EXECUTABLE, data)
    elif action == "link":
        was_link = state[path][0] == LINK
        state[path] = (PLAIN, content(dice)) if was_link else (LINK, target_of(path))
    elif action == "swap":
        other = dice.choice(list(state))
        state[path], state[other] = state[other], state[path]
        history.touches[other] += 1
    elif action == "directory":
        _, data = state.pop(path)
        state[f"{path}/inside"] = (PLAIN, data)
    history.touches[path] += 1


def make(dice: random.Random) -> History:
    base: State = {}
    for _ in range(dice.randrange(2, 8)):
        mode = dice.choice((PLAIN, PLAIN, PLAIN, EXECUTABLE, LINK))
        path = fresh(dice, base)
        base[path] = (mode, target_of(path) if mode == LINK else content(dice))
    history = History([base])
    for _ in range(dice.choice((1, 2, 2, 3, 4))):
        state = dict(history.states[-1])
        for _ in range(dice.choice((1, 1, 2, 4))):
            step(dice, state, history)
        if state != history.states[-1]:
            history.states.append(state)
    return history


def quoted(path: str) -> bytes:
    return b'"' + path.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'


def stream(histories: list[History]) -> Iterator[bytes]:
    """All histories for `git fast-import`: history N at commit C is the tag `hN-C`."""
    for number, history in enumerate(histories):
        for at, state in enumerate(history.states):
            message = (
                b"Commit %d\n\nWith * stars:\n***************\n@@ -1,3 +1,3 @@\n- a bullet\n" % at
            )
            yield b"commit refs/heads/h%d-%d\n" % (number, at)
            yield b"committer A <a@example.org> %d +0000\n" % (1_700_000_000 + at)
            yield b"data %d\n%s\n" % (len(message), message)
            if at:
                yield b"from refs/heads/h%d-%d\n" % (number, at - 1)
            yield b"deleteall\n"
            for path, (mode, data) in state.items():
                yield b"M %s inline %s\n" % (mode.encode(), quoted(path))
                yield b"data %d\n%s\n" % (len(data), data)


def git(repository: Path, *argv: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        ("git", *argv), cwd=repository, env=ENV, input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def lay_out(state: State, root: Path) -> None:
    root.mkdir()
    for path, (mode, data) in state.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if mode == LINK:
            place.symlink_to(data.decode())
        else:
            place.write_bytes(data)
            place.chmod(0o755 if mode == EXECUTABLE else 0o644)
            os.utime(place, (NEWEST, NEWEST))


def listing(root: Path) -> list[str]:
    """The tree in the words of `git ls-tree -r`."""
    found = []
    for above, directories, files in os.walk(root):
        for name in [*files, *(d for d in directories if os.path.islink(os.path.join(above, d)))]:
            path = Path(above, name)
            link = path.is_symlink()
            data = os.readlink(path).encode() if link else path.read_bytes()
            runs = not link and path.stat().st_mode & 0o100
            mode = LINK if link else EXECUTABLE if runs else PLAIN
            framed = b"blob %d\0" % len(data) + data
            blob = hashlib.sha1(framed, usedforsecurity=False).hexdigest()
            found.append(f"{mode} blob {blob}\t{path.relative_to(root)}")
        assert files or directories or Path(above) == root, f"{above} was left empty"
    return sorted(found)


def tree_of(repository: Path, commit: str) -> list[str]:
    lines = git(repository, "ls-tree", "-r", "-z", commit).decode().split("\0")
    return sorted(filter(None, lines))


def patched(base: State, root: Path, patch: bytes) -> list[str]:
    """The tree after the patch phase.

    Raises:
        RecipeError, BuildError: the patch is no patch, or does not apply.
    """
    canonical = canonical_bytes(parse_patch(patch, "p.patch"))
    lay_out(base, root)
    try:
        with Root.open(root) as tree:
            apply_patches(
                tree, [PatchToApply(canonical)], patched_time(NEWEST), None, lambda _: None
            )
        return listing(root)
    finally:
        shutil.rmtree(root)


def git_refuses(base: State, root: Path, patch: bytes) -> bool:
    """Whether `git apply` cannot apply it either: not all that `-B` writes can be."""
    lay_out(base, root)
    env = ENV | {"GIT_CEILING_DIRECTORIES": str(root.parent)}
    done = subprocess.run(
        ("git", "apply"), cwd=root, env=env, input=patch, capture_output=True, check=False
    )
    shutil.rmtree(root)
    return done.returncode != 0


@dataclass(frozen=True, slots=True)
class Export:
    """One way to write a range as a patch; `joined` makes a diff of each commit, one behind the
    other."""

    name: str
    argv: tuple[str, ...]
    joined: bool = False
    binary: bool = True


EXPORTS = (
    Export("format-patch", ("format-patch", "--stdout", "-q")),
    Export(
        "format-patch -M -C", ("format-patch", "--stdout", "-q", "-M", "-C", "--find-copies-harder")
    ),
    Export("diff", ("diff",), binary=False),
    Export("diff --binary", ("diff", "--binary")),
    Export("diff -M -C --binary", ("diff", "-M", "-C", "--find-copies-harder", "--binary")),
    Export("diff -B -M --binary", ("diff", "-B", "-M", "-C", "--binary")),
    Export("diff --no-renames --binary", ("diff", "--no-renames", "--binary", "--full-index")),
    Export("log -p --reverse", ("log", "-p", "--reverse", "--binary", "--decorate=full")),
    Export("log -p -C --oneline", ("log", "-p", "--reverse", "--binary", "--oneline", "-C")),
    Export("log -p -C", ("log", "-p", "--binary", "-C", "--find-copies-harder")),
    Export("diffs joined", ("diff", "--binary", "-M"), joined=True),
)


def exported(repository: Path, export: Export, number: int, last: int) -> bytes:
    def name(at: int) -> str:
        return f"h{number}-{at}"

    if export.joined:
        pairs = [(at, at + 1) for at in range(last)]
        return b"".join(git(repository, *export.argv, name(a), name(b)) for a, b in pairs)
    between = f"{name(0)}..{name(last)}"
    return git(repository, *export.argv, between)


def plain_diff(history: History, root: Path) -> tuple[State, State, bytes]:
    """`diff -ruN` of what it can say: text files whose path is no directory on the other side."""
    sides: list[State] = []
    first, last = history.states[0], history.states[-1]
    for state, other in ((first, last), (last, first)):
        kept = {}
        for path, (mode, data) in state.items():
            beside = other.get(path, (mode, b""))
            clash = any(p.startswith(path + "/") or path.startswith(p + "/") for p in other)
            if LINK not in (mode, beside[0]) and b"\0" not in data + beside[1] and not clash:
                kept[path] = (mode, data)
        sides.append(kept)
    old, new = sides
    lay_out(old, root / "old")
    lay_out(new, root / "new")
    done = subprocess.run(
        ("diff", "-ruN", "old", "new"), cwd=root, env=ENV, capture_output=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    shutil.rmtree(root / "old")
    shutil.rmtree(root / "new")
    return old, new, done.stdout


def contents(lines: list[str]) -> dict[str, str]:
    """Path to blob: without the modes, which a plain diff cannot say."""
    return {path: blob for blob, path in (line[12:].split("\t") for line in lines)}


def differs(history: History, root: Path) -> str:
    """Where the tree after `diff -ruN` has other content than it should; empty where nowhere."""
    old, new, patch = plain_diff(history, root)
    if not patch.strip():
        return ""
    got = contents(patched(old, root / "tree", patch))
    lay_out(new, root / "tree")
    wanted = contents(listing(root / "tree"))
    shutil.rmtree(root / "tree")
    for path in {*got, *wanted}:
        # an empty file that comes or goes leaves no trace in the text
        silent = (path not in old and not new.get(path, ("", b"x"))[1]) or (
            path not in new and not old.get(path, ("", b"x"))[1]
        )
        if got.get(path) != wanted.get(path) and not silent:
            return path
    return ""


@dataclass(slots=True)
class Figures:
    equal: Counter[str] = field(default_factory=Counter)
    refused_rightly: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Other trees than git's."""
    refused: list[str] = field(default_factory=list)
    """Refused, in words, though git takes them."""
    histories: int = 0
    twice: int = 0


def hides_binary(patch: bytes) -> bool:
    return b"\nBinary files " in patch


def run(count: int, seed: int, root: Path, forms: int = len(EXPORTS)) -> Figures:
    """Make histories, export each in that many ways, picked by lot, and apply them."""
    dice = random.Random(seed)
    histories = [made for made in (make(dice) for _ in range(count)) if len(made.states) > 1]
    repository = root / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    git(repository, "fast-import", "--quiet", stdin=b"".join(stream(histories)))
    figures = Figures(histories=len(histories))
    figures.twice = sum(history.touched_twice for history in histories)
    for number, history in enumerate(histories):
        exports = dice.sample(EXPORTS, forms)
        _one(repository, root, number, history, exports, figures)
    shutil.rmtree(repository)
    return figures


def _one(
    repository: Path,
    root: Path,
    number: int,
    history: History,
    exports: Sequence[Export],
    figures: Figures,
) -> None:
    last = len(history.states) - 1
    wanted = tree_of(repository, f"h{number}-{last}")
    for export in exports:
        patch = exported(repository, export, number, last)
        if not patch.strip():
            continue
        if export.joined and history.states[0] == history.states[-1]:
            continue
        try:
            got = patched(history.states[0], root / "tree", patch)
        except (RecipeError, BuildError) as error:
            hidden = not export.binary and hides_binary(patch) and "its content" in str(error)
            broken = "-B" in export.argv and git_refuses(history.states[0], root / "tree", patch)
            if hidden or broken:
                figures.refused_rightly[export.name] += 1
            else:
                figures.refused.append(f"h{number} {export.name}: {error!r}")
                keep(root, number, export.name, patch)
            continue
        if got == wanted:
            figures.equal[export.name] += 1
        else:
            figures.wrong.append(f"h{number} {export.name}: {sorted({*got} ^ {*wanted})}")
            keep(root, number, export.name, patch)
    try:
        where = differs(history, root)
    except (RecipeError, BuildError) as error:
        where = repr(error)
    if where:
        figures.wrong.append(f"h{number} diff -ruN: {where}")
    else:
        figures.equal["diff -ruN (content)"] += 1


def keep(root: Path, number: int, name: str, patch: bytes) -> None:
    (root / f"h{number}-{name.replace(' ', '_').replace('/', '_')}.patch").write_bytes(patch)


def main(argv: list[str]) -> int:
    count = int(argv[0]) if argv else 5000
    seed = int(argv[1]) if len(argv) > 1 else random.SystemRandom().randrange(10**9)
    root = Path(tempfile.mkdtemp(prefix="histories-"))
    figures = Figures()
    for at in range(0, count, 250):
        part = run(min(250, count - at), seed + at, root)
        figures.equal += part.equal
        figures.refused_rightly += part.refused_rightly
        figures.wrong += part.wrong
        figures.refused += part.refused
        figures.histories += part.histories
        figures.twice += part.twice
    lines = [f"seed {seed}: {figures.histories} histories, {figures.twice} touch a path twice"]
    lines += [
        f"{name}: {equal} equal, {figures.refused_rightly[name]} refused as they must be"
        for name, equal in sorted(figures.equal.items())
    ]
    lines += [f"refused though git takes them: {len(figures.refused)}", *figures.refused[:40]]
    lines += [f"wrong: {len(figures.wrong)}", *figures.wrong[:40]]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if not figures.wrong:
        shutil.rmtree(root)
    return bool(figures.wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
