"""Judging what binhosts serve: signatures first, then how many builders agree; before any bytes.

A judge is for one run. It remembers every statement whose signature held, from whatever place, so
that builders can agree although each publishes on a binhost of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.digest import BuildKey
from buildit.errors import IntegrityError
from buildit.events import Notice, Reporter
from buildit.model.artifact import Artifact
from buildit.pipeline.settings import Settings
from buildit.pipeline.signing import NAMESPACE, fingerprint, own_key, signers_of
from buildit.store.artifacts import Suits, anything, incomplete, read_statement, statement_paths
from buildit.store.attest import LOCAL, parse_statement, stated_key
from buildit.store.cas import Store
from buildit.store.trust import SELF, Undecided, Vote, claim, context, decide, rule_for

if TYPE_CHECKING:
    from buildit.net.allowed_signers import AllowedSigner

Accept = Callable[[bytes, "bytes | None", str], None]
"""As `net.binhost.Accept`."""

SEEN = "signers"
"""The store's cache of public keys that signed what was refused, for `buildit trust add`."""


@dataclass(slots=True)
class Judge:
    """Believes what the configuration says, and nobody else."""

    settings: Settings
    store: Store
    report: Reporter
    _votes: dict[BuildKey, list[Vote]] = field(default_factory=dict)
    _lists: dict[str, tuple[AllowedSigner, ...]] = field(default_factory=dict)
    _own: list[bytes] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

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
                decision = decide(vote, votes, self.settings.agreement)
                if not any((v.builder, v.artifact) == (builder, artifact) for v in votes):
                    votes.append(vote)
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
        """The votes about a key, one's own builds in the store among them."""
        if key not in self._votes:
            self._votes[key] = list(self._own_votes(key))
        return self._votes[key]

    def _own_votes(self, key: BuildKey) -> list[Vote]:
        found = []
        for path in statement_paths(self.store.root, key):
            try:
                artifact, builder = read_statement(path, key)
            except IntegrityError:
                continue
            own = builder == LOCAL or builder in map(_builder, self._own_keys())
            if own and incomplete(self.store, artifact) is None:
                found.append(Vote(self._self_name(), builder, artifact))
        return found

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
            return Vote(self._self_name(), builder, artifact)
        if signature is None:
            raise self._refusal(artifact, f"builder {builder[:12]} did not sign it", None)
        from buildit.net.sshsig import builder_name, claimed_key, verify

        text = signature.decode("ascii", "replace")
        allowed = self._allowed(repository)
        try:
            signer = verify(statement, text, allowed, NAMESPACE, int(time.time()))
        except IntegrityError as error:
            key = claimed_key(statement, text, NAMESPACE)
            raise self._refusal(artifact, error.message, key) from error
        if builder_name(signer.public) != builder:
            reason = f"builder {builder[:12]} is named, and another key signed"
            raise self._refusal(artifact, reason, signer.public)
        who = self._self_name() if signer.public in self._own_keys() else signer.principals
        return Vote(who, builder, artifact)

    def _refusal(self, artifact: Artifact, reason: str, key: bytes | None) -> IntegrityError:
        """Who signed, what the policy wants, and the one command that changes it."""
        listed = self.settings.allowed_signers or "none is configured"
        need = rule_for(artifact.name, self.settings.agreement).need
        details = [
            f"policy: {need} of your own key and the allowed signers ({listed}) must have signed"
        ]
        hint = "take it from another binhost, or let it be built here"
        if key is not None:
            self._remember(key)
            details.insert(0, f"signed by {fingerprint(key)} (builder {_builder(key)[:12]})")
            if key not in (line.public for line in self._allowed("")):
                hint = f"if you know this key: buildit trust add {fingerprint(key)}"
        return IntegrityError(
            f"the build of {artifact.name} is not trusted: {reason}",
            place=f"key {artifact.key[:12]}",
            hint=hint,
            details=tuple(details),
        )

    def _remember(self, key: bytes) -> None:
        path = self.store.cache(SEEN) / f"{_builder(key)}.pub"
        if not path.exists():
            from buildit.net.sshwire import public_line

            path.write_text(public_line(key) + "\n")

    def _allowed(self, repository: str) -> tuple[AllowedSigner, ...]:
        name = self.settings.own_signers.get(repository, self.settings.allowed_signers)
        if name not in self._lists:
            from buildit.net.allowed_signers import AllowedSigner

            # One's own first: no line of the file can make it worth less.
            own = tuple(AllowedSigner(SELF, key) for key in self._own_keys())
            self._lists[name] = (*own, *(signers_of(Path(name)) if name else ()))
        return self._lists[name]

    def _self_name(self) -> str:
        """Oneself as the allowed-signers file has it: one's other keys are no other person's."""
        own = self._own_keys()
        lines = [line for line in self._allowed("") if line.public in own]
        return next((line.principals for line in lines if line.principals != SELF), SELF)

    def _own_keys(self) -> list[bytes]:
        if self._own is None:
            key = own_key(self.settings)
            self._own = [] if key is None else [key.public]
        return self._own


def _builder(public: bytes) -> str:
    from buildit.net.sshsig import builder_name

    return builder_name(public)
