"""Judging what binhosts serve: signatures first, then how many builders agree; before any bytes.

A judge is for one run. It remembers every statement whose signature held, from whatever place, so
that builders can agree although each publishes on a binhost of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from buildit.digest import BuildKey
from buildit.errors import IntegrityError
from buildit.events import Notice, Reporter
from buildit.model.artifact import Artifact
from buildit.model.config import Trust
from buildit.store.artifacts import (
    ELSEWHERE,
    Found,
    Suits,
    anything,
    incomplete,
    origin_of,
    place_statement,
    read_statement,
    statement_paths,
)
from buildit.store.attest import LOCAL, parse_statement, stated_key
from buildit.store.cas import Store
from buildit.trust.signing import Signer, own_key, signer, signers_of
from buildit.trust.sshkeys import public_line
from buildit.trust.sshsig import (
    NAMESPACE,
    AllowedSigner,
    builder_name,
    claimed_key,
    key_fingerprint,
    verify_signature,
)
from buildit.trust.votes import (
    NOBODY,
    SELF,
    Undecided,
    Vote,
    claim,
    context,
    decide,
    persons,
    rule_for,
)

Accept = Callable[[bytes, "bytes | None", str], None]
"""Judge a statement (bytes, signature or None, builder); raises where it is not trusted."""

SEEN = "signers"
"""The store's cache of public keys that signed what was refused, for `buildit trust add`."""


@dataclass(frozen=True, slots=True)
class _Paper:
    """A statement that a binhost served and whose signature held."""

    vote: Vote
    statement: bytes
    signature: bytes | None
    repository: str


