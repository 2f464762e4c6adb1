"""From a pkg.yaml with a Debian source package as base to its task. Pure.

Nothing of it needs the archive: which version, which .debs the chroot has and which the outputs
need are pins of the lock, and so is that the source declares the profiles that the user asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from buildit.digest import Digest
from buildit.errors import RecipeError
from buildit.model import plan
from buildit.model.plan import DebRef, RunTime, Task, Toolchain
from buildit.model.platform import Platform
from buildit.model.sources import SourceRef
from buildit.model.words import hint_of
from buildit.plan import identity
from buildit.plan.evaluate import WantedPatch, about_of, refs_of, written_at
from buildit.recipe.package import DebianBase, PatchSpec
from buildit.recipe.yaml.node import follow

ALL = "*"
"""Of `packages:`: all but those with headers, documentation or debug symbols."""
OWN_SUFFIX = "+buildit1"
"""After the version of .debs that are not as Debian's source gives them."""
DEFAULT_OPTIONS = ("noautodbgsym", "nocheck")
"""Of DEB_BUILD_OPTIONS; neither changes a byte of the .debs that are taken."""
_SWITCHED_OFF = {"opt": "noopt", "strip": "nostrip"}
"""What `without:` may name besides profiles, and the word of DEB_BUILD_OPTIONS for it (Debian
Policy 4.9.1)."""


@dataclass(frozen=True, slots=True)
class WantedDebianSource:
    """What a container asks of a Debian source package.

    `version` is empty where the newest will do. `profiles` and `options` are words of
    DEB_BUILD_PROFILES and DEB_BUILD_OPTIONS, sorted. `build` and `run` are further .debs, by name
    with `=version`. `packages` are the binary packages that the image takes; empty: the obvious
    one. `place` is where the base is written.
    """

    base: DebianBase
    patches: tuple[WantedPatch, ...]
    profiles: tuple[str, ...]
    options: tuple[str, ...]
    suffix: str
    build: tuple[str, ...]
    run: tuple[str, ...]
    packages: tuple[str, ...]
    place: str

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def named(self) -> tuple[str, ...]:
        """The packages that are taken by name; none where it is the obvious one, or all (`*`)."""
        return () if self.packages == (ALL,) else self.packages

    @property
    def asker(self) -> str:
        """Who asks, for the lock; and the name of the task."""
        return f"debian-source:{self.name}"


def wanted_source(base: DebianBase, packages: tuple[str, ...]) -> WantedDebianSource:
    """What the pkg.yaml of a Debian source asks for, `packages` being those of the container.

    Raises:
        RecipeError: a patch has a condition: there are no flags that it could be about.
    """
    recipe, node = base.recipe, base.node
    profiles, options = switches(base)
    patches = tuple(_patches(base))
    changed = patches or profiles or recipe.configure or options != DEFAULT_OPTIONS
    own = OWN_SUFFIX if changed else ""
    return WantedDebianSource(
        base=base,
        patches=patches,
        profiles=profiles,
        options=options,
        suffix=own if recipe.version_suffix is None else recipe.version_suffix,
        build=tuple(one.removeprefix("debian:") for one in recipe.depends.build),
        run=tuple(one.removeprefix("debian:") for one in recipe.depends.run),
        packages=tuple(sorted(set(packages))),
        place=written_at(node, "base"),
    )


def _patches(base: DebianBase) -> Iterator[WantedPatch]:
    for written, item in base.recipe.patches.items():
        spec = PatchSpec(description=item) if isinstance(item, str) else item
        node, key, _ = follow(base.node, ("patches", written))
        place = (key or node).place
        if spec.when is not None:
            message = "a patch of a Debian source has no condition: there are no flags of ours"
            hint = "leave out `when:`; profiles are in `use:`"
            raise RecipeError(message, place=str(place), hint=hint)
        yield WantedPatch(written, place.file, str(place), spec)


