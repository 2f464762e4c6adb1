"""Variables in texts of a Dockerfile: the forms of Docker's reference, quotes, budgets."""

from __future__ import annotations

import time

import pytest

from buildit.recipe.ways.dockerfile.words import LONGEST_WORD, ExpansionError, expand

pytestmark = pytest.mark.unit

VALUES = {"a": "A", "empty": "", "file": "foo.tar.gz", "star": "x*y", "two": "one two", "ä": "u"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$a${a}b$a.b", "AAbA.b"),
        ("$unset-${unset}", "-"),
        ("$aa", ""),
        ("$ä$1$@|$", "u|$"),
        ("${empty:-x$a}|${empty-x}|${unset-x}|${unset:-x}", "xA||x|x"),
        ("${a:+y}|${empty:+y}|${empty+y}|${unset+y}", "y||y|"),
        ("${a:?told}|${empty?told}", "A|"),
        ("${unset:-${empty:-${a}}}", "A"),
        ('${unset:-"}"}', "}"),
        (r"${unset:-\}}", "}"),
        ("${file%.*}|${file%%.*}|${file#*.}|${file##*.}", "foo.tar|foo|tar.gz|gz"),
        (
            "${file#foo}|${file#bar}|${file%?z}|${file##*}|${file%%*}|",
            ".tar.gz|foo.tar.gz|foo.tar.|||",
        ),
        (r"${star#x\*}|${star%\*y}|${star#*\*}", "y|x|y"),
        (
            "${file/o/0}|${file//o/0}|${file/f*r/x}|${file//./}",
            "f0o.tar.gz|f00.tar.gz|x.gz|footargz",
        ),
        (r"${file/\//x}", "foo.tar.gz"),
        ("'$a' \"$a\" \\$a", "$a A $a"),
        (r"a\ b\\c\n", r"a b\cn"),
        (r'"a\"b\$\\\n"', r'a"b$\\n'),
        ("'a\\'", "a\\"),
        ("plain  text", "plain  text"),
    ],
)
def test_what_a_text_becomes(text: str, expected: str) -> None:
    assert expand(text, VALUES).text == expected


def test_words_are_divided_after_expansion_but_not_in_quotes() -> None:
    assert expand("$two '$two' \"$two\" x${unset}y", VALUES).words == (
        *("one", "two", "$two", "one two", "xy"),
    )
    assert expand("  a\tb  ", {}).words == ("a", "b")
    assert expand("a${unset} $empty b", VALUES).words == ("a", "b")


def test_another_escape() -> None:
    assert expand(r"C:\a`$a`` $a", VALUES, escape="`").text == r"C:\a$a` A"


def test_variables_that_are_missing_are_told() -> None:
    told = expand("$a $b ${c} ${d:-x} ${e+x} ${f#x}", VALUES)
    assert told.missing == {"b", "c", "f"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("'a", "a single quote is not closed"),
        ('"a', "a double quote is not closed"),
        ("${a", "a '}' is missing"),
        ("${a:-b", "a '}' is missing"),
        ("${}", "bad substitution"),
        ("${{a}}", "bad substitution"),
        ("${:-a}", "bad substitution"),
        ("${a.b}", "bad substitution"),
        ("${a:#b}", "there is no ${a:#…}"),
        ("${a:x}", "there is no ${a:x…}"),
        ("${unset?it must be given}", "unset: it must be given"),
        ("${empty:?}", "empty: it may not be empty"),
        ("${a/b}", "'/' is missing"),
    ],
)
def test_what_is_malformed_is_told(text: str, message: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand(text, VALUES)
    assert message in str(caught.value)


def test_a_question_is_not_asked_before_all_is_known() -> None:
    assert expand("a${unset?told}", {}, strict=False).text == "a"


@pytest.mark.parametrize(
    "text",
    [
        "${a:-" * 100_000,
        "${unset:-" * 100 + "}" * 100,
        "$long" * 50_000,
        '"' + "$long" * 50_000 + '"',
        "${unset:-$long$long$long}",
        "${file#" + "?" * 5_000 + "}",
        "'" * 999_999,
        "${long" * 100_000,
    ],
)
def test_hostile_texts_are_refused_in_no_time(text: str) -> None:
    values = {**VALUES, "long": "x" * (LONGEST_WORD // 2)}
    begin = time.process_time()
    with pytest.raises(ExpansionError):
        expand(text, values)
    assert time.process_time() - begin < 2


def test_a_pattern_with_many_stars_ends() -> None:
    values = {"long": "a" * 100_000}
    begin = time.process_time()
    assert expand("${long##" + "*a" * 400 + "*b}", values).text == values["long"]
    assert expand("${long%%" + "*a" * 400 + "}", values).text == ""
    assert time.process_time() - begin < 2
