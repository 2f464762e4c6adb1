"""Texts of Dockerfiles as instructions: lines that go on, flags, heredocs, stages, refusals."""

from __future__ import annotations

import time

import pytest

from buildit.errors import RecipeError
from buildit.recipe.ways.dockerfile.parse import (
    MOST_INSTRUCTIONS,
    Instruction,
    parse_dockerfile,
    parse_trigger,
)
from buildit.recipe.yaml.node import Place

pytestmark = pytest.mark.unit


def only(text: str) -> Instruction:
    """The instruction behind FROM."""
    (one,) = parse_dockerfile(f"FROM scratch\n{text}", "Dockerfile").stages[0].instructions
    return one


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_dockerfile(text, "Dockerfile")
    return caught.value


def test_lines_go_on_behind_an_escape() -> None:
    one = only("run echo a \\ \t\n  # a comment\n\n   b \\\n#another\n  c\n")
    assert (one.word, one.rest) == ("RUN", "echo a    b   c")
    assert one.lines == (2, 7)
    assert str(one.place) == "Dockerfile:2:1"
    assert only("RUN a \\\\\n").rest == r"a \\"


def test_windows_line_ends_and_the_byte_order_mark_are_gone_before() -> None:
    found = parse_dockerfile("\ufeffFROM scratch\n\n# x\n   CMD a\n", "Dockerfile")
    assert [(one.word, one.place.line, one.place.column) for one in found.instructions] == [
        ("FROM", 1, 1),
        ("CMD", 4, 4),
    ]


def test_directives_stand_before_all_else() -> None:
    text = "# Syntax = docker/dockerfile:1\n#escape=`\nFROM scratch\nRUN a `\n b \\\nCMD c"
    found = parse_dockerfile(text, "Dockerfile")
    assert found.escape == "`"
    assert [one.rest for one in found.stages[0].instructions] == ["a  b \\", "c"]
    late = parse_dockerfile("# a comment\n# escape=`\nFROM scratch\nRUN a \\\n b", "Dockerfile")
    assert late.escape == "\\"
    assert "twice" in str(refused("# escape=`\n# escape=`\nFROM x"))
    assert "cannot be the escape" in str(refused("# escape=x\nFROM x"))


def test_flags() -> None:
    one = only(
        'RUN --mount=type=cache,target="/a b" --mount=type=tmpfs,target=/x --network=none a --b'
    )
    assert one.values_of("mount") == ("type=cache,target=/a b", "type=tmpfs,target=/x")
    assert (one.flag("network"), one.rest) == ("none", "a --b")
    assert only("COPY --link --chown=a:b -- --x /").rest == "--x /"
    assert only("COPY --link=FALSE a b").flag("link") == "false"
    error = refused("FROM scratch\nCOPY --chwon=a:b a b")
    known = "--from, --chown, --chmod, --link, --exclude, --parents"
    assert (error.place, error.hint) == (
        *("Dockerfile:2:1", f"did you mean '--chown'? valid here: {known}"),
    )
    assert "has no value" in str(refused("FROM a\nCOPY --from= a b"))
    assert "takes no flags" in str(refused("FROM a\nENV --x a=b").hint)
    assert "there twice" in str(refused("FROM a\nCOPY --from=a --from=b a b"))


def test_lists_in_json() -> None:
    assert only('CMD ["a", "b\\tc"]').listed == ("a", "b\tc")
    assert only("CMD [a]").listed is None
    assert only("CMD []").listed == ()
    assert only("CMD [" + "[" * 100_000).listed is None
    with pytest.raises(RecipeError) as caught:
        _ = only('CMD ["a", 1]').listed
    assert "texts alone" in str(caught.value)


