"""Our own App Container validator for the tests: FORMATS.md §1, read apart from `buildit.image`.

It reads the archive with Python's `tarfile` and the specification's regular expressions, and
shares no code with the writer. `problems(path)` is empty for a valid ACI.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import re
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

IDENTIFIER = r"^[a-z0-9]+([-._~/][a-z0-9]+)*\Z"
NAME = r"^[a-z0-9]+([-][a-z0-9]+)*\Z"
ENVIRONMENT = r"^[A-Za-z_][A-Za-z_0-9.-]*\Z"
TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\Z"
PAIRS = {
    "linux": "amd64 i386 aarch64 aarch64_be armv6l armv7l armv7b ppc64 ppc64le s390x",
    "freebsd": "amd64 i386 arm",
    "darwin": "x86_64 i386",
}
TOP = {"acKind", "acVersion", "name", "labels", "app", "dependencies", "pathWhitelist"}
APP = {"exec", "user", "group", "workingDirectory", "environment", "supplementaryGIDs"}
DEPENDENCY = {"imageName", "imageID", "labels", "size"}
APP |= {"eventHandlers", "mountPoints", "ports", "isolators", "userAnnotations", "userLabels"}


def plain_tar(path: Path) -> bytes:
    """The uncompressed tar, by the magic that actool goes by."""
    packed = path.read_bytes()
    if packed.startswith(b"\x1f\x8b"):
        return gzip.decompress(packed)
    if packed.startswith(b"BZh"):
        return bz2.decompress(packed)
    if packed.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(packed)
    if packed[257:262] == b"ustar":
        return packed
    raise ValueError("unable to detect filetype")


def image_id(path: Path) -> str:
    return f"sha512-{hashlib.sha512(plain_tar(path)).hexdigest()}"


def problems(path: Path) -> list[str]:
    found: list[str] = []
    if path.suffix != ".aci":
        found.append("the file name does not end in .aci")
    try:
        tar = plain_tar(path)
    except ValueError as error:
        return [*found, str(error)]
    with tarfile.open(fileobj=BytesIO(tar), mode="r:") as archive:
        members = archive.getmembers()
        found += layout_problems(members)
        manifest = archive.extractfile("manifest") if not found else None
        if manifest is not None:
            document = json.loads(manifest.read())
            found += manifest_problems(document)
            if not document.get("dependencies"):  # else the program may lie in one of them
                found += exec_problems(document, {m.name: m for m in members})
    return found


def layout_problems(members: list[tarfile.TarInfo]) -> list[str]:
    names = [member.name for member in members]
    kinds = {member.name: member for member in members}
    found = [f"duplicate entry {name}" for name in sorted(set(names)) if names.count(name) > 1]
    if not names or names[0] != "manifest" or not kinds["manifest"].isreg():
        found.append("the first entry is not the regular file `manifest`")
    if "rootfs" not in kinds or not kinds["rootfs"].isdir():
        found.append("no directory entry `rootfs`")
    for name in names[1:]:
        if name != "rootfs" and not name.startswith("rootfs/"):
            found.append(f"unrecognized path {name}")
        parent = name.rpartition("/")[0]
        if parent and (parent not in kinds or not kinds[parent].isdir()):
            found.append(f"no directory entry for the parent of {name}")
    for member in members:
        if member.isdev() or member.issparse():
            found.append(f"a device or sparse file: {member.name}")
        if member.uname or member.gname:
            found.append(f"owner names in {member.name}")
        if member.islnk() and member.linkname not in names[: names.index(member.name)]:
            found.append(f"{member.name} links to {member.linkname}, which is no earlier entry")
    return found


def manifest_problems(manifest: dict[str, Any]) -> list[str]:
    return list(_manifest(manifest))


def _manifest(manifest: dict[str, Any]) -> Iterator[str]:
    yield from (f"unknown key {key}" for key in set(manifest) - TOP - {"annotations"})
    if manifest.get("acKind") != "ImageManifest":
        yield "acKind"
    if not re.match(r"^\d+\.\d+\.\d+", manifest.get("acVersion", "")):
        yield "acVersion"
    if not re.match(IDENTIFIER, manifest.get("name", "")):
        yield "name"
    yield from _labels(manifest.get("labels", []))
    yield from _annotations(manifest.get("annotations", []))
    for path in manifest.get("pathWhitelist", []):
        if not path.startswith("/"):
            yield f"pathWhitelist {path}"
    for wanted in manifest.get("dependencies", []):
        yield from _dependency(wanted)
    if "app" in manifest:
        yield from _app(manifest["app"])


def _dependency(wanted: dict[str, Any]) -> Iterator[str]:
    yield from (f"unknown key {key}" for key in set(wanted) - DEPENDENCY)
    if not re.match(IDENTIFIER, wanted.get("imageName", "")):
        yield f"imageName {wanted.get('imageName')}"
    if "imageID" in wanted and not re.match(r"^sha512-[0-9a-f]{1,128}\Z", wanted["imageID"]):
        yield f"imageID {wanted['imageID']}"
    if "size" in wanted and (type(wanted["size"]) is not int or wanted["size"] < 0):
        yield f"size {wanted['size']}"
    yield from _labels(wanted.get("labels", []))


def _annotations(annotations: list[dict[str, str]]) -> Iterator[str]:
    yield from _unique("annotations", annotations)
    for each in annotations:
        if not re.match(IDENTIFIER, each["name"]):
            yield f"annotation name {each['name']}"
        if each["name"] == "created" and not re.match(TIME, each["value"]):
            yield "created is no RFC 3339 time"
        web = each["value"].startswith(("http://", "https://"))
        if each["name"] in ("homepage", "documentation") and not web:
            yield f"{each['name']} is no URL"


def _unique(what: str, members: list[dict[str, Any]]) -> Iterator[str]:
    names = [member["name"] for member in members]
    if len(set(names)) != len(names):
        yield f"{what}: a name occurs twice"


def _labels(labels: list[dict[str, str]]) -> Iterator[str]:
    yield from _unique("labels", labels)
    values = {label["name"]: label["value"] for label in labels}
    for name in values:
        if not re.match(IDENTIFIER, name) or name == "name":
            yield f"label name {name}"
    if "os" in values:
        if values["os"] not in PAIRS:
            yield f"os {values['os']}"
        elif "arch" in values and values["arch"] not in PAIRS[values["os"]].split():
            yield f"arch {values['arch']}"


def _app(app: dict[str, Any]) -> Iterator[str]:
    yield from (f"unknown key app.{key}" for key in set(app) - APP)
    if not app.get("exec") or not app["exec"][0].startswith("/"):
        yield "exec is not an absolute command"
    for account in ("user", "group"):
        if not isinstance(app.get(account), str) or not app[account]:
            yield f"no {account}"
    if not app.get("workingDirectory", "/").startswith("/"):
        yield "workingDirectory"
    for list_name in ("environment", "mountPoints", "ports", "eventHandlers"):
        yield from _unique(list_name, app.get(list_name, []))
    yield from _app_lists(app)


def _app_lists(app: dict[str, Any]) -> Iterator[str]:
    for gid in app.get("supplementaryGIDs", []):
        if type(gid) is not int or not 0 <= gid < 2**32 - 1:
            yield f"supplementary group {gid}"
    for handler in app.get("eventHandlers", []):
        if handler["name"] not in ("pre-start", "post-stop") or not handler.get("exec"):
            yield f"event handler {handler['name']}"
    for isolator in app.get("isolators", []):
        if not re.match(IDENTIFIER, isolator.get("name", "")) or "value" not in isolator:
            yield f"isolator {isolator.get('name')}"
    for each in app.get("environment", []):
        if not re.match(ENVIRONMENT, each["name"]) or not isinstance(each["value"], str):
            yield f"environment {each['name']}"
    for point in app.get("mountPoints", []):
        if not re.match(NAME, point["name"]) or not point["path"].startswith("/"):
            yield f"mount point {point['name']}"
    for port in app.get("ports", []):
        if not re.match(NAME, port["name"]) or not 1 <= port["port"] <= 65535:
            yield f"port {port['name']}"
        if not port.get("protocol") or port.get("count", 1) < 1:
            yield f"port {port['name']}: protocol or count"


def exec_problems(manifest: dict[str, Any], members: dict[str, tarfile.TarInfo]) -> list[str]:
    """The program is in the rootfs and executable, links followed as in a chroot."""
    if "app" not in manifest:
        return []
    path = manifest["app"]["exec"][0].strip("/")
    for _ in range(40):
        parts = path.split("/")
        shorter = ["rootfs/" + "/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        missing = [name for name in shorter if name not in members]
        links = [name for name in shorter if name in members and members[name].issym()]
        if not links:
            if missing:
                return [f"exec {path} does not exist"]
            member = members[shorter[-1]]
            runs = (member.isreg() or member.islnk()) and member.mode & 0o111
            return [] if runs else [f"exec {path} is no program"]
        end = shorter.index(links[0]) + 1
        target = members[links[0]].linkname
        above = [] if target.startswith("/") else parts[: end - 1]
        path = "/".join(_folded([*above, *target.split("/"), *parts[end:]]))
    return ["exec is a loop of links"]


def _folded(parts: list[str]) -> list[str]:
    folded: list[str] = []
    for part in parts:
        if part == "..":
            del folded[-1:]
        elif part not in ("", "."):
            folded.append(part)
    return folded
