"""Publish a container: its packages and their inputs by digest, then its spec and its images.

Packages and inputs never change once they are there. Below `containers/` are views with names for
people; they are replaced, and a list of digests beside them says what need not be sent again.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildit.commands.registry import container_part, publish_container
from buildit.commands.run import RELEASE
from buildit.commands.statement import packages_about
from buildit.digest import BuildKey, Digest, canonical, digest_file
from buildit.errors import UsageError
from buildit.events import Notice, Reporter, Uploading
from buildit.files import is_beneath
from buildit.image.output import emitted_files
from buildit.make.makers import is_shared
from buildit.model.artifact import Artifact
from buildit.model.config import Directory, Oci, Repository
from buildit.model.image import Emission
from buildit.model.plan import ContainerPlan, Task
from buildit.plan.closure import TaskOf, closure, views_of
from buildit.remote.binhost.binhost import CODEC, Push
from buildit.remote.binhost.protocols import Remote
from buildit.remote.binhost.registry import RegistryRemote
from buildit.remote.binhost.remotes import Remotes
from buildit.site.catalogue import ENTRY_SUFFIX, container_entry, flags_of
from buildit.site.pages import PUBKEYS_FILE, refresh_pages, site_of
from buildit.store.artifacts import Found, examine, lookup
from buildit.store.attest import LOCAL
from buildit.store.names import index_bytes
from buildit.trust.openpgp import public_key
from buildit.trust.signers import own_key

_LIST_LIMIT = 16 << 20
_TICK = 0.1
KEY_WITHIN = 1 << 20
"""Bytes at the beginning of a file in which a private key is looked for."""
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )?PRIVATE KEY-----")
_SPEC = ("container.yaml", "buildit.lock", "container.libs", "pkgs", "patches")


@dataclass(frozen=True, slots=True)
class Published:
    """What one repository got: counts of artifacts, of blobs and of files that it did not have,
    and the bytes of all that was sent."""

    repository: str
    path: str
    artifacts: int
    blobs: int
    files: int = 0
    sent: int = 0


def publish(
    plan: ContainerPlan,
    node: TaskOf,
    remotes: Remotes,
    openpgp: str = "",
    emissions: Sequence[Emission] = (),
    steps: Sequence[BuildKey] = (),
) -> tuple[Published, ...]:
    """Publish what the plan's images are made of, what else of the plan is in the store, and the
    images, to every repository that can be published to. `node` gives the plan's nodes and the
    .debs of its toolchain; `openpgp` is the fingerprint of what signed the images; `steps` are the
    keys of layers that commands of the container left.

    Raises:
        UsageError: there is none, or the container is not built.
        FetchError: one cannot be reached, or refuses.
        IntegrityError: a blob of the store is corrupt; it was set aside.
        StoreError: a directory cannot be written.
    """
    places = targets(remotes)
    keys = (*built_keys(plan, node, remotes), *steps)
    done = []
    for one in places:
        with remotes.publishing(one) as remote:
            work = _Work(plan, node, keys, emissions, one, remote, remotes)
            blobs, sent = work.packages()
            progress = _Progress(one.name, "container spec and image(s)", remotes.report)
            if isinstance(remote, RegistryRemote):
                files, more = work.in_registry(remote, progress)
            else:
                files, more = work.images(progress)
                work.pages(openpgp)
            progress.end(more)
        done.append(Published(one.name, str(one.upload), len(keys), blobs, files, sent + more))
    return tuple(done)


def targets(remotes: Remotes) -> tuple[Repository, ...]:
    """The repositories that can be published to.

    Raises:
        UsageError: there is none.
    """
    configured = tuple(one for one in remotes.configured if one.upload is not None)
    local = tuple(one for one in configured if isinstance(one.upload, Directory))
    found = local if remotes.offline else configured
    if not found:
        offline = " offline" if remotes.offline else ""
        hint = "leave out --offline"
        if not configured:
            hint = "in .buildit-config.yaml: repository: {name: mine, upload-type: ssh, "
            hint += "upload-path: user@host/path}, or upload-type: file with a directory"
        what = "no repository of the configuration can be published to"
        raise UsageError(f"{what}{offline}", hint=hint)
    return found


def check_publishing(
    plan: ContainerPlan, remotes: Remotes, keys: Sequence[BuildKey] | None = None
) -> None:
    """Find out what keeps the container from being published, before any packaging of what is built
    under `keys`; without them before anything is built for it, and whether places can be reached.

    Raises:
        UsageError: there is nowhere to publish to, nothing to sign the user's own builds with where
            only signed ones are taken, or a secret in the container.
        FetchError: a place cannot be reached, or refuses.
        StoreError: a directory cannot be written.
    """
    if told := plan.unreleased():
        message = "what is built of this machine alone is for work, and is not published"
        raise UsageError(message, place=plan.directory, hint=RELEASE, details=told)
    for one in targets(remotes):
        check_secrets(plan, one)
        found = [examine(remotes.store, key) for key in keys or ()]
        own = [f for f in found if isinstance(f, Found) and f.builder == LOCAL and not f.origin]
        if (keys is None or own) and not one.unsigned and remotes.policy.signer().sign is None:
            message = f"what is built here is not signed, and '{one.name}' takes only what is"
            hint = "set `signing-key: ~/.ssh/id_ed25519` in .buildit-config.yaml; "
            raise UsageError(message, hint=f"{hint}`ssh-keygen -t ed25519` makes one")
        if keys is None:
            with remotes.publishing(one):
                pass  # it can be reached, and written


def check_secrets(plan: ContainerPlan, repository: Repository) -> None:
    """Refuse to publish a private key that the container copies into its images.

    Raises:
        UsageError: a file holds one, and the repository does not say that this is right.
    """
    if repository.secrets:
        return
    for path in _own_files(plan):
        with path.open("rb") as stream:
            if _PRIVATE_KEY.search(stream.read(KEY_WITHIN)):
                public = f"would be published to '{repository.name}' with the images"
                hint = "mount it where the container runs; or, where only friends can read "
                hint += "the binhost, write `secrets: yes` at the repository"
                name = os.path.relpath(path, plan.directory)
                message = f"{name} holds a private key, which {public}"
                raise UsageError(message, place=str(path), hint=hint)


def built_keys(plan: ContainerPlan, node: TaskOf, remotes: Remotes) -> tuple[BuildKey, ...]:
    """Members of the runtime closure, then tools and headers that the store has, each once.

    Raises:
        UsageError: the container is not built.
    """
    store, doubts = remotes.store, remotes.policy.doubts

    def at_hand(node: Task) -> Artifact:
        found = examine(store, node.key, believed=doubts)
        if isinstance(found, Found):
            return found.artifact
        if found.unread is not None:
            raise found.unread
        hint = f"build it first: buildit {plan.directory}"
        raise UsageError(f"{node.label} is not in the store", place=plan.directory, hint=hint)

    members = closure(plan.roots, node, at_hand, views_of((*plan.tasks, *plan.views))).members
    shared = (n for n in plan.tasks if is_shared(n))
    others = (n.key for n in shared if lookup(store, n.key, believed=doubts) is not None)
    return tuple(dict.fromkeys((*(key for key, _ in members), *others)))


def _inputs(plan: ContainerPlan) -> Iterator[Digest]:
    """What the lock pins, so that it stays buildable when mirrors drop it."""
    yield from plan.pinned
    yield from (deb.digest for deb in plan.toolchain.debs)
    for node in plan.tasks:
        yield from (source.digest for source in node.inputs.sources)
        yield from (patch.digest for patch in node.inputs.patches)
        yield from (deb.digest for deb in node.inputs.every_deb())


@dataclass(frozen=True, slots=True)
class _Work:
    """One container for one repository."""

    plan: ContainerPlan
    node: TaskOf
    keys: Sequence[BuildKey]
    emissions: Sequence[Emission]
    repository: Repository
    remote: Remote
    remotes: Remotes

    @property
    def place(self) -> str:
        """Where the container's spec lies; its list and its entry are beside it."""
        plan = self.plan
        return f"containers/{plan.name}/{plan.name}-{plan.version}-{plan.os}-{plan.arch}"

    def packages(self) -> tuple[int, int]:
        """Counts of the blobs and of the bytes that were sent."""
        remotes, name, policy = self.remotes, self.repository.name, self.remotes.policy
        progress = _Progress(name, "packages", remotes.report)
        push = Push(
            *(remotes.store, self.remote, policy.accepting(), self.repository.unsigned),
            policy.signer(),
            # layers lie plain in a directory of this machine
            compressed=not isinstance(self.remote.address, Directory),
            codec="gzip" if isinstance(self.remote.address, Oci) else CODEC,
            progress=progress,
            believed=policy.doubts,
        )
        done = push(self.keys, tuple(dict.fromkeys(_inputs(self.plan))))
        for path in done.differs:
            what = f"{path} differs from what was published before: the build is not reproducible"
            remotes.report(Notice(f"{name}: {what}", warning=True))
        progress.end(done.sent)
        return done.blobs, done.sent

    def in_registry(self, remote: RegistryRemote, progress: _Progress) -> tuple[int, int]:
        """As `images`, where a registry has the container beside its packages, and no pages."""
        plan = self.plan
        files = [(one, dict(image_files([one]))) for one in self.emissions]
        return publish_container(
            *(plan, remote.beside(container_part(plan.name)), dict(spec_files(plan)), files),
            *(own_key(self.remotes.policy.trust.keys), progress),
        )

    def images(self, progress: _Progress) -> tuple[int, int]:
        """Counts of the files and of the bytes that were sent."""
        plan, views, listed = self.plan, self.remote, f"{self.place}.json"
        files = {f"{self.place}/{name}": path for name, path in spec_files(plan)}
        folder = f"containers/{plan.name}"
        files |= {f"{folder}/{name}": path for name, path in image_files(self.emissions)}
        facts = {
            name: {"sha256": digest_file(path), "size": path.stat().st_size}
            for name, path in sorted(files.items())
        }
        known = _known(views.read([listed], _LIST_LIMIT)[0])
        new = {name: path for name, path in files.items() if known.get(name) != facts[name]}
        total, sent = sum(path.stat().st_size for path in new.values()), 0
        for name, path in new.items():
            views.write(name, path)
            sent += path.stat().st_size
            progress(sent, total)
        keys = frozenset(self.keys)
        content = {
            "about": packages_about(task for task in plan.tasks if task.key in keys),
            "arch": plan.arch,
            "author": plan.author,
            "files": facts,
            "name": plan.name,
            "os": plan.os,
            "packages": sorted(keys),
            "version": plan.version,
        }
        self._view(listed, canonical(content))
        return len(new), sent

    def pages(self, openpgp: str) -> None:
        """The entry of the container, the OpenPGP key, and then what people and discovery read."""
        plan, emissions = self.plan, self.emissions
        made = container_entry(plan, self.node, self.remotes.store, emissions, flags_of(plan))
        self._view(f"{self.place}{ENTRY_SUFFIX}", index_bytes(made))
        if openpgp and emissions:
            self._view(PUBKEYS_FILE, public_key(openpgp))
        names = {node.name for node in plan.tasks}
        refresh_pages(self.remote, site_of(self.repository), names)

    def _view(self, name: str, content: bytes) -> None:
        if self.remote.read([name], _LIST_LIMIT)[0] != content:
            self.remote.write(name, content)


