"""The first line of a script, as the kernel reads it, and env(1) after it.

Linux, fs/binfmt_script.c: of the first 256 bytes, blanks are dropped at both ends; the first word
is the interpreter, all the rest is one argument. GNU env takes that argument apart with `-S` only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

LINE_BYTES = 256  # BINPRM_BUF_SIZE
"""How many bytes of a file can be its `#!` line."""

_PROGRAMS = "/usr/bin"  # where a program that env looks for is taken to lie

_MARK = b"\xef\xbb\xbf"
"""The byte order mark that editors write before UTF-8; no kernel looks behind it."""

_BLANKS = " \t"
_SPLITS = re.compile(r"-[iv0]*S|--split-string(?:=|$)")
_WITH_VALUE = ("-u", "--unset", "-C", "--chdir", "-a", "--argv0")
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')+""", re.DOTALL)
_UNQUOTED = re.compile(r"""\\(.)|["']""", re.DOTALL)


def is_meant(head: bytes) -> bool:
    """Whether a file that begins so was written to be a script, be it one that starts or not."""
    return head.removeprefix(_MARK).startswith(b"#!")


def interpreters(head: bytes) -> tuple[str, ...]:
    """The programs that the kernel, and env after it, start for a script that begins so.

    `#!/usr/bin/env -S python3 -E` gives `/usr/bin/env` and `/usr/bin/python3`; where `fault` has
    something to say, only what is certain.
    """
    interpreter, argument = _line(head)
    if not interpreter.startswith("/"):
        return ()
    interpreter = interpreter.rstrip("\r")
    if posixpath.basename(interpreter) != "env":
        return (interpreter,)
    program, _ = _started(argument.rstrip("\r"))
    if not program or ("/" in program and not program.startswith("/")):
        return (interpreter,)
    return (interpreter, program if "/" in program else f"{_PROGRAMS}/{program}")


def fault(head: bytes) -> tuple[str, str]:
    """Why a script that begins so cannot be started, and the next step; ("", "") where it can."""
    if head.startswith(_MARK):
        return (
            "a byte order mark stands before its `#!`, which the kernel does not read then",
            "write it as UTF-8 without one: sed -i '1s/^\\xef\\xbb\\xbf//' in the install step",
        )
    interpreter, argument = _line(head)
    first = head[:LINE_BYTES].split(b"\n", 1)[0]
    if first.endswith(b"\r"):
        asked = argument or interpreter
        return (
            f"its `#!` line ends with a carriage return, so {asked!r} is asked for",
            "write it with LF line ends: sed -i 's/\\r$//' in the install step",
        )
    if not interpreter.startswith("/"):
        return (
            f"the interpreter {interpreter!r} will not be found",
            "name it by its absolute path below /usr/bin, or /bin/sh",
        )
    if len(head) >= LINE_BYTES and b"\n" not in head[:LINE_BYTES]:
        return (
            f"its `#!` line is longer than the {LINE_BYTES - 1} bytes that the kernel reads",
            "start it by a short script that calls the interpreter",
        )
    if posixpath.basename(interpreter) != "env":
        return "", ""
    program, reason = _started(argument)
    if reason:
        return reason, "write `#!/usr/bin/env -S PROGRAM ARGUMENT`, or the interpreter's own path"
    if "/" in program and not program.startswith("/"):
        return (
            f"the interpreter {program!r} will not be found",
            "name it by its absolute path below /usr/bin",
        )
    return "", ""


def _line(head: bytes) -> tuple[str, str]:
    """The interpreter and its one argument; both keep a carriage return."""
    text = head[2:LINE_BYTES].split(b"\n", 1)[0].split(b"\0", 1)[0]
    line = text.decode("utf-8", "surrogateescape").strip(_BLANKS)
    found = re.split(r"[ \t]+", line, maxsplit=1)
    return found[0], found[1] if len(found) > 1 else ""


def _started(argument: str) -> tuple[str, str]:
    """The program that env starts with this one argument, and else what keeps it from doing so."""
    split = _SPLITS.match(argument)
    if split:
        return _first_program(_words(argument[split.end() :]))
    if not argument:
        return "", "env is given no program to start"
    if any(blank in argument for blank in _BLANKS):
        return "", f"env is given {argument!r} as one word, which no program is called"
    program, reason = _first_program((argument,))
    return program, reason


def _words(text: str) -> tuple[str, ...]:
    """As `env -S` splits it: blanks, quotes and backslashes as in a shell, `#` begins a comment."""
    words = []
    for found in _WORD.findall(text):
        if found.startswith("#"):
            break
        words.append(_UNQUOTED.sub(lambda match: match[1] or "", found))
    return tuple(words)


def _first_program(words: Sequence[str]) -> tuple[str, str]:
    """The first word that is no option of env, no value of one and no assignment."""
    at = 0
    options = True
    while at < len(words):
        word = words[at]
        if options and word == "--":
            options = False
        elif options and word.startswith("-"):
            # `-u NAME`, `--unset NAME`, and clusters such as `-iu NAME`
            taking = word in _WITH_VALUE or re.fullmatch(r"-[iv0]*[uCa]", word)
            at += 1 if taking else 0
        elif "=" in word:
            options = False
        else:
            return word, ""
        at += 1
    return "", "env is given no program to start"
