"""Whose signatures count: the user's own key, which signs, and those of OpenSSH's allowed-signers
files; what the configuration says of trust, and adding a builder.
"""

from __future__ import annotations

import errno
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from buildit.errors import IntegrityError, RecipeError, StoreError, UsageError
from buildit.files import open_regular, replacing
from buildit.model.config import SigningKeys, Trust
from buildit.store.attest import LOCAL
from buildit.store.cas import Store
from buildit.trust import ssh
from buildit.trust.ssh import NAMESPACE, builder_name, key_fingerprint, parse_public

LARGEST_LIST = 16 << 20
"""Bytes of an allowed-signers file; what has more is none."""
SEEN = "signers"
"""The store's cache of public keys that signed what was refused, for `buildit trust add`."""
SELF = "yourself"
"""Who is shown for one's own builds."""
_OPTION = re.compile(r'([A-Za-z-]+)(?:="((?:[^"\\]|\\.)*)")?(?:,|$)')
_LINE = re.compile(
    r'("[^"]*"|[^ \t\r]+)[ \t\r]+((?:[^\s"]|"(?:[^"\\]|\\.)*")+)[ \t\r]+(\S.*)', re.DOTALL
)
_BLANKS = " \t\r"
"""What separates words of a line for ssh-keygen (misc.c, WHITESPACE); others are part of them."""
_TIME = re.compile(r"(\d{8})(\d{4})?(\d{2})?(Z?)")
_PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_BUILDER = re.compile(r"[0-9a-f]{12,64}")


# -- the user's own key


@dataclass(frozen=True, slots=True)
class Signer:
    """Who a build is said by: the builder's name, and what signs statements; None signs nothing."""

    builder: str
    sign: Callable[[bytes], bytes] | None


UNSIGNED = Signer(LOCAL, None)


def signer(keys: SigningKeys) -> Signer:
    """Who signs with these keys; `UNSIGNED` without an SSH key.

    Raises:
        UsageError: the key cannot be used.
    """
    key = own_key(keys)
    if key is None:
        return UNSIGNED
    return Signer(builder_name(key.public), lambda data: ssh.sign(data, key, NAMESPACE).encode())


def own_key(keys: SigningKeys) -> ssh.SigningKey | None:
    """The user's SSH key; None where none is configured.

    Raises:
        UsageError: it cannot be used.
    """
    wanted = keys.ssh
    if not wanted or wanted.startswith("gpg:"):
        return None
    agent = Path(keys.agent) if keys.agent else None
    if not wanted.startswith("agent:"):
        return ssh.signing_key(Path(wanted), agent)
    if agent is None:
        hint = "start one: eval $(ssh-agent) && ssh-add"
        raise UsageError(f"signing-key is {wanted}, and no agent runs", hint=hint)
    for public in ssh.agent_keys(agent):
        if key_fingerprint(public) == wanted.removeprefix("agent:"):
            return ssh.AgentKey(agent, public)
    raise UsageError(f"the agent does not hold {wanted}", hint="see `ssh-add -l`")


# -- allowed-signers files (ssh-keygen(1), ALLOWED SIGNERS)


@dataclass(frozen=True, slots=True)
class AllowedSigner:
    """One line: a key (wire form), whose it is, for which namespaces (patterns; empty for all) and
    when (seconds since 1970, both ends within) it counts."""

    principals: str
    public: bytes
    namespaces: tuple[str, ...] = ()
    valid_after: int | None = None
    valid_before: int | None = None

    def covers(self, namespace: str) -> bool:
        return not self.namespaces or matches(namespace, self.namespaces)

    def counts_at(self, seconds: int) -> bool:
        early = self.valid_after is not None and seconds < self.valid_after
        late = self.valid_before is not None and seconds > self.valid_before
        return not early and not late