@dataclass(slots=True)
class _Progress:
    repository: str
    what: str
    report: Reporter
    _last: float = 0.0

    def __call__(self, sent: int, total: int) -> None:
        if time.monotonic() - self._last >= _TICK:
            self._last = time.monotonic()
            self.report(Uploading(self.repository, self.what, sent, total))

    def end(self, total: int) -> None:
        self.report(Uploading(self.repository, self.what, total, total, done=True))


def spec_files(plan: ContainerPlan) -> Iterator[tuple[str, Path]]:
    """The files that define a container, by their path in its directory: its own, the packages
    beside it, the lists that it includes, and what it copies into the image. Links are left out,
    and what lies outside of that directory."""
    root = Path(plan.directory)
    for path in _own_files(plan):
        if is_beneath(path, root):
            yield os.path.relpath(path, root), path


def _own_files(plan: ContainerPlan) -> Iterator[Path]:
    """The files of `spec_files`, with those that an included list copies from elsewhere."""
    root = Path(plan.directory)
    taken = (Path(step.root or root) / path for step in plan.takes for path in step.places)
    lists = map(Path, plan.lists)
    for place in dict.fromkeys((*(root / name for name in _SPEC), *lists, *taken)):
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (path for path in found if path.is_file() and not path.is_symlink())


def image_files(emissions: Sequence[Emission]) -> Iterator[tuple[str, Path]]:
    """The files of the images and of their signatures, by their path in the output directory."""
    for emission in emissions:
        path = emission.path
        beside = path.with_name(f"{path.name}.asc")
        for one in (*emitted_files(path), beside):
            if one.is_file() and not one.is_symlink():
                yield str(one.relative_to(path.parent)), one


def _known(content: bytes | None) -> Mapping[str, object]:
    """The files that a list names; a list that cannot be read names none."""
    try:
        found = json.loads(content or b"{}")["files"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
