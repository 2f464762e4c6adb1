"""What the leaves of a user's files may say: from text to value, or one `LeafError`.

The standard library only, so that any rank can use it; `recipe.schema` makes pydantic types of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from buildit.digest import is_hex64
from buildit.model.atom import VERSION
from buildit.model.secret import SECRET_ID


class LeafError(ValueError):
    """A text that its type refuses: `expected …, found …`, and what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def _written(text: str) -> str:
    return "nothing" if text == "" else repr(text)


def is_text(value: str) -> str:
    if not value.strip():
        raise LeafError("expected text, found nothing", "write a value, or leave the key out")
    return value


def is_nothing(value: str) -> str:
    if value:
        raise LeafError(f"expected a mapping or nothing, found {value!r}", "leave the value out")
    return value


def is_line(value: str) -> str:
    if "\n" in is_text(value):
        raise LeafError("expected one line, found several")
    return value


_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def parse_flag(text: str) -> bool:
    """A boolean in YAML 1.1's spellings (yaml.org/type/bool.html), but for `y`, `n` and digits.

    Raises:
        LeafError: the text is something else.
    """
    lower = text.lower()
    if lower in _SWITCH and text in (lower, text.capitalize(), text.upper()):
        return _SWITCH[lower]
    raise LeafError(f"expected on or off, found {_written(text)}", "yes, no, true and false do too")


def whole_number(text: str) -> int:
    """A decimal number without sign, leading zero or separator.

    Raises:
        LeafError: the text is something else.
    """
    if not re.fullmatch(r"0|[1-9][0-9]{0,17}", text):
        hint = "write decimal digits, without a sign or leading zeros"
        raise LeafError(f"expected a whole number, found {_written(text)}", hint)
    return int(text)


def port(value: int) -> int:
    if not 1 <= value <= 65535:
        raise LeafError(f"expected a port from 1 to 65535, found {value}")
    return value


LARGEST_ID = 2**32 - 2
"""2^32-1 is the kernel's "no id" (setresuid(2))."""


def numeric_id(value: int) -> int:
    if not 0 <= value <= LARGEST_ID:
        raise LeafError(f"expected an id from 0 to {LARGEST_ID}, found {value}")
    return value


def id_of(text: str) -> int | None:
    """The id that a text of decimal digits says; None where it is a name, or no id."""
    whole = text.isascii() and text.isdecimal() and len(text) <= len(str(LARGEST_ID))
    return int(text) if whole and int(text) <= LARGEST_ID else None


MODE = r"0o?[0-7]{1,4}|[ugoa]+=[rwxst]*(?:,[ugoa]+=[rwxst]*)*"
_CLAUSE = re.compile(r"([ugoa]+)=([rwxst]*)")
_BITS = {"r": 4, "w": 2, "x": 1}
_SET_ID = {"u": 0o4000, "g": 0o2000, "o": 0}
_SHIFTS = {"u": 6, "g": 3, "o": 0}


def parse_mode(text: str) -> int:
    """Permission bits from `0644`, `0o644` (both octal) or `u=rw,go=r` (chmod(1), only `=`).

    Raises:
        LeafError: another text; one without the leading zero could be decimal and is refused.
    """
    if re.fullmatch(r"0o?[0-7]{1,4}", text):
        return int(text.removeprefix("0").removeprefix("o") or "0", 8)
    if "=" in text:
        return _symbolic_mode(text)
    hint = "write it as in 0644"
    if text in _DECIMAL_LOOKALIKES:
        hint = f"write 0{int(text):o}, which is {text} as a decimal number"
    elif re.fullmatch(r"[1-7][0-7]{2,3}", text):
        hint = f"write 0{text}"
    raise LeafError(f"expected an octal mode with a leading 0, found {_written(text)}", hint)


# Usual modes as a YAML 1.1 reader prints them after it took them for numbers.
_DECIMAL_LOOKALIKES = {
    *map(str, (0o400, 0o440, 0o444, 0o500, 0o550, 0o555, 0o600, 0o640, 0o644, 0o660, 0o664)),
    *map(str, (0o666, 0o700, 0o750, 0o755, 0o770, 0o775, 0o777)),
}


