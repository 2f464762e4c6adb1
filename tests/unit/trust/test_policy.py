"""The judge, with real keys and signatures: what is believed, and how a refusal reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError, RecipeError
from buildit.events import Event, Notice
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.config import SigningKeys, Trust, TrustRule
from buildit.store.artifacts import Found, Miss, commit, examine, place_statement
from buildit.store.attest import LOCAL, statement_bytes
from buildit.store.cas import Store
from buildit.trust.policy import Policy, Undecided
from buildit.trust.signers import SEEN
from buildit.trust.ssh import NAMESPACE, builder_name, key_fingerprint, sign, signing_key
from tests.unit.trust.test_sshsig import public_line, write_key

pytestmark = pytest.mark.unit

KEY = BuildKey("1" * 64)
LIBRARY = BuildKey("3" * 64)


@dataclass(frozen=True)
class Person:
    """Somebody with a key."""

    name: str
    path: Path

    @property
    def public(self) -> bytes:
        return signing_key(self.path, None).public

    @property
    def builder(self) -> str:
        return builder_name(self.public)

    def statement(self, artifact: Artifact) -> bytes:
        return statement_bytes(artifact, self.builder)

    def sign(self, data: bytes, namespace: str = NAMESPACE) -> bytes:
        return sign(data, signing_key(self.path, None), namespace).encode()

    def line(self, options: str = "") -> str:
        return f"{self.name}@example.org {options}{' ' if options else ''}{public_line(self.path)}"


def artifact(layer: str = "a", name: str = "dev-libs/pcre2") -> Artifact:
    output = Output(Digest(layer * 64), 1, Digest("c" * 64))
    resolved = {LIBRARY: {RUNTIME: Digest("7" * 64)}}
    record = Digest("e" * 64)
    return Artifact(KEY, name, "1", "linux/amd64", {RUNTIME: output}, record, resolved=resolved)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Person]:
    known: dict[str, Person] = {}

    def person(name: str) -> Person:
        if name not in known:
            known[name] = Person(name, write_key(tmp_path_factory.mktemp(name), "ed25519"))
        return known[name]

    return person


@dataclass
class Court:
    """A judge who believes alice and bob, and whose own key is mine."""

    judge: Policy
    store: Store
    told: list[Event]

    def hear(
        self, who: Person, what: Artifact | None = None, signature: bytes | None = None
    ) -> None:
        statement = who.statement(what or artifact())
        self.judge.accepting()(statement, signature or who.sign(statement), who.builder)


@pytest.fixture
def court(store: Store, tmp_path: Path, people: Callable[[str], Person]) -> Court:
    return make_court(store, tmp_path, people, [people("alice").line(), people("bob").line()])


def make_court(
    store: Store,
    tmp_path: Path,
    people: Callable[[str], Person],
    lines: list[str],
    rules: tuple[TrustRule, ...] = (),
) -> Court:
    path = tmp_path / "allowed_signers"
    path.write_text("\n".join(lines) + "\n")
    told: list[Event] = []
    keys = SigningKeys(ssh=str(people("me").path))
    trust = Trust(keys, allowed_signers=str(path), agreement=rules)
    return Court(Policy(trust, store, told.append), store, told)


def refusal(court: Court, *args: object) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        court.hear(*args)  # type: ignore[arg-type]
    return caught.value


def test_the_allowed_and_oneself_are_believed(
    court: Court, people: Callable[[str], Person]
) -> None:
    for name in ("alice", "bob", "me"):
        court.hear(people(name))


def test_a_stranger_is_told_of_with_the_command_that_changes_it(
    court: Court, people: Callable[[str], Person]
) -> None:
    mallory = people("mallory")
    error = refusal(court, mallory)
    print_of = key_fingerprint(mallory.public)
    assert "dev-libs/pcre2 is not trusted" in error.message
    assert error.details[0] == f"signed by {print_of} (builder {mallory.builder[:12]})"
    assert "1 of your own key and the allowed signers" in error.details[1]
    assert error.hint == f"if you know this key: buildit trust add {print_of}"
    seen = court.store.cache(SEEN) / f"{mallory.builder}.pub"
    assert seen.read_text().split()[:2] == public_line(mallory.path).split()[:2]


def test_nobody_signed(court: Court, people: Callable[[str], Person]) -> None:
    alice = people("alice")
    with pytest.raises(IntegrityError, match="did not sign it"):
        court.judge.accepting()(alice.statement(artifact()), None, alice.builder)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: s[: len(s) // 2], "not an SSH signature"),
        (lambda s: s[:0], "not an SSH signature"),
        (lambda s: s.replace(b"A", b"B"), "."),
        (lambda s: s + s, "not an SSH signature"),
        (lambda s: s + b"x" * (11 << 20), "not an SSH signature"),
        (lambda s: b"\xff" + s, "not an SSH signature"),
    ],
    ids=["truncated", "empty", "garbled", "twice", "11 MiB", "not text"],
)
def test_a_spoiled_signature(
    court: Court, people: Callable[[str], Person], spoil: Callable[[bytes], bytes], reason: str
) -> None:
    alice = people("alice")
    statement = alice.statement(artifact())
    spoiled = spoil(alice.sign(statement)) or b"x"
    with pytest.raises(IntegrityError, match=reason):
        court.judge.accepting()(statement, spoiled, alice.builder)


def test_a_signature_of_other_bytes_or_for_another_purpose(
    court: Court, people: Callable[[str], Person]
) -> None:
    alice = people("alice")
    statement = alice.statement(artifact())
    for signature in (alice.sign(statement + b" "), alice.sign(statement, "git")):
        with pytest.raises(IntegrityError, match="is not trusted"):
            court.judge.accepting()(statement, signature, alice.builder)


def test_one_may_not_sign_for_another(court: Court, people: Callable[[str], Person]) -> None:
    alice, bob = people("alice"), people("bob")
    statement = alice.statement(artifact())
    with pytest.raises(IntegrityError, match="another key signed"):
        court.judge.accepting()(statement, bob.sign(statement), alice.builder)


@pytest.mark.parametrize(
    "options", ['namespaces="git"', 'valid-before="20200101Z"', 'valid-after="29990101Z"']
)
def test_a_line_counts_for_its_purpose_and_time_only(
    store: Store, tmp_path: Path, people: Callable[[str], Person], options: str
) -> None:
    court = make_court(store, tmp_path, people, [people("alice").line(options)])
    error = refusal(court, people("alice"))
    assert error.hint is not None
    assert "trust add" not in error.hint, "she is listed: adding her again changes nothing"


def test_a_wrong_list_is_the_user_s_to_mend(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    court = make_court(store, tmp_path, people, ["alice"])
    with pytest.raises(RecipeError, match="not `principals"):
        court.hear(people("alice"))
    (tmp_path / "allowed_signers").unlink()
    with pytest.raises(RecipeError, match="cannot be read"):
        court.hear(people("alice"))


def test_a_repository_s_own_list_holds_for_it_alone(
    court: Court, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    (tmp_path / "others").write_text(people("carol").line() + "\n")
    trust = replace(court.judge.trust, own_signers={"far": str(tmp_path / "others")})
    judge = Policy(trust, court.store, court.told.append)
    for name, repository, good in (
        ("carol", "far", True),
        ("carol", "near", False),
        ("alice", "far", False),
        ("alice", "near", True),
        ("me", "far", True),
    ):
        who = people(name)
        statement = who.statement(artifact())
        try:
            judge.accepting(repository)(statement, who.sign(statement), who.builder)
        except IntegrityError:
            assert not good, (name, repository)
        else:
            assert good, (name, repository)


# -- how many


TWO = (TrustRule("dev-libs/*", 2),)


def test_two_builders_agree_wherever_they_publish(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    lines = [people("alice").line(), people("bob").line()]
    court = make_court(store, tmp_path, people, lines, TWO)
    with pytest.raises(Undecided) as caught:
        court.hear(people("alice"))
    assert "1 said so: alice@example.org" in caught.value.details
    with pytest.raises(Undecided):
        court.hear(people("alice"))
    court.hear(people("bob"))
    court.hear(people("alice"))


def test_who_says_other_bytes_is_named(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    lines = [people("alice").line(), people("bob").line()]
    court = make_court(store, tmp_path, people, lines, TWO)
    with pytest.raises(Undecided):
        court.hear(people("alice"))
    with pytest.raises(Undecided) as caught:
        court.hear(people("bob"), artifact("b"))
    assert "other bytes were built by: alice@example.org" in caught.value.details


def test_one_person_with_two_keys_is_one_builder(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    second = replace(people("alice2"), name="alice")
    court = make_court(store, tmp_path, people, [people("alice").line(), second.line()], TWO)
    for who in (people("alice"), second):
        with pytest.raises(Undecided):
            court.hear(who)


def test_one_s_own_build_in_the_store_counts(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    court = make_court(store, tmp_path, people, [people("alice").line()], TWO)
    layer, contents = store.put_bytes(b"layer"), store.put_bytes(b"contents")
    own = replace(
        artifact(), outputs={RUNTIME: Output(layer, 5, contents)}, record=store.put_bytes(b"record")
    )
    commit(store, own)
    court.hear(people("alice"), own)


def test_one_s_own_other_key_is_no_other_person(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    mine, old = replace(people("me"), name="me"), replace(people("old"), name="me")
    court = make_court(store, tmp_path, people, [mine.line(), old.line()], TWO)
    for who in (mine, old):
        with pytest.raises(Undecided):
            court.hear(who)


def test_an_unsigned_statement_is_nobody_s_vote(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    court = make_court(store, tmp_path, people, [], ())
    court.judge.accepting()(statement_bytes(artifact(), LOCAL), None, LOCAL)
    court = make_court(store, tmp_path, people, [], TWO)
    with pytest.raises(Undecided):
        court.judge.accepting()(statement_bytes(artifact(), LOCAL), None, LOCAL)
    with pytest.raises(Undecided) as caught:
        court.hear(people("me"))
    assert "1 said so: yourself" in caught.value.details


# -- what lies in the store


def whole(store: Store, layer: bytes = b"layer", name: str = "dev-libs/pcre2") -> Artifact:
    output = Output(store.put_bytes(layer), len(layer), store.put_bytes(b"contents"))
    record = store.put_bytes(b"record")
    return replace(artifact(name=name), outputs={RUNTIME: output}, record=record)


def take(court: Court, who: Person, what: Artifact, origin: str = "depot") -> None:
    statement = who.statement(what)
    signature = who.sign(statement)
    place_statement(court.store, what, who.builder, statement, signature, origin=origin)


def found(court: Court) -> Found | Miss:
    return examine(court.store, KEY, believed=court.judge.doubts)


def test_what_was_taken_is_used_while_its_builder_is_trusted(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    court = make_court(store, tmp_path, people, [people("alice").line()])
    take(court, people("alice"), whole(store))
    kept = found(court)
    assert isinstance(kept, Found)
    assert kept.origin == "depot"
    for lines in (["# nobody"], [people("alice").line('valid-before="20200101Z"')]):
        court = make_court(store, tmp_path, people, lines)
        assert isinstance(found(court), Miss)
        assert isinstance(found(court), Miss)
        who = people("alice").builder[:12]
        said = f"dev-libs/pcre2, taken from 'depot' before, is not used: builder {who} is not"
        assert [one.message for one in court.told if isinstance(one, Notice)] == [
            f"{said} trusted now"
        ]


def test_the_list_of_the_repository_that_it_came_from_counts(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    court = make_court(store, tmp_path, people, [])
    (tmp_path / "others").write_text(people("carol").line() + "\n")
    trust = replace(court.judge.trust, own_signers={"far": str(tmp_path / "others")})
    court.judge = Policy(trust, store, court.told.append)
    take(court, people("carol"), whole(store, b"near"), "near")
    assert isinstance(found(court), Miss)
    take(court, people("carol"), whole(store, b"far"), "far")
    kept = found(court)
    assert isinstance(kept, Found)
    assert kept.origin == "far"


def test_a_stricter_rule_holds_for_what_was_taken_before(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    lines = [people("alice").line(), people("bob").line()]
    court = make_court(store, tmp_path, people, lines, TWO)
    take(court, people("alice"), whole(store))
    assert isinstance(found(court), Miss)
    take(court, people("bob"), whole(store, b"other"))
    court = make_court(store, tmp_path, people, lines, TWO)
    assert isinstance(found(court), Miss)


def test_what_two_agreed_on_stays_trusted_without_a_network(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    lines = [people("alice").line(), people("bob").line()]
    court = make_court(store, tmp_path, people, lines, TWO)
    same = whole(store)
    with pytest.raises(Undecided):
        court.hear(people("alice"), same)
    court.hear(people("bob"), same)
    take(court, people("bob"), same)
    court.judge.keep_agreement(same)
    assert isinstance(found(make_court(store, tmp_path, people, lines, TWO)), Found)
    without_alice = make_court(store, tmp_path, people, lines[1:], TWO)
    assert isinstance(found(without_alice), Miss)


def test_what_was_built_here_is_not_doubted_whatever_key_signed_it(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    court = make_court(store, tmp_path, people, [], TWO)
    old = people("old")
    commit(store, whole(store), old.builder, old.sign)
    assert isinstance(found(court), Found)


def test_unsigned_is_used_while_a_repository_may_be_unsigned(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    court = make_court(store, tmp_path, people, [])
    what = whole(store)
    place_statement(store, what, LOCAL, statement_bytes(what, LOCAL), None, origin="depot")
    assert isinstance(found(court), Miss)
    trust = replace(court.judge.trust, unsigned=True)
    judge = Policy(trust, store, court.told.append)
    kept = examine(store, KEY, believed=judge.doubts)
    assert isinstance(kept, Found)
    strict = Policy(replace(trust, agreement=TWO), store, court.told.append)
    assert isinstance(examine(store, KEY, believed=strict.doubts), Miss)


def test_a_repetition_is_as_good_as_what_it_repeats(
    store: Store, tmp_path: Path, people: Callable[[str], Person]
) -> None:
    """Early cut-off says a build anew under one's own key; its builder may lose our trust later."""
    court = make_court(store, tmp_path, people, [people("alice").line()])
    take(court, people("alice"), whole(store))
    repeated = replace(whole(store), key=LIBRARY, restated=KEY, resolved={})
    commit(store, repeated, people("me").builder, people("me").sign)
    assert isinstance(examine(store, LIBRARY, believed=court.judge.doubts), Found)
    court = make_court(store, tmp_path, people, ["# nobody"])
    assert isinstance(examine(store, LIBRARY, believed=court.judge.doubts), Miss)


def test_an_own_build_that_differs_from_others_is_told_of(
    court: Court, people: Callable[[str], Person]
) -> None:
    court.hear(people("alice"))
    court.judge.compare(artifact())
    assert court.told == []
    court.judge.compare(artifact("b"))
    (notice,) = court.told
    assert isinstance(notice, Notice)
    assert notice.warning
    assert "dev-libs/pcre2 is not reproducible: alice@example.org" in notice.message
