"""Names in a registry: `oci://HOST[:PORT]/NAME[:TAG|@DIGEST]` (distribution-spec, "Pulling
manifests"; distribution's reference grammar)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from buildit.errors import UsageError
from buildit.model.config import OCI_HOST, OCI_NAME, OCI_SCHEME

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DOCKER_SCHEME = "docker://"
# Docker Hub: what people write, what they wrote once, who answers, whose name a login is kept under
# (distribution's reference package, splitDockerDomain; docker's registry package, IndexServer)
_HUB, _HUB_ONCE, _HUB_SERVER = "docker.io", "index.docker.io", "registry-1.docker.io"
_HUB_LOGIN, _HUB_OFFICIAL = f"https://{_HUB_ONCE}/v1/", "library/"


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository of a registry, and a tag or a digest (`sha256:…`) in it, or neither.

    `host` may have a port.
    """

    host: str
    name: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag, digest = self.tag and f":{self.tag}", self.digest and f"@{self.digest}"
        return f"{OCI_SCHEME}{self.host}/{self.name}{tag}{digest}"

    @property
    def served_by(self) -> str:
        """The host that answers for it."""
        return _HUB_SERVER if self.host == _HUB else self.host

    @property
    def login_names(self) -> tuple[str, ...]:
        """What clients keep a login of the host by, and ask their helpers for."""
        hub = (_HUB_LOGIN,) if self.host in (_HUB, _HUB_SERVER) else ()
        return (*hub, self.host)

    @property
    def target(self) -> str:
        """What a manifest is asked for by."""
        return self.digest or self.tag

    def by_digest(self, digest: str) -> Reference:
        return replace(self, tag="", digest=digest)


def parse_reference(text: str) -> Reference:
    """Read a reference, also as skopeo writes it: `docker://HOST/NAME`.

    Raises:
        UsageError: it is none, with what is wrong.
    """
    hint = "write oci://HOST/NAME:TAG, such as oci://registry.example.org/web/nginx:1.22.1"
    if text.startswith(DOCKER_SCHEME):
        text = OCI_SCHEME + text.removeprefix(DOCKER_SCHEME)
    if not text.startswith(OCI_SCHEME):
        raise UsageError("a registry is named by oci://", place=text, hint=hint)
    host, slash, rest = text.removeprefix(OCI_SCHEME).partition("/")
    if OCI_HOST.fullmatch(host) is None or not slash:
        raise UsageError(f"{host!r} is no host of a registry", place=text, hint=hint)
    rest, _, digest = rest.partition("@")
    name, colon, tag = rest.partition(":")
    if OCI_NAME.fullmatch(name) is None:
        allowed = "lower-case letters and digits, with . _ - between them, parts behind /"
        raise UsageError(f"{name!r} is no name of a registry: {allowed}", place=text, hint=hint)
    if colon and _TAG.fullmatch(tag) is None:
        allowed = "letters, digits and . _ -, at most 128"
        raise UsageError(f"{tag!r} is no tag: {allowed}", place=text, hint=hint)
    if digest and _DIGEST.fullmatch(digest) is None:
        raise UsageError(f"{digest!r} is no digest: sha256: and 64 digits", place=text, hint=hint)
    host = _HUB if host == _HUB_ONCE else host
    if host == _HUB and "/" not in name:
        name = _HUB_OFFICIAL + name
    return Reference(host, name, tag, digest)
