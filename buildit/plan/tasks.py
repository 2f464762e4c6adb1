"""From chosen packages to the plan's nodes: what each build sees, and so its key. Pure.

A build's sysroot holds the transitive closure of its link dependencies (runtime and dev outputs:
headers include headers, and the linker follows NEEDED) and of its tools (runtime outputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildit.digest import BuildKey, Digest
from buildit.errors import UnsatisfiableError
from buildit.model.artifact import RUNTIME
from buildit.model.plan import Toolchain
from buildit.model.platform import Platform
from buildit.model.sourcename import name_of, names_archive
from buildit.model.task import (
    About,
    DebRef,
    Dependency,
    Inputs,
    PatchAbout,
    PatchRef,
    RunNeed,
    RunTime,
    Signature,
    SourceRef,
    Task,
    Waiver,
)
from buildit.plan.identity import (
    DEBIAN,
    PACKAGE,
    BuildInputs,
    FileInput,
    PatchInput,
    Rules,
    SourceInput,
    build_key,
    deb_record,
    record_text,
)
from buildit.plan.steps import environment, reads_use, steps

if TYPE_CHECKING:  # the back half makes nodes of .debs, and must not import the typed recipe
    from buildit.plan.evaluate import Evaluated, WantedPackage, WantedSource
    from buildit.plan.resolve import Selection

DEV = "dev"
DEB_OUTPUTS = (RUNTIME, DEV)
"""What a build sees of a further .deb: all but documentation."""


@dataclass(frozen=True, slots=True)
class LocalInputs:
    """The digests of a package's own files; their bytes are blobs of the store.

    `patches` are (canonical digest, raw digest of a URL's bytes or None), as `Evaluated.patches`.
    `keys` are, for each source, the OpenPGP keys that may have signed it.
    """

    patches: tuple[tuple[Digest, Digest | None], ...] = ()
    files: tuple[FileInput, ...] = ()
    keys: tuple[tuple[Digest, ...], ...] = ()

    def blobs(self) -> tuple[Digest, ...]:
        found = [canonical for canonical, _ in self.patches]
        found += [file.digest for file in self.files]
        found += [key for keys in self.keys for key in keys]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Pinned:
    """What the lock pins beyond packages: toolchains by name, further .debs by what asked."""

    toolchains: Mapping[str, Toolchain]
    debs: Mapping[str, tuple[DebRef, ...]] = field(default_factory=dict)


def deb_task(
    deb: DebRef,
    toolchain: Toolchain,
    beside: tuple[DebRef, ...],
    rules: Rules,
    without: tuple[str, ...] = (),
) -> Task:
    """The task of a Debian binary package, unpacked and split.

    `beside` are the further .debs that were chosen with it: what it needs is found in them, or in
    the toolchain. What its files do not say that they load is declared by the toolchain (`run`).
    `without` are globs of what is left out.
    """
    others = tuple(sorted((d for d in beside if d != deb), key=lambda d: d.digest))
    group = (deb, *others)
    record = _deb_record(deb, toolchain, group, rules, without)
    loaded = toolchain.run.get(deb.name, ())
    run = [_deb_record(one, toolchain, group, rules) for one in others if one.name in loaded]
    run += [_deb_record(one, toolchain, (), rules) for one in toolchain.debs if one.name in loaded]
    return Task(
        key=build_key(record),
        kind=DEBIAN,
        name=f"debian:{deb.name}",
        version=deb.version,
        record=record,
        platform=toolchain.platform,
        inputs=Inputs(debs=group),
        outputs={RUNTIME: RunTime(tuple(_depends(build_key(one)) for one in run))},
        about=About(origin=deb.path),
        subject=deb.digest,
        partial=bool(without),
    )


def _depends(key: BuildKey) -> RunNeed:
    return RunNeed(key, RUNTIME, "Depends")


def _deb_record(
    deb: DebRef,
    toolchain: Toolchain,
    group: tuple[DebRef, ...],
    rules: Rules,
    without: tuple[str, ...] = (),
) -> str:
    digests = tuple(sorted(other.digest for other in group if other != deb))
    return record_text(deb_record(deb.digest, toolchain.identity, digests, rules, without))


def named_deb_task(
    wanted: WantedPackage, pinned: Pinned, toolchain: Toolchain, rules: Rules
) -> Task:
    """The task of the .deb that a dependency names.

    Raises:
        UnsatisfiableError: it is not pinned, no package's own name, or the toolchain has another
            version.
    """
    name = wanted.debian.partition("=")[0]
    own = next((deb for deb in toolchain.debs if deb.name == name), None)
    if own is not None:
        _check_version(wanted, own)
        return deb_task(own, toolchain, (), rules, wanted.without)
    listed = _listed(wanted, pinned)
    found = next((deb for deb in listed if deb.name == name), None)
    if found is None:
        raise UnsatisfiableError(
            f"debian:{name} is the name of no package, but what others provide",
            place=wanted.place,
            hint=f"name one that does; with {name} come {', '.join(d.name for d in listed[:9])}",
        )
    return deb_task(found, toolchain, _further(listed, toolchain), rules, wanted.without)


def _listed(wanted: WantedPackage, pinned: Pinned) -> tuple[DebRef, ...]:
    listed = pinned.debs.get(f"debian:{wanted.debian}")
    if not listed:
        raise UnsatisfiableError(
            f"debian:{wanted.debian} is not locked",
            place=wanted.place,
            hint="run `buildit lock --update`",
        )
    return listed


def _further(listed: tuple[DebRef, ...], toolchain: Toolchain) -> tuple[DebRef, ...]:
    known = {deb.name for deb in toolchain.debs}
    return tuple(sorted((d for d in listed if d.name not in known), key=lambda d: d.name))


@dataclass(slots=True)
class _Graph:
    """Nodes made so far, and per package name what a dependent needs to know of it.

    `beside` are the nodes that must be at hand where a node is used: those that a package is
    linked against, not its tools; those that were chosen with a .deb.
    """

    selection: Selection
    pinned: Pinned
    rules: Rules
    nodes: dict[BuildKey, Task] = field(default_factory=dict)
    by_name: dict[str, BuildKey] = field(default_factory=dict)
    beside: dict[BuildKey, tuple[BuildKey, ...]] = field(default_factory=dict)

    def is_toolchains(self, key: BuildKey) -> bool:
        """Whether a build has this node's files already: it is a .deb of the toolchain."""
        debs = self.nodes[key].inputs.debs[:1]
        return any(
            d in toolchain.debs for d in debs for toolchain in self.pinned.toolchains.values()
        )

    def add_deb(self, deb: DebRef, toolchain: Toolchain, beside: tuple[DebRef, ...]) -> BuildKey:
        """Add a .deb, and those that the toolchain says an image with it needs besides."""
        return self._add(deb_task(deb, toolchain, beside, self.rules), deb, toolchain)

    def _add(self, node: Task, deb: DebRef, toolchain: Toolchain) -> BuildKey:
        if node.key in self.nodes:
            return node.key
        self.nodes[node.key] = node
        for other in toolchain.debs:
            if other.name in toolchain.run.get(deb.name, ()):
                self.add_deb(other, toolchain, ())
        return node.key

    def debs(self, wanted: WantedPackage, toolchain: Toolchain) -> tuple[BuildKey, ...]:
        """The .debs beyond the toolchain that a dependency on a Debian package brings.

        The node of one for run time gets its Depends, so that an image takes them with it.
        """
        node = named_deb_task(wanted, self.pinned, toolchain, self.rules)
        named = node.inputs.debs[0]
        known = {deb.name for deb in toolchain.debs}
        is_own = named.name in known
        if wanted.role != "run" and is_own:
            return ()
        listed = () if is_own and not wanted.depends else _listed(wanted, self.pinned)
        further = _further(listed, toolchain)
        keys = tuple(self.add_deb(deb, toolchain, further) for deb in further)
        self.beside |= dict.fromkeys(keys, keys)
        if wanted.role == "run":
            self._add(node, named, toolchain)
            if wanted.depends:
                inside = (deb for deb in listed if deb.name in known and deb != named)
                keys = (*keys, *(self.add_deb(deb, toolchain, ()) for deb in inside))
                self._take_along(node, keys)
        return keys

    def _take_along(self, asked: Task, keys: tuple[BuildKey, ...]) -> None:
        """Make an image that takes a .deb take others too."""
        node = self.nodes[asked.key]
        others = (_depends(key) for key in keys if self.nodes[key].subject != node.subject)
        needs = tuple(dict.fromkeys((*node.run_needs(), *others)))
        self.nodes[asked.key] = replace(node, outputs={RUNTIME: RunTime(needs)})


def _check_version(wanted: WantedPackage, own: DebRef) -> None:
    name, _, version = wanted.debian.partition("=")
    if version not in ("", own.version):
        raise UnsatisfiableError(
            f"the toolchain has {name} {own.version}, not {version}",
            place=wanted.place,
            hint="leave the version out; `buildit lock --update toolchain` takes newer ones",
        )


def tasks(
    selection: Selection,
    gathered: Mapping[str, LocalInputs],
    pinned: Pinned,
    platform: Platform,
    rules: Rules,
    asked: tuple[WantedPackage, ...] = (),
) -> dict[BuildKey, Task]:
    """The nodes of all chosen packages in topological order, .debs before who needs them.

    `asked` are the Debian packages that the container names itself.

    Raises:
        UnsatisfiableError: a Debian package is not pinned.
    """
    graph = _Graph(selection, pinned, rules)
    for name, evaluated in selection.chosen.items():
        node, linked = _node(graph, evaluated, gathered[name], platform)
        graph.nodes[node.key] = node
        graph.beside[node.key] = linked
        graph.by_name[name] = node.key
    toolchain = next(iter(pinned.toolchains.values()))
    for wanted in asked:
        graph.debs(wanted, toolchain)
    return graph.nodes


def _node(
    graph: _Graph, evaluated: Evaluated, gathered: LocalInputs, platform: Platform
) -> tuple[Task, tuple[BuildKey, ...]]:
    """A package's node, and the keys of those that it is linked against."""
    package = evaluated.package
    toolchain = graph.pinned.toolchains[package.recipe.toolchain]
    dependencies, linked = _sysroot(graph, evaluated, toolchain)
    inputs = _inputs(evaluated, gathered, platform, toolchain, dependencies, graph.rules)
    record = record_text(inputs.record())
    node = Task(
        key=build_key(record),
        kind=PACKAGE,
        name=package.name,
        version=package.version,
        record=record,
        platform=str(platform),
        inputs=Inputs(
            dependencies=dependencies,
            sources=tuple(_source(evaluated, gathered, i) for i in range(len(evaluated.sources))),
            patches=tuple(_remote_patches(evaluated, gathered)),
            blobs=gathered.blobs(),
            waivers=tuple(Waiver(w.check, w.path, w.reason) for w in package.recipe.waivers),
        ),
        outputs={
            RUNTIME: RunTime(
                tuple(_run(graph, evaluated, toolchain)), evaluated.users, evaluated.groups
            )
        },
        about=_about(evaluated),
    )
    return node, linked


def _about(evaluated: Evaluated) -> About:
    package = evaluated.package
    return About(
        origin=package.origin,
        description=package.recipe.description or "",
        homepage=package.recipe.homepage or "",
        license=package.recipe.license or "",
        patches=tuple(
            PatchAbout(
                patch.written, patch.spec.description, patch.spec.fixes, patch.spec.upstream or ""
            )
            for patch in evaluated.patches
        ),
    )


def _inputs(
    evaluated: Evaluated,
    gathered: LocalInputs,
    platform: Platform,
    toolchain: Toolchain,
    dependencies: tuple[Dependency, ...],
    rules: Rules,
) -> BuildInputs:
    package = evaluated.package
    style = package.recipe.style
    made = steps(
        style,
        platform,
        evaluated.configure,
        evaluated.overrides,
        fakeroot=package.recipe.fakeroot == "yes",
    )
    variables = environment(platform, package.name.rpartition("/")[2], package.version)
    variables |= package.recipe.environment
    if reads_use(made):
        variables["USE"] = evaluated.enabled()
    return BuildInputs(
        name=package.name,
        version=package.version,
        build_platform=platform,
        target_platform=platform,
        sources=tuple(_input(source) for source in evaluated.sources),
        patches=tuple(
            PatchInput(canonical, patch.spec.strip)
            for patch, (canonical, _) in zip(evaluated.patches, gathered.patches, strict=True)
        ),
        files=gathered.files,
        steps=made,
        environment=variables,
        file_rules=evaluated.file_rules,
        outputs=evaluated.outputs,
        strip=package.recipe.strip == "yes",
        toolchain=toolchain.identity,
        dependencies=dependencies,
        rules=rules,
    )


def _input(source: WantedSource) -> SourceInput:
    """What can change the tree: a file's own name only where a file of that name can be made."""
    spec = source.spec
    name = spec.name or name_of(spec.url)
    if not spec.unpack:
        return SourceInput(spec.sha256, spec.directory, 0, name, unpack=False)
    kept = "" if names_archive(name) else name
    return SourceInput(spec.sha256, spec.directory, spec.strip, kept, True, spec.exclude)


def _source(evaluated: Evaluated, gathered: LocalInputs, number: int) -> SourceRef:
    spec = evaluated.sources[number].spec
    signature = None
    if spec.signature is not None:
        urls = (spec.signature.url, *spec.signature.mirrors)
        signature = Signature(urls, gathered.keys[number])
    name = spec.name or name_of(spec.url)
    return SourceRef(name, spec.sha256, (spec.url, *spec.mirrors), signature)


def _remote_patches(evaluated: Evaluated, gathered: LocalInputs) -> Iterator[PatchRef]:
    for patch, (canonical, _) in zip(evaluated.patches, gathered.patches, strict=True):
        if "://" in patch.written:
            yield PatchRef(patch.written, canonical, patch.spec.strip)


def _sysroot(
    graph: _Graph, evaluated: Evaluated, toolchain: Toolchain
) -> tuple[tuple[Dependency, ...], tuple[BuildKey, ...]]:
    """What lies over the toolchain, nearest first; each package once, with all outputs wanted.

    Second, the keys of those that the package is linked against.
    """
    outputs: dict[BuildKey, dict[str, None]] = {}
    linked: dict[BuildKey, None] = {}
    for wanted in evaluated.wanted:
        if wanted.role == "run":
            continue
        names: tuple[str, ...] = DEB_OUTPUTS
        if wanted.atom is None:
            keys = graph.debs(wanted, toolchain)
        else:
            keys = _reach(graph, graph.by_name[wanted.atom.name], wanted.role)
            names = (RUNTIME, DEV) if wanted.role == "link" else (RUNTIME,)
        for key in keys:
            outputs.setdefault(key, {}).update(dict.fromkeys(names))
        if wanted.role == "link":
            linked |= dict.fromkeys(keys)
    return tuple(Dependency(key, tuple(sorted(n))) for key, n in outputs.items()), tuple(linked)


def _reach(graph: _Graph, start: BuildKey, role: str) -> tuple[BuildKey, ...]:
    """`start` and what it needs in turn: to be linked against, or to run as a tool."""
    seen = {start: None}
    queue = [start]
    for key in queue:
        further = [*graph.beside.get(key, ())]
        if role == "build":
            further += [need.key for need in graph.nodes[key].run_needs()]
        for next_key in further:
            if next_key not in seen and not graph.is_toolchains(next_key):
                seen[next_key] = None
                queue.append(next_key)
    return tuple(seen)


def _run(graph: _Graph, evaluated: Evaluated, toolchain: Toolchain) -> Iterator[RunNeed]:
    for wanted in evaluated.wanted:
        if wanted.role != "run":
            continue
        if wanted.atom is None:
            graph.debs(wanted, toolchain)
            key = named_deb_task(wanted, graph.pinned, toolchain, graph.rules).key
        else:
            key = graph.by_name[wanted.atom.name]
        yield RunNeed(key, RUNTIME, "declared: run")
