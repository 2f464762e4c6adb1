"""The command line itself: help, usage errors, verbs and directories, docs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from buildit.cli.main import cli
from buildit.cli.quick import VERBS
from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.unit

COMMANDS = Path(__file__).parents[3] / "docs" / "commands.md"


def verbs() -> dict[tuple[str, ...], click.Command]:
    """Every verb, and every verb of a verb."""
    found: dict[tuple[str, ...], click.Command] = {}
    for name in sorted(VERBS):
        verb = cli.get_command(click.Context(cli), name)
        assert verb is not None
        assert verb.name == name
        found[(name,)] = verb
        for inner, command in getattr(verb, "commands", {}).items():
            found[(name, inner)] = command
    return found


def test_the_verbs_are_those_that_the_quick_way_knows() -> None:
    assert set(cli.list_commands(click.Context(cli))) == VERBS


@pytest.mark.parametrize("words", [(), *verbs()], ids=" ".join)
def test_help_of_every_verb(words: tuple[str, ...], command: Command) -> None:
    said = command(*words, "--help")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"Usage: {' '.join(('buildit', *words))} ")
    assert max(map(len, said.out.splitlines())) <= 100


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_docs_name_every_verb_with_its_options(words: tuple[str, ...]) -> None:
    text = COMMANDS.read_text("utf-8")
    section = re.search(rf"^## `buildit {' '.join(words)}\b.*?(?=^## |\Z)", text, re.M | re.S)
    assert section is not None
    for parameter in verbs()[words].params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in section[0]


def test_version(command: Command) -> None:
    said = command("--version")
    assert said.code == 0
    assert said.out.startswith("buildit")


@pytest.mark.parametrize(
    ("argv", "err"),
    [
        ((), "name the directory of a container, or a command\nhint: see `buildit --help`"),
        (("biuld",), "'biuld' is neither a command nor a directory; did you mean build?"),
        (("build",), "Missing argument 'DIR'.\nhint: see `buildit build --help`"),
        (("build", "x", "--jobs", "0"), "Invalid value for '--jobs': 0 is not in the range x>=1."),
        (("--nonsuch", "x"), "No such option '--nonsuch'."),
        (("store",), "Missing command."),
        (("store", "drop"), "No such command 'drop'."),
        (("lock", "here", "openssl"), "'here' is not the directory of a container"),
        (("build", "nowhere"), "nowhere is not a directory"),
        (("explain", "."), "container.yaml: there is no container.yaml in ."),
        (("explain", "debian:jq, x: y"), "debian:jq, x: y: debian: expected the name of a Debian"),
        (("check", "debian:jq: ["), "debian:jq: [: base: expected a Debian package, found"),
        (("verify",), "nothing to verify"),
        (("verify", "nowhere.aci"), "nowhere.aci: cannot be read: No such file or directory"),
        (("show", "nginx"), "nginx: no build in the store has this name or key"),
        (("show", "0123abcd"), "0123abcd: no build in the store has this key"),
        (("log",), "no failed build is remembered"),
        (("shell",), "no failed build is remembered"),
    ],
)
def test_usage_errors_say_one_thing_and_end_with_2(
    argv: tuple[str, ...], err: str, command: Command
) -> None:
    said = command(*argv)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"buildit: error: {err}")
    assert "\nhint: " in said.err
    assert len(said.err.splitlines()) == 2


def test_usage_errors_as_json(command: Command) -> None:
    said = command("build", "--json")
    assert said.code == 2
    assert json.loads(said.err)["message"] == "Missing argument 'DIR'."


def test_a_directory_is_built(command: Command) -> None:
    Path("box").mkdir()
    for argv in (("box",), ("build", "box"), ("--offline", "box"), ("./box", "--offline")):
        said = command(*argv)
        assert said.code == 2
        assert "there is no container.yaml in box" in said.err


def test_a_directory_that_is_called_like_a_verb_is_named_with_a_dot(command: Command) -> None:
    Path("doctor").mkdir()
    assert "no container.yaml" in command("./doctor").err
    assert "no container.yaml" not in command("doctor").err


def test_a_file_is_no_container(command: Command) -> None:
    Path("box").mkdir()
    Path("box/notes").write_text("")
    said = command("box/notes")
    assert said.code == 2
    assert "'box/notes' is a file; a container is a directory: buildit box, or" in said.err
    assert "buildit box --file notes\n" in said.err


def test_a_recipe_stands_for_its_directory(command: Command) -> None:
    Path("box").mkdir()
    Path("box/container.yaml").write_text("- vars: {name: a b, version: 1}\n")
    Path("box/other.yaml").write_text("")
    assert "box/container.yaml:1:16: name 'a b'" in command("box/container.yaml").err
    assert "box/other.yaml: the file is empty" in command("plan", "box/other.yaml").err
    said = command("plan", "box/container.yaml", "--file", "other.yaml")
    assert (said.code, "two recipes are named" in said.err) == (2, True)


@pytest.mark.parametrize("words", [(), ("store",)], ids=" ".join)
def test_the_list_of_verbs_says_whole_sentences(words: tuple[str, ...], command: Command) -> None:
    listed = command(*words, "--help").out.partition("Commands:\n")[2].partition("\n\n")[0]
    lines = listed.splitlines()
    assert len(lines) > 2
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def test_a_wrong_file_has_its_place(command: Command) -> None:
    Path("container.yaml").write_text("- vars: {name: a, version: 1}\n- sycn: {}\n")
    said = command("plan", ".", "--offline")
    assert said.code == 2
    assert said.err.startswith("buildit: error: container.yaml:2:3: unknown key 'sycn'")


def test_schema_goes_to_stdout_or_to_files(command: Command) -> None:
    assert json.loads(command("schema", "config").out)["title"] == ".buildit-config.yaml"
    assert set(json.loads(command("schema").out)) == {"pkg", "container", "config", "stack"}
    assert command("schema", "formats").out.startswith("# File formats\n")
    assert command("schema", "pkg", "--output", "there").out == "there/pkg.schema.json\n"
    assert Path("there/pkg.schema.json").is_file()


def test_a_bug_is_called_one(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.commands, "doctor", click.Command("doctor", callback=lambda: 1 // 0))
    said = command("doctor")
    assert said.code == 70
    assert "this is a bug of buildit: ZeroDivisionError" in said.err
    assert Path(said.err.strip().rpartition(" ")[2]).is_file()


def test_exit_codes_of_verbs_pass_through(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.commands, "doctor", click.Command("doctor", callback=lambda: 7))
    assert command("doctor").code == 7
