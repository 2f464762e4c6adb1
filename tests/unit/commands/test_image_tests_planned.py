"""`test` steps from the file to the plan, without running one."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.codec import decode, encode
from buildit.commands.said import listed_steps
from buildit.commands.testing import image_tests
from buildit.errors import RecipeError
from buildit.make.image_test import is_so, text_problem
from buildit.model.image import App, Port
from buildit.model.image_test import CommandTest, FileTest, HttpTest, ImageTest, TextTest
from buildit.recipe.lists import load_container

pytestmark = pytest.mark.unit

VARS = "- vars: {author: me, name: web, version: 1.0}\n"
APP = App(("/usr/bin/web",), ports=(Port(8080), Port(53, "udp")))


def planned(tmp_path: Path, text: str, app: App | None = APP) -> ImageTest:
    (tmp_path / "container.yaml").write_text(f"{VARS}- test: {text}\n")
    container = load_container(tmp_path)
    (found,) = image_tests(container, app)
    assert found.place.endswith("container.yaml:2:3")
    assert decode(ImageTest, encode(found)) == found  # as a plan is kept
    listed = listed_steps(container)[-1]
    assert (listed.kind, listed.text) == ("test", found.said)
    return found


def test_a_command_is_typed(tmp_path: Path) -> None:
    text = "{exec: [web, '{{ name }}'], status: 2, stdout: {contains: a, equals: ''}}"
    found = planned(tmp_path, text)
    texts = (TextTest("contains", "a"), TextTest("equals", ""))
    assert found.commands == (CommandTest(("web", "web"), 2, texts),)
    assert (found.timeout, found.said, found.runs) == (30, "web web", True)
    found = planned(tmp_path, "{script: 'echo {{ name }}', timeout: 2m}")
    assert found.commands == (CommandTest(("/bin/sh", "-ec", "echo {{ name }}"), 0),)
    assert found.timeout == 120


def test_an_answer_is_of_the_port_that_the_app_says(tmp_path: Path) -> None:
    found = planned(tmp_path, "{http: {}}")
    assert found.http == (HttpTest(8080, "/", "localhost", False, 200),)
    text = "{port: 1, path: '/a?b', host: x.example.org, tls: yes, status: 404, headers: {A: b}}"
    found = planned(tmp_path, f"{{http: {text}}}")
    assert found.http == (HttpTest(1, "/a?b", "x.example.org", True, 404, {"a": "b"}),)
    assert found.said == "GET :1/a?b"


def test_files_are_one_or_several(tmp_path: Path) -> None:
    found = planned(tmp_path, "{file: {path: /etc/x, mode: 0640, owner: 'root:web'}}", None)
    assert found.files == (FileTest("etc/x", mode="0640", owner="root:web"),)
    assert not found.runs
    text = "{http: {}, file: [{path: /a, exists: no}, {path: /b, target: c}]}"
    found = planned(tmp_path, text)
    assert found.files == (FileTest("a", exists=False), FileTest("b", kind="link", target="c"))
    assert found.said == "GET /, /a, /b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "nothing is tested"),
        ("{timeout: 3s}", "nothing is tested"),
        ("{exec: [x], script: x}", "`script` and `exec` are in one test"),
        ("{exec: [x], http: {}}", "`exec` and `http` are in one test"),
        ("{http: {}, status: 1}", "`status` is of a command"),
        ("{file: {path: /x}, stdout: {contains: x}}", "`stdout` is of a command"),
        ("{exec: [x], status: 256}", "an exit status is at most 255"),
        ("{exec: [x], timeout: 0}", "a test takes some time"),
        ("{exec: [x], stdout: {}}", "nothing is expected"),
        ("{exec: [x], stdout: {matches: '('}}", "not a regular expression"),
        ("{exec: [x], expected: 1}", "unknown key 'expected'"),
        ("{http: {url: x}}", "unknown key 'url'"),
        ("{http: {port: 70000}}", "not a port: 70000"),
        ("{http: {status: 99}}", "not a status of HTTP: 99"),
        ("{http: {path: 'x'}}", "path: 'x' cannot be asked"),
        ("{http: {path: '/a b'}}", "path: '/a b' cannot be asked"),
        ("{http: {host: 'a b'}}", "host: 'a b' cannot be asked"),
        ("{file: {path: x}}", "path"),
        ("{file: {path: /x, exists: no, mode: 0644}}", "`mode` is said of what must not be there"),
        ("{file: {path: /x, type: directory, contains: x}}", "a directory has no content"),
        ("{file: {path: /x, target: y, contains: x}}", "a link has no content"),
        ("{file: {path: /x, type: file, target: y}}", "only a link has a target"),
        ("{file: {path: /x, type: socket}}", "expected one of file, directory, link"),
        ("{file: []}", "nothing is tested"),
    ],
)
def test_what_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        planned(tmp_path, text)
    assert said in error.value.message
    assert error.value.place
    assert error.value.hint


def test_an_answer_needs_an_app_with_one_port(tmp_path: Path) -> None:
    for app, said in (
        (None, "there is no app that could answer"),
        (App(("/x",)), "the app says no port over TCP"),
        (App(("/x",), ports=(Port(1), Port(2))), "the app says more than one port over TCP"),
    ):
        with pytest.raises(RecipeError) as error:
            planned(tmp_path, "{http: {}}", app)
        assert error.value.message == said


def test_texts_are_compared_by_one_word_each() -> None:
    assert is_so(TextTest("equals", "a"), "a\n")
    assert is_so(TextTest("equals", "a\n"), "a")
    assert not is_so(TextTest("equals", "a"), "a\n\n")
    assert is_so(TextTest("matches", "^b.d$"), "a\nbad\nc")
    assert not is_so(TextTest("matches", r"\Ab"), "a\nb")
    said = text_problem(TextTest("contains", "x\x1b[2J"), "", "stdout")
    assert said == r"expected stdout to contain 'x\\x1b[2J'"