def test_heredocs() -> None:
    one = only('COPY <<one <<-"two" /d/\n$a\n\tone\none\n\tb\n\t\ttwo\n')
    assert [(each.name, each.content, each.expands) for each in one.heredocs] == [
        ("one", "$a\n\tone\n", True),
        ("two", "b\n", False),
    ]
    assert one.lines == (2, 7)
    assert only("RUN cat <<EOF | sh\n# kept\n\nEOF").heredocs[0].content == "# kept\n\n"
    assert only('RUN ["a", "<<b"]').heredocs == ()
    assert only("CMD a <<b").heredocs == ()
    assert only("RUN echo $((1<<3)) 1<2 <<<x").heredocs == ()
    late = only("ONBUILD RUN <<EOF\na\nEOF")
    assert late.whole == "ONBUILD RUN <<EOF\na\nEOF"
    error = refused("FROM a\nRUN <<EOF\na\n EOF\n")
    assert (error.place, str(error.hint)) == (
        "Dockerfile:2:1",
        "end it by a line that is EOF and nothing else",
    )


def test_stages() -> None:
    text = (
        "ARG V=1\nFROM a:$V AS Build\nRUN x\nfrom --platform=$P build as z.9\nCMD y\nFROM scratch"
    )
    found = parse_dockerfile(text, "Dockerfile")
    assert [(one.shown, one.base, one.platform) for one in found.stages] == [
        ("build", "a:$V", ""),
        ("z.9", "build", "$P"),
        ("2", "scratch", ""),
    ]
    assert [[one.word for one in stage.instructions] for stage in found.stages] == [
        ["RUN"],
        ["CMD"],
        [],
    ]
    assert [one.rest for one in found.arguments] == ["V=1"]


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("", 1, "there is no instruction", "FROM"),
        ("# a\n\n", 1, "there is no instruction", "FROM"),
        ("FROM a\nRNU b", 2, "unknown instruction 'RNU'", "did you mean RUN?"),
        ("FROM a\nxyzzyx b", 2, "unknown instruction 'xyzzyx'", "the instructions are: ADD"),
        ("RUN a\nFROM b", 1, "RUN stands before the first FROM", "FROM debian:12"),
        ("ARG a", 1, "the file has no FROM", "FROM"),
        ("FROM a AS", 1, "FROM takes an image", "FROM IMAGE AS NAME"),
        ("FROM a OF b", 1, "FROM takes an image", "FROM IMAGE AS NAME"),
        ("FROM a AS 1b", 1, "'1b' cannot be the name", "begin with a letter"),
        ("FROM a AS x\nFROM b AS X", 2, "two stages are called 'x'", "line 1"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, message: str, hint: str) -> None:
    error = refused(text)
    assert error.place is not None
    assert error.place.startswith(f"Dockerfile:{line}:")
    assert message in error.message
    assert hint in str(error.hint)


def test_hostile_files_end_soon() -> None:
    begin = time.process_time()
    parse_dockerfile("FROM scratch\nRUN " + "a" * 1_000_000, "Dockerfile")
    parse_dockerfile("FROM scratch\nRUN a" + "\\\n" * 500_000, "Dockerfile")
    parse_dockerfile("FROM scratch\nRUN " + "--mount=a " * 100_000 + "b", "Dockerfile")
    parse_dockerfile("FROM scratch\nRUN <<x " + "'\"" * 200_000 + "\nx\n", "Dockerfile")
    assert f"more than {MOST_INSTRUCTIONS}" in str(refused("FROM scratch\n" + "CMD a\n" * 200_000))
    assert "unknown instruction" in str(refused("FROM a\n" + "x" * 1_000_000))
    assert time.process_time() - begin < 10


def test_a_trigger_of_a_base() -> None:
    place = Place("Dockerfile", 3, 1)
    one = parse_trigger("RUN <<E\na\nE", place)
    assert (one.word, one.heredocs[0].content, one.place) == ("RUN", "a\n", place)
    for text in ("FROM a", "ONBUILD RUN a", "", "# x"):
        with pytest.raises(RecipeError) as caught:
            parse_trigger(text, place)
        assert caught.value.place == "Dockerfile:3:1"
