"""`build --step`: the question before each step, on the terminal."""

from __future__ import annotations

import sys

from buildit.cli.screen import printable
from buildit.commands.run import Options
from buildit.commands.walking import StepAnswer, StepQuestion
from buildit.errors import UsageError

_LETTERS = {
    StepAnswer.RUN: ("r", "[r]un"),
    StepAnswer.SKIP: ("s", "[s]kip"),
    StepAnswer.SHELL: ("h", "s[h]ell"),
    StepAnswer.QUIT: ("q", "[q]uit"),
}
"""What is typed for each answer, and how it is shown."""


def check_asking(options: Options, *, as_json: bool, is_stack: bool = False) -> None:
    """Refuse to walk a container where nobody can be asked.

    Raises:
        UsageError: there is no terminal, or the output is for programs; it is a stack; or another
            option says how far it goes.
    """
    if is_stack:
        hint = "name the directory of one of its containers"
        raise UsageError("--step walks one container, and this is a stack", hint=hint)
    if as_json:
        raise UsageError("--step asks people, and --json is for programs", hint="leave one out")
    if options.until:
        message = "--step goes on as long as you say, and --until to a step"
        raise UsageError(message, hint="leave one out")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        hint = "run it in a terminal, or build without --step"
        raise UsageError("--step asks before each step, and there is no terminal", hint=hint)


def answer_at(question: StepQuestion) -> StepAnswer:
    """Ask about a step until there is an answer; the end of the input means to quit."""
    known = {_LETTERS[one][0]: one for one in question.answers} | {
        one: one for one in question.answers
    }
    shown = "  ".join(_LETTERS[one][1] for one in question.answers)
    _say(f"Step {question.number} of {question.total}: {printable(question.text)}\n")
    while True:
        _say(f"{shown}: ")
        line = sys.stdin.readline()
        if not line:
            _say("\n")
            return StepAnswer.QUIT
        word = line.strip().lower() or _LETTERS[StepAnswer.RUN][0]
        if word in known:
            return known[word]
        _say(f"{printable(word[:40])!r} is none of these.\n")


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
