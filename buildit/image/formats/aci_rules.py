"""Every rule of the App Container image manifest (appc spec aci.md 0.8.11), as one pure check.

All that the reference `actool` 0.8.11 refuses is refused. Where a rule is stricter, its docstring
says why. Everywhere: a key that the specification does not have is a slip of the pen, and a key
that it requires says nothing when it is left out (Go reads it as an empty text).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from buildit.image.documents import (
    JsonRule,
    Problems,
    account_rule,
    at,
    boolean,
    fields,
    filled_text,
    list_of,
    map_of,
    nothing_or,
    pattern_rule,
    text,
    time,
    url,
    whole,
)
from buildit.image.names import AC_IDENTIFIER, AC_NAME
from buildit.recipe.leaf import LARGEST_ID

_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9.-]*")
_IMAGE_ID = re.compile(r"sha512-[0-9a-f]{1,128}")
OS_ARCHITECTURES: Mapping[str, frozenset[str]] = {
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


def _absolute(where: str, value: object) -> Problems:
    """Stricter than actool: the specification says absolute, and executors resolve the path
    beneath rootfs, where a relative or empty one means another place to each of them."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        yield f"{where}: {value!r} is not an absolute path"


def _exec(where: str, value: object) -> Problems:
    """Stricter than actool: executors of appc 0.7.1 and older want a list that starts with an
    absolute path."""
    if not isinstance(value, list) or not value or not all(isinstance(a, str) for a in value):
        yield f"{where}: must be a non-empty list of strings"
    else:
        yield from _absolute(at(where, 0), value[0])


_identifier = pattern_rule(AC_IDENTIFIER, "an AC identifier")
_name = pattern_rule(AC_NAME, "an AC name")


_strings = map_of(text, text)


def _version(where: str, value: object) -> Problems:
    """Stricter than actool: SemVer 2.0 item 2, no leading zeros."""
    if not isinstance(value, str) or not _SEMVER.fullmatch(value) or value == "0.0.0":
        yield f"{where}: {value!r} is not a version x.y.z above 0.0.0"


def _kind(where: str, value: object) -> Problems:
    if value != "ImageManifest":
        yield f"{where}: must be 'ImageManifest'"


def _label(where: str, value: object) -> Problems:
    yield from fields(where, value, {"name": _identifier, "value": text}, {})
    if isinstance(value, dict) and value.get("name") == "name":
        yield f"{at(where, 'name')}: a label must not be called 'name'"


def _labels(where: str, value: object) -> Problems:
    yield from list_of(_label, "name")(where, value)
    if not isinstance(value, list):
        return
    labels = {member.get("name"): member.get("value") for member in value if _is_pair(member)}
    if "os" in labels:
        known = OS_ARCHITECTURES.get(labels["os"])
        if known is None:
            yield f"{where}: os {labels['os']!r} is none of {', '.join(OS_ARCHITECTURES)}"
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
    yield from fields(where, value, {"name": _identifier, "value": text}, {})
    if not isinstance(value, dict):
        return
    if value.get("name") == "created":
        yield from time(at(where, "value"), value.get("value"))
    if value.get("name") in ("homepage", "documentation"):
        yield from url(at(where, "value"), value.get("value"))


def _variable(where: str, value: object) -> Problems:
    name = pattern_rule(_ENV_NAME, "a name of an environment variable")
    yield from fields(where, value, {"name": name, "value": text}, {})


def _event(where: str, value: object) -> Problems:
    name = pattern_rule(re.compile("pre-start|post-stop"), "an event")
    yield from fields(where, value, {"name": name, "exec": _exec}, {})


def _mount_point(where: str, value: object) -> Problems:
    yield from fields(where, value, {"name": _name, "path": _absolute}, {"readOnly": boolean})


def _port(where: str, value: object) -> Problems:
    """Stricter than actool: a protocol of no name and a count of no ports are slips."""
    required: dict[str, JsonRule] = {
        "name": _name,
        "protocol": filled_text,
        "port": whole(1, 65535),
    }
    optional: dict[str, JsonRule] = {"count": whole(1, 65535), "socketActivated": boolean}
    problems = tuple(fields(where, value, required, optional))
    yield from problems
    if not problems and isinstance(value, dict):
        last = value["port"] + value.get("count", 1) - 1
        if last > 65535:
            yield f"{at(where, 'count')}: the last of the ports would be {last}"


_QUANTITY = re.compile(
    r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkKMGTPE]|[eE][+-]?[0-9]+)?"
)
_quantity = nothing_or(pattern_rule(_QUANTITY, "a quantity such as 500m or 1Gi"))


def _limits(*, default: bool) -> JsonRule:
    """`{request, limit}`; bandwidths and IOPS have `default: true` and no request instead (appc
    spec ace.md, "Resource Isolators")."""

    def check(where: str, value: object) -> Problems:
        known: dict[str, JsonRule] = {"limit": _quantity, "default": boolean}
        if not default:
            known["request"] = _quantity
        yield from fields(where, value, {}, known)
        if isinstance(value, dict) and value.get("default", False) is not default:
            yield f"{at(where, 'default')}: must be {str(default).lower()} for this resource"

    return check


