from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.digest import BuildKey, Digest, canonical, digest_bytes
from buildit.errors import IntegrityError
from buildit.model.accounts import AlternativeLink, Declared, Group, User
from buildit.model.artifact import Artifact, Encoding, Output
from buildit.store.attest import LOCAL, SIZE_LIMIT, parse_statement, stated_key, statement_bytes
from tests.scale import examples

pytestmark = pytest.mark.unit

digests = st.integers(0, 2**256 - 1).map(lambda number: Digest(f"{number:064x}"))
keys = digests.map(BuildKey)
counts = st.integers(0, 2**62 - 1)
names = st.from_regex(r"[a-z0-9][a-z0-9.+_-]{0,10}", fullmatch=True)
needs = st.sets(st.text(max_size=20), max_size=4).map(lambda found: tuple(sorted(found)))


@st.composite
def some_output(draw: st.DrawFn) -> Output:
    needed = draw(needs)
    provider = st.tuples(st.just("") | keys, names).map(":".join)
    encoding = st.builds(
        Encoding, codec=st.sampled_from(["gzip", "zstd"]), digest=digests, size=counts
    )
    return Output(
        diff_id=draw(digests),
        size=draw(counts),
        contents=draw(digests),
        needs=needed,
        providers={need: draw(provider) for need in needed if draw(st.booleans())},
        encodings=tuple(draw(st.lists(encoding, max_size=2))),
    )


artifacts = st.builds(
    Artifact,
    key=keys,
    name=st.text(max_size=20),
    version=st.text(max_size=10),
    platform=st.text(max_size=10),
    outputs=st.dictionaries(names, some_output(), min_size=1, max_size=3),
    record=digests,
    log=st.none() | digests,
    resolved=st.dictionaries(
        keys, st.dictionaries(names, digests, min_size=1, max_size=2), max_size=3
    ),
    materials=st.lists(st.tuples(st.text(max_size=20), digests), max_size=3).map(tuple),
    epoch=counts,
)
builders = st.just(LOCAL) | digests

KEY = BuildKey("1" * 64)
SAMPLE = Artifact(
    key=KEY,
    name="www-servers/nginx",
    version="1.22.1",
    platform="linux/amd64",
    outputs={
        "runtime": Output(
            Digest("2" * 64),
            10240,
            Digest("3" * 64),
            ("soname:libz.so.1",),
            {"soname:libz.so.1": "8" * 64 + ":runtime"},
        ),
        "doc": Output(
            Digest("4" * 64),
            1024,
            Digest("5" * 64),
            (),
            {},
            (Encoding("zstd", Digest("9" * 64), 7),),
        ),
    },
    record=Digest("6" * 64),
    log=Digest("7" * 64),
    resolved={BuildKey("8" * 64): {"dev": Digest("a" * 64), "runtime": Digest("b" * 64)}},
    materials=(("nginx.tar.gz", Digest("c" * 64)), ("https-only.patch", Digest("d" * 64))),
    epoch=1_700_000_000,
)


@pytest.mark.scale
@settings(max_examples=examples(60), deadline=None)
@given(artifact=artifacts, builder=builders)
def test_everything_survives(artifact: Artifact, builder: str) -> None:
    content = statement_bytes(artifact, builder)
    statement = parse_statement(content, artifact.key)
    assert statement.artifact == artifact
    assert statement.builder == builder


def test_the_bytes_are_golden() -> None:
    """Published statements must be read for ever: a change here is a new format."""
    content = statement_bytes(SAMPLE, LOCAL)
    document = json.loads(content)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    assert document["subject"] == [
        {"name": "doc", "digest": {"sha256": "4" * 64}},
        {"name": "runtime", "digest": {"sha256": "2" * 64}},
    ]
    definition = document["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [
        {"name": "record", "digest": {"sha256": "6" * 64}},
        {"name": "material:nginx.tar.gz", "digest": {"sha256": "c" * 64}},
        {"name": "material:https-only.patch", "digest": {"sha256": "d" * 64}},
        {
            "name": "output:dev",
            "digest": {"sha256": "a" * 64},
            "annotations": {"buildit_key": "8" * 64},
        },
        {
            "name": "output:runtime",
            "digest": {"sha256": "b" * 64},
            "annotations": {"buildit_key": "8" * 64},
        },
    ]
    assert document["predicate"]["runDetails"] == {
        "builder": {"id": "urn:buildit:builder:local"},
        "byproducts": [{"name": "log", "digest": {"sha256": "7" * 64}}],
    }
    assert digest_bytes(content) == GOLDEN


@pytest.mark.parametrize(
    "declared",
    [
        Declared((User("a:b", 1, 1),)),
        Declared((User("a", -1, 1),)),
        Declared((), (Group("a", 1, ("b\nc",)),)),
        Declared((), (), (AlternativeLink("../x", "usr/bin/b", 5),)),
        Declared((), (), (AlternativeLink("usr/bin/x", "", 5),)),
    ],
)
def test_what_no_account_file_could_hold_is_refused(declared: Declared) -> None:
    outputs = {**SAMPLE.outputs, "runtime": replace(SAMPLE.outputs["runtime"], declared=declared)}
    with pytest.raises(ValueError, match=r"account|path"):
        statement_bytes(replace(SAMPLE, outputs=outputs), LOCAL)


def test_a_machine_has_an_account_too() -> None:
    """As Samba's: useradd(8) takes a dollar at the end."""
    declared = Declared((User("Debian-host.1$", 400, 400),))
    outputs = {**SAMPLE.outputs, "runtime": replace(SAMPLE.outputs["runtime"], declared=declared)}
    content = statement_bytes(replace(SAMPLE, outputs=outputs), LOCAL)
    assert parse_statement(content, SAMPLE.key).artifact.outputs["runtime"].declared == declared


