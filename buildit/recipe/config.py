"""`.buildit-config.yaml`: what a file may say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from buildit.model.packageglob import fits_some
from buildit.recipe.leaf import LeafError
from buildit.recipe.schema import (
    BY_KIND,
    MAPPING,
    SCALAR,
    SEQUENCE,
    Count,
    Duration,
    Flag,
    Line,
    Model,
    PackageName,
    Size,
    Url,
)

CONFIG_FILE = ".buildit-config.yaml"

Scheme = Literal["ssh", "https", "file", "oci"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A host may not begin with a dash: it is an argument of ssh (CVE-2023-51385).
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_PLACES = {
    "ssh": (rf"(?:[a-z_][a-z0-9_.-]*@)?{_HOST}/.*", "user@host/path"),
    "https": (rf"(?:https://)?{_HOST}(?:/[!-~]*)?", "host/path"),
    "oci": (rf"{_HOST}/[a-z0-9][a-z0-9._/-]*", "registry/name"),
    "file": (r"[^\n]+", "a directory"),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to a binhost. `path` is absolute where the scheme is `file`."""

    scheme: Scheme
    path: str


class RepositorySpec(Model):
    """A binhost: where artifacts and images are published, and where they are taken from."""

    name: Line
    """What messages call it."""
    upload_type: Scheme | None = None
    """How to publish to it: ssh, https, file or oci."""
    upload_path: Line | None = None
    """Where to publish: `user@host/path` is relative to the login directory, `user@host//path` is
    absolute; for `file` a directory, relative to this file."""
    download_type: Scheme | None = None
    """How to take from it: https, file, ssh or oci."""
    download_path: Line | None = None
    """Where to take from."""
    unsigned: Flag = False
    """Also publish and take what nobody signed; only between directories of this machine."""
    secrets: Flag = False
    """Also publish containers into which files with private keys are copied."""
    allowed_signers: Line | None = None
    """Whom to believe of what is taken from here, instead of `trust: {allowed-signers: …}`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise LeafError(f"{self.name!r} cannot name a repository", "use letters, digits . _ -")
        _check_endpoint("upload", self.upload_type, self.upload_path)
        _check_endpoint("download", self.download_type, self.download_path)
        kinds = {self.upload_type, self.download_type} - {None}
        if not kinds:
            hint = "write download-type and download-path, upload-type and upload-path, or all four"
            raise LeafError("a repository needs a way to it", hint)
        if self.unsigned and kinds != {"file"}:
            hint = "sign with `signing-key`, or publish to a directory"
            raise LeafError("unsigned is only possible where both types are file", hint)
        return self

    @property
    def upload(self) -> Endpoint | None:
        return _endpoint(self.upload_type, self.upload_path)

    @property
    def download(self) -> Endpoint | None:
        return _endpoint(self.download_type, self.download_path)


def _endpoint(scheme: Scheme | None, path: str | None) -> Endpoint | None:
    return Endpoint(scheme, path) if scheme is not None and path is not None else None


def _check_endpoint(way: str, scheme: Scheme | None, path: str | None) -> None:
    if scheme is None and path is None:
        return
    if scheme is None or path is None:
        missing = f"{way}-type" if scheme is None else f"{way}-path"
        raise LeafError(f"the key {missing!r} is missing", f"write both {way}-type and {way}-path")
    pattern, example = _PLACES[scheme]
    if not re.fullmatch(pattern, path):
        hint = "write the host and path only" if scheme != "file" else None
        raise LeafError(f"{way}-path: expected {example} for {scheme}, found {path!r}", hint)
    host, _, below = path.removeprefix("https://").partition("/")
    port = re.search(r":([0-9]+)$", host)
    if scheme != "file" and port is not None and not 0 < int(port[1]) < 1 << 16:
        raise LeafError(f"{way}-path: there is no port {port[1]}", "ports are 1 to 65535")
    if scheme != "file" and ".." in below.split("/"):
        raise LeafError(
            f"{way}-path: {path!r} has a part `..`", "write the path to the directory itself"
        )


class TrustRuleSpec(Model):
    """How many builders must agree on the packages that `match`."""

    match: Line
    """A glob over category/name, such as `dev-libs/*`. One that no name can fit is an error."""
    need: Count
    """Independent builders, one's own build included."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.need < 1:
            raise LeafError("need: expected at least 1, found 0", "one's own build counts as one")
        if not fits_some(self.match):
            raise LeafError(
                f"match: no package can be called {self.match!r}: the rule would guard nothing",
                "write a glob over category/name, such as `dev-libs/*`, or over `debian:name`; "
                "categories are lower case, and there are no {braces}",
            )
        return self


