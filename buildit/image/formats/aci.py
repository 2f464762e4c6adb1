"""App Container images (appc spec aci.md): one tar, `manifest` first, then the merged tree.

The tree is streamed from the layers of the store to the output; nothing is unpacked, and memory
does not grow with the image. `image.content` is a manifest, which takes the place of what would
derive from `app` and `vars`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from buildit.digest import canonical
from buildit.errors import RecipeError
from buildit.image import rules
from buildit.image.formats.aci_files import (
    AC_VERSION,
    named_values,
    platform_labels,
    write_aci,
    write_split,
)
from buildit.image.formats.table import Document, Format, LayerBlob, Plan, Start
from buildit.image.merge import Rootfs
from buildit.image.output import BlobPath, parts_beside
from buildit.image.rendering import whitelisted
from buildit.model.image import App, Emission, Image
from buildit.recipe.leaf import LARGEST_ID

_OCI = "org.opencontainers.image."
_SAID = (f"{_OCI}title", f"{_OCI}version")
"""What the name and the label `version` of an ACI say already."""

_RESERVED = ("name", "version", "os", "arch")
_ANNOTATIONS = {
    f"{_OCI}authors": "authors",
    f"{_OCI}url": "homepage",
    f"{_OCI}documentation": "documentation",
    f"{_OCI}created": "created",
}
"""What App Container has its own annotation for."""


def _manifest(image: Image) -> dict[str, Any]:
    """The manifest as JSON data, every rule of the specification met.

    Raises:
        RecipeError: the user's document, or what the container gives, breaks a rule; or the
            document says another platform than the container.
    """
    if not image.content:
        return _derived(image)

    def judge(document: object) -> tuple[str, ...]:
        contradictions = (*_contradictions(document, image), *_depends_twice(document, image))
        return (*manifest_problems(document), *contradictions)

    hint = " (appc spec aci.md), or leave it out: then `app` and `vars` decide"
    return rules.read_document(image, "the ACI manifest", judge, hint)


def _start(manifest: Document) -> Start:
    """Nothing of program and accounts where they may come from an image that this one depends on
    (appc spec aci.md, "Dependency Matching"); an account that is a path stands for the owner of
    that file."""
    app = manifest.get("app")
    if not isinstance(app, dict):
        return Start()
    start = app.get("workingDirectory")
    starts = [("working directory", start)] if start else []
    alone = not manifest.get("dependencies")
    accounts = [(kind, str(app[kind])) for kind in ("user", "group") if alone]
    return Start(
        str(app["exec"][0]) if alone else None,
        {one["name"]: one["value"] for one in app.get("environment", ())},
        (*starts, *(("volume", str(one["path"])) for one in app.get("mountPoints", ()))),
        tuple((kind, name) for kind, name in accounts if not name.startswith("/")),
        whitelisted(manifest.get("pathWhitelist", ())) if alone else frozenset(),
    )


def _contradictions(document: object, image: Image) -> Iterator[str]:
    """A label that tells an executor to run the image where its programs cannot run."""
    labels = document.get("labels") if isinstance(document, dict) else None
    expected = platform_labels(image)
    for number, label in enumerate(labels if isinstance(labels, list) else ()):
        name = label.get("name") if isinstance(label, dict) else None
        if name in expected and label.get("value") != expected[name]:
            yield (
                f"labels[{number}]: {name} is {label.get('value')!r}, "
                f"but the container is built for {expected[name]!r}"
            )


def _depends_twice(document: object, image: Image) -> Iterator[str]:
    """What another image would lay over the container's packages, nobody here can know."""
    if image.split and isinstance(document, dict) and "dependencies" in document:
        yield "dependencies: `split` writes them; leave them out, or `split`"


def _derived(image: Image) -> dict[str, Any]:
    labels = {"version": image.version, **platform_labels(image)}
    labels |= {name: value for name, value in image.labels if _may_be_label(name)}
    manifest: dict[str, Any] = {
        "acKind": "ImageManifest",
        "acVersion": AC_VERSION,
        "name": image.name,
        "labels": named_values(labels),
        "annotations": named_values(_annotations(image)),
    }
    if image.started is not None:
        manifest["app"] = aci_app(image.started, image.place)
    problems = manifest_problems(manifest)
    if problems:
        near = rules.ac_identifier(image.name)
        what = f"no valid ACI manifest follows from the container: {problems[0]}"
        hint = f"set `name: {near}` in `vars`" if near != image.name else "correct the container"
        raise RecipeError(what, place=image.place or None, hint=hint, details=problems[1:])
    return manifest


