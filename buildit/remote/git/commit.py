"""Sources from git: the tree of one commit as a canonical tar, made from its objects alone.

Nothing is ever checked out, and of what a server or a repository says only objects are believed
(THREATS A7): no hooks, filters, LFS, attributes, replaced objects, lazy fetches or programs of a
configuration. The same commit gives the same bytes from every place, and with every git.

The tar: directories and programs with mode 0755, files with 0644, symbolic links; each entry has
the commit's committer time; the trees of submodules stand where their gitlinks are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from buildit.archive.admit import Budget, shown
from buildit.archive.streams import Window
from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest
from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.events import Fetching, LocationFailed, Notice, Reporter
from buildit.model.sources import GitRef
from buildit.model.tree import Entry, Kind, sort_key
from buildit.model.words import counted, guess, some
from buildit.remote.git.program import PlaceFailed, run_git, start_git
from buildit.store.cas import Store

if TYPE_CHECKING:
    import subprocess

_DEEPEST = 16
"""Submodules within submodules."""
_MOST_SUBMODULES = 1000
_LARGEST_OBJECT = 64 << 20
"""Bytes of a tree, a commit, a `.gitmodules` or the text of a link."""

_POINTER, _LARGEST_POINTER = b"version https://git-lfs.", 1024
"""How what stands for a file of LFS begins, and that it is shorter than so many bytes (the
specification of LFS)."""

_WANTED = "refs/buildit/wanted"
_SHALLOW = ("unadvertised object", "does not support shallow", "filtering not recognized")
"""What git says where a server gives no single commit, so that all of it must be fetched."""
_ABSENT = ("not our ref", "couldn't find remote ref", "no such remote ref")


@dataclass(frozen=True, slots=True)
class PackedCommit:
    """A commit's tree in the store: the commit (40 hex digits), and the digest of its tar."""

    commit: str
    digest: Digest


def pack_commit(
    urls: Sequence[str], ref: GitRef, name: str, store: Store, report: Reporter
) -> PackedCommit:
    """Put the tar of a commit into the store, from the first of `urls` that has it.

    Where `ref` has no commit, it is the one that its tag is at. `name` is what people call it.

    Raises:
        FetchError: git is not there, or no place has the commit.
        IntegrityError: the tag is at another commit than the one that is pinned, or the commit
            holds what no source may.
        StoreError: the disk is full.
    """
    failures: dict[str, PlaceFailed] = {}
    for url in urls:
        if failures:
            before, failed = [*failures.items()][-1]
            report(LocationFailed(name, before, failed.reason))
        work = store.scratch("git")
        try:
            with ExitStack() as opened:
                report(Fetching(name, 0, None))
                packing = _Packing(work, name, ref.submodules, opened)
                made = packing.pack(url, ref, store)
                report(Fetching(name, packing.written, packing.written, done=True))
                if packing.pointers:
                    report(Notice(_told_of_pointers(name, packing.pointers), warning=True))
                return made
        except PlaceFailed as error:
            failures[url] = error
        finally:
            store.discard(work)
    raise _nowhere(ref, name, failures)


def _told_of_pointers(name: str, paths: Sequence[str]) -> str:
    files = f"{counted(len(paths), 'file')} of Git LFS"
    text = f"{name}: {files}: the source has the pointers, not their content ({some(paths, 3)})"
    return f"{text}; a build that needs it takes it as another source"


def _nowhere(ref: GitRef, name: str, failures: dict[str, PlaceFailed]) -> BuilditError:
    moved = next((one for one in failures.values() if one.wrong), None)
    told = failures.items()
    details = tuple(f"{url}: {one.reason}" for url, one in told if one is not moved)
    if moved is not None:
        return IntegrityError(moved.reason, place=name, hint=moved.hint, details=details)
    what = f"the commit {ref.commit}" if ref.commit else f"the tag {ref.tag!r}"
    hints = (hint for one in failures.values() if (hint := one.hint or _hint_of(one.reason)))
    hint = next(
        hints, "check the network and the URL, add a mirror, or put the tar into distfiles/"
    )
    return FetchError(f"no place has {what}", place=name, hint=hint, details=details)


_HINTS = {
    "Host key verification": "connect to it once by hand, `ssh HOST`, and compare its key",
    "ermission denied": "may this user read it? Ask `ssh HOST`; for https, ~/.netrc",
    "could not read Username": "it asks who you are: is it private (~/.netrc), or gone?",
    'Protocol "http"': "it sends on to http://, over which nothing is fetched: name its https URL",
    "dubious ownership": "it belongs to another user: run as its owner, or clone it",
}
"""By words of git and ssh: what would help."""


def _hint_of(reason: str) -> str:
    return next((hint for words, hint in _HINTS.items() if words in reason), "")


# -- from places to objects


