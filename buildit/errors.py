"""The one exception tree, split by who can fix it; only `cli` turns it into text and an exit code.

BuilditError
├── BuildError          a build step failed or exceeded a limit           exit 1
├── StoreError          the local store or disk cannot be used            exit 1
├── RecipeError         a file of the user is wrong (YAML, patch, path)   exit 2
├── UsageError          the command line is wrong                         exit 2
├── UnsatisfiableError  flags, versions or providers cannot be satisfied  exit 3
├── FetchError          no location served what is needed                 exit 4
├── IntegrityError      bytes are not what they were promised to be       exit 5
└── Interrupted         Ctrl-C or SIGTERM                                 exit 130
"""

from __future__ import annotations


class BuilditError(Exception):
    """An error with what happened, where, and what to do next.

    `message` is one line. `place` is `file:line:column`, a package or an object name.
    `hint` is the next step, best a command. `details` are further lines (hunks, chains, log tail).
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        place: str | None = None,
        hint: str | None = None,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message

    def in_one_line(self) -> str:
        """With its details and its hint: for an error that is told of and got over."""
        details = f" ({'; '.join(self.details)})" if self.details else ""
        return f"{self}{details}" + (f"; {self.hint}" if self.hint else "")


class BuildError(BuilditError):
    """A build step failed, or went over a limit."""


class StoreError(BuilditError):
    """The local store or the disk cannot be used."""


class RecipeError(BuilditError):
    """`undefined` is the variable that a template asks for and that there is none of."""

    exit_code = 2
    undefined = ""


class UsageError(BuilditError):
    exit_code = 2


class UnsatisfiableError(BuilditError):
    exit_code = 3


class FetchError(BuilditError):
    exit_code = 4


class IntegrityError(BuilditError):
    exit_code = 5


class Interrupted(BuilditError):  # noqa: N818 - what happened, nobody's error
    exit_code = 130