def verify_signature(
    data: bytes, signature: str, allowed: Sequence[AllowedSigner], namespace: str, at: int
) -> AllowedSigner:
    """Which line of `allowed` counts, whose key signed `data` for `namespace`; `at` is now, in
    seconds since 1970. An error is never a pass.

    Raises:
        IntegrityError: the signature is malformed, of other bytes or for another namespace, or its
            key is not allowed, not for this namespace, or not at this time.
    """
    said = ssh.parse_signature(signature, namespace)
    # first whether we would believe this key at all, then whether it did sign
    lines = [line for line in allowed if line.public == said.public]
    if not lines:
        reason = f"signed by a key that is not trusted (builder {builder_name(said.public)[:12]})"
        hint = "add its public key to the allowed-signers file if you trust it"
        raise IntegrityError(reason, hint=hint)
    covering = [line for line in lines if line.covers(namespace)]
    if not covering:
        raise IntegrityError(f"the signer's key is not allowed for {namespace!r}")
    for line in covering:
        if line.counts_at(at):
            said.check(data)
            return line
    raise IntegrityError("the signer's key is not valid at this time")


def signers_of(path: Path) -> tuple[AllowedSigner, ...]:
    """The lines of an allowed-signers file.

    Raises:
        RecipeError: it cannot be read, or is malformed.
    """
    try:
        with open_regular(path, follow=True) as stream:
            # Bytes: a carriage return ends no line here, as it ends none for ssh-keygen.
            text = stream.read(LARGEST_LIST + 1).decode("utf-8")
        if len(text) > LARGEST_LIST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    except (OSError, UnicodeDecodeError, IntegrityError) as error:
        reason = f"the allowed-signers file cannot be read: {error}"
        name = "name an OpenSSH allowed-signers file in `trust: {allowed-signers: …}`"
        hint = f"{name}, or make it: buildit trust add KEYFILE"
        raise RecipeError(reason, place=str(path), hint=hint) from error
    return parse_allowed_signers(text, str(path))


def parse_allowed_signers(text: str, place: str) -> tuple[AllowedSigner, ...]:
    """All lines of a file; `place` is its name, for errors.

    Raises:
        RecipeError: a line that cannot be understood, or names a certificate authority, which is
            not supported: a line that is not understood never widens or narrows trust in silence.
    """
    # As ssh-keygen reads it: what other programs take for the end of a line is part of a comment,
    # and must not begin a line that trusts one more key.
    lines = (line.lstrip(" \t").rstrip(_BLANKS) for line in text.split("\n"))
    numbered = ((f"{place}:{number}:1", line) for number, line in enumerate(lines, 1))
    return tuple(_parse_line(line, at) for at, line in numbered if line and line[0] != "#")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """ssh_config(5), PATTERNS: `*` and `?`; a pattern that begins with `!` and fits says no."""
    found = False
    for pattern in patterns:
        first, *rest = map(_literal, pattern.removeprefix("!").split("*"))
        # each piece as early as it can be, never later: many stars cost no more than one
        between = "".join(f"(?>.*?{piece})" for piece in rest[:-1])
        regex = f"{first}{between}.*{rest[-1]}" if rest else first
        if re.fullmatch(regex, name, re.DOTALL):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _literal(text: str) -> str:
    return "".join("." if char == "?" else re.escape(char) for char in text)


def _parse_line(line: str, place: str) -> AllowedSigner:
    fields = _LINE.fullmatch(line)
    if fields is None:
        raise RecipeError("not `principals [options] type key`", place=place)
    principals, second, rest = fields[1].strip('"'), fields[2], fields[3]
    _check_principals(principals, place)
    options: dict[str, str | None] = {}
    if second in ssh.KEY_TYPES or ("=" not in second and second.lower() != "cert-authority"):
        rest = f"{second} {rest}"  # where it is no key type, parse_public shall name it
    else:
        options = _parse_options(second, place)
    try:
        public = parse_public(rest)
    except IntegrityError as error:
        raise RecipeError(error.message, place=place, hint=error.hint) from error
    namespaces = options.get("namespaces")
    return AllowedSigner(
        principals,
        public,
        tuple(part.strip() for part in namespaces.split(",")) if namespaces else (),
        _seconds(options.get("valid-after"), place),
        _seconds(options.get("valid-before"), place),
    )


def _check_principals(principals: str, place: str) -> None:
    """Refuse names that look like others: two that people cannot tell apart are one builder."""
    for char in principals:
        if unicodedata.category(char).startswith(("C", "Z")) and char != " ":
            reason = f"a principal has the character U+{ord(char):04X}, which nobody can see"
            hint = "write names of letters, digits and . _ - @ +"
            raise RecipeError(reason, place=place, hint=hint)
    if not any(part.strip(" !") for part in principals.split(",")):
        raise RecipeError("the line names nobody", place=place, hint="write `name@host KEY`")