def _symbolic_mode(text: str) -> int:
    mode = 0
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise LeafError(f"expected a mode such as u=rw,go=r, found {text!r}")
        who, what = match.groups()
        for one in "ugo" if "a" in who else who:
            mode &= ~(0o7 << _SHIFTS[one])
            mode |= sum(_BITS.get(letter, 0) for letter in set(what)) << _SHIFTS[one]
            mode |= _SET_ID[one] * ("s" in what)
        mode |= 0o1000 * ("t" in what)
    return mode


def sha256(value: str) -> str:
    text = value.removeprefix("sha256:")
    if not is_hex64(text):
        lower = text.lower()
        hint = f"write it in lower case: {lower}" if is_hex64(lower) else "run sha256sum FILE"
        raise LeafError(f"expected a SHA-256 of 64 hex digits, found {_written(value)}", hint)
    return text


def _parts(value: str) -> list[str]:
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise LeafError("expected a path, found control characters in it")
    parts = [part for part in is_line(value).split("/") if part not in ("", ".")]
    if ".." in parts:
        hint = "name a file below this directory"
        raise LeafError(f"a path may not contain '..': {value!r}", hint)
    if any(len(part.encode()) > 255 for part in parts) or len(value.encode()) > 4000:
        raise LeafError("the path is too long: a name has at most 255 bytes, a path 4000")
    return parts


def relative_path(value: str) -> str:
    """A path beneath the file that names it, without `./`, `//` and a trailing `/`; `.` is itself.

    Raises:
        LeafError: it is absolute, has a `..`, or is not a path.
    """
    if value.startswith("/"):
        raise LeafError(f"expected a path relative to this file, found {value!r}")
    if value.startswith("~"):
        raise LeafError(f"'~' has no meaning here: {value!r}", "write a path relative to this file")
    return "/".join(_parts(value)) or "."


def work_directory(value: str) -> str:
    """A directory of this machine: absolute, or from the file that names it, also upwards.

    Raises:
        LeafError: it is not a path.
    """
    if value.startswith("~"):
        hint = "write a path relative to this file, or an absolute one"
        raise LeafError(f"'~' has no meaning here: {value!r}", hint)
    _parts("/".join(part for part in is_line(value).split("/") if part != "..") or ".")
    return value


def file_name(value: str) -> str:
    """The name of a file, one part of a path.

    Raises:
        LeafError: it has a slash, or names a directory.
    """
    if "/" in value or _parts(value) != [value]:
        hint = "write the last part alone; `directory:` says where it goes"
        raise LeafError(f"expected the name of a file, found {_written(value)}", hint)
    return value


def image_path(value: str) -> str:
    """An absolute path inside an image, in its shortest spelling; a trailing `/` stays.

    Raises:
        LeafError: it is relative, has a `..`, or is not a path.
    """
    if not value.startswith("/"):
        hint = f"write /{value}" if value else None
        raise LeafError(f"expected an absolute path, found {_written(value)}", hint)
    parts = _parts(value)
    return "/" + "/".join(parts) + ("/" if parts and value.endswith("/") else "")


# PMS 3.1.1 and 3.1.2, category and package names; PMS 3.2, versions. A name may not end in a
# hyphen and something that looks like a version, or `a/b-1` would name two things.
PACKAGE_NAME = r"[A-Za-z0-9_][A-Za-z0-9+_.-]*/[A-Za-z0-9_][A-Za-z0-9+_-]*"
_PACKAGE = re.compile(PACKAGE_NAME)
_WITH_VERSION = re.compile(f"(.+)-(?:{VERSION})")


def _named(pattern: str, what: str, hint: str | None = None) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise LeafError(f"expected {what}, found {_written(value)}", hint)
        return value

    return check


