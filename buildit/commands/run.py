"""What one command is asked for, and what it opens, once: the store, the binhosts with the policy,
and what is downloaded."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.commands import stamp
from buildit.errors import BuilditError, FetchError, Interrupted
from buildit.events import Notice, Reporter
from buildit.model.config import Config
from buildit.remote.binhost.remotes import Remotes
from buildit.store.blobs import CorruptBlob
from buildit.store.cas import Store
from buildit.store.durable import Vanished
from buildit.trust.policy import Policy

if TYPE_CHECKING:
    from buildit.debian.archive import DebianArchive
    from buildit.remote.fetch import Fetcher
    from buildit.remote.transport import Transport


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of one container.

    `use` are flags for every package, `update` what may move although it is locked (`("*",)`:
    everything; `toolchain`, a package or a patch's URL), `jobs` 0 means as configured. `locked`
    refuses a lock that would change. `discover` names further places, and `push` publishes what was
    made.
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

    def question(self, verb: str) -> str:
        """The name of the stamp of this command."""
        return stamp.question(
            verb,
            os.path.abspath(self.directory),
            os.path.abspath(self.output),
            *self.use,
            "|",
            *self.update,
            str(self.locked),
        )

    def moves(self, *names: str) -> bool:
        """Whether what has one of these names may move although it is locked."""
        return "*" in self.update or any(name in self.update for name in names)


@dataclass(slots=True)
class Downloads:
    """Where sources, patches and .debs come from; opened on first use. `lists` are the mirror
    lists of the configuration, `binhosts` serves `binhost://` URLs. `offline` leaves only paths of
    this machine."""

    lists: Mapping[str, tuple[str, ...]]
    store: Store
    report: Reporter
    binhosts: Callable[[], Transport]
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
            ways = {"file": LocalTransport, "binhost": self.binhosts}
            self._transport = SchemeTransport(ways | {"https": web, "http": web})
        return self._transport

    def fetcher(self) -> Fetcher:
        from buildit.remote.fetch import Fetcher

        return Fetcher(
            sink=self.store,
            transport=self.transport(),
            partials=self.store.cache("partial"),
            mirrors=self.mirrors,
            reporter=self.report,
        )

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
        """Where the packages of a suite most likely are: the machine's own sources of it.

        A digest pins what is fetched, so who serves it is not checked here.
        """
        if self.offline:
            return ()
        sources = self.debian().sources
        return tuple(dict.fromkeys(one.uri for one in sources if one.suite == suite))

    def debian(self) -> DebianArchive:
        """Debian's archive as the machine's apt sources, or `mirrors: debian`, reach it."""
        if self.offline:
            hint = "run once without --offline; what is then in the store and the lock will do"
            raise FetchError("Debian's archive is needed, and --offline forbids it", hint=hint)
        if self._archive is None:
            from buildit.debian.archive import DebianArchive, archive_keys
            from buildit.debian.sources_list import AptSource, read_sources

            listed = self.lists.get("debian")
            if listed:
                suites = ("bookworm", "bookworm-updates", "bookworm-security")
                sources = tuple(
                    AptSource(uri.rstrip("/"), suite, ("main",))
                    for uri in listed
                    for suite in suites
                )
            else:
                found = read_sources()
                sources = found.usable
                for line in found.skipped:
                    self.report(Notice(f"apt source passed over: {line}"))
            if not sources:
                hint = "name one in .buildit-config.yaml: mirrors: {debian: [URL]}"
                raise FetchError("this machine has no apt source that can be Debian's", hint=hint)
            self._archive = DebianArchive(
                sources=sources,
                transport=self.transport(),
                cache=self.store.cache("debian"),
                keys=archive_keys(),
                now=int(time.time()),
            )
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
    downloads = Downloads(config.mirrors, store, report, remotes.transport, offline)
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
                raise Vanished(
                    f"a part of the store was deleted while it was used ({error})",
                    place=str(config.store),
                    hint="run the same command again: what is missing is made anew",
                ) from error
            raise