def _parse_options(text: str, place: str) -> dict[str, str | None]:
    options: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        option = _OPTION.match(text, at)
        if option is None:
            raise RecipeError(f"cannot read the options {text!r}", place=place)
        name, value = option[1].lower(), option[2]
        if name == "cert-authority":
            hint = "list the signers' own keys"
            raise RecipeError("certificate authorities are not supported", place=place, hint=hint)
        if name not in ("namespaces", "valid-after", "valid-before") or not value:
            raise RecipeError(f"unknown option {name!r}, or one without a value", place=place)
        if name in options:
            raise RecipeError(f"option {name!r} stands there twice", place=place)
        options[name] = value
        at = option.end()
    return options


def _seconds(text: str | None, place: str) -> int | None:
    """`YYYYMMDD[HHMM[SS]][Z]` as seconds since 1970; local time without the Z."""
    if text is None:
        return None
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        digits = found[1] + (found[2] or "0000") + (found[3] or "00")
        moment = datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        hint = "write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z for UTC"
        raise RecipeError(f"not a time: {text!r}", place=place, hint=hint) from error
    if found[4]:
        return int(moment.timestamp())
    return int(time.mktime((*moment.timetuple()[:8], -1)))


# -- what the configuration says of trust


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


def add_signer(path: Path, store: Store, what: str, who: str | None) -> Added:
    """Add a builder's key to the allowed-signers file `path`.

    `what` is a public key file, or the fingerprint or the builder's name of a key that signed
    something which was refused.

    Raises:
        UsageError: it is neither, or `who` cannot be a principal.
        RecipeError: the file is malformed already.
        StoreError: it cannot be written.
    """
    public, comment = _key(store, what)
    name = _principal(who, comment, public)
    known = signers_of(path) if path.exists() else ()
    said = Added(name, key_fingerprint(public), builder_name(public), str(path), new=True)
    for line in known:
        if line.public == public and line.covers(NAMESPACE):
            return replace(said, who=line.principals, new=False)
    _append(path, f'{name} namespaces="{NAMESPACE}" {ssh.public_line(public)}')
    return said


def _key(store: Store, what: str) -> tuple[bytes, str]:
    """The public key that `what` names, and its comment."""
    if _FINGERPRINT.fullmatch(what) or (_BUILDER.fullmatch(what) and not Path(what).exists()):
        fitting = [
            one for one in _seen(store) if one.fingerprint == what or one.builder.startswith(what)
        ]
        if len(fitting) != 1:
            count = "more than one" if fitting else "no"
            hint = "name a public key file; see `buildit trust`"
            raise UsageError(f"{count} key that was seen is called {what}", hint=hint)
        return parse_public(Path(fitting[0].source).read_text("utf-8")), ""
    try:
        with open_regular(Path(what), follow=True) as stream:
            text = stream.read(1 << 20).decode("utf-8")
    except (OSError, UnicodeDecodeError, IntegrityError) as error:
        reason = f"{what} is no public key file, and no fingerprint that was seen"
        hint = "name the builder's .pub file, or SHA256:… as `buildit trust` lists it"
        raise UsageError(reason, place=what, hint=hint) from error
    if "PRIVATE KEY" in text:
        reason = "this is a private key: nobody but its owner should have it"
        raise UsageError(reason, place=what, hint=f"name its public half: {what}.pub")
    try:
        return parse_public(text.strip()), " ".join(text.split()[2:])
    except IntegrityError as error:
        hint = error.hint or "name an OpenSSH .pub file with one key"
        raise UsageError(f"no SSH public key: {error.message}", place=what, hint=hint) from error


def _principal(who: str | None, comment: str, public: bytes) -> str:
    if who is not None:
        if not _PRINCIPAL.fullmatch(who):
            hint = "write a mail address, as ssh-keygen does"
            raise UsageError(f"{who!r} cannot name a builder", hint=hint)
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
        reason = f"the allowed-signers file cannot be written: {error.strerror}"
        raise StoreError(reason, place=str(path), hint=f"add this line to it: {line}") from error
