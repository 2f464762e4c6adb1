"""One repository of an OCI registry (distribution-spec 1.1): blobs, manifests, tags, referrers.

Credentials go to the configured host, and to the realm of tokens that it names where that is https
(or this machine, as the host is); never with a redirect to another host, which cannot ask for any
either. Plain HTTP is spoken to this machine alone.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import quote, urlencode, urlsplit

from buildit.digest import canonical, digest_bytes, oci_digest
from buildit.errors import BuilditError, IntegrityError
from buildit.remote.registry.login import Login, login_of
from buildit.remote.registry.reference import Reference
from buildit.remote.transport import LocationError, Response, is_loopback, parse_target, redirect

if TYPE_CHECKING:
    from buildit.image.formats.table import Document
    from buildit.remote.web import Reply

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER = "application/vnd.docker.distribution"
_ACCEPTED = (
    IMAGE_MANIFEST,
    IMAGE_INDEX,
    f"{_DOCKER}.manifest.v2+json",
    f"{_DOCKER}.manifest.list.v2+json",
)
LARGEST_MANIFEST = 4 << 20
"""Bytes; distribution-spec, "Pushing manifests": registries should take as many."""
_READ, _WRITE = "pull", "pull,push"
"""What a token is for, as its scope says (distribution's token specification)."""
_REDIRECTS = 5
_REDIRECTED = (301, 302, 303, 307, 308)
_PAGES, _LONGEST_LIST = 1000, 64 << 20
"""Where a list of tags or referrers ends in any case, in answers and in bytes."""
_MOST_ALSO = 8
_AMENDED = 5
"""How often a manifest is written again that others write, too."""
_NEXT = re.compile(r"<([^>]+)>;\s*rel=\"?next")
_CHALLENGE = re.compile(r"""([a-zA-Z]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))""")
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_MESSAGE")
"""What OpenSSL says where a server does not speak TLS at all."""


class Sender(Protocol):
    """What sends one request: `remote.web.WebTransport`."""

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None = None,
        cap: int = ...,
    ) -> Reply: ...

    def stream(
        self, url: str, headers: Mapping[str, str], offset: int, cap: int
    ) -> AbstractContextManager[Response | Reply]: ...