@dataclass(frozen=True, slots=True)
class _Repository:
    """A bare repository that holds what was fetched from `url`, and one commit of it."""

    place: Path
    url: str

    def run(self, *words: str) -> bytes:
        scheme = self.url.partition("://")[0]
        return run_git(f"--git-dir={self.place}", *words, protocols=scheme)

    def fetch(self, *refspecs: str, shallow: bool) -> None:
        depth = ("--depth=1",) if shallow else ()
        words = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", *depth)
        self.run(*words, "--", self.url, *refspecs)

    def at(self, revision: str) -> str:
        """The commit that a revision names, "" where there is none."""
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        try:
            return self.run(*words).decode().strip()
        except PlaceFailed:
            return ""


def _fetched(place: Path, url: str, ref: GitRef) -> tuple[_Repository, str]:
    """A commit and what it holds, from one place.

    Raises:
        PlaceFailed: it does not have it.
    """
    place.mkdir()
    run_git("init", "--quiet", "--bare", "--template=", str(place))
    repository = _Repository(place, url)
    if ref.tag:
        try:
            repository.fetch(f"+refs/tags/{ref.tag}:{_WANTED}", shallow=True)
        except PlaceFailed as error:
            if not _says(error, _ABSENT):
                return repository, _all_of_it(repository, ref, error)
            if not ref.commit:
                raise _no_tag(repository, ref) from None
        else:
            return repository, _tagged(repository, ref)
    try:
        repository.fetch(f"+{ref.commit}:{_WANTED}", shallow=True)
    except PlaceFailed as error:
        return repository, _all_of_it(repository, ref, error)
    return repository, ref.commit


def _says(error: PlaceFailed, words: Sequence[str]) -> bool:
    return any(word in error.reason for word in words)


def _tagged(repository: _Repository, ref: GitRef) -> str:
    """The commit that the fetched tag is at."""
    found = repository.at(_WANTED)
    if not found:
        raise PlaceFailed(f"the tag {ref.tag!r} is at no commit")
    if ref.commit and found != ref.commit:
        raise PlaceFailed(
            f"the tag {ref.tag!r} has moved: it was at commit {ref.commit}, and is at {found} now",
            "find out from upstream why; if the new commit is right, write it in the recipe, or "
            "where the lock pins it: `buildit lock --update` with the name of the package",
            wrong=True,
        )
    return found


def _no_tag(repository: _Repository, ref: GitRef) -> PlaceFailed:
    """The error that names a tag that is like the one that is not there."""
    try:
        listed = repository.run("ls-remote", "--refs", "--tags", "--", repository.url).decode()
    except (PlaceFailed, UnicodeDecodeError):
        listed = ""
    tags = [line.partition("\trefs/tags/")[2] for line in listed.splitlines()]
    hint = f"{guess(ref.tag, tags)}see its tags: git ls-remote --tags {repository.url}"
    return PlaceFailed(f"it has no tag {ref.tag!r}", hint)


def _all_of_it(repository: _Repository, ref: GitRef, first: PlaceFailed) -> str:
    """The commit out of a whole clone, where a server gives no single ones.

    Raises:
        PlaceFailed: it does not have it, or cannot be reached.
    """
    if _says(first, _ABSENT):
        hint = (
            "is it pushed, and is this the right repository? A commit that a force push took off "
            "its branch may be gone for good"
        )
        raise PlaceFailed("it has no such commit", hint) from None
    if not _says(first, _SHALLOW):
        raise first
    repository.fetch(
        *("+refs/heads/*:refs/buildit/heads/*", "+refs/tags/*:refs/buildit/tags/*"), shallow=False
    )
    if ref.tag:
        repository.run("update-ref", _WANTED, f"refs/buildit/tags/{ref.tag}")
        return _tagged(repository, ref)
    if repository.at(ref.commit) != ref.commit:
        raise PlaceFailed("it has no such commit on a branch or at a tag")
    return ref.commit


def submodule_url(base: str, written: str) -> str:
    """Where a submodule is: `written` as `.gitmodules` has it, `base` that of the repository.

    Raises:
        ValueError: it is neither relative nor https; the text says what is wrong.
    """
    if not written.startswith(("./", "../")):
        if written.startswith("https://") and "@" not in written[8:].partition("/")[0]:
            return written
        raise ValueError(f"its URL {shown(written)!r} is neither https:// nor relative")
    scheme, _, rest = base.rstrip("/").partition("://")
    parts = rest.split("/")
    for part in written.split("/"):
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
        if not parts:
            raise ValueError(f"its URL {shown(written)!r} leads out of {base}")
    return f"{scheme}://{'/'.join(parts)}"


