"""`explain` and `use`: the packages of a container as they are chosen, their merged recipes as
YAML-like text with the place of every leaf beside it, and their flags; `digest`: new sources as the
lines of a recipe, and the rest as comments."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from buildit.archive.unpack import OLDEST
from buildit.cli.options import DIR, JSON, USE, Requested, of_container, own_store, unknown_package
from buildit.cli.screen import columns, give, on_screen, printable
from buildit.codec import to_plain
from buildit.commands.choose import Choice, choose, shipped_trees
from buildit.commands.fetching import Described, describe
from buildit.commands.including import lists_on_demand
from buildit.commands.run import Options, opened_run
from buildit.commands.said import sayings
from buildit.errors import UsageError
from buildit.make.scripts.state import ScriptRules
from buildit.model.atom import Version
from buildit.model.listed import Saying
from buildit.model.plan import DebRef
from buildit.model.use import flag_text
from buildit.model.words import name_of, yaml_word
from buildit.plan.evaluate import Evaluated, declared_flags
from buildit.plan.resolve import Demand
from buildit.recipe.config import load_config
from buildit.recipe.package import DebianBase, Package
from buildit.recipe.trees import PACKAGE_FILE, Catalog
from buildit.recipe.ways.find import has_recipe
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence, leaves, shown_place
from buildit.recipe.yaml.read import load_yaml

WIDEST = 64
"""The column, at most, where the places begin."""

_PLAIN = re.compile(
    r"(?!---|\.\.\.|-$|- )[A-Za-z0-9_./$-](?:[A-Za-z0-9 _./$@+=,;()!<>~^*%-]|:(?! |$))*"
)

_Asked = tuple[Package | DebianBase, tuple[Demand, ...]]
"""A merged recipe, and who asks for it."""


def _chosen(options: Options) -> Choice:
    """What a build would choose, with the lock where there is one.

    Raises:
        UsageError, RecipeError, UnsatisfiableError: as `choose`.
    """
    loaded = load_config(options.directory)
    return choose(options, loaded, lists_on_demand(loaded.config, options))


@dataclass(frozen=True, slots=True)
class _Shown:
    """What `explain` shows: merged recipes, who asks for each, and what the steps of a container
    say of its images, which is `pending` where that asks for what only a plan knows."""

    recipes: tuple[_Asked, ...]
    said: tuple[Saying, ...] = ()
    pending: bool = False


def _recipes(options: Options, wanted: str | None) -> _Shown:
    """The merged recipe of `wanted`, else of what the directory itself names.

    The directory is a container's, or holds a pkg.yaml.

    Raises:
        UsageError: it is neither, or nothing there is called `wanted`.
        RecipeError, UnsatisfiableError: a file is wrong.
    """
    directory = options.directory
    if not has_recipe(directory, options.recipe) and (directory / PACKAGE_FILE).exists():
        return _Shown(((_alone(directory, wanted), ()),))
    choice = _chosen(options)
    demands = choice.selection.demands
    known: dict[str, _Asked] = {
        name: (one.package, demands[name]) for name, one in choice.selection.chosen.items()
    }
    sources: dict[str, _Asked] = {
        one.asker: (one.base, ()) for one in choice.roots.sources.values()
    }
    if wanted is None:
        own = {name: known[name] for name in choice.roots.names.values()}
        container = choice.container
        recipes = (*own.values(), *sources.values())
        return _Shown(recipes, sayings(container), container.pending)
    known |= sources
    fitting = [name for name in known if wanted in (name, *re.split("[/:]", name)[1:])]
    if len(fitting) != 1:
        raise unknown_package(wanted, tuple(known), shown_place(directory))
    return _Shown((known[fitting[0]],))


def _alone(directory: Path, wanted: str | None) -> Package | DebianBase:
    """The package of a directory that no container is needed for."""
    whole, place = Path(os.path.abspath(directory)), shown_place(directory)
    trees = load_config(directory).config.trees
    catalog = Catalog((whole.parent.parent, *trees, *shipped_trees()))
    node = load_yaml(directory / PACKAGE_FILE)
    if isinstance(node, Mapping) and node.get("base") is not None:
        return catalog.debian_base(directory, place) or catalog.embed(directory, place)
    name = f"{whole.parent.name}/{whole.name}"
    versions = catalog.versions(name, place)
    version = Version.parse(wanted, place=place) if wanted else versions[0]
    if version not in versions:
        hint = f"it has: {', '.join(map(str, versions))}"
        raise UsageError(f"{name} has no version {wanted}", place=place, hint=hint)
    return catalog.package(name, versions[versions.index(version)], place)


def recipe_lines(node: Node) -> tuple[str, ...]:
    """The text of a document: each leaf with `# file:line` behind it, aligned."""
    found = list(_block(node, 0))
    width = min(WIDEST, max((len(text) for text, place in found if place), default=0))
    return tuple(
        printable(f"{text:<{width}}  # {place.file}:{place.line}" if place else text)
        for text, place in found
    )


_Line = tuple[str, Place | None]
"""One line of the text, and where its leaf was written, None where it has none."""


def _block(node: Node, depth: int) -> Iterator[_Line]:
    pad = "  " * depth
    match node:
        case Mapping((_, *_) as items):
            for key, value in items:
                yield from _entry(f"{pad}{_scalar(key.text)}:", value, depth)
        case Sequence((_, *_) as items):
            for item in items:
                yield from _item(item, depth)
        case _:
            yield from _entry(pad, node, depth)


def _entry(head: str, value: Node, depth: int) -> Iterator[_Line]:
    """A key with its value: beside it where that is one line, else below it."""
    gap = " " if head.strip() else ""
    match value:
        case Scalar(text) if "\n" in text.rstrip("\n"):
            yield f"{head}{gap}|", value.place
            inner = "  " * (depth + 1)
            yield from ((f"{inner}{line}", None) for line in text.rstrip("\n").split("\n"))
        case Scalar(text):
            yield f"{head}{gap}{_scalar(text.rstrip(chr(10)))}", value.place
        case Mapping(()) | Sequence(()):
            yield f"{head}{gap}{'{}' if isinstance(value, Mapping) else '[]'}", value.place
        case _:
            yield head, None
            yield from _block(value, depth + 1)


def _item(item: Node, depth: int) -> Iterator[_Line]:
    pad = "  " * depth
    if isinstance(item, Scalar) or not item.items:
        yield from _entry(f"{pad}-", item, depth)
        return
    for number, (text, place) in enumerate(_block(item, depth + 1)):
        yield text if number else f"{pad}- {text[len(pad) + 2 :]}", place


def _scalar(text: str) -> str:
    """The text as YAML would take it: quoted where it could be something else."""
    if _PLAIN.fullmatch(text) and text == text.strip() and " #" not in text:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _explained(found: _Shown) -> Iterator[str]:
    for number, (one, demands) in enumerate(found.recipes):
        yield from [""] * (number > 0)
        version = f"-{one.version}" if one.version else ""
        yield f"# {one.name}{version}, from {one.origin}"
        yield from (f"# asked for: {demand}" for demand in demands)
        yield from recipe_lines(one.node)
    if not found.said:
        return
    yield from [""] * bool(found.recipes)
    yield "# what the steps say of the image; of two the later one counts"
    if found.pending:
        yield "# digests and versions of Debian's packages stand in for those that `plan` knows"
    rows = columns([(f"{one.key}:", one.value) for one in found.said])
    width = min(WIDEST, max(map(len, rows)))
    for each, row in zip(found.said, rows, strict=True):
        over = f", not: {each.later}" if each.later else ""
        yield f"{'#' if over else ' '} {row:<{width}}  # {printable(each.place)}{over}"


def _shown_plain(found: _Shown) -> list[dict[str, object]]:
    said: list[dict[str, object]] = [{"image": to_plain(found.said)}] if found.said else []
    return [*map(_recipe_plain, found.recipes), *said]


def _recipe_plain(asked: _Asked) -> dict[str, object]:
    """A merged recipe as JSON data: each leaf with its path and place."""
    package, demands = asked
    return {
        "name": package.name,
        "version": package.version,
        "origin": package.origin,
        "demands": [
            {"atom": str(one.atom), "chain": list(one.chain), "place": one.place} for one in demands
        ],
        "leaves": [
            {"path": list(path), "value": leaf.text, "place": str(leaf.place)}
            for path, leaf in leaves(package.node)
        ],
    }


_DEBIAN = "debian:"
_Rules = tuple[DebRef, ScriptRules]


def _sources(options: Options) -> frozenset[str]:
    """What the container builds from Debian's sources: these have a recipe."""
    if not has_recipe(options.directory, options.recipe):
        return frozenset()
    return frozenset(one.asker for one in _chosen(options).roots.sources.values())