def _annotations(image: Image) -> dict[str, str]:
    about = {name: value for name, value in image.about if name not in _SAID}
    written = {
        name: value for name, value in image.annotations if rules.AC_IDENTIFIER.fullmatch(name)
    }
    return {
        "created": rules.rfc3339(image.epoch),
        **({"authors": image.author} if image.author else {}),
        **{_ANNOTATIONS.get(name, name): value for name, value in (about | written).items()},
    }


def _may_be_label(name: str) -> bool:
    return name not in _RESERVED and rules.AC_IDENTIFIER.fullmatch(name) is not None


def aci_app(app: App, place: str) -> dict[str, Any]:
    """The `app` of an ACI manifest (appc spec aci.md).

    Raises:
        RecipeError: no group is given and the user's own is not known: App Container wants one.
    """
    group = app.group if app.group is not None else app.own_group
    if group is None and app.user not in ("0", "root"):
        what = f"app: user {app.user!r} has no group, and App Container wants one"
        hint = (
            "add `group:` to `app` in container.yaml, or declare the user: "
            f"`- users: {{app: {{uid: {app.user if app.user.isdecimal() else 101}, gid: 101}}}}`"
        )
        raise RecipeError(what, place=place or None, hint=hint)
    lists: dict[str, list[dict[str, Any]]] = {
        "environment": named_values(dict(app.environment)),
        "mountPoints": [
            {"name": rules.volume_name(each), "path": each.path}
            | ({"readOnly": True} if each.read_only else {})
            for each in app.volumes
        ],
        "ports": [
            {"name": rules.port_name(port), "protocol": port.protocol, "port": port.number}
            for port in app.ports
        ],
    }
    return {
        "exec": list(app.argv),
        "user": app.user,
        "group": group if group is not None else "0",
        "workingDirectory": app.working_directory,
        **{name: members for name, members in lists.items() if members},
    }


def _unspoken(image: Image) -> Iterator[str]:
    """What the container says and an ACI cannot hold, one remark each."""
    if image.content:
        return
    allowed = "a-z, 0-9 and - . _ ~ / between them"
    for name, _ in image.labels:
        if not _may_be_label(name):
            why = "it is taken" if name in _RESERVED else allowed
            yield f"the ACI has no label {name!r}: App Container allows other names ({why})"
    for name, _ in image.annotations:
        if rules.AC_IDENTIFIER.fullmatch(name) is None:
            yield f"the ACI has no annotation {name!r}: App Container allows {allowed}"
    if image.started is not None and image.started.health:
        yield "the ACI has no healthcheck: App Container has none"
    if image.started is not None and image.started.stop_signal is not None:
        yield "the ACI has no stop signal: App Container has none"


def _plan(_: Image, manifest: Document, _layers: Sequence[LayerBlob] = ()) -> Plan:
    """The manifest; an ACI has no layers, and is named by all its bytes."""
    return Plan({"manifest": canonical(manifest)})


def _write(
    image: Image, manifest: Document, rootfs: Rootfs, blob: BlobPath, fresh: Path
) -> Emission:
    """Write the file.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the file cannot be written.
    """
    codec = ACI.codec(image)
    if image.split:
        made = write_split(image, manifest, rootfs, blob, codec, fresh, parts_beside(fresh))
    else:
        made = write_aci(fresh, manifest, rootfs, blob, image.epoch, codec)
    return Emission(fresh, image.format, made.digest, made.image_id, rootfs.notices)


# -- the rules of a manifest
#
# All that the reference `actool` 0.8.11 refuses is refused. Where a rule is stricter, it says why.
# Everywhere: a key that the specification does not have is a slip of the pen, and a key that it
# requires says nothing when it is left out (Go reads it as an empty text).

_SEMVER = re.compile(
    r"(?!0\.0\.0$)(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
)
_LINUX = "amd64 i386 aarch64 aarch64_be armv6l armv7l armv7b ppc64 ppc64le s390x"
OS_ARCHITECTURES: Mapping[str, frozenset[str]] = {
    "linux": frozenset(_LINUX.split()),
    "freebsd": frozenset({"amd64", "i386", "arm"}),
    "darwin": frozenset({"x86_64", "i386"}),
}
_identifier = rules.pattern_rule(rules.AC_IDENTIFIER, "an AC identifier")
_name = rules.pattern_rule(rules.AC_NAME, "an AC name")
_strings = rules.map_of(rules.text, rules.text)


_absolute = rules.text_that(re.compile(r"/[^\0]*").fullmatch, "an absolute path")
"""Stricter than actool: the specification says absolute, and executors resolve the path beneath
rootfs, where a relative or empty one means another place to each of them."""


def _exec(where: str, value: object) -> rules.Problems:
    """Stricter than actool: executors of appc 0.7.1 and older want a list that starts with an
    absolute path."""
    if not isinstance(value, list) or not value or not all(isinstance(a, str) for a in value):
        yield f"{where}: must be a non-empty list of strings"
    else:
        yield from _absolute(rules.at(where, 0), value[0])


