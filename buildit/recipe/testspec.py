"""`test` steps of container.yaml: what is asked of the finished image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from buildit.recipe import schema
from buildit.recipe.schema import Model

Command = Annotated[tuple[schema.MaybeEmpty, ...], Field(min_length=1)]
"""A program and its arguments."""


class TextTestSpec(Model):
    """What a text must be; all that is written must hold."""

    contains: schema.Text | None = None
    """Text that is somewhere in it."""
    equals: schema.MaybeEmpty | None = None
    """All of it, but for one newline at the end."""
    matches: schema.Text | None = None
    """A regular expression of Python's that is found in it; ^ and $ are of lines."""


class HttpTestSpec(TextTestSpec):
    """What the app, started, answers to a GET: `contains`, `equals` and `matches` are of the
    body. It is asked in a network of its own, from the moment that it listens."""

    port: schema.Count | None = None
    """Where it listens; the app's own port, where it says exactly one over TCP."""
    path: schema.Line = "/"
    """What is asked for, with a query where it matters: `/health?full=1`."""
    host: schema.Line = "localhost"
    """The name that it is asked by (Host)."""
    tls: schema.OnOff = False
    """Whether it is asked over TLS; any certificate will do."""
    status: schema.Count = 200
    """The status of the answer; no redirection is followed."""
    headers: dict[schema.LabelName, schema.MaybeEmpty] = Field(default_factory=dict)
    """Headers of the answer, with their whole values."""


class FileTestSpec(TextTestSpec):
    """What a path of the image is: `contains`, `equals` and `matches` are of a file's content.
    Links are followed, within the image; but the last one for `type: link` and `target`."""

    path: schema.ImagePath
    """Where it is."""
    exists: schema.OnOff = True
    """`no`: nothing may be there."""
    type: Literal["file", "directory", "link"] | None = None
    """What it is."""
    mode: schema.Mode | None = None
    """Its mode, octal with a leading zero."""
    owner: schema.Line | None = None
    """`uid:gid`: numbers, or names that the image has; a user alone means its own group, too."""
    target: schema.Line | None = None
    """The text of a link."""
    sha256: schema.Sha256 | None = None
    """The digest of a file."""


class ImageTestSpec(Model):
    """A test of the finished image, wherever the step stands: what it changes is thrown away. It
    has a command or an HTTP answer, or files, or both."""

    script: schema.Text | None = None
    """Text for `/bin/sh -e` of the image, which runs as the app would; it is no template."""
    exec: Command | None = None
    """A program of the image and its arguments, instead; it is looked for in the PATH."""
    status: schema.Count = 0
    """The exit status of the command."""
    stdout: TextTestSpec | None = None
    """What the command writes to its standard output."""
    stderr: TextTestSpec | None = None
    """What the command writes to its standard error."""
    http: HttpTestSpec | None = None
    """What the app answers; in a step without a command."""
    file: (
        Annotated[
            Annotated[FileTestSpec, Tag(schema.MAPPING)]
            | Annotated[tuple[FileTestSpec, ...], Tag(schema.LIST)],
            schema.BY_KIND,
        ]
        | None
    ) = None
    """A path of the image, or a list of such."""
    timeout: schema.Duration = 30
    """How long the command, or the app until its whole answer, may take."""

    @property
    def files(self) -> tuple[FileTestSpec, ...]:
        """Those of `file`."""
        if self.file is None:
            return ()
        return self.file if isinstance(self.file, tuple) else (self.file,)
