"""Judging what binhosts serve: signatures first, then how many builders agree; before any bytes.

A judge is for one run. It remembers every statement whose signature held, from whatever place, so
that builders can agree although each publishes on a binhost of their own. A vote is a statement
that its signer did sign. What is decided is what is taken from others; what one built oneself is at
hand already, and counts as a vote.
"""

from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError, UsageError
from buildit.events import Notice, Reporter
from buildit.model.artifact import Artifact
from buildit.model.config import Trust, TrustRule
from buildit.store import artifacts
from buildit.store.artifacts import Found, origin_of, read_statement, statement_paths
from buildit.store.attest import LOCAL, parse_statement, stated_key
from buildit.store.cas import Store
from buildit.trust import signers
from buildit.trust.signers import SELF, AllowedSigner, Signer
from buildit.trust.ssh import NAMESPACE, builder_name, claimed_key, key_fingerprint, public_line

Accept = Callable[[bytes, "bytes | None", str], None]
"""Judge a statement (bytes, signature or None, builder); raises where it is not trusted."""
_Signed = tuple[bytes, "bytes | None"]
"""A statement and its signature, as a binhost serves them."""


@dataclass(slots=True)
class Policy:
    """Whose builds are believed in one run, and who the caller's own builds are said by."""

    trust: Trust
    store: Store
    report: Reporter
    _votes: dict[BuildKey, list[Vote]] = field(default_factory=dict)
    _held: dict[BuildKey, list[tuple[Vote, _Signed, str]]] = field(default_factory=dict)
    _told: set[Path] = field(default_factory=set)
    _lists: dict[str, tuple[AllowedSigner, ...]] = field(default_factory=dict)
    _signer: Signer | None = None
    _own: list[bytes] | None = None
    _persons: dict[bytes, str] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def signer(self) -> Signer:
        """Who signs the caller's own builds; `UNSIGNED` without a key.

        Raises:
            UsageError: the signing key cannot be used.
        """
        if self._signer is None:
            self._signer = signers.signer(self.trust.keys)
        return self._signer

    def builders(self, repository: str, *, unsigned: bool = False) -> tuple[str, ...]:
        """Whose statements a repository is asked for by name: the user's own key, those of the
        list, and `local` where what is unsigned passes.

        Raises:
            RecipeError: the allowed-signers file cannot be read.
            UsageError: the signing key cannot be used.
        """
        names = [builder_name(line.public) for line in self._allowed(repository)]
        return tuple(dict.fromkeys((*names, *([LOCAL] if unsigned else []))))

    def accepting(self, repository: str = "") -> Accept:
        """What a binhost asks before it takes anything of a statement; `repository` may have
        signers of its own."""

        def accept(statement: bytes, signature: bytes | None, builder: str) -> None:
            artifact = parse_statement(statement, stated_key(statement)).artifact
            with self._lock:
                signed = statement, signature
                vote = self._vote(artifact, signed, builder, repository)
                votes = self._known(artifact.key)
                reasons = decide(vote, votes, self.trust.agreement)
                if not any((v.builder, v.artifact) == (builder, artifact) for v in votes):
                    votes.append(vote)
                    self._held.setdefault(artifact.key, []).append((vote, signed, repository))
            if reasons:
                place = f"key {artifact.key[:12]}"
                reason = f"not enough builders say the same of {artifact.name}"
                hint = "another builder is looked for, else it is built here"
                raise Undecided(reason, place=place, hint=hint, details=reasons)

        return accept

    def keep_agreement(self, taken: Artifact) -> None:
        """Keep the statements that, together, had an artifact taken: it stays trusted offline.

        Raises:
            StoreError: the disk is full or refuses.
        """
        if rule_for(taken.name, self.trust.agreement).need <= 1:
            return
        for vote, signed, repository in self._held.get(taken.key, ()):
            if claim(vote.artifact) == claim(taken):
                said = (vote.artifact, vote.builder, *signed)
                origin = repository or artifacts.ELSEWHERE
                artifacts.place_statement(self.store, *said, origin=origin)

    def doubts(self, found: Found) -> str | None:
        """Why a build that lies in the store, and came from elsewhere, would not be taken today;
        None where it would. What was built here is not doubted, whatever key signed it; what was
        re-stated here is as good as the build that it repeats, while that is known.

        Raises:
            RecipeError: an allowed-signers file cannot be read.
            UsageError: the signing key cannot be used.
        """
        if not found.origin:
            return self._repeats_doubtful(found.artifact)
        with self._lock:
            vote = self._stored_vote(found)
            reasons: tuple[str, ...] = (f"builder {found.builder[:12]} is not trusted now",)
            if vote is not None:
                reasons = decide(vote, self._known(found.artifact.key), self.trust.agreement)
            reason = "; ".join(reasons) or None
            if reason is not None and found.path not in self._told:
                self._told.add(found.path)
                what = f"{found.artifact.name}, taken from '{found.origin}' before"
                self.report(Notice(f"{what}, is not used: {reason}", warning=True))
        return reason

    def _repeats_doubtful(self, artifact: Artifact) -> str | None:
        if artifact.restated is None:
            return None
        repeated = [
            self.doubts(before)
            for before in self._stored(artifact.restated)
            if claim(before.artifact) == claim(artifact)
        ]
        return repeated[0] if repeated and None not in repeated else None

    def compare(self, built: Artifact) -> None:
        """Report where others built other bytes from the same inputs as this own build."""
        with self._lock:
            votes = tuple(self._votes.get(built.key, ()))
        for vote in votes:
            same = context(vote.artifact) == context(built)
            if vote.who != SELF and same and claim(vote.artifact) != claim(built):
                others = f"{vote.who} (builder {vote.builder[:12]})"
                said = f"{others} built other bytes from the same inputs"
                self.report(Notice(f"{built.name} is not reproducible: {said}", warning=True))

    def _known(self, key: BuildKey) -> list[Vote]:
        """The votes about a key, those in the store among them."""
        if key not in self._votes:
            self._votes[key] = list(self._stored_votes(key))
        return self._votes[key]

    def _stored_votes(self, key: BuildKey) -> Iterator[Vote]:
        for found in self._stored(key):
            if not found.origin and artifacts.incomplete(self.store, found.artifact) is not None:
                continue  # what it said was lost, and is not known to be so any more
            vote = self._stored_vote(found)
            if vote is not None:
                yield vote

    def _stored(self, key: BuildKey) -> Iterator[Found]:
        """The statements about a key in the store that can be read."""
        for path in statement_paths(self.store.root, key):
            with suppress(IntegrityError):
                artifact, builder = read_statement(path, key)
                yield Found(artifact, builder, path, origin_of(path))

    def _stored_vote(self, found: Found) -> Vote | None:
        """Whose vote a statement of the store is: its signature held when it came in, and whether
        its builder counts is asked anew. None: nobody's who counts."""
        artifact, builder = found.artifact, found.builder
        if not found.origin:
            # oneself as the allowed-signers file has it: one's other keys are no other person's
            myself = next((self._person(key) for key in self._own_keys()), SELF)
            return Vote(myself, builder, artifact)
        if builder == LOCAL:
            return Vote(NOBODY, builder, artifact) if self.trust.unsigned else None
        now = int(time.time())
        for line in self._allowed(found.origin):
            covers = line.covers(NAMESPACE) and line.counts_at(now)
            if covers and builder_name(line.public) == builder:
                return Vote(self._person(line.public), builder, artifact)
        return None

    def _vote(self, artifact: Artifact, signed: _Signed, builder: str, repository: str) -> Vote:
        statement, signature = signed
        if builder == LOCAL and signature is None:
            # Only a repository with `unsigned: yes` lets these come this far.
            return Vote(NOBODY, builder, artifact)
        if signature is None:
            raise self._refusal(artifact, f"builder {builder[:12]} did not sign it", None)
        text = signature.decode("ascii", "replace")
        allowed = self._allowed(repository)
        try:
            line = signers.verify_signature(statement, text, allowed, NAMESPACE, int(time.time()))
        except IntegrityError as error:
            key = claimed_key(statement, text, NAMESPACE)
            raise self._refusal(artifact, error.message, key) from error
        if builder_name(line.public) != builder:
            reason = f"builder {builder[:12]} is named, and another key signed"
            raise self._refusal(artifact, reason, line.public)
        return Vote(self._person(line.public), builder, artifact)

    def _refusal(self, artifact: Artifact, reason: str, key: bytes | None) -> IntegrityError:
        """Who signed, what the policy wants, and the one command that changes it."""
        listed = self.trust.allowed_signers or "none is configured"
        need = rule_for(artifact.name, self.trust.agreement).need
        said = f"policy: {need} of your own key and the allowed signers ({listed}) must have signed"
        details: tuple[str, ...] = (said,)
        hint = "take it from another binhost, or let it be built here"
        if key is not None:
            seen = self.store.cache(signers.SEEN) / f"{builder_name(key)}.pub"
            if not seen.exists():
                seen.write_text(public_line(key) + "\n")
            shown = key_fingerprint(key)
            details = (f"signed by {shown} (builder {builder_name(key)[:12]})", said)
            if key not in (line.public for line in self._allowed("")):
                hint = f"if you know this key: buildit trust add {shown}"
        reason = f"the build of {artifact.name} is not trusted: {reason}"
        return IntegrityError(reason, place=f"key {artifact.key[:12]}", hint=hint, details=details)

    def _allowed(self, repository: str) -> tuple[AllowedSigner, ...]:
        name = self.trust.signers_for(repository)
        if name not in self._lists:
            # One's own first: no line of the file can make it worth less.
            own = tuple(AllowedSigner(SELF, key) for key in self._own_keys())
            self._lists[name] = (*own, *(signers.signers_of(Path(name)) if name else ()))
        return self._lists[name]

    def _person(self, public: bytes) -> str:
        """Who counts for a key, by all lists of the configuration together."""
        if self._persons is None:
            lists = dict.fromkeys(("", *self.trust.own_signers))
            lines = [(line.principals, line.public) for one in lists for line in self._allowed(one)]
            self._persons = persons(lines)
        return self._persons[public]

    def _own_keys(self) -> list[bytes]:
        if self._own is None:
            key = signers.own_key(self.trust.keys)
            self._own = [] if key is None else [key.public]
        return self._own


