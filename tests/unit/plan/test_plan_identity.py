from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.commands.rules import RULES
from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.errors import IntegrityError
from buildit.model.plan import Dependency
from buildit.model.platform import PLATFORMS, Platform
from buildit.plan import identity
from buildit.plan.identity import (
    BuildInputs,
    FileInput,
    OutputInput,
    PatchInput,
    RuleInput,
    Rules,
    SourceInput,
    build_key,
    deb_record,
    former_deb_keys,
    read_record,
    record_text,
)
from buildit.plan.nearness import told_differences
from buildit.plan.steps import Phase, Step, environment, steps
from tests.scale import examples

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "records"
AMD64 = PLATFORMS["linux/amd64"]


def digest(text: str) -> Digest:
    return digest_bytes(text.encode())


FIXED = BuildInputs(
    name="www-servers/nginx",
    version="1.22.1",
    build_platform=AMD64,
    target_platform=AMD64,
    sources=(
        SourceInput(digest("nginx"), ".", 1, "", True, ("._*",)),
        SourceInput(digest("module"), "modules/x", 0, "module.jar", False, ("a", "b/*")),
    ),
    patches=(PatchInput(digest("first"), 1), PatchInput(digest("second"), 1)),
    files=(FileInput("sub/run", True, digest("run")),),
    steps=steps("autotools", AMD64, ("--with-x",), {Phase.CHECK: "make check", Phase.PREPARE: "x"}),
    environment={**environment(AMD64, "nginx", "1.22.1"), "USE": "ipv6 tls=openssl"},
    file_rules=(RuleInput("usr/bin/*", "0755", "0:0", ("cap_net_bind_service=ep",)),),
    outputs=(OutputInput("dev", ("usr/include/**",), False),),
    strip=True,
    toolchain=digest("toolchain"),
    dependencies=(
        Dependency(BuildKey(digest("openssl")), ("dev", "runtime")),
        Dependency(BuildKey(digest("zlib")), ("runtime",)),
    ),
    rules=Rules("1", "2", "3", "4", "5", "6"),
)


def key(inputs: BuildInputs) -> BuildKey:
    return build_key(record_text(inputs.record()))


NOT_IN_THE_RECORD = {
    (Platform, "triplet"): "acts through the steps and the environment",
    (Platform, "debian"): "acts through the .debs of the toolchain",
}


def changed(value: object) -> Iterator[tuple[str, object]]:
    """Every value that differs from `value` in one place, with the path of that place."""
    match value:
        case bool():
            yield "", not value
        case Enum():
            yield "", next(one for one in type(value) if one is not value)
        case str():
            yield "", f"{value}x"
        case int():
            yield "", value + 1
        case tuple():
            yield "[fewer]", value[:-1]
            yield "[twice]", (*value, value[-1])
            if len(set(value)) > 1:
                yield "[reversed]", tuple(reversed(value))
            for number, one in enumerate(value):
                for path, new in changed(one):
                    yield f"[{number}]{path}", (*value[:number], new, *value[number + 1 :])
        case Mapping():
            yield "[more]", {**value, "ANOTHER": ""}
            for name, one in value.items():
                yield f"[-{name}]", {n: v for n, v in value.items() if n != name}
                for path, new in changed(one):
                    yield f"[{name}]{path}", {**value, name: new}
        case _ if is_dataclass(value):
            for field in fields(value):
                if (type(value), field.name) not in NOT_IN_THE_RECORD:
                    for path, new in changed(getattr(value, field.name)):
                        yield f".{field.name}{path}", replace(value, **{field.name: new})  # type: ignore[type-var]
        case _:
            raise AssertionError(f"no change known for {value!r}")


def test_changing_anything_changes_the_key() -> None:
    keys = {"": key(FIXED)}
    for path, inputs in changed(FIXED):
        assert isinstance(inputs, BuildInputs)
        keys[path] = key(inputs)
    touched = {path.lstrip(".").split(".")[0].split("[")[0] for path in keys if path}
    assert touched == {field.name for field in fields(BuildInputs)}
    assert len(keys) > 100
    clashes = [path for path, one in keys.items() if list(keys.values()).count(one) > 1]
    assert clashes == []


def test_the_order_of_the_environment_does_not_count() -> None:
    turned = replace(FIXED, environment=dict(reversed(tuple(FIXED.environment.items()))))
    assert key(turned) == key(FIXED)


