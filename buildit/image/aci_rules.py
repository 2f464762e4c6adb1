"""Every rule of the App Container image manifest (appc spec aci.md 0.8.11), as one pure check.

Stricter than the reference `actool` where that overlooks what the specification says: the whole
identifier expression, unknown keys, absolute paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from buildit.image.names import AC_IDENTIFIER, AC_NAME

Problems = Iterator[str]
Rule = Callable[[str, object], Problems]

_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9.-]*")
_IMAGE_ID = re.compile(r"sha512-[0-9a-f]{1,128}")
_RFC3339 = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
)
_URL = re.compile(r"https?://[^\s/?#]+\S*")
ARCHITECTURES: Mapping[str, frozenset[str]] = {
    "linux": frozenset(
        {"amd64", "i386", "aarch64", "aarch64_be", "armv6l", "armv7l", "armv7b"}
        | {"ppc64", "ppc64le", "s390x"}
    ),
    "freebsd": frozenset({"amd64", "i386", "arm"}),
    "darwin": frozenset({"x86_64", "i386"}),
}


def manifest_problems(manifest: object) -> tuple[str, ...]:
    """What is wrong with an ACI manifest, each as `where: what`; empty where it is valid."""
    return tuple(_manifest("", manifest))


def _at(where: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if where else key


def _fields(
    where: str, value: object, required: Mapping[str, Rule], optional: Mapping[str, Rule]
) -> Problems:
    """An object with these keys and no other."""
    if not isinstance(value, dict):
        yield f"{where or 'the document'}: must be an object"
        return
    rules = {**required, **optional}
    for key, member in value.items():
        if key in rules:
            yield from rules[key](_at(where, key), member)
            continue
        yield f"{_at(where, key)}: is not a key of the specification{_near(key, rules)}"
    yield from (f"{_at(where, key)}: is required" for key in required if key not in value)


def _near(key: str, known: Mapping[str, Rule]) -> str:
    import difflib  # only for a wrong document

    near = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _list_of(rule: Rule, unique: str | None = None) -> Rule:
    def check(where: str, value: object) -> Problems:
        if not isinstance(value, list):
            yield f"{where}: must be a list"
            return
        for number, member in enumerate(value):
            yield from rule(_at(where, number), member)
        if unique is None:
            return
        names = [member.get(unique) for member in value if isinstance(member, dict)]
        doubles = sorted({str(name) for name in names if names.count(name) > 1})
        yield from (f"{where}: {unique} {name!r} occurs twice" for name in doubles)

    return check


def _text(where: str, value: object) -> Problems:
    if not isinstance(value, str):
        yield f"{where}: must be a string"


def _filled(where: str, value: object) -> Problems:
    if not isinstance(value, str) or not value:
        yield f"{where}: must be a non-empty string"


def _boolean(where: str, value: object) -> Problems:
    if not isinstance(value, bool):
        yield f"{where}: must be true or false"


def _matching(pattern: re.Pattern[str], what: str) -> Rule:
    def check(where: str, value: object) -> Problems:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            yield f"{where}: {value!r} is not {what} ({pattern.pattern})"

    return check


def _whole(lowest: int, highest: int) -> Rule:
    def check(where: str, value: object) -> Problems:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not lowest <= value <= highest:  # type: ignore[operator]
            yield f"{where}: must be a whole number from {lowest} to {highest}"

    return check


def _absolute(where: str, value: object) -> Problems:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        yield f"{where}: {value!r} is not an absolute path"


def _exec(where: str, value: object) -> Problems:
    """Executors of appc 0.7.1 and older want a list that starts with an absolute path."""
    if not isinstance(value, list) or not value or not all(isinstance(a, str) for a in value):
        yield f"{where}: must be a non-empty list of strings"
    else:
        yield from _absolute(_at(where, 0), value[0])


_identifier = _matching(AC_IDENTIFIER, "an AC identifier")
_name = _matching(AC_NAME, "an AC name")


def _strings(where: str, value: object) -> Problems:
    if not isinstance(value, dict) or not all(isinstance(member, str) for member in value.values()):
        yield f"{where}: must be an object of strings"


def _version(where: str, value: object) -> Problems:
    if not isinstance(value, str) or not _SEMVER.fullmatch(value) or value == "0.0.0":
        yield f"{where}: {value!r} is not a version x.y.z above 0.0.0"


def _kind(where: str, value: object) -> Problems:
    if value != "ImageManifest":
        yield f"{where}: must be 'ImageManifest'"


def _label(where: str, value: object) -> Problems:
    yield from _fields(where, value, {"name": _identifier, "value": _text}, {})
    if isinstance(value, dict) and value.get("name") == "name":
        yield f"{_at(where, 'name')}: a label must not be called 'name'"


def _labels(where: str, value: object) -> Problems:
    yield from _list_of(_label, "name")(where, value)
    if not isinstance(value, list):
        return
    labels = {member.get("name"): member.get("value") for member in value if _is_pair(member)}
    if "os" in labels:
        known = ARCHITECTURES.get(labels["os"])
        if known is None:
            yield f"{where}: os {labels['os']!r} is none of {', '.join(ARCHITECTURES)}"
        elif labels.get("arch", "amd64") not in known and "arch" in labels:
            yield (
                f"{where}: arch {labels['arch']!r} does not exist on {labels['os']}; "
                f"there are {', '.join(sorted(known))}"
            )


def _is_pair(member: object) -> bool:
    return isinstance(member, dict) and all(
        isinstance(member.get(key), str) for key in ("name", "value")
    )


def _annotation(where: str, value: object) -> Problems:
    yield from _fields(where, value, {"name": _identifier, "value": _text}, {})
    if not isinstance(value, dict):
        return
    name, text = value.get("name"), str(value.get("value"))
    if name == "created" and not _RFC3339.fullmatch(text):
        yield f"{_at(where, 'value')}: {text!r} is not a time as RFC 3339 writes it"
    if name in ("homepage", "documentation") and not _URL.fullmatch(text):
        yield f"{_at(where, 'value')}: {text!r} is not an http or https URL"


def _variable(where: str, value: object) -> Problems:
    name = _matching(_ENV_NAME, "a name of an environment variable")
    yield from _fields(where, value, {"name": name, "value": _text}, {})


def _event(where: str, value: object) -> Problems:
    name = _matching(re.compile("pre-start|post-stop"), "an event")
    yield from _fields(where, value, {"name": name, "exec": _exec}, {})


def _mount_point(where: str, value: object) -> Problems:
    yield from _fields(where, value, {"name": _name, "path": _absolute}, {"readOnly": _boolean})


def _port(where: str, value: object) -> Problems:
    required: dict[str, Rule] = {"name": _name, "protocol": _filled, "port": _whole(1, 65535)}
    optional: dict[str, Rule] = {"count": _whole(1, 65535), "socketActivated": _boolean}
    yield from _fields(where, value, required, optional)


def _anything(where: str, value: object) -> Problems:  # noqa: ARG001 - a Rule that allows all
    yield from ()


def _isolator(where: str, value: object) -> Problems:
    yield from _fields(where, value, {"name": _identifier, "value": _anything}, {})


def _app(where: str, value: object) -> Problems:
    required: dict[str, Rule] = {"exec": _exec, "user": _filled, "group": _filled}
    gids = _list_of(_whole(0, 2**32 - 2))
    optional: dict[str, Rule] = {
        "workingDirectory": _absolute,
        "environment": _list_of(_variable, "name"),
        "supplementaryGIDs": gids,
        "supplementaryGids": gids,  # as the example in the specification spells it
        "eventHandlers": _list_of(_event, "name"),
        "mountPoints": _list_of(_mount_point, "name"),
        "ports": _list_of(_port, "name"),
        "isolators": _list_of(_isolator),
        "userAnnotations": _strings,
        "userLabels": _strings,
    }
    yield from _fields(where, value, required, optional)


def _dependency(where: str, value: object) -> Problems:
    optional: dict[str, Rule] = {
        "imageID": _matching(_IMAGE_ID, "an image ID"),
        "labels": _labels,
        "size": _whole(0, 2**63 - 1),
    }
    yield from _fields(where, value, {"imageName": _identifier}, optional)


def _manifest(where: str, value: object) -> Problems:
    required: dict[str, Rule] = {"acKind": _kind, "acVersion": _version, "name": _identifier}
    optional: dict[str, Rule] = {
        "labels": _labels,
        "app": _app,
        "dependencies": _list_of(_dependency),
        "pathWhitelist": _list_of(_absolute),
        "annotations": _list_of(_annotation, "name"),
    }
    yield from _fields(where, value, required, optional)
