"""Whom to believe: how many independent builders must say the same of a package. Pure.

Signatures are verified before this: a vote is a statement that its signer did sign. The decision
is about what is taken from others; what one built oneself is at hand already, and counts as a vote.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError, UsageError
from buildit.model.artifact import Artifact
from buildit.model.config import TrustRule


class Undecided(IntegrityError):  # noqa: N818 - not wrong: others may yet say the same
    """A statement that is signed by somebody trusted, and that too few builders agree on."""


SELF = "yourself"
"""Who is shown for one's own builds."""
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


@dataclass(frozen=True, slots=True)
class Decision:
    """`accepted`, the rule that decided, who agrees and who contradicts, and that in words."""

    accepted: bool
    need: int
    rule: str
    agree: tuple[str, ...]
    contradict: tuple[str, ...]
    reasons: tuple[str, ...]


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
            raise UsageError(
                f"the trust rule {rule.match!r} does not fit {meant[0]}: case counts",
                place="trust: packages",
                hint=f"write `match: {meant[0]}`, or a glob in the same case",
            )
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


def decide(candidate: Vote, others: Sequence[Vote], rules: Sequence[TrustRule]) -> Decision:
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
    candidate: Vote, rule: TrustRule, agree: tuple[str, ...], contradict: tuple[str, ...]
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