def package_name(value: str) -> str:
    match = _WITH_VERSION.fullmatch(value)
    if match and _PACKAGE.fullmatch(match.group(1)):
        hint = f"write {match.group(1)}"
        raise LeafError(f"expected a name without a version, found {value!r}", hint)
    if len(value) > 200 or not _PACKAGE.fullmatch(value):
        raise LeafError(f"expected category/name, found {_written(value)}")
    return value


FLAG = r"[A-Za-z0-9][A-Za-z0-9+_@-]{0,99}"  # PMS 3.1.4
IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]{0,99}"  # POSIX 8.1
ACCOUNT = r"[a-z_][a-z0-9_-]{0,31}"  # what Debian's useradd(8) takes
STACK_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"  # compose-spec, "services", as long as a DNS label
DATABASE = r"[A-Za-z_][A-Za-z0-9_]{0,62}"  # short enough for PostgreSQL


_VARIABLE = "the name of a variable"

_FORM = "write numbers and dots, then a letter, _rc1, _p1 or -r1"
version = _named(f"(?!.{{129}})(?:{VERSION})", "a version such as 1.22.1", _FORM)
flag_name = _named(FLAG, "the name of a USE flag")
identifier = _named(IDENTIFIER, _VARIABLE, "write letters, digits and _, not a digit first")
variable_name = _named(r"[^=\0]+", _VARIABLE, "write NAME: value, without a `=`")  # environ(7)
secret_id = _named(SECRET_ID, "the id of a secret", "write letters, digits . _ -")
database_name = _named(DATABASE, "the name of a database", "write letters, digits and _")
account_name = _named(ACCOUNT, "the name of a user or group")
stack_name = _named(
    STACK_NAME, "a name of letters, digits and . _ -", "begin it with a letter or digit"
)

# Debian Policy 5.6.12 (an epoch, and no hyphen at the end) and 5.6.1
DEBIAN_VERSION = r"(?:[0-9]{1,9}:)?[0-9A-Za-z](?:[0-9A-Za-z.+~-]{0,198}[0-9A-Za-z.+~])?"
DEBIAN_NAME = rf"[a-z0-9][a-z0-9+.-]{{1,198}}(?:={DEBIAN_VERSION})?"
DEBIAN_PACKAGE = f"debian:{DEBIAN_NAME}"
VERSION_SUFFIX = r"[+~][A-Za-z0-9.+~]{1,63}"

debian_package = _named(
    DEBIAN_PACKAGE, "a Debian package", "write debian:nginx, or debian:nginx=1.22.1-9+deb12u9"
)
debian_name = _named(
    DEBIAN_NAME, "the name of a Debian package", "write nginx, or nginx=1.22.1-9+deb12u9"
)
debian_version = _named(
    DEBIAN_VERSION, "a version of a Debian package", "write it whole, such as 1.22.1-9+deb12u9"
)
version_suffix = _named(
    VERSION_SUFFIX, "the end of a Debian version", "begin it with + or ~, as in +buildit1"
)