def switches(base: DebianBase) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The build profiles and build options that `use:` comes to, both sorted.

    `with: [pkg.x.y]` is that profile, `with: [check]` runs the tests; `without: [doc]` is the
    profile `nodoc`, `without: [opt]` and `[strip]` are the options `noopt` and `nostrip`.
    """
    use = base.recipe.use
    profiles, options = set(), set(DEFAULT_OPTIONS)
    for word in use.with_:
        if word == "check":
            options.discard("nocheck")
        elif word in _SWITCHED_OFF.values():
            options.add(word)
        else:
            profiles.add(word)
    for word in use.without:
        if word in _SWITCHED_OFF:
            options.add(_SWITCHED_OFF[word])
        elif word != "check":
            profiles.add(f"no{word}")
    return tuple(sorted(profiles)), tuple(sorted(options))


def check_profiles(wanted: WantedDebianSource, declared: Iterable[str]) -> None:
    """Refuse a profile that the source does not declare: nothing of dpkg would.

    Raises:
        RecipeError: at the word, with the nearest that is declared.
    """
    known = set(declared)
    use = wanted.base.recipe.use
    for key, words in (("with", use.with_), ("without", use.without)):
        for number, word in enumerate(words):
            profile = f"no{word}" if key == "without" else word
            if profile not in wanted.profiles or profile in known:
                continue
            place = written_at(wanted.base.node, "use", key, number)
            message = f"the Debian source {wanted.name} declares no build profile {profile!r}"
            if key == "with" and f"no{word}" in known:
                hint = f"{word} is on unless `without: [{word}]` says otherwise"
            elif key == "without" and word in known:
                hint = f"{word} is off unless `with: [{word}]` says otherwise"
            else:
                ways = {one.removeprefix("no") if key == "without" else one for one in known}
                hint = hint_of(word, sorted({*ways, "check", "opt", "strip"}))
            raise RecipeError(message, place=place, hint=hint)


def check_siblings(
    sources: Iterable[WantedDebianSource], named: Iterable[tuple[str, DebRef]]
) -> None:
    """Refuse a .deb of the archive, named at a place, where its source is built here: packages of
    one source depend on each other in one exact version.

    Raises:
        RecipeError: at the place.
    """
    built = {one.name: one for one in sources}
    for place, deb in named:
        directory = deb.path.rpartition("/")[0].rpartition("/")[2]  # pool/main/n/nginx/NAME_….deb
        one = built.get(directory)
        if one is not None:
            message = f"debian:{deb.name} is of the source {one.name}, which {one.place} builds"
            hint = f"take it from that build: `packages: [{deb.name}, …]` in the step of {one.name}"
            raise RecipeError(message, place=place, hint=hint)


@dataclass(frozen=True, slots=True)
class PinnedDebianSource:
    """What the lock says of a Debian source package.

    `files` are the .dsc and what it names, `base` and `further` the .debs of the chroot: what all
    sources share, and what this one needs beyond. `run` maps each binary package that the image
    takes to the .debs of its Depends, without those of the same source; `beside` has those of all
    its packages, so that the key does not change with what an image takes.
    """

    version: str
    files: tuple[DebRef, ...]
    base: tuple[DebRef, ...]
    further: tuple[DebRef, ...]
    run: Mapping[str, tuple[DebRef, ...]]
    beside: tuple[DebRef, ...]


def source_task(
    wanted: WantedDebianSource,
    pinned: PinnedDebianSource,
    patches: tuple[Digest, ...],
    run: Mapping[str, RunTime],
    toolchain: Toolchain,
    platform: Platform,
    rules: identity.Rules,
    emulator: tuple[DebRef, ...] = (),
) -> Task:
    """The task. `patches` are canonical digests in their order, `run` what the outputs that the
    image takes need besides."""
    beside = {deb.digest: deb for deb in pinned.beside if deb not in toolchain.debs}
    chroot = (pinned.base, pinned.further)
    strips = [patch.spec.strip for patch in wanted.patches]
    inputs = identity.DebianSourceInputs(
        name=wanted.name,
        version=pinned.version,
        suffix=wanted.suffix,
        build_platform=platform,
        target_platform=platform,
        files=tuple(identity.NamedDigest(one.name, one.digest) for one in pinned.files),
        patches=tuple(map(identity.PatchInput, patches, strips)),
        profiles=wanted.profiles,
        options=wanted.options,
        configure=wanted.base.recipe.configure,
        debs=tuple(sorted({deb.digest for debs in chroot for deb in debs})),
        beside=tuple(sorted(beside)),
        toolchain=toolchain.identity,
        chroot=f"{identity.CHROOT}.{identity.MAINTAINER_RULES}",
        rules=rules,
        emulator=identity.emulator_digest(emulator),
    )
    record = identity.record_text(inputs.record())
    return Task(
        key=identity.build_key(record),
        kind=identity.DEBIAN_SOURCE,
        name=wanted.asker,
        version=f"{pinned.version}{wanted.suffix}",
        record=record,
        platform=str(platform),
        inputs=plan.Inputs(
            sources=tuple(_source(one) for one in pinned.files),
            patches=refs_of(wanted.patches, patches),
            blobs=tuple(dict.fromkeys(patches)),
            chroot=chroot,
            beside=tuple(beside[digest] for digest in sorted(beside)),
            emulator=emulator,
        ),
        outputs=run,
        about=about_of(wanted.base.origin, wanted.base.recipe, wanted.patches),
    )


def _source(file: DebRef) -> SourceRef:
    return SourceRef(file.name, file.digest, (f"mirror://debian/{file.path}",))
