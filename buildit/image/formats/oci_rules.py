"""Every rule of the OCI image config (image-spec config.md 1.1) that a user may write. Pure.

Null stands for an absent member where the specification's schema takes it and `docker inspect`
prints it. `Healthcheck`, `OnBuild` and `Shell` are Docker's (moby's image config), kept by clients.
Stricter than the specification, which leaves these to the runtimes: what no runtime starts (a
volume `/`, a signal that Linux lacks, an id that the kernel lacks) is refused here.
"""

from __future__ import annotations

import re

from buildit.image.documents import (
    JsonRule,
    Problems,
    account_problems,
    at,
    boolean,
    doubles,
    fields,
    list_of,
    map_of,
    nothing_or,
    pattern_rule,
    text,
    time,
    whole,
)
from buildit.image.signals import signal_problem

OF_LAYERS = ("rootfs", "history")
"""Members that describe the layers: only we know them."""

_ENV = re.compile(r"[^=\0]+=[^\0]*")
_PORT = re.compile(r"(?P<number>[1-9][0-9]{0,4})(?:/(?:tcp|udp|sctp))?")
_MILLISECOND = 1_000_000
_LARGEST = 2**63 - 1


def config_problems(document: object, platform: dict[str, object]) -> tuple[str, ...]:
    """What is wrong with an image config, each as `where: what`; empty where it is valid.

    `platform` are the members `architecture`, `os` and perhaps `variant` of the container.
    """
    if not isinstance(document, dict):
        return ("the document must be an object",)
    kept = {key: value for key, value in document.items() if key not in OF_LAYERS}
    return (
        *(f"{key}: is made from the layers; leave it out" for key in OF_LAYERS if key in document),
        *_top("", kept),
        *(
            f"{key}: {document[key]!r} is not the container's, {platform[key]!r}"
            for key in ("architecture", "os", "variant")
            if key in document and key in platform and document[key] != platform[key]
        ),
    )


def _top(where: str, value: object) -> Problems:
    optional: dict[str, JsonRule] = {
        "created": nothing_or(time),
        "author": text,
        "architecture": text,
        "os": text,
        "variant": text,
        "os.version": text,
        "os.features": list_of(text),
        "config": nothing_or(_section),
    }
    yield from fields(where, value, {}, optional)


def _section(where: str, value: object) -> Problems:
    words = nothing_or(list_of(text))
    optional: dict[str, JsonRule] = {
        "User": _user,
        "ExposedPorts": nothing_or(map_of(_port, _empty)),
        "Env": nothing_or(_environment),
        "Entrypoint": words,
        "Cmd": words,
        "Volumes": nothing_or(map_of(_volume, _empty)),
        "WorkingDir": _directory,
        "Labels": nothing_or(map_of(_label, text)),
        "StopSignal": _signal,
        "ArgsEscaped": boolean,
        "Memory": whole(0, _LARGEST),
        "MemorySwap": whole(-1, _LARGEST),
        "CpuShares": whole(0, _LARGEST),
        "Healthcheck": nothing_or(_healthcheck),
        "OnBuild": words,
        "Shell": words,
    }
    yield from fields(where, value, {}, optional)


def _empty(where: str, value: object) -> Problems:
    if value != {}:
        yield f"{where}: must be {{}}"


def _user(where: str, value: object) -> Problems:
    """`user`, `uid`, `user:group`, `uid:gid`, or mixed; an empty text is root."""
    if not isinstance(value, str):
        yield f"{where}: must be a string"
    elif value:
        for part in value.split(":", 1):
            yield from (f"{where}: {problem}" for problem in account_problems(part))


def _port(where: str, value: object) -> Problems:
    match = _PORT.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match["number"]) > 65535:
        yield f"{where}: {value!r} is not PORT or PORT/tcp, with a port from 1 to 65535"


def _environment(where: str, value: object) -> Problems:
    pair = pattern_rule(_ENV, "NAME=value")
    yield from list_of(pair)(where, value)
    if isinstance(value, list):
        names = [str(each).partition("=")[0] for each in value]
        yield from (f"{where}: {name} occurs twice" for name in doubles(names))


def _volume(where: str, value: object) -> Problems:
    parts = str(value).split("/")
    if not str(value).startswith("/") or {".", ".."} & set(parts) or "\0" in str(value):
        yield f"{where}: {value!r} is not a plain absolute path"
    elif not any(parts):
        yield f"{where}: a volume cannot be /: it would hide the whole image"


def _directory(where: str, value: object) -> Problems:
    if not isinstance(value, str):
        yield f"{where}: must be a string"
    elif value and not value.startswith("/"):
        yield f"{where}: {value!r} is not absolute"


def _label(where: str, value: object) -> Problems:
    if not value:
        yield f"{where}: the name of a label is empty"


def _signal(where: str, value: object) -> Problems:
    if not isinstance(value, str):
        yield f"{where}: must be a string"
    elif value and (problem := signal_problem(value)):
        yield f"{where}: {problem}"


def _healthcheck(where: str, value: object) -> Problems:
    """Docker: `Test` is empty (as the base has it), `NONE`, `CMD` and words, or `CMD-SHELL` and
    one line; times are in nanoseconds, 0 or at least a millisecond."""
    optional: dict[str, JsonRule] = {
        "Test": nothing_or(_test),
        "Interval": _nanoseconds,
        "Timeout": _nanoseconds,
        "StartPeriod": _nanoseconds,
        "StartInterval": _nanoseconds,
        "Retries": whole(0, _LARGEST),
    }
    yield from fields(where, value, {}, optional)


def _test(where: str, value: object) -> Problems:
    yield from list_of(text)(where, value)
    if not isinstance(value, list) or not value:
        return
    least = {"NONE": 1, "CMD": 2, "CMD-SHELL": 2}.get(str(value[0]))
    if least is None:
        yield f"{at(where, 0)}: must be NONE, CMD or CMD-SHELL"
    elif len(value) < least or (value[0] != "CMD" and len(value) > least):
        yield f"{where}: {value[0]} has {len(value) - 1} words after it"


def _nanoseconds(where: str, value: object) -> Problems:
    yield from whole(0, _LARGEST)(where, value)
    if isinstance(value, int) and 0 < value < _MILLISECOND:
        yield f"{where}: must be 0 or at least {_MILLISECOND} nanoseconds"