_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)[^#]*(?:#.*)?", re.DOTALL)
HOST_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{HOST_NAME}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")


def _url(*schemes: str) -> Callable[[str], str]:
    known = ", ".join(f"{one}://" for one in schemes)

    def check(value: str) -> str:
        match = _URL.fullmatch(value)
        if match is None:
            hint = f"it begins with one of {known}"
            raise LeafError(f"expected a URL, found {_written(value)}", hint)
        scheme, host = match.groups()
        if scheme not in schemes:
            raise LeafError(f"a URL with {scheme}:// cannot be used here", f"use one of {known}")
        if not all(33 <= ord(char) <= 126 for char in value):
            hint = "write it as %XX, in a host name as xn--…"
            raise LeafError(f"a URL holds a space or a character beyond ASCII: {value!r}", hint)
        if "@" in host:
            raise LeafError("a URL may not carry a user name or password", "keep them in ~/.netrc")
        if not _HOST.fullmatch(host):
            raise LeafError(f"the URL has no usable host name: {value!r}")
        return value

    return check


web_url = _url("https", "http")
source_url = _url("https", "http", "mirror")

_REPOSITORY = re.compile(r"(https|ssh|file)://([^/?#]*)(/[^?#]+)")
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@")
_SCP = re.compile(r"([A-Za-z0-9_.-]+@)?([A-Za-z0-9.-]+):([^/:\s]\S*)")


def git_url(value: str) -> str:
    """The URL of a git repository: https, ssh (with a user name or without) or file.

    Raises:
        LeafError: it is something else.
    """
    match = _REPOSITORY.fullmatch(value)
    if match is None:
        scp = _SCP.fullmatch(value)
        hint = "write https://HOST/PATH, ssh://git@HOST/PATH or file:///PATH"
        if scp is not None and "://" not in value:
            hint = f"write ssh://{scp[1] or ''}{scp[2]}/{scp[3]}"
        raise LeafError(f"expected the URL of a git repository, found {_written(value)}", hint)
    scheme, host, path = match.groups()
    if not all(33 <= ord(char) <= 126 for char in value):
        hint = "write it as %XX, in a host name as xn--…"
        raise LeafError(f"a URL holds a space or a character beyond ASCII: {value!r}", hint)
    login = _LOGIN.match(host) if scheme == "ssh" else None
    bare = host[login.end() :] if login else host
    if "@" in bare:
        raise LeafError("a URL may not carry a password or token", "keep them in ~/.netrc")
    if bool(bare) == (scheme == "file") or (bare and not _HOST.fullmatch(bare)):
        raise LeafError(f"the URL has no usable host name: {value!r}")
    if ".." in path.split("/"):
        raise LeafError(f"a URL may not contain '..': {value!r}")
    return value


COMMIT = r"[0-9a-f]{40}"


def commit_id(value: str) -> str:
    """The id of a git commit.

    Raises:
        LeafError: it is a short one, or none.
    """
    if re.fullmatch(COMMIT, value) is None:
        hint = "print it: git rev-parse 'NAME^{commit}'; a tag goes into `tag:`"
        if re.fullmatch(COMMIT, value.lower()):
            hint = f"write it in lower case: {value.lower()}"
        raise LeafError(f"expected a commit of 40 hex digits, found {_written(value)}", hint)
    return value


_TAG = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+./@-]*")


def tag_name(value: str) -> str:
    """The name of a git tag (git-check-ref-format(1)), without `refs/tags/`.

    Raises:
        LeafError: git could have no such tag, or its name is of another form.
    """
    name = value.removeprefix("refs/tags/")
    parts = name.split("/")
    unfit = any(part.startswith(".") or part.endswith((".lock", ".")) for part in parts)
    if not _TAG.fullmatch(name) or unfit or ".." in name or "" in parts:
        hint = "git ls-remote --tags URL lists those of a repository"
        raise LeafError(f"expected the name of a git tag, found {_written(value)}", hint)
    return name


SIZE = r"[0-9]{1,12} *[KMGT]?(?:i?B)?"
DURATION = r"(?:[0-9]{1,9}[dhms])+|[0-9]{1,9}"
_SHIFT = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Bytes from `512M`, `2GiB` or `1048576`; K, M, G and T are powers of 1024.

    Raises:
        LeafError: the text is something else.
    """
    match = re.fullmatch(r"([0-9]{1,12}) *([KMGT]?)(?:i?B)?", text)
    if match is None:
        raise LeafError(f"expected a size, found {_written(text)}", "write it as in 512M or 4G")
    return int(match.group(1)) << _SHIFT[match.group(2)]


def parse_duration(text: str) -> int:
    """Seconds from `90s`, `30m`, `2h`, `1h30m` or `3600`.

    Raises:
        LeafError: the text is something else.
    """
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    pairs = re.findall(r"([0-9]{1,9})([dhms])", text)
    if not pairs or "".join(number + unit for number, unit in pairs) != text:
        raise LeafError(f"expected a duration, found {_written(text)}", "write it as in 90s or 2h")
    return sum(int(number) * _SECONDS[unit] for number, unit in pairs)