class TrustSpec(Model):
    """Whose statements are believed; without it only those of one's own key."""

    allowed_signers: Line | None = None
    """An OpenSSH allowed-signers file (ssh-keygen(1)), relative to this file."""
    packages: tuple[TrustRuleSpec, ...] = ()
    """The first rule that matches a package holds; without one, one builder is enough."""


class ConfigUseSpec(Model):
    """Flags, for all packages and for single ones."""

    flags: tuple[Line, ...] = ()
    """For every package that declares them: `ipv6`, `-selinux`, `tls=openssl`."""
    packages: dict[PackageName, tuple[Line, ...]] = Field(default_factory=dict)
    """For one package."""


class LimitsSpec(Model):
    """What a build may use before it is stopped."""

    memory: Size | None = None
    """Memory of all its processes, such as 4G."""
    processes: Count | None = None
    """Processes and threads at one time."""
    time: Duration | None = None
    """Time from start to end, such as 2h."""
    log: Size | None = None
    """Length of its log, such as 64M."""
    disk: Size | None = None
    """What it may write at all, such as 64G."""
    installed: Size | None = None
    """What it may install, holes in files counted, such as 4G."""
    files: Count | None = None
    """How many files and directories it may install."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in type(self).model_fields:
            if getattr(self, name) == 0:
                raise LeafError(f"{name}: a limit of 0 lets nothing run", "leave it out, or more")
        return self


def _check_mirrors(mirrors: Mapping[str, tuple[str, ...]]) -> None:
    for name, urls in mirrors.items():
        if not _NAME.fullmatch(name):
            raise LeafError(f"{name!r} cannot name a mirror list", "use letters, digits . _ -")
        if not urls:
            raise LeafError(f"the mirror list {name!r} is empty", "name a URL, or leave it out")


def _check_signing_keys(keys: tuple[str, ...]) -> None:
    for key in keys:
        if key.startswith("gpg:") and not re.fullmatch(r"gpg:[0-9A-Fa-f]{40,64}", key):
            raise LeafError(f"signing-key: {key!r} is no whole fingerprint", "run gpg -K")
        if key.startswith("agent") and not re.fullmatch(r"agent:SHA256:[A-Za-z0-9+/]{43}", key):
            raise LeafError(
                f"signing-key: {key!r} names no key", "run ssh-add -l for agent:SHA256:…"
            )
    openpgp = [key for key in keys if key.startswith("gpg:")]
    if max(len(openpgp), len(keys) - len(openpgp)) > 1:
        raise LeafError(
            "signing-key: more than one key of a kind", "name one SSH key, one gpg: key"
        )


class ConfigSpec(Model):
    """One `.buildit-config.yaml`."""

    repository: RepositorySpec | None = None
    """The binhost."""
    repositories: tuple[RepositorySpec, ...] | None = None
    """Several binhosts, asked in this order, instead of `repository`."""
    mirrors: dict[str, tuple[Url, ...]] = Field(default_factory=dict)
    """What `mirror://NAME/path` stands for: base URLs, tried in order. `debian` is built in."""
    trust: TrustSpec = TrustSpec()
    """Whose artifacts are believed."""
    signing_key: (
        Annotated[
            Annotated[Line, Tag(SCALAR)] | Annotated[tuple[Line, ...], Tag(SEQUENCE)], BY_KIND
        ]
        | None
    ) = None
    """An SSH private key (its path) or `agent:SHA256:…`, which signs what is published, and
    `gpg:FINGERPRINT`, which signs `.aci` files; one of them, or a list of both."""
    store: Line | None = None
    """The local store; ~/.cache/buildit without it."""
    use: Annotated[
        Annotated[tuple[Line, ...], Tag(SEQUENCE)] | Annotated[ConfigUseSpec, Tag(MAPPING)],
        BY_KIND,
    ] = ConfigUseSpec()
    """Flags: a list for all packages, or `flags` and `packages`."""
    jobs: Count | None = None
    """Packages built and files fetched at one time; the number of processors without it."""
    trees: tuple[Line, ...] | None = None
    """Directories that hold category/name/pkg.yaml, the first one first; relative to this file."""
    limits: LimitsSpec = LimitsSpec()
    """What one build may use."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.repository is not None and self.repositories is not None:
            raise LeafError("write either repository or repositories", "move all to repositories")
        names = [one.name for one in self.repositories or ()]
        for name in names:
            if names.count(name) > 1:
                raise LeafError(f"two repositories are named {name!r}", "give each its own name")
        if self.jobs == 0:
            raise LeafError("jobs: expected at least 1, found 0", "leave it out for all processors")
        _check_signing_keys(self.signing_keys)
        _check_mirrors(self.mirrors)
        return self

    @property
    def signing_keys(self) -> tuple[str, ...]:
        keys = self.signing_key
        return (keys,) if isinstance(keys, str) else keys or ()
