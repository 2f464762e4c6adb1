"""What one command is asked for and begins with: the store, the binhosts with the policy, what is
downloaded, the lock of its container, its plan, and what its sync steps take."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildit.codec import from_plain, to_plain
from buildit.commands import stamp
from buildit.commands.secrets import GivenSecrets
from buildit.commands.sync import Filler, Taken, dated, own_of, take
from buildit.digest import BuildKey, Digest
from buildit.errors import (
    BuilditError,
    FetchError,
    Interrupted,
    RecipeError,
    StoreError,
    UnsatisfiableError,
)
from buildit.events import Notice, Reporter
from buildit.files import replacing
from buildit.model.artifact import Artifact
from buildit.model.config import Config
from buildit.model.plan import ContainerPlan
from buildit.model.recipe import RecipeOptions
from buildit.plan.lock import Lock, Section, changes, format_lock, parse_lock
from buildit.recipe.yaml.node import read_text, shown_place
from buildit.remote.binhost.remotes import Remotes
from buildit.store.blobs import CorruptBlob
from buildit.store.cas import Store
from buildit.store.disk import BLOBS, Vanished
from buildit.trust.policy import Policy, unused

if TYPE_CHECKING:
    from buildit.debian.archive import DebianArchive
    from buildit.remote.fetch import Fetcher
    from buildit.remote.transport import Transport

LOCK_FILE = "buildit.lock"

RELEASE = (
    "name a release (`url:`) or a commit (`git:`) as its source in the place of `path:`; "
    "leave --cache-mounts out"
)
"""What helps where something is only for work."""

_LARGEST = 64 << 20
"""Bytes of a lock: a line of about 120 for each synced file."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of one container.

    `use` are flags for every package, `update` what may move although it is locked (`("*",)`:
    everything; `toolchain`, a package or a patch's URL), `jobs` 0 means as configured. `locked`
    refuses a lock that would change. `platform` is what is built for, the container's first without
    it. `discover` names further places, and `push` publishes what was
    made. `above` are the directories of the containers that begin with this one, if any. `secrets`
    are what `run` steps may ask for. `until` is the step that a build ends at, before any image.
    `rebuild` runs each `run` step once more, to compare. `recipe` is what is asked of the recipe.
    `cache_mounts` keeps caches of `run` steps, for work.
    """

    directory: Path
    output: Path = Path("out")
    use: tuple[str, ...] = ()
    update: tuple[str, ...] = ()
    jobs: int = 0
    locked: bool = False
    offline: bool = False
    discover: tuple[str, ...] = ()
    push: bool = False
    platform: str = ""
    above: tuple[str, ...] = ()
    secrets: GivenSecrets = field(default_factory=GivenSecrets)
    until: str = ""
    rebuild: bool = False
    recipe: RecipeOptions = field(default_factory=RecipeOptions)
    cache_mounts: bool = False

    def question(self, verb: str) -> str:
        """The name of the stamp of this command."""
        places = (os.path.abspath(self.directory), os.path.abspath(self.output))
        said = (str(self.locked), self.platform, *self.recipe.words())
        said += ("caches",) if self.cache_mounts else ()
        return stamp.question(verb, *places, *self.use, "|", *self.update, *said)

    def moves(self, *names: str) -> bool:
        """Whether what has one of these names may move although it is locked."""
        return "*" in self.update or any(name in self.update for name in names)


@dataclass(slots=True)
class Downloads:
    """Where sources, patches and .debs come from; opened on first use. `lists` are the mirror
    lists of the configuration, `remotes` its binhosts, `distfiles` directories that are asked
    first. `offline` leaves only paths of this machine."""

    lists: Mapping[str, tuple[str, ...]]
    store: Store
    report: Reporter
    remotes: Remotes
    distfiles: tuple[str, ...] = ()
    offline: bool = False
    _transport: Transport | None = None
    _archive: DebianArchive | None = None
    _bases: tuple[str, ...] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def transport(self) -> Transport:
        if self._transport is None:
            from buildit.remote.fetch import web_transport
            from buildit.remote.transport import ClosedTransport, LocalTransport, SchemeTransport

            web = ClosedTransport if self.offline else web_transport
            ways = {"file": LocalTransport, "binhost": self.remotes.transport}
            self._transport = SchemeTransport(ways | {"https": web, "http": web})
        return self._transport

    def fetcher(self) -> Fetcher:
        from buildit.remote.fetch import Fetcher

        partials = self.store.cache("partial")
        return Fetcher(self.store, self.transport(), partials, self.mirrors, self.report)

    def earlier(self, names: Iterable[str], digest: Digest) -> tuple[str, ...]:
        """Where to look first: files of `distfiles/` that have one of the names, then binhosts;
        one that lacks a blob costs one small question."""
        from buildit.remote.fetch import BINHOST_SCHEME

        hosts = self.remotes.repositories()
        places = (f"{BINHOST_SCHEME}{one.name}/blobs/sha256/{digest}" for one in hosts)
        return (*self.near(names), *places)

    def near(self, names: Iterable[str]) -> tuple[str, ...]:
        """The files of `distfiles/` that have one of the names."""
        places = [Path(one) / name for one in self.distfiles for name in names if name]
        return tuple(str(place) for place in places if place.is_file())

    def mirrors(self, name: str) -> tuple[str, ...]:
        """The base URLs of a mirror list; `debian` is built in: the machine's own apt sources.

        Raises:
            RecipeError: no such list.
            FetchError: the machine has no source of Debian's.
        """
        from buildit.remote.fetch import listed_mirrors

        lists = self.lists
        if self.offline:
            return ()
        if name == "debian" and name not in lists:
            with self._lock:
                if self._bases is None:
                    self._bases = self.debian().bases()
            return self._bases
        return listed_mirrors({"debian": (), **lists})(name)

    def suite_bases(self, suite: str) -> tuple[str, ...]:
        """Where the packages of a suite most likely are.

        A digest pins what is fetched, so who serves it is not checked here.
        """
        from buildit.debian.archive import likely_bases

        return () if self.offline else likely_bases(self.debian().sources, suite)

    def debian(self) -> DebianArchive:
        """Debian's archive as the machine's apt sources, or `mirrors: debian`, reach it."""
        if self.offline:
            hint = "run once without --offline; what is then in the store and the lock will do"
            raise FetchError("Debian's archive is needed, and --offline forbids it", hint=hint)
        if self._archive is None:
            from buildit.debian.apt import AptSource, read_sources
            from buildit.debian.archive import DebianArchive, archive_keys

            listed = self.lists.get("debian")
            if listed:
                suites = ("bookworm", "bookworm-updates", "bookworm-security")
                each = ((uri.rstrip("/"), suite) for uri in listed for suite in suites)
                sources = tuple(AptSource(uri, suite, ("main",)) for uri, suite in each)
            else:
                found = read_sources()
                sources = found.usable
                for line in found.skipped:
                    self.report(Notice(f"apt source passed over: {line}"))
            if not sources:
                hint = "name one in .buildit-config.yaml: mirrors: {debian: [URL]}"
                raise FetchError("this machine has no apt source that can be Debian's", hint=hint)
            cache, now = self.store.cache("debian"), int(time.time())
            self._archive = DebianArchive(sources, self.transport(), cache, archive_keys(), now)
        return self._archive

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(frozen=True, slots=True)
class Run:
    """What one command opened, once: each part is handed on by itself to what needs it."""

    config: Config
    store: Store
    remotes: Remotes
    downloads: Downloads


@contextmanager
def opened_run(
    config: Config, store: Store, report: Reporter, *, offline: bool = False
) -> Iterator[Run]:
    """The parts of a run; nothing is asked for yet. `offline` leaves only paths of this machine."""
    policy = Policy(config.trust, store, report)
    remotes = Remotes(config.repositories, policy, store, report, offline)
    downloads = Downloads(config.mirrors, store, report, remotes, config.distfiles, offline)
    try:
        yield Run(config, store, remotes, downloads)
    finally:
        downloads.close()
        remotes.close()


@contextmanager
def opened(config: Config, options: Options, report: Reporter) -> Iterator[Run]:
    """The store of a command, and what reaches other machines."""
    with Store.open(config.store) as store:
        store.tell = lambda text: report(Notice(text, warning=True))
        try:
            with opened_run(config, store, report, offline=options.offline) as run:
                yield run
        except (BuilditError, OSError) as error:
            known = isinstance(error, Interrupted | CorruptBlob | Vanished)
            if not known and store.lost():
                message = f"a part of the store was deleted while it was used ({error})"
                hint = "run the same command again: what is missing is made anew"
                raise Vanished(message, place=str(config.store), hint=hint) from error
            raise


# -- the lock


@dataclass(frozen=True, slots=True)
class Pins:
    """The lock of a container, and the section of its platform, and stage, as it would be now."""

    lock: Lock
    section: Section
    platform: str

    def moved(self) -> tuple[str, ...]:
        """What would change in the lock, in words."""
        return changes(self.lock.section(self.platform), self.section)

    def changed(self) -> Lock:
        return self.lock.with_section(self.platform, self.section)

    def with_outputs(self, done: Mapping[BuildKey, Artifact]) -> Pins:
        """With the diff_ids of the packages that are at hand."""
        outputs = {**self.section.outputs, **self._at_hand(done)}
        return replace(self, section=replace(self.section, outputs=outputs))

    def differing(self, done: Mapping[BuildKey, Artifact]) -> tuple[str, ...]:
        """Outputs that are not the bytes that the lock has for the same key, in words."""
        locked = self.section.outputs
        return tuple(
            f"{name[0]} ({name[1]}): locked sha256:{locked[name]}, at hand sha256:{diff_id}"
            for name, diff_id in sorted(self._at_hand(done).items())
            if locked.get(name, diff_id) != diff_id
        )

    def _at_hand(self, done: Mapping[BuildKey, Artifact]) -> dict[tuple[str, str], Digest]:
        """The diff_ids of the packages that are at hand, by package and output."""
        return {
            (package.name, name): output.diff_id
            for package in self.section.packages
            if package.key in done
            for name, output in done[package.key].outputs.items()
        }


def read_lock(directory: Path) -> Lock:
    """The lock beside a container, empty where there is none.

    Raises:
        RecipeError: it is no lock of this format.
    """
    path = directory / LOCK_FILE
    if not os.path.lexists(path):
        return Lock()
    shown = shown_place(path)
    return parse_lock(read_text(path, shown, _LARGEST), shown)


def write_lock(directory: Path, lock: Lock) -> None:
    """Replace the lock beside a container, where its text changes.

    Raises:
        StoreError: it cannot be written.
    """
    path = directory / LOCK_FILE
    text = format_lock(lock)
    with suppress(OSError, UnicodeDecodeError):
        if path.read_text("utf-8") == text:
            return
    try:
        with replacing(path, sync=True) as stream:
            stream.write(text.encode())
    except OSError as error:
        message = f"the lock cannot be written: {error.strerror}"
        hint = "make the container's directory writable, or build a copy of it"
        raise StoreError(message, place=str(path), hint=hint) from error


_WRITING = threading.Lock()


def write_sections(directory: Path, sections: Mapping[str, Section], known: Lock) -> None:
    """Replace sections of the lock beside a container, which other stages may write just now;
    `known` is the lock where it cannot be read.

    Raises:
        StoreError: it cannot be written.
    """
    with _WRITING:
        lock = known
        with suppress(RecipeError):
            lock = read_lock(directory)
        for name, section in sections.items():
            lock = lock.with_section(name, section)
        write_lock(directory, lock)


# -- the plan


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with what the back half needs; `fresh` where no stamp gave it.

    `pins` are the lock before and after. `rows` are the files that planning read as they were right
    after it, without the lock; empty where one of them changed meanwhile, and nothing may be kept.
    `taken` is what the sync steps take, in their order, after `with_synced`.
    """

    options: Options
    plan: ContainerPlan
    settings: Config
    pins: Pins
    fresh: bool = False
    rows: tuple[list[Any], ...] = ()
    taken: tuple[Taken, ...] = ()

    @property
    def lock_path(self) -> Path:
        return self.options.directory / LOCK_FILE

    def with_synced(self) -> Prepared:
        """With what the sync steps take, every file read once, and the lock that dates it.

        A file that the lock does not have has the time of now. Nothing is written.

        Raises:
            RecipeError: something cannot be synced.
        """
        plan, pins = self.plan, self.pins
        steps = plan.takes
        if not steps and not pins.section.synced:
            return self
        project, output = Path(plan.directory), self.options.output
        fills = [None if step.names is None else _filling(plan, step.names) for step in steps]
        asked = zip(steps, fills, strict=True)
        found = [take(project, step, own_of(plan, output, step), fill) for step, fill in asked]
        pinned = pins.lock.synced(pins.platform)
        taken, times = dated(found, {**pinned, **pins.section.synced}, int(time.time()))
        pins = replace(pins, section=replace(pins.section, synced=times))
        return replace(self, pins=pins, taken=taken)

    def keep_plan(self) -> None:
        """Leave a stamp, so that the next run need not plan while no file changes."""
        if self.rows:
            rows = [*self.rows, *stamp.record([self.lock_path])]
            result = {"plan": to_plain(self.plan), "settings": self.settings.plain()}
            stamp.write(self.options.question("plan"), rows, result)


def _filling(plan: ContainerPlan, names: Mapping[str, str]) -> Filler:
    from buildit.commands.templated import filling

    return filling(names, plan.packages)


class Unbuilt(RecipeError):  # noqa: N818 - what it is
    """A container that another one begins with, or takes files of, is not built as its files and
    its lock say; `asked` is how it is to be. `others` are further ones."""

    def __init__(self, asked: Options, place: str, reason: str) -> None:
        stage = asked.recipe.stage
        what = f"stage {stage} of" if stage else "base container"
        message = f"the {what} {asked.directory} is not built: {reason}"
        command = f"buildit {asked.directory}{f' --target {stage}' if stage else ''}"
        super().__init__(message, place=place, hint=f"build it first: {command}")
        self.asked, self.reason = asked, reason
        self.others: tuple[Unbuilt, ...] = ()

    def every(self) -> tuple[Unbuilt, ...]:
        """It and the others."""
        return (self, *self.others)


@contextmanager
def of_stage(stage: str) -> Iterator[None]:
    """What fails in a stage names it. Raises BuilditError: as it came."""
    try:
        yield
    except BuilditError as error:
        if stage:
            error.details = (*error.details, f"in the stage {stage}")
        raise


@contextmanager
def run_of(prepared: Prepared, report: Reporter) -> Iterator[Run]:
    """The store of a command and what reaches other machines, with the places of `--discover`:
    these hold for one run and are never kept.

    Raises:
        UsageError: an option is wrong, or publishes where nothing can be published to.
    """
    options, config = prepared.options, prepared.settings
    if options.discover:
        from buildit.remote.discovery import with_discovered

        with opened(config, options, report) as run:
            transport = None if options.offline else run.downloads.transport()
            found = with_discovered(config.repositories, options.discover, transport, report)
            config = replace(config, repositories=found)
    with opened(config, options, report) as run:
        yield run


def prepared_each(
    options: Options,
    report: Reporter,
    planned: Callable[[Options, Reporter], Prepared] | None = None,
) -> Iterator[Prepared]:
    """The plans of a container for all of its platforms, or for the one that is asked for. Each is
    made when it is taken: write the lock of one before, so that the next agrees with it on
    whatever holds for all. `planned` makes them, `prepare` without it.

    Raises:
        BuilditError: as `prepare`.
    """
    make = planned or prepare
    first = make(options, report)
    yield first
    for platform in () if options.platform else first.plan.platforms[1:]:
        yield make(replace(options, platform=platform), report)


def prepare(options: Options, report: Reporter) -> Prepared:
    """The plan of a container: from the stamp where no file changed, else made anew.

    Raises:
        BuilditError: the user's files are wrong, or something could not be pinned.
    """
    kept = None if options.update else stamp.read(options.question("plan"))
    if kept is None:
        return _fresh(options, report)
    try:
        plan = from_plain(ContainerPlan, kept["plan"])
        settings = _settings(kept["settings"], options)
    except (KeyError, TypeError, ValueError):
        return _fresh(options, report)  # a stamp is a cache: a foreign one is a miss
    if not _has_inputs(plan, settings.store / BLOBS):
        return _fresh(options, report)
    before, name = read_lock(options.directory), options.recipe.section(plan.platform)
    pins = Pins(before, before.section(name), name)
    return Prepared(options, plan, settings, pins)


def _has_inputs(plan: ContainerPlan, blobs: Path) -> bool:
    """Whether the store still has the patches and files that planning read into it.

    They may have been collected, or set aside as corrupt, since; a fetched patch is fetched again.
    """
    return all(
        (blobs / blob).is_file()
        for node in plan.tasks
        for blob in {*node.inputs.blobs} - {patch.digest for patch in node.inputs.patches}
    ) and all((blobs / one.fetched.digest).is_file() for one in plan.takes if one.fetched)


def _settings(plain: dict[str, Any], options: Options) -> Config:
    settings = from_plain(Config, plain)
    options.secrets.over(settings.secrets)  # before any process is started
    agent = os.environ.get("SSH_AUTH_SOCK", "")
    trust = replace(settings.trust, keys=replace(settings.trust.keys, agent=agent))
    return replace(settings, jobs=options.jobs or settings.jobs, trust=trust)


def _fresh(options: Options, report: Reporter) -> Prepared:
    from buildit.commands.planning import make_plan
    from buildit.recipe.config import load_config

    started = time.time_ns()
    loaded = load_config(options.directory)
    settings = loaded.config
    options.secrets.over(settings.secrets)
    for remark in settings.remarks:
        report(Notice(remark, warning=True))
    with opened(settings, options, report) as run:
        made = make_plan(options, loaded, run.downloads)
    lock_file = options.directory / LOCK_FILE
    rows = stamp.record(path for path in made.consulted if path != lock_file)
    if any(stamp.changed_since(seen, started) for _, seen, _ in rows):
        rows = []  # something changed while it was read
    kept = _settings(settings.plain(), options)
    return Prepared(options, made.plan, kept, made.pins, fresh=True, rows=tuple(rows))


def lock(prepared: Prepared, report: Reporter) -> None:
    """Write the lock where it changed, or refuse under `--locked`.

    It says what the files say: flags of the command line hold for one run and are never written.

    Raises:
        UnsatisfiableError: `--locked`, and something would move; the details say what. Or a package
            is built from a directory of this machine.
        StoreError: the lock cannot be written.
    """
    options, pins = prepared.options, prepared.pins
    if options.locked and (told := prepared.plan.unreleased()):
        message = (
            "what is locked can be built again anywhere, and what this machine alone has cannot"
        )
        raise UnsatisfiableError(message, place=prepared.plan.directory, hint=RELEASE, details=told)
    lines = pins.moved()
    if lines and options.locked:
        place = str(prepared.lock_path)
        hint = "if that is right: `buildit lock`, then commit buildit.lock"
        raise UnsatisfiableError("the lock would change", place=place, hint=hint, details=lines)
    if options.use and lines:
        report(Notice("buildit.lock stays as it is: --use holds for this run"))
        return
    if pins.platform in pins.lock.sections:
        for line in lines:
            if not line.startswith("image stage:"):  # what moved it is said of the stage
                report(Notice(f"lock: {line}"))
    if options.locked or options.use:
        return
    write_sections(options.directory, {pins.platform: pins.section}, pins.lock)
    if not prepared.fresh and lines:  # only times of synced files: the plan is as it was
        stamp.renew(options.question("plan"), changed=[prepared.lock_path])


def check_rules(prepared: Prepared, report: Reporter) -> None:
    """Say, when a plan is new, which trust rules fit none of its packages.

    Raises:
        UsageError: one fits but for upper and lower case.
    """
    plan = prepared.plan
    names = [node.name for node in plan.tasks]
    names += [f"debian:{deb.name}" for deb in plan.toolchain.debs]
    found = unused(prepared.settings.trust.agreement, names)
    if found and prepared.fresh:
        rules = ", ".join(repr(glob) for glob in found)
        report(Notice(f"trust: no package of this container fits the rule {rules}"))