@dataclass(slots=True)
class Registry:
    """A repository at a reference. Thread-safe; `login` is asked for once, when the host wants one.
    `also` are other repositories of the host that blobs may be mounted from.

    Every method raises LocationError where the host cannot be talked to, refuses, or answers with
    what the specification does not have.
    """

    web: Sender
    at: Reference
    login: Callable[[Reference], Login | None] = lambda at: login_of(at, os.environ)
    also: frozenset[str] = frozenset()
    _base: str = ""
    _shown: dict[str, str] = field(default_factory=dict)
    """What the host has wanted to see, by what that is for."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # -- blobs

    def has_blob(self, digest: str) -> int | None:
        """The size of a blob in bytes, None where it is not there."""
        reply = self._ask("HEAD", f"blobs/{digest}", good=(200, 404))
        if reply.status == 404:
            return None
        length = reply.headers.get("content-length", "")
        if re.fullmatch("[0-9]{1,18}", length) is None:
            raise self._odd(f"it says no size of the blob {digest}")
        return int(length)

    def blob(self, digest: str, cap: int) -> bytes:
        """A small blob, compared with its name.

        Raises:
            IntegrityError: it has other bytes.
        """
        content = self._ask("GET", f"blobs/{digest}", cap=cap).content
        return self._compared(content, digest)

    def put_bytes(self, content: bytes, media_type: str) -> Document:
        """Bring a small blob there, unless it is; its descriptor."""
        digest = oci_digest(digest_bytes(content))
        if self.has_blob(digest) is None:
            self.put_blob(digest, len(content), partial(io.BytesIO, content))
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    @contextmanager
    def open_blob(self, digest: str, offset: int, cap: int) -> Iterator[Response]:
        """The bytes of a blob from `offset` on, at most `cap` in all; the caller compares them with
        the name."""
        target, asked = parse_target(f"{self._root()}/{self.at.name}/blobs/{digest}"), False
        for _ in range(_REDIRECTS + 3):
            self._allowed(target.url)
            before, shown = self._shown.get(_READ), self._login_for(target.url, _READ)
            with self.web.stream(target.url, shown, offset, cap) as answer:
                if isinstance(answer, Response):
                    yield answer
                    return
            if answer.status == 401 and not asked:
                asked = True
                self._log_in(self._ours(answer, target.url), _READ, before)
            elif answer.status == 416 and offset:
                offset = 0  # what we have is longer than the whole: start again
            elif answer.status in _REDIRECTED:
                target = redirect(target, answer.headers.get("location", ""))
            else:
                self._checked(self._ours(answer, target.url), "GET", ())
        raise self._odd(f"more than {_REDIRECTS} redirects")

    def put_blob(
        self, digest: str, size: int, opened: Callable[[], BinaryIO], mount_from: str = ""
    ) -> bool:
        """Bring a blob there, by a mount from another repository of the host where that has it;
        whether its bytes were sent."""
        query = {"mount": digest, "from": mount_from} if mount_from else {}
        begun = self._ask("POST", "blobs/uploads/", query, good=(201, 202))
        if begun.status == 201:
            return False
        place = begun.headers.get("location", "")
        if not place:
            raise self._odd("an upload has no location")
        asked = parse_target(f"{self._root()}/{self.at.name}/blobs/uploads/")
        url = redirect(asked, place, "leads").url
        joint = "&" if urlsplit(url).query else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}

        def sent() -> Reply:
            with opened() as stream:
                return self._sent(
                    "PUT", f"{url}{joint}{urlencode({'digest': digest})}", headers, stream
                )

        self._checked(self._authorized(sent, _WRITE), "PUT", (201,))
        return True

    # -- manifests

    def manifest(self, target: str, accept: Sequence[str] = _ACCEPTED) -> tuple[bytes, str] | None:
        """The bytes of a manifest and its media type, by tag or digest; None where there is none.

        Raises:
            IntegrityError: it is not of the digest that was asked for.
        """
        headers = {"Accept": ", ".join(accept)}
        path = f"manifests/{target}"
        reply = self._ask("GET", path, headers=headers, good=(200, 404), cap=LARGEST_MANIFEST)
        if reply.status == 404:
            return None
        if target.startswith("sha256:"):
            self._compared(reply.content, target)
        return reply.content, reply.headers.get("content-type", "").partition(";")[0]

    def put_manifest(self, content: bytes, media_type: str, target: str) -> bool:
        """Put a manifest under a tag or its digest; whether the registry keeps it with its subject.

        Raises:
            IntegrityError: the registry has stored other bytes.
        """
        reply = self._ask(
            "PUT",
            f"manifests/{target}",
            headers={"Content-Type": media_type},
            body=content,
            good=(201,),
        )
        digest = oci_digest(digest_bytes(content))
        stored = reply.headers.get("docker-content-digest", digest)
        if stored != digest:
            message = f"the registry stores the manifest {digest} as {stored}"
            hint = "it changes what it is given: ask whoever runs it"
            raise IntegrityError(message, place=str(self.at), hint=hint)
        return "oci-subject" in reply.headers

    def tags(self) -> list[str]:
        """All tags, sorted; none where there is no such repository."""
        found: list[str] = []
        for page in self._pages("tags/list", "n=1000"):
            more = page.get("tags") or []
            if not isinstance(more, list):
                raise self._odd("its list of tags is none")
            found += [str(one) for one in more]
        return sorted(set(found))

    # -- what speaks about a manifest (distribution-spec, "Listing Referrers")

    def referrers(self, digest: str) -> list[Document]:
        """The descriptors of what names a manifest as its subject, by the API, else by the tag that
        clients keep where there is none."""
        pages = list(self._pages(f"referrers/{digest}"))
        if not pages:
            kept = self.manifest(fallback_tag(digest), (IMAGE_INDEX,))
            pages = [] if kept is None else [self._object(kept[0])]
        return [one for page in pages for one in self._listed(page)]

    def add_referrer(self, content: bytes, subject: str) -> str:
        """Put a manifest with a subject, listed for clients where the registry does not do so; its
        digest."""
        document = json.loads(content)
        digest = oci_digest(digest_bytes(content))
        if self.put_manifest(content, IMAGE_MANIFEST, digest):
            return digest
        config = document.get("config", {}).get("mediaType", "")
        descriptor = {
            "mediaType": IMAGE_MANIFEST,
            "digest": digest,
            "size": len(content),
            "artifactType": document.get("artifactType") or config,
            **({"annotations": document["annotations"]} if document.get("annotations") else {}),
        }

        def listed(kept: Document | None) -> Document | None:
            others = [] if kept is None else self._listed(kept)
            if any(one.get("digest") == digest for one in others):
                return None
            manifests = [*others, descriptor]
            return {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": manifests}

        self.amend(fallback_tag(subject), IMAGE_INDEX, listed)
        return digest

    def amend(
        self, tag: str, media_type: str, change: Callable[[Document | None], Document | None]
    ) -> None:
        """Put what `change` makes of the manifest under a tag (None where there is none), until it
        makes None of it: somebody else may write at the same time, and a registry knows no locks.
        """
        for _ in range(_AMENDED):
            kept = self.manifest(tag, (media_type,))
            wanted = change(None if kept is None else self._object(kept[0]))
            if wanted is None:
                return
            content = canonical(wanted)
            if len(content) > LARGEST_MANIFEST:
                raise self._odd(f"its manifest {tag} is full")
            self.put_manifest(content, media_type, tag)
        reason = f"its manifest {tag} is written by others, too, and does not keep what is added"
        raise LocationError(str(self.at), reason, hint="try again in a moment", transient=True)

    def _listed(self, index: Document) -> list[Document]:
        manifests = index.get("manifests")
        if not isinstance(manifests, list):
            raise self._odd("a list of referrers is no index")
        return [one for one in manifests if isinstance(one, dict)]

    # -- requests

    def _pages(self, path: str, query: str = "") -> Iterator[Document]:
        """The pages of a list (distribution-spec, "Listing Tags"), of which a link names the next;
        none where the registry has no such list."""
        seen, whole = set[str](), 0
        for _ in range(_PAGES):
            asked = f"{path}?{query}" if query else path
            reply = self._ask("GET", asked, good=(200, 404), cap=LARGEST_MANIFEST)
            if reply.status == 404:
                return
            yield self._object(reply.content)
            whole += len(reply.content)
            following = _NEXT.match(reply.headers.get("link", ""))
            if following is None:
                return
            if whole > _LONGEST_LIST:
                break
            seen.add(query)
            query = urlsplit(following[1]).query
            if query in seen:
                raise self._odd(f"its list {path} leads back to itself")
        raise self._odd(f"its list {path} has no end")

    def _root(self) -> str:
        """`https://HOST/v2`; for this machine http, where it does not speak TLS."""
        with self._lock:
            if not self._base:
                self._base = self._reached()
        return self._base

    def _reached(self) -> str:
        secure = f"https://{self.at.served_by}/v2"
        if not is_loopback(parse_target(secure).host):
            return secure
        try:
            self.web.send("GET", f"{secure}/", {})
        except LocationError as error:
            if not any(word in error.reason.upper().replace(" ", "_") for word in _NO_TLS):
                raise
            return f"http://{self.at.host}/v2"
        return secure

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        good: Sequence[int] = (200,),
        cap: int = 1 << 20,
    ) -> Reply:
        url = f"{self._root()}/{self.at.name}/{path}"
        url += f"?{urlencode(query)}" if query else ""
        own = dict(headers or {})
        sent = partial(self._sent, method, url, own, body, cap)
        reply = self._authorized(sent, _needed(method))
        return self._checked(reply, method, good)

    def _sent(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None = None,
        cap: int = 1 << 20,
    ) -> Reply:
        """One request, and where it is redirected to: without our login on another host, so that a
        401 is of the configured one."""
        target = parse_target(url)
        for _ in range(_REDIRECTS + 1):
            self._allowed(target.url)
            known = self._login_for(target.url, _needed(method))
            reply = self.web.send(method, target.url, {**headers, **known}, body, cap)
            if reply.status not in _REDIRECTED or method not in ("GET", "HEAD"):
                return self._ours(reply, target.url)
            target = redirect(target, reply.headers.get("location", ""))
        raise self._odd(f"more than {_REDIRECTS} redirects")

    def _login_for(self, url: str, needs: str) -> dict[str, str]:
        """What is shown to a host: to no other than the configured one anything."""
        shown = self._shown.get(needs) or self._shown.get(_WRITE)
        return {"Authorization": shown} if shown and self._is_ours(url) else {}

    def _is_ours(self, url: str) -> bool:
        ours, asked = urlsplit(self._root()), urlsplit(url)
        return (ours.scheme, ours.netloc) == (asked.scheme, asked.netloc)

    def _ours(self, reply: Reply, url: str) -> Reply:
        """An answer; another host may not ask for the login, nor say to whom it is shown.

        Raises:
            LocationError: it does.
        """
        if reply.status != 401 or self._is_ours(url):
            return reply
        other = urlsplit(url).netloc
        reason = f"the registry leads to {other}, which wants a login; it is not shown to others"
        hint = f"ask whoever runs {self.at.host}; the link that it gives may have expired"
        raise LocationError(str(self.at), reason, hint=hint)

    def _allowed(self, url: str) -> None:
        """Raises LocationError where a URL of the registry's leads to plain HTTP, but for one of
        this machine on this machine."""
        parts = parse_target(url)
        if parts.scheme == "https":
            return
        here = is_loopback(parse_target(f"https://{self.at.host}/").host)
        if not (here and is_loopback(parts.host)):
            reason = f"leads to plain HTTP: {url}"
            raise LocationError(str(self.at), reason, hint="let it be served by https")

    def _authorized(self, send: Callable[[], Reply], needs: str) -> Reply:
        """What `send` gives, after a login where the host asks for one."""
        before = self._shown.get(needs)
        reply = send()
        if reply.status != 401:
            return reply
        self._log_in(reply, needs, before)
        return send()

    def _log_in(self, reply: Reply, needs: str, before: str | None) -> None:
        """Ask for what is to be shown, unless another thread has since `before` was refused."""
        with self._lock:
            if self._shown.get(needs) == before:
                challenge = reply.headers.get("www-authenticate", "")
                self._shown[needs] = self._authorize(challenge, needs)

    def _authorize(self, challenge: str, needs: str) -> str:
        """What the host wants to see (RFC 6750; distribution's token specification)."""
        scheme, _, rest = challenge.partition(" ")
        said = {name.lower(): quoted or plain for name, quoted, plain in _CHALLENGE.findall(rest)}
        login = self.login(self.at)
        if scheme.lower() == "basic":
            if login is None or not login.user:
                raise self._no_login()
            return login.basic()
        if scheme.lower() != "bearer" or "realm" not in said:
            raise self._odd(f"it asks for a login of a kind that is not known: {scheme[:40]!r}")
        realm = redirect(parse_target(self._root()), said["realm"], "leads").url
        self._allowed(realm)
        query = [(name, said[name]) for name in ("service", "scope") if name in said]
        wanted = f"repository:{self.at.name}:{needs}"
        query = [(n, wanted if n == "scope" else v) for n, v in query] or [("scope", wanted)]
        also = sorted(self.also)[:_MOST_ALSO] if needs == _WRITE else ()
        query += [("scope", f"repository:{name}:{_READ}") for name in also]
        if login is not None and not login.user:
            form = [("grant_type", "refresh_token"), ("refresh_token", login.secret), *query]
            form.append(("client_id", "buildit"))
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            reply = self.web.send("POST", realm, headers, urlencode(form).encode())
        else:
            headers = {} if login is None else {"Authorization": login.basic()}
            joint = "&" if urlsplit(realm).query else "?"
            url = f"{realm}{joint}{urlencode(query, quote_via=quote)}"
            reply = self.web.send("GET", url, headers)
        if reply.status in (401, 403):
            raise self._no_login() if login is None else self._refused(reply)
        self._checked(reply, "GET", (200,))
        found = self._object(reply.content)
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise self._odd("its realm gives no token")
        return f"Bearer {token}"

    # -- answers

    def _checked(self, reply: Reply, method: str, good: Sequence[int]) -> Reply:
        if reply.status in good:
            return reply
        if reply.status == 401 and not self._shown:
            raise self._no_login()
        if reply.status in (401, 403):
            raise self._refused(reply)
        said = "; ".join(self._errors(reply.content)) or f"HTTP {reply.status}"
        transient = reply.status == 429 or reply.status >= 500
        reason = f"the registry refuses to {_DOES.get(method, 'answer')}: {said}"
        hint = "ask whoever runs it; its disk may be full" if transient else None
        if reply.status == 413:
            hint = "it, or a proxy before it, takes nothing so large: ask whoever runs it"
        absent = reply.status == 404
        raise LocationError(str(self.at), reason, hint=hint, transient=transient, absent=absent)

    def _errors(self, content: bytes) -> Iterator[str]:
        """What a registry says of what is wrong (distribution-spec, "Error Codes")."""
        with suppress(ValueError, RecursionError, AttributeError, TypeError):
            for one in json.loads(content)["errors"]:
                yield f"{one.get('code', '?')}: {one.get('message', '')}"[:200].rstrip(": ")

    def _object(self, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._odd(f"it answers with no JSON: {error}") from error
        if not isinstance(found, dict):
            raise self._odd("it answers with no object of JSON")
        return found

    def _compared(self, content: bytes, digest: str) -> bytes:
        actual = oci_digest(digest_bytes(content))
        if actual != digest:
            message = f"the registry serves other bytes: {actual} instead of {digest}"
            hint = "it is broken, or somebody stands in between"
            raise IntegrityError(message, place=str(self.at), hint=hint)
        return content

    def _no_login(self) -> LocationError:
        hint = f"log in: podman login {self.at.host} (or docker login)"
        return LocationError(str(self.at), "the registry wants a login", hint=hint, refused=True)

    def _refused(self, reply: Reply) -> LocationError:
        said = "; ".join(self._errors(reply.content)) or f"HTTP {reply.status}"
        hint = f"log in as somebody who may: podman login {self.at.host}"
        return LocationError(str(self.at), f"the login is refused: {said}", hint=hint, refused=True)

    def _odd(self, reason: str) -> LocationError:
        hint = "is it a registry of images? It does not speak the OCI distribution API"
        return LocationError(str(self.at), reason, hint=hint)


@contextmanager
def advised(at: Reference, hint: str) -> Iterator[None]:
    """An error without a place or a next step gets these."""
    try:
        yield
    except BuilditError as error:
        error.place, error.hint = error.place or str(at), error.hint or hint
        raise


def _needed(method: str) -> str:
    return _READ if method in ("GET", "HEAD") else _WRITE


_DOES = {"HEAD": "serve it", "GET": "serve it", "PUT": "take it", "POST": "take it"}


def fallback_tag(digest: str) -> str:
    """Where clients list the referrers of a digest themselves (distribution-spec, "Referrers Tag
    Schema")."""
    return digest.replace(":", "-", 1)