_version = rules.text_that(_SEMVER.fullmatch, "a version x.y.z above 0.0.0")
"""Stricter than actool: SemVer 2.0 item 2, no leading zeros."""


def _kind(where: str, value: object) -> rules.Problems:
    if value != "ImageManifest":
        yield f"{where}: must be 'ImageManifest'"


def _no_name(where: str, value: object) -> rules.Problems:
    if isinstance(value, dict) and value.get("name") == "name":
        yield f"{rules.at(where, 'name')}: a label must not be called 'name'"


def _known_platform(where: str, value: object) -> rules.Problems:
    pairs = [each for each in value if _is_pair(each)] if isinstance(value, list) else []
    labels = {each["name"]: each["value"] for each in pairs}
    if "os" not in labels:
        return
    known = OS_ARCHITECTURES.get(labels["os"])
    if known is None:
        yield f"{where}: os {labels['os']!r} is none of {', '.join(OS_ARCHITECTURES)}"
    elif "arch" in labels and labels["arch"] not in known:
        yield (
            f"{where}: arch {labels['arch']!r} does not exist on {labels['os']}; "
            f"there are {', '.join(sorted(known))}"
        )


def _is_pair(member: object) -> bool:
    return isinstance(member, dict) and all(isinstance(member.get(key), str) for key in _pair)


_pair: Mapping[str, rules.JsonRule] = {"name": _identifier, "value": rules.text}
_labels = rules.all_of(
    rules.list_of(rules.all_of(rules.object_of(_pair), _no_name), "name"), _known_platform
)


_VALUES = {"created": rules.time, "homepage": rules.url, "documentation": rules.url}


def _known_value(where: str, value: object) -> rules.Problems:
    """The values of annotations that the specification has."""
    name = value.get("name") if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(name, str) and name in _VALUES:
        yield from _VALUES[name](rules.at(where, "value"), value.get("value"))


def _last_port(where: str, value: object) -> rules.Problems:
    last = value["port"] + value.get("count", 1) - 1 if isinstance(value, dict) else 0
    if last > 65535:
        yield f"{rules.at(where, 'count')}: the last of the ports would be {last}"


_port_rules = rules.object_of(
    {"name": _name, "protocol": rules.filled_text, "port": rules.whole(1, 65535)},
    {"count": rules.whole(1, 65535), "socketActivated": rules.boolean},
)


def _port(where: str, value: object) -> rules.Problems:
    """Stricter than actool: a protocol of no name and a count of no ports are slips."""
    problems = tuple(_port_rules(where, value))
    yield from problems or _last_port(where, value)


_QUANTITY = re.compile(
    r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkKMGTPE]|[eE][+-]?[0-9]+)?"
)
_quantity = rules.nothing_or(rules.pattern_rule(_QUANTITY, "a quantity such as 500m or 1Gi"))


def _limits(*, default: bool) -> rules.JsonRule:
    """`{request, limit}`; bandwidths and IOPS have `default: true` and no request instead (appc
    spec ace.md, "Resource Isolators")."""

    def is_default(where: str, value: object) -> rules.Problems:
        if isinstance(value, dict) and value.get("default", False) is not default:
            yield f"{rules.at(where, 'default')}: must be {str(default).lower()} for this resource"

    request: Mapping[str, rules.JsonRule] = {} if default else {"request": _quantity}
    return rules.all_of(
        rules.object_of({}, {"limit": _quantity, "default": rules.boolean, **request}), is_default
    )


def _not_empty(where: str, value: object) -> rules.Problems:
    if isinstance(value, dict) and value.get("set") == []:
        yield f"{rules.at(where, 'set')}: must not be empty"


_capitals = rules.pattern_rule(re.compile("[A-Z]*"), "the name of an error in capitals")
_set = rules.all_of(rules.object_of({"set": rules.list_of(rules.text)}), _not_empty)
_calls = rules.all_of(
    rules.object_of({"set": rules.list_of(rules.text)}, {"errno": _capitals}), _not_empty
)
_part = rules.pattern_rule(re.compile("[^:]+"), "a part of a context")

ISOLATORS: Mapping[str, rules.JsonRule] = {
    "resource/block-bandwidth": _limits(default=True),
    "resource/block-iops": _limits(default=True),
    "resource/cpu": _limits(default=False),
    "resource/memory": _limits(default=False),
    "resource/network-bandwidth": _limits(default=True),
    "os/linux/apparmor-profile": rules.object_of({"profile": rules.filled_text}),
    "os/linux/capabilities-remove-set": _set,
    "os/linux/capabilities-retain-set": _set,
    "os/linux/cpu-shares": rules.whole(2, 262144),
    "os/linux/no-new-privileges": rules.boolean,
    "os/linux/oom-score-adj": rules.whole(-1000, 1000),
    "os/linux/seccomp-remove-set": _calls,
    "os/linux/seccomp-retain-set": _calls,
    "os/linux/selinux-context": rules.object_of(
        {"user": _part, "role": _part, "type": _part, "level": rules.filled_text}
    ),
    "os/unix/sysctl": _strings,
}
"""appc spec ace.md, "Isolators"; actool 0.8.11 knows these and refuses every other."""