# -- how many independent builders must say the same of a package


class Undecided(IntegrityError):  # noqa: N818 - not wrong: others may yet say the same
    """A statement that is signed by somebody trusted, and that too few builders agree on."""


NOBODY = ""
"""Who vouches for what is unsigned: that is nobody's vote."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One verified statement: who signed, by which key (`builder`), and about what.

    `who` is the name that `persons` gives the key: one person with two keys is one builder.
    It is `NOBODY` for an unsigned one, which counts where one builder is enough.
    """

    who: str
    builder: str
    artifact: Artifact


def rule_for(name: str, rules: Sequence[TrustRule]) -> TrustRule:
    """The first rule whose glob fits; one builder is enough where none does."""
    return next((rule for rule in rules if fnmatchcase(name, rule.match)), TrustRule("*", 1))


def unused(rules: Sequence[TrustRule], names: Iterable[str]) -> tuple[str, ...]:
    """The globs that fit none of `names`, where the first rule that fits holds.

    Raises:
        UsageError: one would fit a package if case did not count: it was meant to, and does not.
    """
    names = tuple(names)
    found = []
    for rule in rules:
        if any(fnmatchcase(name, rule.match) for name in names):
            continue
        meant = [name for name in names if fnmatchcase(name.lower(), rule.match.lower())]
        if meant:
            reason = f"the trust rule {rule.match!r} does not fit {meant[0]}: case counts"
            hint = f"write `match: {meant[0]}`, or a glob in the same case"
            raise UsageError(reason, place="trust: packages", hint=hint)
        found.append(rule.match)
    return tuple(found)


