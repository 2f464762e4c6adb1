"""The binhosts of one run: opened when they are first needed, each host that fails told of once."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.errors import StoreError
from buildit.events import Event, Notice, Reporter
from buildit.model.config import Repository, Trust
from buildit.store.attest import LOCAL
from buildit.store.cas import Store

if TYPE_CHECKING:
    from buildit.remote.binhost.binhost import Accept, Binhost
    from buildit.remote.binhost.circuit import Circuit
    from buildit.remote.binhost.publishing import Publisher
    from buildit.remote.transport import LocationError, Response, Transport

CONNECT = 3.0
"""Seconds that a dead binhost may cost a run."""
ANSWER = 10.0
"""Seconds that one may cost which takes connections and never answers."""


@dataclass(slots=True)
class Hosts:
    """Where packages are taken from, in the order of the configuration.

    `offline` leaves only directories of this machine.
    """

    configured: Sequence[Repository]
    trust: Trust
    store: Store
    report: Reporter
    offline: bool = False
    _circuits: dict[str, Circuit] = field(default_factory=dict)
    _builders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _transports: dict[str, Transport] = field(default_factory=dict)
    _told: set[Notice] = field(default_factory=set)

    def repositories(self) -> Iterator[Repository]:
        """Those that can be asked: not those that failed before."""
        for one in self.configured:
            local = one.download.startswith("/")
            if not one.download or (self.offline and not local):
                continue
            if local and not os.path.isdir(one.download):
                continue
            circuit = self._circuits.get(one.name)
            if circuit is None or circuit.broken is None:
                yield one

    def opened(self, accepting: Callable[[str], Accept]) -> Iterator[Binhost]:
        """The binhosts to ask; `accepting` gives the policy for one by its repository's name.

        Raises:
            RecipeError: an allowed-signers file cannot be read.
            UsageError: the signing key cannot be used.
        """
        for one in self.repositories():
            yield self._binhost(one, accepting(one.name))

    def _binhost(self, one: Repository, accept: Accept) -> Binhost:
        from buildit.remote.binhost.binhost import Binhost

        return Binhost(
            name=one.name,
            base=one.download,
            transport=self.circuit(one),
            accept=accept,
            builders=self._known_builders(one),
            unsigned=one.unsigned,
            report=self._once,
            jobs=1 if one.download.startswith(("/", "ssh:")) else 8,
        )

    def _once(self, event: Event) -> None:
        """Report, but tell of each refusal once in a run, however often the key is asked for."""
        if isinstance(event, Notice):
            if event in self._told:
                return
            self._told.add(event)
        self.report(event)

    def transport(self) -> Transport:
        """Serves `binhost://NAME/path`: anything below a binhost's root."""
        return _ByName(self)

    def _known_builders(self, one: Repository) -> tuple[str, ...]:
        """Whose statements are asked for by name: one's own, then those of the list."""
        if one.name not in self._builders:
            from buildit.trust.signing import own_key, signers_of
            from buildit.trust.sshsig import builder_name

            own = own_key(self.trust.keys)
            keys = [] if own is None else [own.public]
            listed = self.trust.signers_for(one.name)
            if listed:
                keys += [line.public for line in signers_of(Path(listed))]
            names = [*map(builder_name, keys), *([LOCAL] if one.unsigned else [])]
            self._builders[one.name] = tuple(dict.fromkeys(names))
            if not names and not one.download.startswith("/"):
                self.report(
                    Notice(
                        f"'{one.name}' is not asked: nobody's builds are trusted: "
                        "`buildit trust add BUILDER.pub`, and `buildit why` says who signed",
                        warning=True,
                    )
                )
        return self._builders[one.name]

    def circuit(self, one: Repository) -> Circuit:
        """The way to a repository, watched over."""
        if one.name not in self._circuits:
            from buildit.remote.binhost.circuit import Circuit

            def tell(error: LocationError) -> None:
                hint = f"; {error.hint}" if error.hint else ""
                self.report(
                    Notice(f"'{one.name}' is left out: {error.reason} ({error.place}){hint}", True)
                )

            inner = self._transport(one.download.partition(":")[0])
            self._circuits[one.name] = Circuit(inner, tell)
        return self._circuits[one.name]

    def _transport(self, scheme: str) -> Transport:
        """One per scheme: connections are kept between requests."""
        if scheme not in self._transports:
            if scheme in ("https", "http"):
                from buildit.remote.http.web import Limits, WebTransport

                self._transports[scheme] = WebTransport(Limits(connect=CONNECT, headers=ANSWER))
            elif scheme == "ssh":
                from buildit.remote.sftp.transport import SftpTransport

                self._transports[scheme] = SftpTransport()
            else:
                from buildit.remote.transport import LocalTransport

                self._transports[scheme] = LocalTransport(follow=False)
        return self._transports[scheme]

    @contextmanager
    def publisher(self, one: Repository) -> Iterator[Publisher]:
        """The place that a repository is published to.

        Raises:
            FetchError: it cannot be reached, or refuses.
            StoreError: it is a directory that cannot be written.
        """
        if not one.upload.startswith("ssh://"):
            from buildit.remote.binhost.publishing import FilePublisher

            with closing(FilePublisher(Path(one.upload))) as publisher:
                try:
                    yield publisher
                except StoreError as error:
                    raise _of_binhost(error, one) from error
            return
        from buildit.remote.binhost.ssh_publisher import SshPublisher
        from buildit.remote.sftp.ssh_account import parse_account
        from buildit.remote.sftp.transport import SftpTransport

        transport = self._transport("ssh")
        assert isinstance(transport, SftpTransport)  # noqa: S101 - for mypy
        with self._token(one.upload) as token:
            made = SshPublisher(parse_account(one.upload), transport, self.store, token)
            made.prepare()
            yield made

    @contextmanager
    def _token(self, address: str) -> Iterator[str]:
        """This store's part of temporary names there; another push to it is waited for.

        A copy of the store, on this machine or on another, has a part of its own.
        """
        words = (address, *_whereabouts(self.store.root))
        name = hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
        path = self.store.cache("uploads") / name
        with path.open("a+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            token = stream.read().strip()
            if not (token.isalnum() and len(token) == 16):
                token = os.urandom(8).hex()
                stream.truncate(0)
                stream.write(token)
                stream.flush()
            yield token

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()
        self._transports.clear()


@dataclass(frozen=True, slots=True)
class _ByName:
    hosts: Hosts

    def get(self, url: str, offset: int, cap: int) -> AbstractContextManager[Response]:
        from buildit.remote.fetch import BINHOST
        from buildit.remote.transport import LocationError

        name, _, path = url.removeprefix(BINHOST).partition("/")
        for one in self.hosts.repositories():
            if one.name == name:
                circuit = self.hosts.circuit(one)
                return circuit.get(f"{one.download.rstrip('/')}/{path}", offset, cap)
        raise LocationError(url, "the binhost is not asked any more", absent=True)

    def close(self) -> None:
        """The hosts close what they opened."""


def _whereabouts(root: Path) -> Iterator[str]:
    """What tells a store from its copies: `cp -a` gives another inode, a cloned disk is booted
    anew, and two containers of one image have mounts of their own."""
    status = root.stat()
    yield f"{status.st_dev}:{status.st_ino}"
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            yield Path(path).read_text("ascii", "replace").strip()
        except OSError:
            yield ""
    try:
        yield os.readlink("/proc/self/ns/mnt")
    except OSError:
        yield ""


def _of_binhost(error: StoreError, one: Repository) -> StoreError:
    """An error of the directory that is published to, called what it is; others stay."""
    place = error.place or ""
    root = os.path.realpath(one.upload)
    if not (place == root or place.startswith((f"{root}/", one.upload.rstrip("/") + "/"))):
        return error
    return StoreError(
        error.message.replace("the store", f"the binhost '{one.name}'"),
        place=place,
        hint=f"look at the free space, the mode and the mount of {one.upload}, then push again",
        details=error.details,
    )
