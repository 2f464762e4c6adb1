"""`show`, `log` and `shell`: one build, its log, and the tree of one that failed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from buildit.archive.contents import parse_contents
from buildit.cli.builds import build_log, failure_of, found_build, log_text, not_failed, own_store
from buildit.cli.options import JSON
from buildit.cli.results import columns, printable, say, say_json
from buildit.digest import BuildKey, key_uuid
from buildit.make.capture.capture import CAPTURE
from buildit.model.amount import size
from buildit.model.artifact import Artifact, Output
from buildit.model.tree import Entry, Kind
from buildit.store.artifacts import Found, lookup
from buildit.store.cas import Store

_LETTERS = {Kind.FILE: "-", Kind.DIRECTORY: "d", Kind.SYMLINK: "l", Kind.HARDLINK: "h"}


def _artifact_lines(found: Found, store: Store) -> tuple[str, ...]:
    """What a build is, its outputs, and what they need with the provider of each."""
    artifact = found.artifact
    head = (
        f"{artifact.name}-{artifact.version} for {artifact.platform}",
        f"HASH: {key_uuid(artifact.key)}",
        f"key: {artifact.key}",
        f"builder: {found.builder}",
        *([f"taken from: '{found.origin}'"] if found.origin else []),
    )
    outputs = columns([_output_row(name, one, store) for name, one in _outputs(artifact)], "  ")
    return (
        *map(printable, head),
        *("outputs:", *outputs),
        *_needs(artifact, store),
        *_changes(artifact, store),
    )


def _changes(artifact: Artifact, store: Store) -> tuple[str, ...]:
    """What is not as it was installed: a part of the log, where the log is at hand."""
    lines = _captured(artifact, store)
    return ("changed:", *(f"  {printable(line)}" for line in lines)) if lines else ()


def _captured(artifact: Artifact, store: Store) -> tuple[str, ...]:
    """The lines that `capture.told` wrote into the log, none where it is not in the store."""
    if artifact.log is None or not store.has(artifact.log):
        return ()
    head = f"=== {CAPTURE}\n"
    _, found, part = f"\n{store.read(artifact.log).decode('utf-8', 'replace')}".rpartition(
        f"\n{head}"
    )
    return tuple(part.split("\n=== ")[0].splitlines()) if found else ()


def _outputs(artifact: Artifact) -> list[tuple[str, Output]]:
    return sorted(artifact.outputs.items())


def _output_row(name: str, output: Output, store: Store) -> tuple[str, ...]:
    count = len(_entries(output, store))
    return (name, size(output.size), f"{count} entries", f"sha256:{output.diff_id}")


def _entries(output: Output, store: Store) -> tuple[Entry, ...]:
    return parse_contents(store.read(output.contents))


def _needs(artifact: Artifact, store: Store) -> tuple[str, ...]:
    rows = [
        (name, need, _provider(output.providers.get(need, ""), artifact, store))
        for name, output in _outputs(artifact)
        for need in output.needs
    ]
    return ("needs:", *columns(rows, "  ")) if rows else ()


def _provider(text: str, artifact: Artifact, store: Store) -> str:
    key, _, output = text.partition(":")
    if not text:
        return "nothing" if artifact.name.startswith("debian:") else "waived"
    if not key:
        return f"its own {output}"
    provider = lookup(store, BuildKey(key))
    name = key[:12] if provider is None else f"{provider.name}-{provider.version}"
    return f"{name} ({output})"


def _file_lines(found: Found, store: Store) -> tuple[str, ...]:
    """Every entry of every output, as `ls -l` would say it."""
    lines: list[str] = []
    for name, output in _outputs(found.artifact):
        rows = [_file_row(entry) for entry in _entries(output, store)]
        lines += [f"files of {name}:", *columns(rows, "  ")]
    return tuple(lines)


def _file_row(entry: Entry) -> tuple[str, ...]:
    arrow = f" -> {entry.target}" if entry.target else ""
    owner = f"{entry.uid}:{entry.gid}"
    return (
        f"{_LETTERS[entry.kind]}{entry.mode:04o}",
        owner,
        str(entry.size),
        f"/{entry.path}{arrow}",
    )


def _record_lines(found: Found, store: Store) -> tuple[str, ...]:
    """The record that the key is the SHA-256 of, for reading."""
    text = json.dumps(json.loads(store.read(found.artifact.record)), indent=2, sort_keys=True)
    return ("record:", *(f"  {line}" for line in text.splitlines()))


def _artifact_plain(found: Found, store: Store) -> dict[str, object]:
    """All of it, the record and the files of each output included."""
    artifact = found.artifact
    plain = asdict(artifact)
    plain["uuid"] = key_uuid(artifact.key)
    plain["builder"] = found.builder
    plain["changed"] = _captured(artifact, store)
    plain["record"] = json.loads(store.read(artifact.record))
    for name, output in artifact.outputs.items():
        plain["outputs"][name]["files"] = [_entry_plain(e) for e in _entries(output, store)]
    return plain


def _entry_plain(entry: Entry) -> dict[str, object]:
    return {**asdict(entry), "xattrs": {name: value.hex() for name, value in entry.xattrs.items()}}


@click.command("show")
@click.argument("build", metavar="KEY|NAME")
@click.option("--files", is_flag=True, help="List the files of every output.")
@click.option("--record", is_flag=True, help="Print the record that the key is the digest of.")
@JSON
def show_verb(build: str, files: bool, record: bool, as_json: bool) -> None:
    """Show a build: outputs, their needs and who provides them.

    A build is named by its key, the first 8 digits of it or more, its HASH, its package's name
    (the newest one), or the path of its statement.
    """
    with own_store() as (store, _):
        found = found_build(store, build)
        if as_json:
            say_json(_artifact_plain(found, store))
            return
        say(_artifact_lines(found, store))
        say(_file_lines(found, store) if files else ())
        say(_record_lines(found, store) if record else ())


@click.command("log", short_help="Print the log of a build; without a name, of the last failure.")
@click.argument("build", metavar="[KEY|NAME]", required=False)
@JSON
def log_verb(build: str | None, as_json: bool) -> None:
    """Print the log of a build, finished or failed; without a name that of the last failure."""
    with own_store() as (store, _), build_log(store, build) as (title, stream):
        if as_json:
            say_json({"build": title, "log": stream.read().decode("utf-8", "replace")})
            return
        for chunk in log_text(stream, terminal=sys.stdout.isatty()):
            sys.stdout.write(chunk)


@click.command("shell", short_help="Enter the tree of a failed build, in its sandbox.")
@click.argument("build", metavar="[KEY|NAME]", required=False)
def shell_verb(build: str | None) -> int:
    """Enter the tree of a failed build, in its sandbox; without a name that of the last failure."""
    from buildit.cli.entering import enter

    with own_store() as (store, settings):
        failure = failure_of(store, build)
        if failure is None:
            raise not_failed(build or "")
        return enter(failure, store, settings.limits)
