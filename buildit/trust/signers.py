"""Who is trusted for what, and adding a builder to the allowed-signers file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from buildit.errors import IntegrityError, StoreError, UsageError
from buildit.files import open_regular, replacing
from buildit.model.config import Trust
from buildit.recipe.config import own_signers_file
from buildit.store.cas import Store
from buildit.trust.policy import SEEN
from buildit.trust.signing import own_key, signers_of
from buildit.trust.sshkeys import parse_public, public_line
from buildit.trust.sshsig import NAMESPACE, AllowedSigner, builder_name, key_fingerprint
from buildit.trust.votes import SELF

_PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_BUILDER = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True)
class Trusted:
    """Somebody whose builds count: by what name, by which key, from which file, and when."""

    who: str
    fingerprint: str
    builder: str
    source: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Trusting:
    """All that the configuration says of trust; `seen` are keys that nobody trusts so far."""

    people: tuple[Trusted, ...]
    rules: tuple[tuple[str, int], ...]
    seen: tuple[Trusted, ...]


def trusting(trust: Trust, store: Store) -> Trusting:
    """Who is trusted for what.

    Raises:
        UsageError: one's own key cannot be used.
        RecipeError: an allowed-signers file cannot be read, or is malformed.
    """
    own = own_key(trust.keys)
    people = [] if own is None else [_trusted(SELF, own.public, trust.keys.ssh)]
    files = {trust.allowed_signers: ""} if trust.allowed_signers else {}
    for repository, path in trust.own_signers.items():
        files[path] = f"for repository {repository} only"
    for path, only in files.items():
        for line in signers_of(Path(path)):
            remarks = [*([only] if only else []), *_limits(line)]
            people.append(_trusted(line.principals, line.public, path, "; ".join(remarks)))
    rules = [(rule.match, rule.need) for rule in trust.agreement]
    known = {one.builder for one in people}
    seen = [one for one in _seen(store) if one.builder not in known]
    return Trusting(tuple(people), tuple(rules), tuple(seen))


def _trusted(who: str, public: bytes, source: str, remark: str = "") -> Trusted:
    return Trusted(who, key_fingerprint(public), builder_name(public), source, remark)


def _limits(line: AllowedSigner) -> Iterator[str]:
    if not line.covers(NAMESPACE):
        yield f"not for builds: its namespaces leave out {NAMESPACE}"
    for word, seconds in (("from", line.valid_after), ("until", line.valid_before)):
        if seconds is not None:
            yield f"{word} {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _seen(store: Store) -> Iterator[Trusted]:
    for path in sorted(store.cache(SEEN).glob("*.pub")):
        try:
            public = parse_public(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, IntegrityError):
            continue
        yield _trusted("", public, str(path))


@dataclass(frozen=True, slots=True)
class Added:
    """What `trust add` did: `new` is false where the key was there already."""

    who: str
    fingerprint: str
    builder: str
    path: str
    new: bool


def add_signer(
    trust: Trust, store: Store, what: str, who: str | None, environ: Mapping[str, str] = os.environ
) -> Added:
    """Add a builder's key to the allowed-signers file of the configuration, else to one's own.

    `what` is a public key file, or the fingerprint or the builder's name of a key that signed
    something which was refused.

    Raises:
        UsageError: it is neither, or `who` cannot be a principal.
        RecipeError: the file is malformed already.
        StoreError: it cannot be written.
    """
    public, comment = _key(store, what)
    name = _principal(who, comment, public)
    path = Path(trust.allowed_signers or own_signers_file(environ))
    known = signers_of(path) if path.exists() else ()
    said = Added(name, key_fingerprint(public), builder_name(public), str(path), new=True)
    for line in known:
        if line.public == public and line.covers(NAMESPACE):
            return Added(line.principals, said.fingerprint, said.builder, str(path), new=False)
    _append(path, f'{name} namespaces="{NAMESPACE}" {public_line(public)}')
    return said


def _key(store: Store, what: str) -> tuple[bytes, str]:
    """The public key that `what` names, and its comment."""
    if _FINGERPRINT.fullmatch(what) or (_BUILDER.fullmatch(what) and not Path(what).exists()):
        fitting = [
            one for one in _seen(store) if one.fingerprint == what or one.builder.startswith(what)
        ]
        if len(fitting) != 1:
            raise UsageError(
                f"{'no' if not fitting else 'more than one'} key that was seen is called {what}",
                hint="name a public key file; see `buildit trust`",
            )
        return parse_public(Path(fitting[0].source).read_text("utf-8")), ""
    try:
        with open_regular(Path(what), follow=True) as stream:
            text = stream.read(1 << 20).decode("utf-8")
    except (OSError, UnicodeDecodeError, IntegrityError) as error:
        raise UsageError(
            f"{what} is no public key file, and no fingerprint that was seen",
            place=what,
            hint="name the builder's .pub file, or SHA256:… as `buildit trust` lists it",
        ) from error
    if "PRIVATE KEY" in text:
        raise UsageError(
            "this is a private key: nobody but its owner should have it",
            place=what,
            hint=f"name its public half: {what}.pub",
        )
    try:
        return parse_public(text.strip()), " ".join(text.split()[2:])
    except IntegrityError as error:
        hint = error.hint or "name an OpenSSH .pub file with one key"
        raise UsageError(f"no SSH public key: {error.message}", place=what, hint=hint) from error


def _principal(who: str | None, comment: str, public: bytes) -> str:
    if who is not None:
        if not _PRINCIPAL.fullmatch(who):
            raise UsageError(
                f"{who!r} cannot name a builder", hint="write a mail address, as ssh-keygen does"
            )
        return who
    return comment if _PRINCIPAL.fullmatch(comment) else f"builder-{builder_name(public)[:12]}"


def _append(path: Path, line: str) -> None:
    """One more line, at once: whoever reads the file sees it with the line or without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text("utf-8") if path.exists() else ""
        gap = "" if not text or text.endswith("\n") else "\n"
        with replacing(path) as stream:
            stream.write(f"{text}{gap}{line}\n".encode())
    except OSError as error:
        raise StoreError(
            f"the allowed-signers file cannot be written: {error.strerror}",
            place=str(path),
            hint=f"add this line to it: {line}",
        ) from error
