"""The binhosts of one run: opened when they are first needed, each host that fails told of once."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.errors import StoreError
from buildit.events import Event, Notice, Reporter
from buildit.model.config import Address, Directory, Https, Oci, Repository, Ssh
from buildit.store.cas import Store
from buildit.store.disk import FORMAT_FILE
from buildit.trust.policy import Policy

if TYPE_CHECKING:  # all this is imported when the first binhost is asked: a seam of its own
    from buildit.remote.binhost.binhost import Binhost
    from buildit.remote.binhost.protocols import Remote
    from buildit.remote.transport import Circuit, LocationError, Response, Transport

CONNECT = 3.0
"""Seconds that a dead binhost may cost a run."""
AT_ONCE = 8
"""Blobs that are taken from a web server at one time."""
ANSWER = 10.0
"""Seconds that one may cost which takes connections and never answers."""
STORED = 300.0
"""Seconds that a registry may take to answer that it has what was sent."""


@dataclass(slots=True)
class Remotes:
    """Where packages are taken from and published to, in the order of the configuration; `policy`
    judges what is taken. `offline` leaves only directories of this machine."""

    configured: Sequence[Repository]
    policy: Policy
    store: Store
    report: Reporter
    offline: bool = False
    _circuits: dict[str, Circuit] = field(default_factory=dict)
    _binhosts: dict[str, Binhost] = field(default_factory=dict)
    _transports: dict[type[Address] | Oci, Transport] = field(default_factory=dict)
    _told: set[Notice] = field(default_factory=set)

    def repositories(self) -> Iterator[Repository]:
        """Those that can be asked: not those that failed before."""
        for one in self.configured:
            local = isinstance(one.download, Directory)
            if one.download is None or (self.offline and not local):
                continue
            if local and not os.path.isdir(str(one.download)):
                continue
            circuit = self._circuits.get(one.name)
            if circuit is None or circuit.broken is None:
                yield one

    def binhosts(self) -> Iterator[Binhost]:
        """The binhosts to ask, judged by what the configuration says of each.

        Raises:
            RecipeError: an allowed-signers file cannot be read.
            UsageError: the signing key cannot be used.
        """
        for one in self.repositories():
            if one.name not in self._binhosts:
                self._binhosts[one.name] = self._binhost(one)
            yield self._binhosts[one.name]

    def _binhost(self, one: Repository) -> Binhost:
        assert one.download is not None  # noqa: S101 - `repositories` leaves those out
        builders = self.policy.builders(one.name, unsigned=one.unsigned)
        if not builders and not isinstance(one.download, Directory):
            hint = "`buildit trust add BUILDER.pub`, and `buildit why` says who signed"
            said = f"'{one.name}' is not asked: nobody's builds are trusted: {hint}"
            self.report(Notice(said, warning=True))
        from buildit.remote.binhost.binhost import Binhost

        accept = self.policy.accepting(one.name)
        remote = self._readable(one, one.download)
        return Binhost(one.name, remote, accept, builders, one.unsigned, self._once)

    def _readable(self, one: Repository, address: Address) -> Remote:
        from buildit.remote.binhost.directory import DirectoryRemote, ReadOnly

        if isinstance(address, Directory):
            return DirectoryRemote(address, self.circuit(one), self._once)
        if isinstance(address, Oci):
            from buildit.remote.binhost.registry import RegistryRemote, RegistryTransport

            reading = self._transport(address)
            assert isinstance(reading, RegistryTransport)  # noqa: S101 - for mypy
            return RegistryRemote(reading, self.circuit(one), self._once)
        jobs = AT_ONCE if isinstance(address, Https) else 1
        return ReadOnly(address, self.circuit(one), self._once, jobs)

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

    def circuit(self, one: Repository) -> Circuit:
        """The way to a repository, watched over."""
        if one.name not in self._circuits:
            from buildit.remote.transport import Circuit

            def tell(what: str, error: LocationError) -> None:
                hint = f"; {error.hint}" if error.hint else ""
                said = f"'{one.name}' {what}: {error.reason} ({error.place}){hint}"
                self.report(Notice(said, warning=True))

            assert one.download is not None  # noqa: S101 - `repositories` leaves those out
            left_out, refuses = (
                partial(tell, "is left out"),
                partial(tell, "refuses what it may lack"),
            )
            way, root = self._transport(one.download), one.download.url(FORMAT_FILE)
            self._circuits[one.name] = Circuit(way, left_out, root=root, warn=refuses)
        return self._circuits[one.name]

    def _transport(self, address: Address) -> Transport:
        """One per kind of address, or per repository of a registry: connections are kept between
        requests."""
        kind = address if isinstance(address, Oci) else type(address)
        if kind not in self._transports:
            self._transports[kind] = _transport_to(kind)
        return self._transports[kind]

    @contextmanager
    def publishing(self, one: Repository) -> Iterator[Remote]:
        """The place that a repository is published to.

        Raises:
            FetchError: it cannot be reached, or refuses.
            StoreError: it is a directory that cannot be written.
        """
        from buildit.remote.binhost.directory import DirectoryRemote, ReadOnly

        address = one.upload
        assert address is not None  # noqa: S101 - the caller chose one that has an address
        transport = self._transport(address)
        if isinstance(address, Directory):
            with closing(DirectoryRemote(address, transport, self.report)) as directory:
                try:
                    yield directory
                except StoreError as error:
                    raise _of_binhost(error, one.name, address.path) from error
        elif isinstance(address, Ssh):
            from buildit.remote.binhost.ssh import SshRemote
            from buildit.remote.sftp.login import SftpTransport

            assert isinstance(transport, SftpTransport)  # noqa: S101 - for mypy
            with self._token(str(address)) as token:
                there = SshRemote(address, transport, token, self.report)
                there.prepare()
                yield there
        elif isinstance(address, Oci):
            from buildit.remote.binhost.registry import RegistryRemote, registry_transport

            with closing(registry_transport(address, CONNECT, STORED)) as reading:
                pushed = RegistryRemote(reading, reading, self.report)
                pushed.prepare()
                yield pushed
        else:
            yield ReadOnly(address, transport, self.report, jobs=1)

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
    remotes: Remotes

    def get(self, url: str, offset: int, cap: int) -> AbstractContextManager[Response]:
        from buildit.remote.fetch import BINHOST_SCHEME
        from buildit.remote.transport import LocationError

        name, _, path = url.removeprefix(BINHOST_SCHEME).partition("/")
        for one in self.remotes.repositories():
            if one.name == name and one.download is not None:
                return self.remotes.circuit(one).get(one.download.url(path), offset, cap)
        raise LocationError(url, "the binhost is not asked any more", absent=True)

    def close(self) -> None:
        """The remotes close what they opened."""


def _transport_to(kind: type[Address] | Oci) -> Transport:
    if isinstance(kind, Oci):
        from buildit.remote.binhost.registry import registry_transport

        return registry_transport(kind, CONNECT, ANSWER)
    if kind is Https:
        from buildit.remote.transport import WebLimits
        from buildit.remote.web import WebTransport

        return WebTransport(WebLimits(connect=CONNECT, headers=ANSWER))
    if kind is Ssh:
        from buildit.remote.sftp.login import SftpTransport

        return SftpTransport()
    from buildit.remote.transport import LocalTransport

    return LocalTransport(follow=False)


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


def _of_binhost(error: StoreError, name: str, directory: str) -> StoreError:
    """An error of the directory that is published to, called what it is; others stay."""
    place = error.place or ""
    root = os.path.realpath(directory)
    if not (place == root or place.startswith((f"{root}/", directory.rstrip("/") + "/"))):
        return error
    reason = error.message.replace("the store", f"the binhost '{name}'")
    hint = f"look at the free space, the mode and the mount of {directory}, then push again"
    return StoreError(reason, place=place, hint=hint, details=error.details)
