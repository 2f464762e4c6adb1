"""What a step left, searched for the secrets that it was given: a layer with one is refused, and
what is kept of a step that fails is without."""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
from collections.abc import Iterable
from io import BufferedReader

from buildit.archive.admit import shown
from buildit.digest import CHUNK
from buildit.errors import BuildError
from buildit.make.difference import UpperEntry
from buildit.model.secret import Finder, Secrets


def _given_away(name: str, where: str) -> BuildError:
    hint = "what a layer has once had stays in it: use the secret where it lies, in /run/secrets, "
    hint += "and write nothing of it"
    return BuildError(f"the secret {name!r} is in {where}", hint=hint)


class Searched:
    """The bytes of a file on their way into a layer."""

    def __init__(self, stream: BufferedReader, path: str, secrets: Secrets) -> None:
        self._stream, self._path, self._finder = stream, path, Finder(secrets)

    def readinto(self, buffer: memoryview, /) -> int:
        """Raises BuildError where a secret is in them."""
        count = self._stream.readinto(buffer)
        if (name := self._finder.feed(bytes(buffer[:count]))) is not None:
            raise _given_away(name, f"/{shown(self._path)}")
        return count

    def close(self) -> None:
        self._stream.close()


def check_names(uppers: Iterable[UpperEntry], secrets: Secrets) -> None:
    """Refuse what gives a secret away beside the bytes of files. No message names such a path.

    Raises:
        BuildError: a name, the target of a link or an attribute does.
    """
    for one in uppers if secrets else ():
        if (name := secrets.found_in(os.fsencode(one.path))) is not None:
            above = secrets.masked(posixpath.dirname(one.path))
            raise _given_away(name, f"the name of something in /{shown(above)}")
        if (name := secrets.found_in(os.fsencode(one.target))) is not None:
            raise _given_away(name, f"the target of the link /{shown(one.path)}")
        for attribute, value in one.xattrs.items():
            if (name := secrets.found_in(os.fsencode(attribute) + b"=" + value)) is not None:
                raise _given_away(name, f"an attribute of /{shown(one.path)}")


def remove_secrets(top: str, secrets: Secrets) -> None:
    """Remove from a tree whatever holds a secret, in its bytes, name, target or attributes.

    Raises:
        OSError: it cannot be read or removed.
    """
    for directory, below, files in os.walk(top, topdown=False, onerror=unreadable):
        for name in (*files, *below):
            path = f"{directory}/{name}"
            if _holds(path, name, secrets):
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)


def unreadable(error: OSError) -> None:
    """For os.walk, which leaves out what it cannot read, such as what lies too deep."""
    raise error


def _holds(path: str, name: str, secrets: Secrets) -> bool:
    status = os.lstat(path)
    texts = [os.fsencode(name)]
    if stat.S_ISLNK(status.st_mode):
        texts.append(os.fsencode(os.readlink(path)))
    else:
        names = os.listxattr(path, follow_symlinks=False)
        texts += [os.fsencode(one) for one in names]
        texts += [os.getxattr(path, one, follow_symlinks=False) for one in names]
    if any(map(secrets.found_in, texts)):
        return True
    if not stat.S_ISREG(status.st_mode):
        return False
    finder = Finder(secrets)
    with open(path, "rb") as stream:
        return any(finder.feed(part) for part in iter(lambda: stream.read(CHUNK), b""))
