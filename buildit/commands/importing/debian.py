"""Debian's packages, and Debian's own root, as container directories with exact packages: what
deb2aci and debootstrap are for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.deb import read_control, read_deb
from buildit.archive.streams import read_up_to
from buildit.commands.fetching import InputFetcher
from buildit.commands.importing.directory import ImportedContainer, check_free, new_container
from buildit.commands.importing.programs import UNIT, Program, obvious_program
from buildit.commands.run import LOCK_FILE, Options, Prepared, lock, prepare, run_of
from buildit.debian.relations import parse_relations
from buildit.errors import UsageError
from buildit.events import Reporter
from buildit.make.debian_root import control_fields
from buildit.model.plan import DebRef
from buildit.model.recipe import CONTAINER_FILE
from buildit.model.words import yaml_word
from buildit.store.cas import Store

NAMES_DEBIAN = "debian:"
_LARGEST_UNIT = 1 << 16


def import_debian(
    asked: str, options: Options, images: Sequence[str], output: Path | None, report: Reporter
) -> ImportedContainer:
    """The container directory of `debian:NAME[=VERSION][,NAME…]`: these packages with all that
    they depend on, exact in its lock, and the program of the first that has an obvious one.

    Raises:
        UsageError: no name is there, one is there twice, or the directory is.
        UnsatisfiableError: a package cannot be had.
        BuilditError: it cannot be fetched, or cannot be written.
    """
    wanted = _names(asked)
    name = wanted[0].partition("=")[0]
    target = output or Path(name)
    check_free(target)
    first = _packages(name, "0", wanted, images)
    with new_container(target, {CONTAINER_FILE: first}, asked) as directory:
        options = replace(options, directory=directory)
        prepared = prepare(options, report)
        debs = {
            deb.name: deb
            for one in wanted
            for deb in prepared.pins.section.debs.get(f"{NAMES_DEBIAN}{one}", ())
        }
        named = [one.partition("=")[0] for one in wanted]
        found = _program(named, debs, prepared, report)
        version = debs[name].version.rpartition(":")[2]
        text = _packages(name, version, wanted, images, found)
        (directory / CONTAINER_FILE).write_text(text, "utf-8")
        lock(prepare(options, report), report)
    return ImportedContainer(target, (CONTAINER_FILE, LOCK_FILE), found.remarks)


def import_suite(
    suite: str, options: Options, images: Sequence[str], output: Path | None, report: Reporter
) -> ImportedContainer:
    """The container directory of a root of Debian's own packages (`debian-12`).

    Raises:
        RecipeError: no such suite is known.
        UsageError: the directory is there.
        BuilditError: it cannot be fetched, or cannot be written.
    """
    target = output or Path(suite.rpartition("/")[2])
    name, _, version = suite.rpartition("-")
    lines = [
        f"- vars: {{name: {yaml_word(name or suite)}, version: {_quoted(version or 'latest')}}}",
        f"- from: {{suite: {yaml_word(suite)}}}",
        "- entrypoint: [/bin/bash]",
        *(f"- image: {{type: {one}}}" for one in images),
    ]
    asked = f"--suite {suite}"
    text = "".join(f"{line}\n" for line in (_head(asked), *lines))
    with new_container(target, {CONTAINER_FILE: text}, asked) as directory:
        lock(prepare(replace(options, directory=directory), report), report)
    return ImportedContainer(target, (CONTAINER_FILE, LOCK_FILE))


def _names(asked: str) -> tuple[str, ...]:
    wanted = tuple(one.strip().removeprefix(NAMES_DEBIAN) for one in asked.split(","))
    if not all(one.partition("=")[0] for one in wanted):
        message = "the name of a Debian package is missing"
        raise UsageError(message, place=asked, hint="write debian:NAME[=VERSION][,NAME…]")
    names = [one.partition("=")[0] for one in wanted]
    if doubled := [one for one in names if names.count(one) > 1]:
        message = f"the package {doubled[0]} is there twice"
        raise UsageError(message, place=asked, hint="name it once")
    return wanted


def _head(asked: str) -> str:
    return f"# What `buildit import {asked}` wrote; buildit.lock has the exact packages."


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _packages(
    name: str,
    version: str,
    wanted: Iterable[str],
    images: Iterable[str],
    program: Program | None = None,
) -> str:
    """The text of the container.yaml of some packages."""
    wanted = tuple(wanted)
    lines = [
        _head(f"{NAMES_DEBIAN}{','.join(wanted)}"),
        f"- vars: {{name: {_quoted(name)}, version: {_quoted(version)}}}",
        *(f"- package: {{debian: {_quoted(one)}}}" for one in wanted),
    ]
    if program is not None and program.exec:
        lines.append(f"- entrypoint: [{', '.join(map(_quoted, program.exec))}]")
        lines += [f"- user: {_quoted(program.user)}"] * bool(program.user)
    elif program is not None:
        lines.append("# - entrypoint: [/usr/bin/PROGRAM]")
    lines += (f"- image: {{type: {one}}}" for one in images)
    return "".join(f"{line}\n" for line in lines)


# -- what runs


def _program(
    names: Sequence[str], debs: dict[str, DebRef], prepared: Prepared, report: Reporter
) -> Program:
    """The program of the first of the packages that has an obvious one, with those of its source
    that it depends on: nginx-light is a list of others."""
    with run_of(prepared, report) as run:
        fetcher = InputFetcher(run.store, run.downloads)

        def bring(some: Iterable[str]) -> list[DebRef]:
            found = [debs[one] for one in some if one in debs]
            lost = frozenset(deb.digest for deb in found if not run.store.has(deb.digest))
            fetcher.bring_again(lost, (), found)
            return found

        bring(names)
        remarks: list[str] = []
        for name in names:
            source = _source_name(debs[name], run.store)
            near: dict[str, DebRef] = {}
            waiting = [debs[name]]
            while waiting:
                control = _control(waiting.pop(), run.store)
                siblings = (deb for deb in bring(_depended(control)) if deb.name not in near)
                found = [deb for deb in siblings if _source_name(deb, run.store) == source]
                near |= {deb.name: deb for deb in found}
                waiting += found
            near.pop(name, None)
            program = _of_debs(debs[name], near.values(), run.store)
            if program.exec:
                return program
            remarks += program.remarks
    return Program(remarks=tuple(remarks))


def _control(deb: DebRef, store: Store) -> dict[str, str]:
    with store.seekable(deb.digest) as stream:
        return control_fields(read_control(stream, deb.name)["control"])


def _depended(control: dict[str, str]) -> list[str]:
    groups = parse_relations(control.get("depends", ""))
    return [one.name for group in groups for one in group]


def _source_name(deb: DebRef, store: Store) -> str:
    return _control(deb, store).get("source", deb.name).partition(" ")[0]


def _of_debs(deb: DebRef, siblings: Iterable[DebRef], store: Store) -> Program:
    """The obvious program of a package, by its own files; where these have none, or say not how it
    is started, by those of its siblings."""
    paths, units = _files(deb, store)
    own = obvious_program(deb.name, paths, units)
    if own.exec and units:
        return own
    for one in siblings:
        further = _files(one, store)
        paths |= further[0]
        units |= further[1]
    program = obvious_program(deb.name, paths, units)
    return own if own.exec and program.exec[:1] != own.exec[:1] else program


def _files(deb: DebRef, store: Store) -> tuple[set[str], dict[str, str]]:
    """The paths of a package, and the text of its units."""
    paths: set[str] = set()
    units: dict[str, str] = {}
    with store.seekable(deb.digest) as stream:
        for entry, content in read_deb(stream, Budget(), deb.name):
            paths.add(entry.path)
            if content is not None and UNIT.fullmatch(entry.path):
                text = read_up_to(content, _LARGEST_UNIT)
                units[entry.path] = text.decode("utf-8", "replace")
    return paths, units