# -- from objects to a tar


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of a tree object; `mode` is octal, as git writes it."""

    mode: str
    name: str
    oid: str


@dataclass(slots=True)
class _Objects:
    """The objects of one repository, read by one `git cat-file --batch`."""

    name: str
    process: subprocess.Popen[bytes]
    trees: dict[str, tuple[_Item, ...]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def open(self, oid: str, kind: str) -> tuple[int, IO[bytes]]:
        """The size of an object, and the stream at its first byte; a newline follows it.

        Raises:
            IntegrityError: the repository lacks it, or it is of another kind.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101, PT018 - pipes both
        stdin.write(f"{oid}\n".encode())
        stdin.flush()
        words = stdout.readline().split()
        if len(words) != 3 or words[1].decode() != kind:
            found = words[1].decode("ascii", "replace") if len(words) > 1 else "nothing"
            raise _unfit(self.name, f"the object {oid} is {found}, and no {kind}")
        return int(words[2]), stdout

    def read(self, oid: str, kind: str) -> bytes:
        size, stream = self.open(oid, kind)
        if size > _LARGEST_OBJECT:
            raise _unfit(self.name, f"the {kind} {oid} has {size} bytes")
        return stream.read(size + 1)[:size]

    def items(self, tree: str) -> tuple[_Item, ...]:
        """What a tree holds."""
        if tree not in self.trees:
            self.trees[tree] = tuple(_tree_items(self.read(tree, "tree"), self.name))
        return self.trees[tree]

    def check_count(self, tree: str, depth: int = 0) -> int:
        """How much lies below a tree, each tree counted once: one that holds another a thousand
        times, and so on, is soon more than any walk could end."""
        if depth > Budget().depth:
            raise _unfit(self.name, "it has directories too deep in others")
        if tree not in self.counts:
            items = self.items(tree)
            below = [self.check_count(one.oid, depth + 1) for one in items if one.mode == "40000"]
            self.counts[tree] = len(items) + sum(below)
        if self.counts[tree] > Budget().entries:
            raise _unfit(self.name, "it has too many files")
        return self.counts[tree]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True, slots=True)
class _Node:
    """An entry, and where a file's bytes are."""

    entry: Entry
    objects: _Objects | None = None
    oid: str = ""


@dataclass(slots=True)
class _Packing:
    """The tar of one commit with its submodules; repositories lie in `work`."""

    work: Path
    name: str
    submodules: bool
    opened: ExitStack
    written: int = 0
    nodes: list[_Node] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)
    repositories: int = 0
    time: int = 0

    def pack(self, url: str, ref: GitRef, store: Store) -> PackedCommit:
        commit = self.collect(url, ref, "", 0)
        self.nodes.sort(key=lambda node: sort_key(node.entry))
        with store.ingest() as sink:
            try:
                self._write(TarWriter(sink))
            except BuilditError as error:
                if not error.message.startswith("cannot pack"):
                    raise
                place = f"{self.name}: {error.place}"
                hint = "take upstream's release archive instead, or a commit without it"
                raise IntegrityError(error.message, place=place, hint=hint) from error
            self.written = sink.size
            return PackedCommit(commit, sink.commit())

    def collect(self, url: str, ref: GitRef, prefix: str, depth: int) -> str:
        """Everything of a commit, below `prefix`; the commit."""
        self.repositories += 1
        if self.repositories > _MOST_SUBMODULES or depth > _DEEPEST:
            raise _unfit(self.name, "it has too many submodules, or submodules too deep in others")
        repository, commit = _fetched(self.work / str(self.repositories), url, ref)
        batch = (f"--git-dir={repository.place}", "cat-file", "--batch")
        objects = _Objects(self.name, start_git(batch, talks=True))
        self.opened.callback(objects.close)
        tree, time = _commit_facts(objects.read(commit, "commit"), self.name)
        if not depth:
            self.time = time
        links = self._walk(objects, tree, prefix)
        modules = _modules(repository, objects, tree) if links else {}
        for path, oid in links.items():
            self._submodule(repository.url, path, modules.get(path), oid, prefix, depth)
        return commit

    def _submodule(
        self, base: str, path: str, written: str | None, oid: str, prefix: str, depth: int
    ) -> None:
        place = prefix + path
        self._add(place, Kind.DIRECTORY, 0o755)
        if not self.submodules:
            return
        hint = "write `submodules: no` for an empty directory there, and give the submodule as a "
        hint += f"source of its own: {{git: URL, commit: {oid}, directory: {place}}}"
        if written is None:
            reason = f"there is a submodule at {shown(place)!r}, and .gitmodules has no URL for it"
            raise IntegrityError(reason, place=self.name, hint=hint)
        try:
            url = submodule_url(base, written)
        except ValueError as error:
            reason = f"the submodule {shown(place)!r} cannot be fetched: {error}"
            raise IntegrityError(reason, place=self.name, hint=hint) from None
        try:
            self.collect(url, GitRef(oid), f"{place}/", depth + 1)
        except PlaceFailed as error:
            reason = f"its submodule {shown(place)!r}, commit {oid} of {url}: {error.reason}"
            raise PlaceFailed(reason, hint) from error

    def _walk(self, objects: _Objects, tree: str, prefix: str) -> dict[str, str]:
        """Add what a tree holds; the gitlinks in it, by path below `prefix`."""
        links: dict[str, str] = {}
        if objects.check_count(tree) + len(self.nodes) > Budget().entries:
            raise _unfit(self.name, "it has too many files with its submodules")
        pending = [(tree, "")]
        while pending:
            oid, above = pending.pop()
            for item in objects.items(oid):
                path, child, mode = above + item.name, item.oid, item.mode
                match mode:
                    case "40000":
                        self._add(prefix + path, Kind.DIRECTORY, 0o755)
                        pending.append((child, f"{path}/"))
                    case "160000":
                        links[path] = child
                    case "120000":
                        target = os.fsdecode(objects.read(child, "blob"))
                        self._add(prefix + path, Kind.SYMLINK, 0o777, target)
                    case "100644" | "100664" | "100755":
                        entry = self._entry(prefix + path, Kind.FILE, int(mode[-3:], 8) & 0o755)
                        self.nodes.append(_Node(entry, objects, child))
                    case _:
                        raise _unfit(self.name, f"{shown(prefix + path)!r} has the mode {mode}")
        return links

    def _entry(self, path: str, kind: Kind, mode: int, target: str = "") -> Entry:
        return Entry(path, kind, mode, self.time, target=target)

    def _add(self, path: str, kind: Kind, mode: int, target: str = "") -> None:
        self.nodes.append(_Node(self._entry(path, kind, mode, target)))

    def _write(self, writer: TarWriter) -> None:
        left = Budget().total_bytes
        for node in self.nodes:
            if node.objects is None:
                writer.add(node.entry)
                continue
            size, stream = node.objects.open(node.oid, "blob")
            left -= size
            if left < 0:
                raise _unfit(self.name, "it has more bytes than a source may")
            content: Window | BytesIO = Window(stream, size, self.name, node.entry.path)
            if size < _LARGEST_POINTER:
                content = BytesIO(content.read())
                if content.getvalue().startswith(_POINTER):
                    self.pointers.append(shown(node.entry.path))
            writer.add_file(replace(node.entry, size=size), content)
            stream.read(1)
        writer.finish()


