"""COPY and ADD as `sync` and `texts` steps. Pure.

COPY --from=build /out/* /srv/   - sync: {src: [out/*], dest: /srv/, from: {stage: build}, …}
ADD app.tar.gz /srv/             - sync: {src: [app.tar.gz], dest: /srv/, extract: yes, …}
ADD https://…/x.bin /srv/        - sync: {src: ['https://…/x.bin'], dest: /srv/, …}
COPY <<name /srv/                - texts: [{path: /srv/name, content: …}]
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from buildit.model.ignored import translated_glob
from buildit.recipe.ways.dockerfile.parse import Instruction, heredoc_word
from buildit.recipe.ways.dockerfile.words import split_quoted
from buildit.recipe.ways.nodes import list_node, map_node, step_node
from buildit.recipe.yaml.node import Mapping, Node, Sequence

URL = re.compile(r"(?:https?|ftp)://", re.IGNORECASE)
_GIT = re.compile(r"(?:git@|ssh://|git://)|https?://[^#?]+\.git(?:[#?].*)?$", re.IGNORECASE)
_CHECKSUM = re.compile(r"sha256:([0-9a-f]{64})")
_OCTAL = re.compile(r"0?o?([0-7]{1,4})")
_SYMBOLIC = re.compile(r"[ugoa]+=[rwxst]*(?:,[ugoa]+=[rwxst]*)*")


@dataclass(frozen=True, slots=True)
class Copying:
    """What a COPY or ADD stands in: `text` gives a text its values, `inner` one of a
    heredoc; `directory` is that of WORKDIR, `origin` the `from` of `sync`, None for the context,
    `ignore` what stays out of that."""

    one: Instruction
    text: Callable[[str], str]
    inner: Callable[[str], str]
    escape: str
    directory: str
    origin: Mapping | None
    ignore: Sequence | None


def copy_steps(at: Copying) -> list[Mapping]:
    """The steps of a COPY or ADD.

    Raises:
        RecipeError: it is malformed, leads out of the context, or asks for what is not here.
    """
    one = at.one
    listed = one.listed
    words = list(listed) if listed is not None else split_quoted(one.rest, at.escape)
    if len(words) < 2:
        hint = f"write {one.word} SOURCE… DESTINATION"
        raise one.error(f"{one.word} takes sources and a destination", hint)
    heredocs = {each.name: each for each in one.heredocs}
    *written, last = words
    dest = _destination(at, at.text(last))
    sources: list[str] = []
    texts: list[Mapping] = []
    for word in written:
        found = heredoc_word(word) if heredocs else None
        if found is None or found[0] not in heredocs:
            sources.append(at.text(word))
            continue
        each = heredocs[found[0]]
        content = at.inner(each.content) if each.expands else each.content
        path = posixpath.join(dest, each.name) if dest.endswith("/") else dest
        texts.append(_text_node(at, path, content))
    if len(written) > 1 and not dest.endswith("/"):
        hint = f"end it with a slash: {last}/"
        raise one.error(f"several sources go to {last}, which is no directory then", hint)
    steps = [step for group in _groups(at, sources) for step in _sync(at, group, dest)]
    if texts:
        steps.append(step_node(one.place, "texts", Sequence(tuple(texts), one.place)))
    return steps


def _destination(at: Copying, text: str) -> str:
    """The absolute destination; a trailing slash, or `.`, is a directory."""
    if not text:
        raise at.one.error(f"the destination of {at.one.word} is empty", "write /, or a path")
    is_directory = text.endswith(("/", "/.", "/..")) or text in (".", "..")
    path = posixpath.normpath(posixpath.join("/", at.directory, text))
    path = "/" + path.lstrip("/")
    return path if path == "/" or not is_directory else f"{path}/"


def _groups(at: Copying, sources: list[str]) -> list[list[str]]:
    """The sources that go together: files, and each URL."""
    groups: list[list[str]] = []
    for source in sources:
        if not source:
            raise at.one.error(
                f"a source of {at.one.word} is empty", "does a variable lack a value?"
            )
        is_url = at.one.word == "ADD" and (URL.match(source) or _GIT.match(source))
        if is_url or not groups or URL.match(groups[-1][0]):
            groups.append([source])
        else:
            groups[-1].append(source)
    return groups


def _sync(at: Copying, sources: list[str], dest: str) -> list[Mapping]:
    one = at.one
    is_url = one.word == "ADD" and (URL.match(sources[0]) or _GIT.match(sources[0]))
    values: dict[str, str | Node] = {}
    if is_url:
        values |= _of_url(at, sources[0], dest)
    else:
        if one.flag("checksum"):
            raise one.error("--checksum is for a URL", "leave it out: the lock has all digests")
        values["src"] = list_node(one.place, [_source(at, source) for source in sources])
        values["dest"] = dest
        values["recursive"] = "yes"
        if at.origin is not None:
            values["from"] = at.origin
        elif at.ignore is not None:
            values["ignore"] = at.ignore
        if one.word == "ADD" and one.flag("unpack") != "false":
            values["extract"] = "yes"
        if one.flag("parents") == "true":
            values["parents"] = "yes"
    values |= _attributes(at, bool(is_url))
    return [step_node(one.place, "sync", map_node(one.place, values))]


def _attributes(at: Copying, is_url: bool) -> dict[str, str | Node]:
    """Owner, modes and exclusions."""
    one, values = at.one, dict[str, str | Node]()
    if chown := one.flag("chown"):
        values["owner"] = _owner(one, at.text(chown))
    if (chmod := one.flag("chmod")) or is_url:
        mode = _mode(one, at.text(chmod)) if chmod else "0600"
        values["chmod"] = mode
        if chmod:
            values["dirmode"] = mode
    if excluded := [at.text(each) for each in one.values_of("exclude")]:
        globs = [translated_glob(posixpath.normpath(each).lstrip("/")) for each in excluded]
        beneath = [each if each.endswith("**") else f"{each}/**" for each in globs]
        values["exclude"] = list_node(one.place, [*dict.fromkeys((*globs, *beneath))])
    return values


def _of_url(at: Copying, source: str, dest: str) -> dict[str, str | Node]:
    """A file that is fetched; it is never unpacked."""
    one = at.one
    if _GIT.match(source):
        hint = "name it in a package: `sources: [{git: …, tag: …}]`, or clone it in a RUN"
        raise one.error(f"a git repository cannot be added: {source[:60]}", hint)
    if not source.lower().startswith("https://") and not source.lower().startswith("http://"):
        raise one.error(f"{source[:60]} cannot be fetched", "use https://")
    values: dict[str, str | Node] = {"src": list_node(one.place, [source]), "dest": dest}
    if checksum := one.flag("checksum"):
        text = at.text(checksum)
        match = _CHECKSUM.fullmatch(text)
        if match is None:
            raise one.error(f"--checksum={text[:40]} is no SHA-256", "write sha256: and 64 digits")
        values["sha256"] = match[1]
    return values


def _source(at: Copying, source: str) -> str:
    """The path of a source from the root of what it lies in, `.` for all of it."""
    path = posixpath.normpath("./" + source.lstrip("/"))
    if path.split("/")[0] == "..":
        if at.origin is None:
            hint = "copy it into the directory, or name the one above: buildit DIR --file …"
            raise at.one.error(f"{source[:60]!r} leads out of the directory", hint)
        path = posixpath.normpath("/" + source).lstrip("/") or "."
    return path


def _owner(one: Instruction, text: str) -> str:
    if not text or text.count(":") > 1 or any(not part for part in text.split(":")):
        raise one.error(f"--chown={text[:40]} is no owner", "write USER, or USER:GROUP")
    return text


def _mode(one: Instruction, text: str) -> str:
    if match := _OCTAL.fullmatch(text):
        return f"0{match[1].lstrip('0') or '0'}"
    if _SYMBOLIC.fullmatch(text):
        return text
    raise one.error(f"--chmod={text[:40]} is no mode", "write it as in 0755, or u=rwx,go=rx")


def _text_node(at: Copying, path: str, content: str) -> Mapping:
    one = at.one
    values: dict[str, str | Node] = {"path": path, "content": content}
    if chmod := one.flag("chmod"):
        values["mode"] = _mode(one, at.text(chmod))
    if chown := one.flag("chown"):
        values["owner"] = _owner(one, at.text(chown))
    return map_node(one.place, values)