@dataclass(slots=True)
class Policy:
    """Whose builds are believed in one run, and who the caller's own builds are said by."""

    trust: Trust
    store: Store
    report: Reporter
    _votes: dict[BuildKey, list[Vote]] = field(default_factory=dict)
    _papers: dict[BuildKey, list[_Paper]] = field(default_factory=dict)
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
            self._signer = signer(self.trust.keys)
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

    def accepting(self, suits: Suits = anything, repository: str = "") -> Accept:
        """What a binhost asks before it takes anything of a statement.

        `suits` says whether the artifact fits what is at hand: it is asked first, since nothing
        need be fetched of one that does not. `repository` may have signers of its own.
        """

        def accept(statement: bytes, signature: bytes | None, builder: str) -> None:
            artifact = parse_statement(statement, stated_key(statement)).artifact
            with self._lock:
                vote = self._vote(artifact, statement, signature, builder, repository)
                votes = self._known(artifact.key)
                decision = decide(vote, votes, self.trust.agreement)
                if not any((v.builder, v.artifact) == (builder, artifact) for v in votes):
                    votes.append(vote)
                    paper = _Paper(vote, statement, signature, repository)
                    self._papers.setdefault(artifact.key, []).append(paper)
            unfit = suits(artifact)
            if unfit is not None:
                raise IntegrityError(
                    f"the build of {artifact.name} is of no use here: {unfit}",
                    place=f"key {artifact.key[:12]}",
                    hint="nothing is wrong; another build is looked for, or it is built here",
                )
            if not decision.accepted:
                raise Undecided(
                    f"not enough builders say the same of {artifact.name}",
                    place=f"key {artifact.key[:12]}",
                    hint="another builder is looked for, else it is built here",
                    details=decision.reasons,
                )

        return accept

    def keep_agreement(self, taken: Artifact) -> None:
        """Keep the statements that, together, had an artifact taken: it stays trusted offline.

        Raises:
            StoreError: the disk is full or refuses.
        """
        if rule_for(taken.name, self.trust.agreement).need <= 1:
            return
        for paper in self._papers.get(taken.key, ()):
            vote = paper.vote
            if claim(vote.artifact) == claim(taken):
                signed = (paper.statement, paper.signature)
                origin = paper.repository or ELSEWHERE
                place_statement(self.store, vote.artifact, vote.builder, *signed, origin=origin)

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
            vote = self._stored_vote(found.artifact, found.builder, found.origin)
            if vote is None:
                reasons: tuple[str, ...] = (f"builder {found.builder[:12]} is not trusted now",)
            else:
                votes = self._known(found.artifact.key)
                reasons = decide(vote, votes, self.trust.agreement).reasons
            reason = "; ".join(reasons) or None
            if reason is not None and found.path not in self._told:
                self._told.add(found.path)
                what = f"{found.artifact.name}, taken from '{found.origin}' before"
                self.report(Notice(f"{what}, is not used: {reason}", warning=True))
        return reason

    def _repeats_doubtful(self, artifact: Artifact) -> str | None:
        if artifact.restated is None:
            return None
        reasons = []
        for path in statement_paths(self.store.root, artifact.restated):
            try:
                before, builder = read_statement(path, artifact.restated)
            except IntegrityError:
                continue
            if claim(before) == claim(artifact):
                reasons.append(self.doubts(Found(before, builder, path, origin_of(path))))
        return reasons[0] if reasons and None not in reasons else None

    def compare(self, built: Artifact) -> None:
        """Report where others built other bytes from the same inputs as this own build."""
        with self._lock:
            votes = tuple(self._votes.get(built.key, ()))
        for vote in votes:
            same_context = context(vote.artifact) == context(built)
            if vote.who != SELF and same_context and claim(vote.artifact) != claim(built):
                self.report(
                    Notice(
                        f"{built.name} is not reproducible: {vote.who} (builder "
                        f"{vote.builder[:12]}) built other bytes from the same inputs",
                        warning=True,
                    )
                )

    def _known(self, key: BuildKey) -> list[Vote]:
        """The votes about a key, those in the store among them."""
        if key not in self._votes:
            self._votes[key] = list(self._stored_votes(key))
        return self._votes[key]

    def _stored_votes(self, key: BuildKey) -> Iterator[Vote]:
        for path in statement_paths(self.store.root, key):
            try:
                artifact, builder = read_statement(path, key)
            except IntegrityError:
                continue
            origin = origin_of(path)
            if not origin and incomplete(self.store, artifact) is not None:
                continue  # what it said was lost, and is not known to be so any more
            vote = self._stored_vote(artifact, builder, origin)
            if vote is not None:
                yield vote

    def _stored_vote(self, artifact: Artifact, builder: str, origin: str) -> Vote | None:
        """Whose vote a statement of the store is: its signature held when it came in, and whether
        its builder counts is asked anew. None: nobody's who counts."""
        if not origin:
            return Vote(self._self_name(), builder, artifact)
        if builder == LOCAL:
            return Vote(NOBODY, builder, artifact) if self.trust.unsigned else None
        now = int(time.time())
        for line in self._allowed(origin):
            covers = line.covers(NAMESPACE) and line.counts_at(now)
            if covers and builder_name(line.public) == builder:
                return Vote(self._person(line.public), builder, artifact)
        return None

    def _vote(
        self,
        artifact: Artifact,
        statement: bytes,
        signature: bytes | None,
        builder: str,
        repository: str,
    ) -> Vote:
        if builder == LOCAL and signature is None:
            # Only a repository with `unsigned: yes` lets these come this far.
            return Vote(NOBODY, builder, artifact)
        if signature is None:
            raise self._refusal(artifact, f"builder {builder[:12]} did not sign it", None)
        text = signature.decode("ascii", "replace")
        allowed = self._allowed(repository)
        try:
            signer = verify_signature(statement, text, allowed, NAMESPACE, int(time.time()))
        except IntegrityError as error:
            key = claimed_key(statement, text, NAMESPACE)
            raise self._refusal(artifact, error.message, key) from error
        if builder_name(signer.public) != builder:
            reason = f"builder {builder[:12]} is named, and another key signed"
            raise self._refusal(artifact, reason, signer.public)
        return Vote(self._person(signer.public), builder, artifact)

    def _refusal(self, artifact: Artifact, reason: str, key: bytes | None) -> IntegrityError:
        """Who signed, what the policy wants, and the one command that changes it."""
        listed = self.trust.allowed_signers or "none is configured"
        need = rule_for(artifact.name, self.trust.agreement).need
        details = [
            f"policy: {need} of your own key and the allowed signers ({listed}) must have signed"
        ]
        hint = "take it from another binhost, or let it be built here"
        if key is not None:
            self._remember(key)
            shown = key_fingerprint(key)
            details.insert(0, f"signed by {shown} (builder {builder_name(key)[:12]})")
            if key not in (line.public for line in self._allowed("")):
                hint = f"if you know this key: buildit trust add {shown}"
        return IntegrityError(
            f"the build of {artifact.name} is not trusted: {reason}",
            place=f"key {artifact.key[:12]}",
            hint=hint,
            details=tuple(details),
        )

    def _remember(self, key: bytes) -> None:
        path = self.store.cache(SEEN) / f"{builder_name(key)}.pub"
        if not path.exists():
            path.write_text(public_line(key) + "\n")

    def _allowed(self, repository: str) -> tuple[AllowedSigner, ...]:
        name = self.trust.signers_for(repository)
        if name not in self._lists:
            # One's own first: no line of the file can make it worth less.
            own = tuple(AllowedSigner(SELF, key) for key in self._own_keys())
            self._lists[name] = (*own, *(signers_of(Path(name)) if name else ()))
        return self._lists[name]

    def _self_name(self) -> str:
        """Oneself as the allowed-signers file has it: one's other keys are no other person's."""
        return next((self._person(key) for key in self._own_keys()), SELF)

    def _person(self, public: bytes) -> str:
        """Who counts for a key, by all lists of the configuration together."""
        if self._persons is None:
            lists = dict.fromkeys(("", *self.trust.own_signers))
            lines = [(line.principals, line.public) for one in lists for line in self._allowed(one)]
            self._persons = persons(lines)
        return self._persons[public]

    def _own_keys(self) -> list[bytes]:
        if self._own is None:
            key = own_key(self.trust.keys)
            self._own = [] if key is None else [key.public]
        return self._own
