"""What of a shell script is apt's: the packages that `apt-get install` names, which can then be
pinned, and whether the script does anything that needs a network beside. Pure.

What is not literal is left to the script: a name that is missed here is one that apt then lacks,
and says so.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from buildit.recipe.leaf import DEBIAN_NAME
from buildit.recipe.ways.dockerfile.words import ExpansionError, expand
from buildit.recipe.ways.nodes import list_node, map_node, step_node
from buildit.recipe.yaml import node as nodes
from buildit.recipe.yaml.node import Node, Place

_APT = ("apt-get", "apt", "aptitude")
_TAKES_A_WORD = ("-t", "-o", "-c", "--target-release", "--default-release", "--option")
_WORDS = """
    : [ adduser addgroup basename cat cd chgrp chmod chown cp cut date dirname dpkg-reconfigure
    echo export false grep groupadd gzip head id install ldconfig ln locale-gen ls mkdir mktemp mv
    passwd printf pwd rm rmdir sed set sort stat tail tar tee test touch tr true umask uname
    update-alternatives update-ca-certificates useradd usermod wc which
"""
_LOCAL = frozenset(_WORDS.split())
"""Commands that ask no other machine."""

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_PACKAGE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?::(?:any|native|all))?(?P<version>=\S+)?")
_NAMED = re.compile(DEBIAN_NAME)


@dataclass(frozen=True, slots=True)
class AptScript:
    """`packages` are what it installs, `name` or `name=version`; `runs_apt` is whether apt is asked
    for anything, `is_local` whether nothing else in it asks other machines."""

    packages: tuple[str, ...]
    runs_apt: bool
    is_local: bool


def apt_script(script: str, values: Mapping[str, str]) -> AptScript:
    """What of a script is apt's; `values` are the variables that it sees."""
    found: dict[str, None] = {}
    document = script.find("<<")
    end = len(script) if document < 0 else script.find("\n", document)
    runs_apt, is_local = False, document < 0
    for words in _commands(script[:end] if end >= 0 else script):
        command, *rest = words
        name = command.rpartition("/")[2]
        if name in _APT:
            runs_apt = True
            found |= dict.fromkeys(_installed(rest, values))
        if name not in (*_APT, *_LOCAL) or any("$(" in word or "`" in word for word in words):
            is_local = False
    return AptScript(tuple(found), runs_apt, is_local)


def command_step(
    place: Place, script: str, values: Mapping[str, str], *, over_suite: bool
) -> nodes.Mapping:
    """The step of a command of a recipe, which sees what the image says (`as-app`). Over Debian's
    own root, which names no mirror, the packages that it has apt install are its `debs`, exact in
    the lock. It has a network unless all that it does is known to need none."""
    apt = apt_script(script, values)
    said: dict[str, str | Node] = {"script": f"{script}\n", "as-app": "yes"}
    if over_suite and apt.packages:
        said["debs"] = list_node(place, apt.packages)
    if not apt.is_local or (apt.runs_apt and not over_suite):
        said["network"] = "yes"
    return step_node(place, "run", map_node(place, said))


_KEYWORDS = ("if", "then", "else", "elif", "while", "do", "{", "!", "sudo", "exec", "env")


def _commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a script, as far as words tell them; what cannot be cut into words is
    a command of no name."""
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace, lexer.whitespace_split = " \t\r", True
    lexer.commenters = "#"
    now: list[str] = []
    try:
        for word in lexer:
            if word.strip(";&|()\n"):
                now.append(word)
                continue
            yield from _plain(now)
            now = []
    except ValueError:
        yield ["?"]
        return
    yield from _plain(now)


def _plain(words: list[str]) -> Iterator[list[str]]:
    """A command without what stands before it: keywords, sudo, variables that it gets."""
    while words and (words[0] in _KEYWORDS or _ASSIGNMENT.match(words[0])):
        options = words[0] in ("sudo", "env")
        words = words[1:]
        while options and words and words[0].startswith("-"):
            words = words[1:]
    if words and words[0] not in ("fi", "done", "esac", "}"):
        yield words


def _installed(words: list[str], values: Mapping[str, str]) -> Iterator[str]:
    rest = iter(words)
    verb = ""
    for word in rest:
        if word in _TAKES_A_WORD:
            next(rest, None)
        elif word.startswith("-"):
            continue
        elif not verb:
            verb = word
        elif verb == "install":
            yield from _names(word, values)


def _names(word: str, values: Mapping[str, str]) -> Iterator[str]:
    try:
        told = expand(word, values)
    except ExpansionError:
        return
    for text in () if told.missing else told.words:
        match = _PACKAGE.fullmatch(text)
        if match is None or text.endswith("-"):  # `name-` removes it
            continue
        whole = f"{match['name']}{match['version'] or ''}"
        if _NAMED.fullmatch(whole):
            yield whole
        elif _NAMED.fullmatch(match["name"]):
            yield match["name"]  # apt finds out which version a pattern means