def persons(lines: Sequence[tuple[str, bytes]]) -> dict[bytes, str]:
    """Who is one builder: the name that each key counts under.

    A line is principals (a list of patterns, ssh-keygen(1), ALLOWED SIGNERS) and a key. Lines that
    share a key, or whose principals could name the same person, are one builder, and so on from
    line to line: who is counted twice needs no second person. A negated pattern names whom it
    leaves out; upper and lower case are one. The name is that of the first line that is not `SELF`.
    """
    owner = list(range(len(lines)))

    def root(number: int) -> int:
        while owner[number] != number:
            number = owner[number]
        return number

    by_key: dict[bytes, int] = {}
    by_name: dict[str, int] = {}
    names = [patterns(principals) for principals, _ in lines]
    for number, (_, key) in enumerate(lines):
        owner[root(number)] = root(by_key.setdefault(key, number))
        for name in names[number]:
            owner[root(number)] = root(by_name.setdefault(name, number))
    wild = [name for name in by_name if "*" in name or "?" in name]
    for one in wild:
        for other, number in by_name.items():
            if meet(one, other):
                owner[root(number)] = root(by_name[one])
    called: dict[int, str] = {}
    for number, (principals, _) in enumerate(lines):
        if principals != SELF:
            called.setdefault(root(number), principals)
    return {key: called.get(root(number), SELF) for key, number in by_key.items()}