def _set_of(*, errno: bool) -> JsonRule:
    """`{set: [...]}`, not empty; of system calls with an `errno` in capitals."""
    capitals = pattern_rule(re.compile("[A-Z]*"), "the name of an error in capitals")

    def check(where: str, value: object) -> Problems:
        optional: dict[str, JsonRule] = {"errno": capitals} if errno else {}
        yield from fields(where, value, {"set": list_of(text)}, optional)
        if isinstance(value, dict) and value.get("set") == []:
            yield f"{at(where, 'set')}: must not be empty"

    return check


def _selinux(where: str, value: object) -> Problems:
    part = pattern_rule(re.compile("[^:]+"), "a part of a context")
    yield from fields(
        where, value, {"user": part, "role": part, "type": part, "level": filled_text}, {}
    )


def _apparmor(where: str, value: object) -> Problems:
    yield from fields(where, value, {"profile": filled_text}, {})


ISOLATORS: Mapping[str, JsonRule] = {
    "resource/block-bandwidth": _limits(default=True),
    "resource/block-iops": _limits(default=True),
    "resource/cpu": _limits(default=False),
    "resource/memory": _limits(default=False),
    "resource/network-bandwidth": _limits(default=True),
    "os/linux/apparmor-profile": _apparmor,
    "os/linux/capabilities-remove-set": _set_of(errno=False),
    "os/linux/capabilities-retain-set": _set_of(errno=False),
    "os/linux/cpu-shares": whole(2, 262144),
    "os/linux/no-new-privileges": boolean,
    "os/linux/oom-score-adj": whole(-1000, 1000),
    "os/linux/seccomp-remove-set": _set_of(errno=True),
    "os/linux/seccomp-retain-set": _set_of(errno=True),
    "os/linux/selinux-context": _selinux,
    "os/unix/sysctl": _strings,
}
"""appc spec ace.md, "Isolators"; actool 0.8.11 knows these and refuses every other."""

_ONCE = frozenset(
    {"os/linux/apparmor-profile", "os/linux/cpu-shares", "os/linux/oom-score-adj"}
    | {"os/linux/seccomp-remove-set", "os/linux/seccomp-retain-set", "os/linux/selinux-context"}
)
_SECCOMP = ("os/linux/seccomp-remove-set", "os/linux/seccomp-retain-set")


def _isolator(where: str, value: object) -> Problems:
    if not isinstance(value, dict):
        yield f"{where}: must be an object"
        return
    name = value.get("name")
    rule = ISOLATORS.get(name) if isinstance(name, str) else None
    if rule is None:
        yield f"{at(where, 'name')}: {name!r} is none of {', '.join(ISOLATORS)}"
        return
    yield from fields(where, value, {"name": text, "value": rule}, {})


def _isolators(where: str, value: object) -> Problems:
    yield from list_of(_isolator)(where, value)
    if not isinstance(value, list):
        return
    names = [each.get("name") for each in value if isinstance(each, dict)]
    for name in sorted(_ONCE):
        if names.count(name) > 1:
            yield f"{where}: {name} occurs twice"
    if all(name in names for name in _SECCOMP):
        yield f"{where}: {' and '.join(_SECCOMP)} exclude each other"


def _app(where: str, value: object) -> Problems:
    required: dict[str, JsonRule] = {"exec": _exec, "user": account_rule, "group": account_rule}
    # Stricter than actool: what the kernel has no id for is refused.
    gids = list_of(whole(0, LARGEST_ID))
    optional: dict[str, JsonRule] = {
        "workingDirectory": _absolute,
        "environment": list_of(_variable, "name"),
        "supplementaryGIDs": gids,
        "supplementaryGids": gids,  # as the example in the specification spells it
        "eventHandlers": list_of(_event, "name"),
        "mountPoints": list_of(_mount_point, "name"),
        "ports": list_of(_port, "name"),
        "isolators": _isolators,
        "userAnnotations": _strings,
        "userLabels": _strings,
    }
    yield from fields(where, value, required, optional)


def _dependency(where: str, value: object) -> Problems:
    """Stricter than actool: an image ID is `sha512-` and hexadecimal digits (types.md)."""
    optional: dict[str, JsonRule] = {
        "imageID": pattern_rule(_IMAGE_ID, "an image ID"),
        "labels": _labels,
        "size": whole(0, 2**63 - 1),
    }
    yield from fields(where, value, {"imageName": _identifier}, optional)


def _manifest(where: str, value: object) -> Problems:
    required: dict[str, JsonRule] = {"acKind": _kind, "acVersion": _version, "name": _identifier}
    optional: dict[str, JsonRule] = {
        "labels": _labels,
        "app": _app,
        "dependencies": list_of(_dependency),
        "pathWhitelist": list_of(_absolute),
        "annotations": list_of(_annotation, "name"),
    }
    yield from fields(where, value, required, optional)