def _rules(asked: Requested, package: str, *, alone: bool) -> _Rules:
    from buildit.commands import explaining

    of = explaining.lone_deb_rules if alone else explaining.deb_rules
    with on_screen(as_json=asked.as_json) as screen:
        return of(asked.options, package.removeprefix(_DEBIAN), screen)


def _rules_lines(found: _Rules) -> Iterator[str]:
    deb, rules = found
    yield f"{_DEBIAN}{deb.name}-{deb.version}"
    yield from (f"  {printable(line)}" for line in rules.said)
    if not rules.said:
        yield "  its scripts do nothing that an image needs"


def _rules_plain(found: _Rules) -> dict[str, object]:
    deb, rules = found
    said = {"rules": rules.rules, "declared": rules.declared, "remainder": rules.remainder}
    return {"name": deb.name, "version": deb.version, **{k: to_plain(v) for k, v in said.items()}}


@click.command("explain", short_help="Show the merged recipe of PACKAGE, each value with its line.")
@of_container(DIR, USE)
@click.argument("package", required=False)
def explain_verb(asked: Requested, package: str | None) -> None:
    """Show the merged recipe of PACKAGE, each value with the line that it comes from.

    DIR is a container's, or has a pkg.yaml. Without PACKAGE: what DIR itself names. Beside the
    pkg.yaml of a tree, PACKAGE is a version. Of a container itself also what its steps say of the
    image, each with its place, and which of them counts.

    Of debian:NAME, in the place of PACKAGE or of DIR: what stands for the scripts of a Debian
    package, and what of them is left over.
    """
    alone = not package and not asked.options.directory.exists()
    wanted = str(asked.options.directory) if alone else package or ""
    if wanted.startswith(_DEBIAN) and (alone or wanted not in _sources(asked.options)):
        rules = _rules(asked, wanted, alone=alone)
        give(rules, _rules_lines, _rules_plain, as_json=asked.as_json)
        return
    found = _recipes(asked.options, package)
    give(found, _explained, _shown_plain, as_json=asked.as_json)


