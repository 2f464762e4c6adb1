"""Whom to believe: how many independent builders must say the same of a package. Pure.

Signatures are verified before this: a vote is a statement that its signer did sign. The decision
is about what is taken from others; what one built oneself is at hand already, and counts as a vote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError
from buildit.model.artifact import Artifact


class Undecided(IntegrityError):  # noqa: N818 - not wrong: others may yet say the same
    """A statement that is signed by somebody trusted, and that too few builders agree on."""


SELF = "yourself"
"""Who is shown for one's own builds."""
NOBODY = ""
"""Who vouches for what is unsigned: that is nobody's vote."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Packages whose `category/name` the glob `match` fits need `need` builders."""

    match: str
    need: int


@dataclass(frozen=True, slots=True)
class Vote:
    """One verified statement: who signed, by which key (`builder`), and about what.

    `who` are the principals of the allowed-signers line: one person with two keys is one builder.
    It is `NOBODY` for an unsigned one, which counts where one builder is enough.
    """

    who: str
    builder: str
    artifact: Artifact


@dataclass(frozen=True, slots=True)
class Decision:
    """`accepted`, the rule that decided, who agrees and who contradicts, and that in words."""

    accepted: bool
    need: int
    rule: str
    agree: tuple[str, ...]
    contradict: tuple[str, ...]
    reasons: tuple[str, ...]


def rule_for(name: str, rules: Sequence[Rule]) -> Rule:
    """The first rule whose glob fits; one builder is enough where none does."""
    return next((rule for rule in rules if fnmatchcase(name, rule.match)), Rule("*", 1))


def claim(artifact: Artifact) -> Mapping[str, Digest]:
    """What builders must agree on: the bytes of each output."""
    return {name: output.diff_id for name, output in artifact.outputs.items()}


def context(artifact: Artifact) -> Mapping[BuildKey, Mapping[str, Digest]]:
    """What an artifact was built against."""
    return {key: dict(outputs) for key, outputs in artifact.resolved.items()}


def decide(candidate: Vote, others: Sequence[Vote], rules: Sequence[Rule]) -> Decision:
    """Whether `candidate` may be taken, given the other verified votes about the same key.

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
    enough = len(agree) >= rule.need or rule.need <= 1
    reasons = _reasons(candidate, rule, agree, contradict) if not enough else ()
    return Decision(enough, rule.need, rule.match, agree, contradict, reasons)


def _people(votes: Iterable[Vote]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(vote.who for vote in votes if vote.who != NOBODY))


def _reasons(
    candidate: Vote, rule: Rule, agree: tuple[str, ...], contradict: tuple[str, ...]
) -> tuple[str, ...]:
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