def _unfit(name: str, reason: str) -> IntegrityError:
    hint = "look at it with `git fsck`; take upstream's release archive instead"
    return IntegrityError(f"the commit cannot be used: {reason}", place=name, hint=hint)


def _commit_facts(content: bytes, name: str) -> tuple[str, int]:
    """The tree of a commit, and its committer time in seconds since 1970."""
    facts: dict[str, str] = {}
    for line in content.partition(b"\n\n")[0].decode("utf-8", "replace").split("\n"):
        word, _, rest = line.partition(" ")
        facts.setdefault(word, rest)
    try:
        return facts["tree"], int(facts["committer"].rpartition("> ")[2].split(" ")[0])
    except (KeyError, ValueError):
        raise _unfit(name, "it has no tree or no committer") from None


def _tree_items(content: bytes, name: str) -> Iterator[_Item]:
    """What a tree object holds."""
    at = 0
    while at < len(content):
        blank = content.find(b" ", at)
        end = content.find(b"\0", blank)
        oid = content[end + 1 : end + 21]
        if blank < 0 or end < 0 or len(oid) != 20:
            raise _unfit(name, "a tree of it is damaged")
        path = os.fsdecode(content[blank + 1 : end])
        if path in ("", ".", "..") or "/" in path or path.lower() == ".git":
            raise _unfit(name, f"it has a file named {shown(path)!r}")
        mode = content[at:blank].decode("ascii", "replace").lstrip("0")  # old programs wrote 040000
        yield _Item(mode, path, oid.hex())
        at = end + 21


def _modules(repository: _Repository, objects: _Objects, tree: str) -> dict[str, str]:
    """The URLs of submodules by path, as a commit's `.gitmodules` has them."""
    listed = (one for one in objects.items(tree) if one.name == ".gitmodules")
    file = next((one.oid for one in listed if one.mode.startswith("100")), "")
    if not file:
        return {}
    asked = ("config", "--null", f"--blob={file}", "--get-regexp", r"^submodule\..*\.(path|url)$")
    try:
        told = repository.run(*asked).decode("utf-8", "surrogateescape")
    except PlaceFailed:
        return {}
    found: dict[str, dict[str, str]] = {}
    for pair in told.split("\0"):
        key, _, value = pair.partition("\n")
        module, _, word = key.rpartition(".")
        found.setdefault(module, {})[word] = value
    return {
        one["path"].rstrip("/"): one["url"]
        for one in found.values()
        if one.get("path") and one.get("url")
    }