def _flag_lines(found: Iterable[Evaluated]) -> Iterator[str]:
    """The flags of each package: what each is, who says so, what it means."""
    for one in found:
        declared = declared_flags(one.package)
        yield f"{one.package.name}-{one.package.version}"
        rows = [
            (flag_text(name, it.value), f"{it.layer} ({it.origin})", declared[name].description)
            for name, it in one.settings.items()
        ]
        yield from columns(rows, "  ")


def _flags_plain(one: Evaluated) -> dict[str, object]:
    flags = []
    for name, flag in declared_flags(one.package).items():
        setting = one.settings[name]
        said = {"value": setting.value, "layer": setting.layer, "origin": setting.origin}
        about = {"choices": list(flag.choices), "description": flag.description}
        flags.append({"flag": name, **said, **about})
    return {"name": one.package.name, "version": one.package.version, "flags": flags}


@click.command("use", short_help="List the flags of every package of DIR, and who set them.")
@of_container(DIR, USE)
def use_verb(asked: Requested) -> None:
    """List the flags of every package of DIR: value, who decided it, what it means."""
    found = _chosen(asked.options).selection.chosen.values()
    give(found, _flag_lines, lambda all_: [*map(_flags_plain, all_)], as_json=asked.as_json)


def source_lines(found: Iterable[Described]) -> Iterator[str]:
    """A `sources:` that can be copied into a recipe."""
    yield "sources:"
    yield from (line for one in found for line in _source_entry(one))


def _source_plain(one: Described) -> dict[str, object]:
    return {
        "name": one.name,
        "url": one.url or None,
        "sha256": one.digest,
        "size": one.size,
        "unpack": one.inside is not None,
        "strip": _strip(one),
        **(to_plain(one.inside) or dict.fromkeys(("kind", "members", "top", "newest"))),
        "remarks": list(_remarks(one)),
    }


def _source_entry(one: Described) -> Iterator[str]:
    if one.url:
        yield f"  - url: {yaml_word(one.url)}"
    else:
        url = yaml_word(f"https://WHERE/{one.name}")
        yield f"  - url: {url}  # until it is right: in distfiles/"
    if one.url and not name_of(one.url):
        yield f"    name: {json.dumps(one.name)}"  # the digits of a digest are no number
    yield f"    sha256: {one.digest}"
    if one.inside is None:
        yield "    unpack: no"
    elif _strip(one) == 0 and not one.inside.kind.startswith("file"):
        yield "    strip: 0"
    yield f"    # {one.size} bytes; {', '.join(_facts(one))}"
    for remark in _remarks(one)[0 if one.inside else 1 :]:
        yield f"    # {printable(remark)}"


def _remarks(one: Described) -> tuple[str, ...]:
    told = one.inside.remarks if one.inside else (one.reason,)
    return (*told, one.doubt) if one.doubt else told


def _facts(one: Described) -> Iterator[str]:
    inside = one.inside
    if inside is None:
        yield f"cannot be unpacked: {printable(one.reason)}"
        return
    yield inside.kind
    if inside.kind.startswith("file"):
        return
    where = f"in {printable(inside.top)}/" if inside.top else "with no common top directory"
    yield f"{inside.members} member{'s' if inside.members != 1 else ''} {where}"
    if inside.newest > OLDEST:
        yield f"newest of {datetime.fromtimestamp(inside.newest, UTC):%Y-%m-%d}"


def _strip(one: Described) -> int:
    return 1 if one.inside is not None and one.inside.top else 0


@click.command("digest", short_help="Print a new source's digest, as a recipe has it.")
@click.argument("sources", metavar="URL|FILE...", nargs=-1, required=True)
@JSON
def digest_verb(sources: tuple[str, ...], as_json: bool) -> None:
    """Print the `sources:` of a recipe for new sources: digest and size, what they hold, and the
    `strip` that fits. What a URL gives is kept in the store, so that a build does not ask again.
    """
    with (
        on_screen(as_json=as_json) as screen,
        own_store(screen) as (opened, settings),
        opened_run(settings, opened, screen) as run,
    ):
        found = [describe(source, run.downloads) for source in sources]
    give(found, source_lines, lambda all_: [*map(_source_plain, all_)], as_json=as_json)