_SECCOMP = ("os/linux/seccomp-remove-set", "os/linux/seccomp-retain-set")
_ONCE = (
    *("os/linux/apparmor-profile", "os/linux/cpu-shares", "os/linux/oom-score-adj"),
    *(*_SECCOMP, "os/linux/selinux-context"),
)


def _isolator(where: str, value: object) -> rules.Problems:
    if not isinstance(value, dict):
        yield f"{where}: must be an object"
        return
    name = value.get("name")
    rule = ISOLATORS.get(name) if isinstance(name, str) else None
    if rule is None:
        yield f"{rules.at(where, 'name')}: {name!r} is none of {', '.join(ISOLATORS)}"
        return
    yield from rules.object_of({"name": rules.text, "value": rule})(where, value)


def _isolators_agree(where: str, value: object) -> rules.Problems:
    members = value if isinstance(value, list) else []
    names = [each.get("name") for each in members if isinstance(each, dict)]
    yield from (f"{where}: {name} occurs twice" for name in _ONCE if names.count(name) > 1)
    if all(name in names for name in _SECCOMP):
        yield f"{where}: {' and '.join(_SECCOMP)} exclude each other"


def _account(where: str, value: object) -> rules.Problems:
    """A user or group: a name, a number that the kernel has, or the path of a file whose owner is
    meant. Stricter than actool: no id above 2^32-2 (setresuid(2)), no blanks, colons or commas,
    which end a field of passwd(5) and group(5)."""
    yield from rules.filled_text(where, value)
    if isinstance(value, str) and value and not value.startswith("/"):
        yield from (f"{where}: {problem}" for problem in rules.account_problems(value))


_ids = rules.list_of(rules.whole(0, LARGEST_ID))
"""Stricter than actool: what the kernel has no id for is refused."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z_0-9.-]*")
_variable_name = rules.pattern_rule(_VARIABLE, "a name of an environment variable")
_variable = rules.object_of({"name": _variable_name, "value": rules.text})
_mount = rules.object_of({"name": _name, "path": _absolute}, {"readOnly": rules.boolean})
_event = rules.pattern_rule(re.compile("pre-start|post-stop"), "an event")
_app = rules.object_of(
    {"exec": _exec, "user": _account, "group": _account},
    {
        "workingDirectory": _absolute,
        "environment": rules.list_of(_variable, "name"),
        "supplementaryGIDs": _ids,
        "supplementaryGids": _ids,  # as the example in the specification spells it
        "eventHandlers": rules.list_of(rules.object_of({"name": _event, "exec": _exec}), "name"),
        "mountPoints": rules.list_of(_mount, "name"),
        "ports": rules.list_of(_port, "name"),
        "isolators": rules.all_of(rules.list_of(_isolator), _isolators_agree),
        "userAnnotations": _strings,
        "userLabels": _strings,
    },
)
_image_id = rules.pattern_rule(re.compile(r"sha512-[0-9a-f]{1,128}"), "an image ID")
"""Stricter than actool: an image ID is `sha512-` and hexadecimal digits (types.md)."""
_dependency = rules.object_of(
    {"imageName": _identifier},
    {"imageID": _image_id, "labels": _labels, "size": rules.whole(0, 2**63 - 1)},
)
_document = rules.object_of(
    {"acKind": _kind, "acVersion": _version, "name": _identifier},
    {
        "labels": _labels,
        "app": _app,
        "dependencies": rules.list_of(_dependency),
        "pathWhitelist": rules.list_of(_absolute),
        "annotations": rules.list_of(rules.all_of(rules.object_of(_pair), _known_value), "name"),
    },
)


def manifest_problems(manifest: object) -> tuple[str, ...]:
    """What is wrong with an ACI manifest (appc spec aci.md 0.8.11), each as `where: what`; empty
    where it is valid."""
    return tuple(_document("", manifest))


ACI = Format(
    name="aci",
    title="an ACI",
    codecs=("gzip", "none"),
    spelling=lambda kind: kind.appc or kind.uname,
    check=_manifest,
    start=_start,
    plan=_plan,
    write=_write,
    unspoken=_unspoken,
    only=": no App Container tool reads it",
    empty=True,
    signed=True,
    discovered=True,
    splits=True,
)