def test_the_order_of_maps_changes_nothing() -> None:
    turned = replace(SAMPLE, outputs={name: SAMPLE.outputs[name] for name in ("doc", "runtime")})
    assert statement_bytes(turned, LOCAL) == statement_bytes(SAMPLE, LOCAL)


def test_a_statement_about_another_key_is_refused() -> None:
    with pytest.raises(IntegrityError, match="speaks of key 1111"):
        parse_statement(statement_bytes(SAMPLE, LOCAL), BuildKey("2" * 64))


DECLARED = Declared(
    (User("redis", 200, 200),),
    (Group("redis", 200),),
    (AlternativeLink("usr/bin/a", "usr/bin/b", 5),),
)


@pytest.mark.parametrize("model", [Artifact, Output, Encoding])
def test_every_field_is_in_the_statement(model: type[Artifact | Output | Encoding]) -> None:
    """A field that the models gain must be carried: the sample sets every one."""
    holders: dict[type, Any] = {
        Artifact: replace(SAMPLE, restated=BuildKey("9" * 64)),
        Output: replace(
            SAMPLE.outputs["runtime"],
            encodings=SAMPLE.outputs["doc"].encodings,
            run=(":doc",),
            declared=DECLARED,
        ),
        Encoding: SAMPLE.outputs["doc"].encodings[0],
    }
    assert all(getattr(holders[model], field.name) for field in fields(model))
    outputs = {**SAMPLE.outputs, "runtime": holders[Output]}
    for artifact in (SAMPLE, holders[Artifact], replace(SAMPLE, outputs=outputs)):
        assert parse_statement(statement_bytes(artifact, LOCAL), KEY).artifact == artifact


def test_a_statement_says_what_it_is_about() -> None:
    assert stated_key(statement_bytes(SAMPLE, LOCAL)) == KEY
    for content in (b"", b"{}", b"[]", b'{"predicate": 1}', b"[" * 100_000):
        with pytest.raises(IntegrityError, match="names no key"):
            stated_key(content)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in a JSON document."""
    inner: Any = ()
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path]
    for step, part in inner:
        found += paths(part, (*path, step))
    return found


def every_path() -> list[tuple[Any, ...]]:
    return paths(json.loads(statement_bytes(SAMPLE, LOCAL)))


JUNK: list[Any] = [None, True, -1, 1.5, 2**70, "", "x", "../x", "f" * 63, "F" * 64, [], {}, [[]]]


@pytest.mark.parametrize("path", every_path(), ids=str)
def test_every_place_is_judged(path: tuple[Any, ...]) -> None:
    """Junk or a missing value anywhere: refused, or a different artifact, never more."""
    for junk in (*JUNK, KeyError):
        document: Any = json.loads(statement_bytes(SAMPLE, LOCAL))
        holder = document
        for step in path[:-1]:
            holder = holder[step]
        if not path:
            document = None if junk is KeyError else junk
        elif junk is KeyError:
            del holder[path[-1]]
        else:
            holder[path[-1]] = junk
        content = canonical(document)
        with suppress(IntegrityError):
            statement = parse_statement(content, KEY)
            assert statement_bytes(statement.artifact, statement.builder) == content


@pytest.mark.parametrize("field", ["name", "version", "platform"])
def test_half_of_a_surrogate_pair_is_refused(field: str) -> None:
    """It could not be written into an index or onto a screen."""
    half: dict[str, Any] = {field: "1\ud800"}
    with pytest.raises(ValueError, match="surrogates not allowed"):
        statement_bytes(replace(SAMPLE, **half), LOCAL)
    document: Any = json.loads(statement_bytes(SAMPLE, LOCAL))
    document["predicate"]["buildDefinition"]["externalParameters"][field] = "1\ud800"
    with pytest.raises(IntegrityError, match="surrogates not allowed"):
        parse_statement(canonical(document), KEY)


def test_an_unknown_field_is_refused() -> None:
    for path in every_path():
        document: Any = json.loads(statement_bytes(SAMPLE, LOCAL))
        place = document
        for step in path:
            place = place[step]
        if isinstance(place, dict):
            place["zz"] = "x"
            with pytest.raises(IntegrityError):
                parse_statement(canonical(document), KEY)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000,
        b"NaN",
        statement_bytes(SAMPLE, LOCAL) + b"\n",
        statement_bytes(SAMPLE, LOCAL).replace(b",", b", ", 1),
        statement_bytes(SAMPLE, LOCAL).replace(b'{"_type"', b'{"_type":"x","_type"', 1),
        b" " * (SIZE_LIMIT + 1),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_only_the_canonical_bytes_are_read(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="refused"):
        parse_statement(content, KEY)


@pytest.mark.parametrize(
    "artifact",
    [
        replace(SAMPLE, outputs={}),
        replace(SAMPLE, outputs={"../x": SAMPLE.outputs["doc"]}),
        replace(SAMPLE, record=Digest("sha256:" + "6" * 64)),
        replace(SAMPLE, key=BuildKey("x")),
        replace(SAMPLE, epoch=-1),
        replace(SAMPLE, resolved={BuildKey("8" * 64): {}}),
        replace(SAMPLE, outputs={"doc": replace(SAMPLE.outputs["doc"], needs=("b", "a"))}),
        replace(SAMPLE, outputs={"doc": replace(SAMPLE.outputs["doc"], providers={"x": ":y"})}),
    ],
)
def test_what_could_not_be_read_is_not_written(artifact: Artifact) -> None:
    with pytest.raises(ValueError, match=r"\bnot?\b|without"):
        statement_bytes(artifact, LOCAL)


GOLDEN = "3c6a6deffeda1b21b410337fd28d8071436ada4b8cb74ca20db1cd956875a1c6"
