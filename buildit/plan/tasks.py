"""From chosen packages to the plan's nodes: what each build sees, and so its key. Pure.

A build's sysroot holds the transitive closure of its link dependencies (runtime and dev outputs:
headers include headers, and the linker follows NEEDED) and of its tools (runtime outputs).

And back: the runtime closure, which outputs an image needs so that its files find all that they
load. Followed are the providers that each build really saw (recorded with the output), declared
`run` dependencies, and what a .deb only loads with dlopen as the toolchain declares it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import cast

from buildit.digest import BuildKey, Digest
from buildit.errors import UnsatisfiableError
from buildit.model import plan
from buildit.model.artifact import RUNTIME
from buildit.model.plan import DebRef, DebView, Dependency, RunNeed, RunTime, Task, Toolchain
from buildit.model.platform import CPU_VARIABLE, EMULATIONS, Platform
from buildit.model.sources import Signature, SourceRef
from buildit.model.words import name_of, names_archive
from buildit.plan import identity
from buildit.plan.closure import by_depends, deb_task
from buildit.plan.debian_source import PinnedDebianSource, WantedDebianSource, source_task
from buildit.plan.evaluate import Evaluated, WantedPackage, about_of, refs_of
from buildit.plan.resolve import Selection
from buildit.plan.steps import Step, environment, reads_use, steps
from buildit.recipe.package import SourceSpec

DEV = "dev"
DEB_OUTPUTS: tuple[str, ...] = (RUNTIME, DEV)
"""What a build sees of a further .deb: all but documentation."""


@dataclass(frozen=True, slots=True)
class LocalInputs:
    """The digests of a package's own files; their bytes are blobs of the store.

    `patches` are (canonical digest, raw digest of a URL's bytes or None), as `Evaluated.patches`.
    `keys` are, for each source, the OpenPGP keys that may have signed it. `pinned` are those
    sources, by number, whose digest the recipe need not say.
    """

    patches: tuple[tuple[Digest, Digest | None], ...] = ()
    files: tuple[identity.FileInput, ...] = ()
    keys: tuple[tuple[Digest, ...], ...] = ()
    pinned: Mapping[int, SourceRef] = field(default_factory=dict)

    def blobs(self) -> tuple[Digest, ...]:
        patches, files = (digest for digest, _ in self.patches), (one.digest for one in self.files)
        made = (ref.digest for ref in self.pinned.values() if ref.path)
        return tuple(dict.fromkeys(chain(patches, files, *self.keys, made)))


@dataclass(frozen=True, slots=True)
class Pinned:
    """What the lock pins beyond packages: the toolchain, further .debs by what asked, and the .deb
    of the emulator, where programs of the platform need one."""

    toolchain: Toolchain
    debs: Mapping[str, tuple[DebRef, ...]] = field(default_factory=dict)
    emulator: tuple[DebRef, ...] = ()

    def listed(self, wanted: WantedPackage) -> tuple[DebRef, ...]:
        """The .deb that a dependency names, with what it depends on.

        Raises:
            UnsatisfiableError: it is not pinned.
        """
        name = f"debian:{wanted.debian}"
        if not self.debs.get(name):
            hint = "run `buildit lock --update`"
            raise UnsatisfiableError(f"{name} is not locked", place=wanted.place, hint=hint)
        return self.debs[name]


def named_deb_task(
    wanted: WantedPackage, pinned: Pinned, toolchain: Toolchain, rules: identity.Rules
) -> Task:
    """The task of the .deb that a dependency names.

    Raises:
        UnsatisfiableError: it is not pinned, no package's own name, or the toolchain has another
            version.
    """
    name, _, version = wanted.debian.partition("=")
    own = next((deb for deb in toolchain.debs if deb.name == name), None)
    if own is not None:
        if version not in ("", own.version):
            message = f"the toolchain has {name} {own.version}, not {version}"
            hint = "leave the version out; `buildit lock --update toolchain` takes newer ones"
            raise UnsatisfiableError(message, place=wanted.place, hint=hint)
        return deb_task(own, toolchain, (), rules, wanted.view)
    listed = pinned.listed(wanted)
    found = next((deb for deb in listed if deb.name == name), None)
    if found is None:
        message = f"debian:{name} is the name of no package, but what others provide"
        hint = f"name one that does; with {name} come {', '.join(d.name for d in listed[:9])}"
        raise UnsatisfiableError(message, place=wanted.place, hint=hint)
    return deb_task(found, toolchain, _further(listed, toolchain), rules, wanted.view)


def _further(listed: tuple[DebRef, ...], toolchain: Toolchain) -> tuple[DebRef, ...]:
    known = {deb.name for deb in toolchain.debs}
    return tuple(sorted((d for d in listed if d.name not in known), key=lambda d: d.name))


@dataclass(slots=True)
class _Graph:
    """Nodes made so far, and per package name what a dependent needs to know of it.

    `beside` are the nodes that must be at hand where a node is used: those that a package is
    linked against, not its tools; those that were chosen with a .deb. `inside` are the .debs of the
    toolchains.
    """

    pinned: Pinned
    rules: identity.Rules
    inside: frozenset[DebRef]
    nodes: dict[BuildKey, Task] = field(default_factory=dict)
    by_name: dict[str, BuildKey] = field(default_factory=dict)
    beside: dict[BuildKey, tuple[BuildKey, ...]] = field(default_factory=dict)

    def add(self, node: Task, toolchain: Toolchain) -> BuildKey:
        """Add a .deb, and those that the toolchain says an image with it needs besides."""
        if node.key not in self.nodes:
            self.nodes[node.key] = node
            loaded = toolchain.run.get(node.inputs.debs[0].name, ())
            self.add_debs([deb for deb in toolchain.debs if deb.name in loaded], toolchain, ())
        return node.key

    def add_debs(
        self, debs: Iterable[DebRef], toolchain: Toolchain, beside: tuple[DebRef, ...]
    ) -> tuple[BuildKey, ...]:
        made = (deb_task(deb, toolchain, beside, self.rules) for deb in debs)
        return tuple(self.add(one, toolchain) for one in made)

    def debs(self, wanted: WantedPackage, toolchain: Toolchain) -> tuple[BuildKey, ...]:
        """The .debs beyond the toolchain that a dependency on a Debian package brings.

        The node of one for run time gets its Depends, so that an image takes them with it.
        """
        node = named_deb_task(wanted, self.pinned, toolchain, self.rules)
        named = node.inputs.debs[0]
        is_own = named in toolchain.debs
        if wanted.role != "run" and is_own:
            return ()
        listed = () if is_own and not wanted.depends else self.pinned.listed(wanted)
        further = _further(listed, toolchain)
        keys = self.add_debs(further, toolchain, further)
        self.beside |= dict.fromkeys(keys, keys)
        if wanted.role == "run":
            self.add(node, toolchain)
            if wanted.depends:
                inside = [deb for deb in listed if deb not in (*further, named)]
                keys += self.add_debs(inside, toolchain, ())
                node = self.nodes[node.key]
                others = (key for key in keys if self.nodes[key].subject != node.subject)
                needs = dict.fromkeys((*node.run_needs(), *map(by_depends, others)))
                self.nodes[node.key] = replace(node, outputs={RUNTIME: RunTime(tuple(needs))})
        return keys

    def depends(self, pinned: PinnedDebianSource, toolchain: Toolchain) -> dict[str, RunTime]:
        """Add the .debs that the outputs of a Debian source need by their Depends; those needs.

        All of them were chosen together, so that one .deb is one task.
        """
        further, wanted = _further(pinned.beside, toolchain), pinned.run
        keys = dict(zip(further, self.add_debs(further, toolchain, further), strict=True))
        every = dict.fromkeys(deb for debs in wanted.values() for deb in debs)
        inside = [deb for deb in every if deb not in keys]
        keys |= dict(zip(inside, self.add_debs(inside, toolchain, ()), strict=True))
        return {
            name: RunTime(tuple(by_depends(keys[deb]) for deb in debs))
            for name, debs in wanted.items()
        }

    def reach(self, start: BuildKey, role: str) -> tuple[BuildKey, ...]:
        """`start` and what it needs in turn: to be linked against, or to run as a tool; without
        the .debs of a toolchain, which each build has."""
        seen = {start: None}
        queue = [start]
        for key in queue:
            further = [*self.beside.get(key, ())]
            if role == "build":
                further += [need.key for need in self.nodes[key].run_needs()]
            for one in further:
                if one not in seen and self.inside.isdisjoint(self.nodes[one].inputs.debs[:1]):
                    seen[one] = None
                    queue.append(one)
        return tuple(seen)


def tasks(
    selection: Selection,
    gathered: Mapping[str, LocalInputs],
    pinned: Pinned,
    platform: Platform,
    rules: identity.Rules,
    asked: tuple[WantedPackage, ...] = (),
    sources: Iterable[tuple[WantedDebianSource, PinnedDebianSource, tuple[Digest, ...]]] = (),
) -> dict[BuildKey, Task]:
    """The nodes of all chosen packages in topological order, .debs before who needs them.

    `asked` are the Debian packages that the container names itself, `sources` the Debian source
    packages, each with what is pinned and the canonical digests of its patches.

    Raises:
        UnsatisfiableError: a Debian package is not pinned.
    """
    toolchain = pinned.toolchain
    graph = _Graph(pinned, rules, frozenset(toolchain.debs))
    for name, evaluated in selection.chosen.items():
        node, linked = _node(graph, evaluated, gathered[name], platform)
        graph.nodes[node.key] = node
        graph.beside[node.key] = linked
        graph.by_name[name] = node.key
    for wanted in asked:
        graph.debs(wanted, toolchain)
    for source, kept, digests in sources:
        run = graph.depends(kept, toolchain)
        node = source_task(source, kept, digests, run, toolchain, platform, rules, pinned.emulator)
        graph.nodes[node.key] = node
    return graph.nodes


def sliced_tasks(
    nodes: Iterable[Task],
    toolchain: Toolchain,
    sliced: Mapping[str, DebView],
    rules: identity.Rules,
) -> tuple[Task, ...]:
    """What stands in an image for .debs of the toolchain and of these nodes that it does not take
    as a whole, where no node is a part already; `sliced` says by name what it takes."""
    debs = [node for node in nodes if node.kind == identity.DEBIAN]
    done = {node.subject for node in debs if node.partial}
    beside = {node.inputs.debs[0]: node.inputs.debs for node in debs}
    around = dict.fromkeys(toolchain.debs, ()) | beside
    wanted = (d for d in around if d.name in sliced and d.digest not in done)
    return tuple(deb_task(d, toolchain, around[d], rules, sliced[d.name]) for d in wanted)


def _node(
    graph: _Graph, evaluated: Evaluated, gathered: LocalInputs, platform: Platform
) -> tuple[Task, tuple[BuildKey, ...]]:
    """A package's node, and the keys of those that it is linked against."""
    package, recipe = evaluated.package, evaluated.package.recipe
    toolchain = graph.pinned.toolchain
    dependencies, linked = _sysroot(graph, evaluated, toolchain)
    canonical = [digest for digest, _ in gathered.patches]
    patches = tuple(zip(evaluated.patches, canonical, strict=True))
    sources = tuple(_sources(evaluated, gathered))
    phases, variables = _phases(evaluated, platform)
    emulator = graph.pinned.emulator
    if emulator:
        variables[CPU_VARIABLE] = EMULATIONS[str(platform)].cpu
    inputs = identity.BuildInputs(
        name=package.name,
        version=package.version,
        build_platform=platform,
        target_platform=platform,
        sources=tuple(one for one, _ in sources),
        patches=tuple(identity.PatchInput(digest, patch.spec.strip) for patch, digest in patches),
        files=gathered.files,
        steps=phases,
        environment=variables,
        file_rules=evaluated.file_rules,
        outputs=evaluated.outputs,
        strip=recipe.strip == "yes",
        toolchain=toolchain.identity,
        dependencies=dependencies,
        rules=graph.rules,
        emulator=identity.emulator_digest(emulator),
    )
    record = identity.record_text(inputs.record())
    needs = tuple(_run(graph, evaluated, toolchain))
    node = Task(
        key=identity.build_key(record),
        kind=identity.PACKAGE,
        name=package.name,
        version=package.version,
        record=record,
        platform=str(platform),
        inputs=plan.Inputs(
            dependencies=dependencies,
            sources=tuple(ref for _, ref in sources),
            patches=refs_of(evaluated.patches, canonical),
            blobs=gathered.blobs(),
            waivers=tuple(plan.Waiver(w.check, w.path, w.reason) for w in recipe.waivers),
            emulator=emulator,
        ),
        outputs={RUNTIME: RunTime(needs, evaluated.users, evaluated.groups)},
        about=about_of(package.origin, recipe, evaluated.patches),
    )
    return node, linked


def _phases(evaluated: Evaluated, platform: Platform) -> tuple[tuple[Step, ...], dict[str, str]]:
    """The steps of a build, and the variables that they see."""
    package, recipe = evaluated.package, evaluated.package.recipe
    given = (recipe.style, platform, evaluated.configure, evaluated.overrides)
    made = steps(*given, fakeroot=recipe.fakeroot == "yes")
    variables = environment(platform, package.name.rpartition("/")[2], package.version)
    variables |= recipe.environment
    if reads_use(made):
        variables["USE"] = evaluated.enabled()
    return made, variables


def _sources(
    evaluated: Evaluated, gathered: LocalInputs
) -> Iterator[tuple[identity.SourceInput, SourceRef]]:
    """What can change the tree of each source, and where it comes from."""
    for number, one in enumerate(evaluated.sources):
        ref = gathered.pinned.get(number)
        if ref is not None:
            local = bool(ref.path)
            exclude = () if local else one.spec.exclude  # what a directory excludes is not in it
            kept = (ref.digest, one.spec.directory, 0, "", True, exclude, local)
            yield identity.SourceInput(*kept), ref
            continue
        spec = cast("SourceSpec", one.spec)
        yield _input(spec), _source(spec, gathered.keys[number] if gathered.keys else ())


def _input(spec: SourceSpec) -> identity.SourceInput:
    """Of an archive or file: its own name only where a file of that name can be made."""
    name = spec.name or name_of(spec.url)
    if not spec.unpack:
        return identity.SourceInput(spec.sha256, spec.directory, 0, name, unpack=False)
    kept = "" if names_archive(name) else name
    return identity.SourceInput(spec.sha256, spec.directory, spec.strip, kept, True, spec.exclude)


def _source(spec: SourceSpec, keys: tuple[Digest, ...]) -> SourceRef:
    said = spec.signature
    signature = Signature((said.url, *said.mirrors), keys) if said else None
    name = spec.name or name_of(spec.url)
    return SourceRef(name, spec.sha256, (spec.url, *spec.mirrors), signature)


def _sysroot(
    graph: _Graph, evaluated: Evaluated, toolchain: Toolchain
) -> tuple[tuple[Dependency, ...], tuple[BuildKey, ...]]:
    """What lies over the toolchain, nearest first; each package once, with all outputs wanted.

    Second, the keys of those that the package is linked against.
    """
    outputs: dict[BuildKey, dict[str, None]] = {}
    linked: dict[BuildKey, None] = {}
    for wanted in (one for one in evaluated.wanted if one.role != "run"):
        names = DEB_OUTPUTS
        if wanted.atom is None:
            keys = graph.debs(wanted, toolchain)
        else:
            keys = graph.reach(graph.by_name[wanted.atom.name], wanted.role)
            names = names if wanted.role == "link" else names[:1]
        for key in keys:
            outputs.setdefault(key, {}).update(dict.fromkeys(names))
        if wanted.role == "link":
            linked |= dict.fromkeys(keys)
    return tuple(Dependency(key, tuple(sorted(n))) for key, n in outputs.items()), tuple(linked)


def _run(graph: _Graph, evaluated: Evaluated, toolchain: Toolchain) -> Iterator[RunNeed]:
    for wanted in (one for one in evaluated.wanted if one.role == "run"):
        if wanted.atom is not None:
            key = graph.by_name[wanted.atom.name]
        else:
            graph.debs(wanted, toolchain)
            key = named_deb_task(wanted, graph.pinned, toolchain, graph.rules).key
        yield RunNeed(key, RUNTIME, "declared: run")