def test_the_record_is_golden(update_golden: bool) -> None:
    text = json.dumps(FIXED.record(), indent=1, sort_keys=True) + "\n"
    written = {GOLDEN / "nginx.json": text, GOLDEN / "nginx.key": f"{key(FIXED)}\n"}
    deb = deb_record(digest("deb"), digest("toolchain"), (digest("b"),), FIXED.rules)
    written[GOLDEN / "deb.json"] = json.dumps(deb, indent=1, sort_keys=True) + "\n"
    written[GOLDEN / "deb.key"] = f"{build_key(record_text(deb))}\n"
    for path, content in written.items():
        if update_golden:
            path.write_text(content)
        assert path.read_text() == content, "an accepted change raises SCHEME or a rule's version"


def test_the_record_holds_texts_lists_and_maps_only() -> None:
    def check(value: object) -> None:
        match value:
            case dict():
                assert all(isinstance(name, str) for name in value)
                for one in value.values():
                    check(one)
            case list():
                for one in value:
                    check(one)
            case _:
                assert isinstance(value, str), value

    check(FIXED.record())
    check(deb_record(digest("x"), digest("y"), (digest("z"),), RULES))


WORDS = st.text(max_size=6)
DIGESTS = st.integers(0, 3).map(lambda number: digest(str(number)))
TEXTS = st.lists(WORDS, max_size=3).map(tuple)
INPUTS = st.builds(
    replace,
    st.just(FIXED),
    name=WORDS,
    version=WORDS,
    sources=st.lists(st.builds(SourceInput, DIGESTS, WORDS, st.integers(0, 2)), max_size=2).map(
        tuple
    ),
    patches=st.lists(st.builds(PatchInput, DIGESTS, st.integers(0, 2)), max_size=2).map(tuple),
    steps=st.lists(st.builds(Step, st.sampled_from(Phase), TEXTS), max_size=2).map(tuple),
    environment=st.dictionaries(WORDS, WORDS, max_size=2),
    file_rules=st.lists(st.builds(RuleInput, WORDS, WORDS, WORDS, TEXTS), max_size=1).map(tuple),
    outputs=st.lists(st.builds(OutputInput, WORDS, TEXTS, st.booleans()), max_size=1).map(tuple),
    dependencies=st.lists(st.builds(Dependency, DIGESTS, TEXTS), max_size=2).map(tuple),
)


@settings(max_examples=examples(25))
@given(INPUTS, INPUTS)
def test_distinct_inputs_have_distinct_keys(first: BuildInputs, second: BuildInputs) -> None:
    """THREATS A4: nothing that a recipe can write makes one record look like another."""
    assert (key(first) == key(second)) == (first == second)


@settings(max_examples=examples(25))
@given(INPUTS)
def test_the_builder_reads_the_very_inputs_from_the_record(inputs: BuildInputs) -> None:
    record = read_record(record_text(inputs.record()))
    assert record.sources == inputs.sources
    assert record.patches == inputs.patches
    assert record.files == inputs.files
    assert record.steps == inputs.steps
    assert record.environment == inputs.environment
    assert record.file_rules == inputs.file_rules
    assert record.outputs == inputs.outputs
    assert record.toolchain == inputs.toolchain


def test_words_do_not_run_together() -> None:
    one = replace(FIXED, steps=(Step(Phase.COMPILE, ("make", "all install")),))
    two = replace(FIXED, steps=(Step(Phase.COMPILE, ("make all", "install")),))
    three = replace(FIXED, steps=(Step(Phase.COMPILE, ("make", "all", "install")),))
    assert len({key(one), key(two), key(three)}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"scheme":"0","type":"package"}',
        '{"scheme":"1","type":"debian"}',
        record_text({**FIXED.record(), "sources": [{"sha256": "x"}]}),
        record_text({**FIXED.record(), "steps": [{"phase": "deploy", "argv": []}]}),
        record_text({**FIXED.record(), "steps": None}),
    ],
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="not a build record") as caught:
        read_record(text)
    assert caught.value.hint


# -- differences


@settings(max_examples=examples(25))
@given(INPUTS, INPUTS)
def test_only_different_records_have_differences(first: BuildInputs, second: BuildInputs) -> None:
    found = told_differences(
        record_text(first.record()), record_text(second.record()), lambda key: key[:12]
    )
    if key(first) == key(second):
        assert found == ()
    else:
        assert found


def test_a_deb_is_known_by_the_keys_of_earlier_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was built with a .deb names it by the key of that day, and has the same key today."""

    def record() -> str:
        return record_text(deb_record(digest("x"), digest("y"), (), RULES))

    former = set(former_deb_keys(record()))
    for number in range(1, int(identity.MAINTAINER_RULES)):
        with monkeypatch.context() as patched:
            patched.setattr(identity, "MAINTAINER_RULES", str(number))
            assert build_key(record()) in former
    assert build_key(record()) not in former