def patterns(principals: str) -> tuple[str, ...]:
    """The patterns of a list of principals, as they are compared."""
    parts = (part.strip().removeprefix("!") for part in principals.split(","))
    return tuple(unicodedata.normalize("NFKC", part).casefold() for part in parts if part)


def meet(one: str, other: str) -> bool:
    """Whether some text fits both patterns; `*` is any text, `?` any character."""
    row = [True]
    for char in other:
        row.append(row[-1] and char == "*")
    for mine in one:
        below = [row[0] and mine == "*"]
        for at, char in enumerate(other):
            if "*" in (mine, char):
                fits = row[at + 1] or below[at]
            else:
                fits = row[at] and (mine == char or "?" in (mine, char))
            below.append(fits)
        row = below
    return row[-1]


def claim(artifact: Artifact) -> Mapping[str, Digest]:
    """What builders must agree on: the bytes of each output."""
    return {name: output.diff_id for name, output in artifact.outputs.items()}


def context(artifact: Artifact) -> Mapping[BuildKey, Mapping[str, Digest]]:
    """What an artifact was built against."""
    return {key: dict(outputs) for key, outputs in artifact.resolved.items()}


def decide(candidate: Vote, others: Sequence[Vote], rules: Sequence[TrustRule]) -> tuple[str, ...]:
    """Why `candidate` may not be taken, given the other verified votes about the same key; empty
    where it may.

    A vote agrees where it names the same outputs. A re-stated artifact repeats what another build
    said, so it is nobody's independent vote: alone it is believed where one builder is enough. A
    vote that was built against other dependency outputs neither agrees nor contradicts.
    """
    rule = rule_for(candidate.artifact.name, rules)
    same = [vote for vote in others if vote.artifact.key == candidate.artifact.key]
    wanted = claim(candidate.artifact)
    independent = [vote for vote in (candidate, *same) if vote.artifact.restated is None]
    agree = _people(vote for vote in independent if claim(vote.artifact) == wanted)
    contradict = _people(
        vote
        for vote in same
        if claim(vote.artifact) != wanted and context(vote.artifact) == context(candidate.artifact)
    )
    if len(agree) >= rule.need or rule.need <= 1:
        return ()
    name = candidate.artifact.name
    found = [
        f"the policy wants {rule.need} independent builders for {name} (rule {rule.match!r})",
        f"{len(agree)} said so: {', '.join(agree) or 'nobody'}",
    ]
    if candidate.artifact.restated is not None:
        found.append(f"{candidate.who} only repeats another build, which is no vote")
    if contradict:
        found.append(f"other bytes were built by: {', '.join(contradict)}")
    return tuple(found)


def _people(votes: Iterable[Vote]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(vote.who for vote in votes if vote.who != NOBODY))
