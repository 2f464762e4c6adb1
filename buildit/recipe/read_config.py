"""The settings of a run: from `.buildit-config.yaml` files, and the environment, read only here.

Three files, the first one that says something wins: that of the container (in its directory or
the nearest one above), the user's own, and the one that is shipped, which comes last even where
it is the nearest (in a checkout). Maps (`mirrors`, `limits`,
`trust`) merge by key, `use` adds up with the nearest last, everything else replaces.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.errors import RecipeError, UsageError
from buildit.home import cache_of, home_of
from buildit.model.address import Address, parse_address
from buildit.model.config import Config, Limits, Repository, SigningKeys, Trust, TrustRule
from buildit.model.use import Layer, parse_assignment
from buildit.recipe.config import (
    CONFIG_FILE,
    ConfigSpec,
    Endpoint,
    LimitsSpec,
    RepositorySpec,
    TrustSpec,
)
from buildit.recipe.yaml.node import Mapping as Keys
from buildit.recipe.yaml.node import Node, Scalar, Sequence
from buildit.recipe.yaml.read import load_yaml
from buildit.recipe.yaml.typed import parse


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and every file that was looked for, whether it is there or not."""

    config: Config
    consulted: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """One file: `directory` is what its relative paths start from, `home` what `~` is."""

    spec: ConfigSpec
    node: Keys
    directory: Path
    home: Path | None
    shipped: bool

    def origin(self, *path: str) -> str:
        """`file:line` of the deepest key of `path` that is written."""
        node: Node | None = self.node
        place = self.node.place
        for name in path:
            key = node.key(name) if isinstance(node, Keys) else None
            if key is None or not isinstance(node, Keys):
                break
            place, node = key.place, node.get(name)
        return f"{place.file}:{place.line}"

    def says(self, name: str) -> bool:
        return name in self.spec.model_fields_set

    def path(self, text: str) -> Path:
        if _below_home(text):
            if self.home is None:
                raise _homeless(f"{text!r} is below the home directory")
            return self.home / text[2:]
        return Path(os.path.normpath(self.directory / text))


def load_config(directory: Path, environ: Mapping[str, str] = os.environ) -> Loaded:
    """The settings for a container in `directory`.

    Raises:
        RecipeError: a file is wrong, or belongs to somebody else.
        UsageError: what is to be below the home directory, where there is none.
    """
    home = _home(environ)
    upward, own = _upward(directory), _users_file(home, environ)
    users = () if own is None else (own,)
    # Only the nearest file of each of the three kinds says something.
    candidates = (upward[-1], *users, *_until_found(shipped_files()))
    # In a checkout the shipped file is often the nearest one too: it is read once.
    found = {os.path.realpath(path): path for path in reversed(candidates) if os.path.lexists(path)}
    sources = tuple(_source(path, directory, home) for path in reversed(found.values()))
    config = _merged(sources, directory, environ)
    # A user's own list holds where no file names another; it is not there unless the user made it.
    signers = tuple(file.with_name(_SIGNERS) for file in users)
    trust = config.trust
    if not trust.allowed_signers and any(map(os.path.lexists, signers)):
        origins = {**config.origins, "trust.allowed-signers": "default"}
        trust = replace(trust, allowed_signers=str(signers[0]))
        config = replace(config, trust=trust, origins=dict(sorted(origins.items())))
    named = (trust.allowed_signers, *trust.own_signers.values())
    lists = [Path(path) for path in named if path]
    return Loaded(config, tuple(dict.fromkeys((*upward, *candidates, *signers, *lists))))


def shipped_files() -> tuple[Path, ...]:
    """Where the shipped settings are: in an installed package, else at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / "_tree" / CONFIG_FILE, package.parent / CONFIG_FILE


def _upward(directory: Path) -> tuple[Path, ...]:
    start = Path(os.path.abspath(directory))
    return _until_found(tuple(one / CONFIG_FILE for one in (start, *start.parents)))


def _until_found(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The paths up to the first one that is there; all of them where none is."""
    for count, path in enumerate(paths, 1):
        if os.path.lexists(path):
            return paths[:count]
    return paths


def _home(environ: Mapping[str, str]) -> Path | None:
    home = home_of(environ)
    given = environ.get("HOME", "")
    if home is None and given:
        raise UsageError(
            f"HOME is {given!r}, which is no absolute path",
            hint=f'export HOME="$PWD/{given}", or unset it',
        )
    return None if home is None else Path(home)


def _below_home(text: str) -> bool:
    return text == "~" or text.startswith("~/")


def _homeless(what: str) -> UsageError:
    return UsageError(
        f"{what}, and there is none: HOME is not set, and user {os.getuid()} has no passwd entry",
        hint="set HOME, or BUILDIT_STORE for the store and an absolute path for all else",
    )


def _users_file(home: Path | None, environ: Mapping[str, str]) -> Path | None:
    # XDG base directories, 0.8: "all paths must be absolute", another is to be ignored.
    given = environ.get("XDG_CONFIG_HOME", "")
    if given.startswith("/"):
        return Path(given) / "buildit" / "config.yaml"
    return None if home is None else home / ".config" / "buildit" / "config.yaml"


_SIGNERS = "allowed_signers"


def own_signers_file(environ: Mapping[str, str]) -> Path:
    """The user's own allowed-signers file, which holds where no configuration names another.

    Raises:
        UsageError: there is no home directory that it could be in.
    """
    own = _users_file(_home(environ), environ)
    if own is None:
        raise _homeless(f"your own {_SIGNERS} is below the home directory")
    return own.with_name(_SIGNERS)


def _check_owner(path: Path, directory: Path) -> None:
    """Refuse a file that another user put above the container, such as in /tmp: it names keys that
    are believed and places to publish to (as git refuses such repositories, CVE-2022-24765)."""
    try:
        owner = path.stat().st_uid
        allowed = {0, os.geteuid(), directory.stat().st_uid}
    except OSError:
        return  # whatever is wrong with it, reading it says so better
    if owner not in allowed:
        raise RecipeError(
            f"the file belongs to another user (uid {owner})",
            place=_shown(path),
            hint="move the container elsewhere, or make the file your own",
        )


def _shown(path: Path) -> str:
    text = os.path.relpath(path)
    return str(path) if text.startswith("..") else text


def _source(path: Path, directory: Path, home: Path | None) -> _Source:
    _check_owner(path, directory)
    node = load_yaml(path, _shown(path))
    if not isinstance(node, Keys):
        raise RecipeError(
            "expected settings such as `store: …`",
            place=str(node.place),
            hint=f"write one of {', '.join(ConfigSpec.keys())}",
        )
    return _Source(
        parse(node, ConfigSpec), node, path.parent.resolve(), home, path in shipped_files()
    )


def _merged(sources: tuple[_Source, ...], directory: Path, environ: Mapping[str, str]) -> Config:
    origins: dict[str, str] = {}
    store, origins["store"] = _store(sources, environ)
    jobs = _first(sources, "jobs")
    trees = _first(sources, "trees")
    key = _first(sources, "signing_key")
    for name, one in (("jobs", jobs), ("trees", trees), ("signing-key", key)):
        origins[name] = one.origin(name) if one else "default"
    config = Config(
        store=store,
        trees=tuple(trees.path(text) for text in trees.spec.trees or ()) if trees else (),
        jobs=(jobs.spec.jobs if jobs else None) or len(os.sched_getaffinity(0)),
        # Whether it is there is looked up when something is fetched: a plan may be kept for long.
        distfiles=(str(directory.absolute() / "distfiles"),),
        trust=Trust(_signing_keys(key, environ.get("SSH_AUTH_SOCK", ""))),
    )
    for step in (_with_repositories, _with_mirrors, _with_trust, _with_limits, _with_use):
        config = step(config, sources, origins)
    return replace(config, origins=dict(sorted(origins.items())))


def _first(sources: tuple[_Source, ...], name: str) -> _Source | None:
    return next((one for one in sources if one.says(name)), None)


def _store(sources: tuple[_Source, ...], environ: Mapping[str, str]) -> tuple[Path, str]:
    if given := environ.get("BUILDIT_STORE"):
        return Path(os.path.abspath(given)), "BUILDIT_STORE"
    for one in sources:
        if one.spec.store is not None:
            return one.path(one.spec.store), one.origin("store")
    cache = cache_of(environ)
    if cache is None:
        raise _homeless("the store is below the home directory")
    return Path(cache, "buildit"), "default"


def _signing_keys(source: _Source | None, agent: str) -> SigningKeys:
    ssh = openpgp = ""
    for text in source.spec.signing_keys if source else ():
        if text.startswith("gpg:"):
            openpgp = text.removeprefix("gpg:").upper()
        else:
            ssh = text if source is None or text.startswith("agent:") else str(source.path(text))
    return SigningKeys(ssh, openpgp, agent)


def _with_repositories(
    config: Config, sources: tuple[_Source, ...], origins: dict[str, str]
) -> Config:
    for one in sources:
        for name in ("repository", "repositories"):
            if not one.says(name):
                continue
            single = (one.spec.repository,) if one.spec.repository else ()
            specs = one.spec.repositories or single
            origins["repositories"] = one.origin(name)
            if one.shipped and one.home is None:  # nobody asked for a place below the home
                specs = tuple(spec for spec in specs if not _is_below_home(spec))
            remarks: list[str] = []
            found = tuple(
                Repository(
                    spec.name,
                    _address(spec.name, "download", _absolute(one, spec.download), remarks),
                    _address(spec.name, "upload", _absolute(one, spec.upload), remarks),
                    spec.unsigned,
                    spec.secrets,
                )
                for spec in specs
            )
            own = {s.name: str(one.path(s.allowed_signers)) for s in specs if s.allowed_signers}
            unsigned = any(spec.unsigned for spec in specs)
            trust = replace(config.trust, own_signers=own, unsigned=unsigned)
            return replace(config, repositories=found, trust=trust, remarks=tuple(remarks))
    origins["repositories"] = "default"
    return config


def _is_below_home(spec: RepositorySpec) -> bool:
    ends = (spec.upload, spec.download)
    return any(one is not None and one.scheme == "file" and _below_home(one.path) for one in ends)


def _absolute(source: _Source, endpoint: Endpoint | None) -> Endpoint | None:
    if endpoint is None or endpoint.scheme != "file":
        return endpoint
    return replace(endpoint, path=str(source.path(endpoint.path)))


_WAYS = {"download": ("file", "https", "ssh"), "upload": ("file", "ssh")}
"""How a binhost can be reached; a web server takes nothing."""


def _address(name: str, way: str, endpoint: Endpoint | None, remarks: list[str]) -> Address | None:
    if endpoint is None:
        return None
    scheme, path = endpoint.scheme, endpoint.path
    if scheme not in _WAYS[way]:
        known = " or ".join(_WAYS[way])
        remarks.append(f"repository {name}: {way} over {scheme} is not possible; use {known}")
        return None
    start = "" if scheme == "file" else f"{scheme}://"
    return parse_address(start + path.removeprefix(start))


def _with_mirrors(config: Config, sources: tuple[_Source, ...], origins: dict[str, str]) -> Config:
    mirrors: dict[str, tuple[str, ...]] = {}
    for one in reversed(sources):
        for name, urls in one.spec.mirrors.items():
            mirrors[name] = urls
            origins[f"mirrors.{name}"] = one.origin("mirrors", name)
    return replace(config, mirrors=dict(sorted(mirrors.items())))


def _with_trust(config: Config, sources: tuple[_Source, ...], origins: dict[str, str]) -> Config:
    found = config.trust
    for one in reversed(sources):
        spec: TrustSpec = one.spec.trust
        if spec.allowed_signers is not None:
            found = replace(found, allowed_signers=str(one.path(spec.allowed_signers)))
            origins["trust.allowed-signers"] = one.origin("trust", "allowed-signers")
        if "packages" in spec.model_fields_set:
            rules = tuple(TrustRule(rule.match, rule.need) for rule in spec.packages)
            found = replace(found, agreement=rules)
            origins["trust.packages"] = one.origin("trust", "packages")
    return replace(config, trust=found)


_LIMITS = {
    "memory": "memory_bytes",
    "processes": "processes",
    "time": "seconds",
    "log": "log_bytes",
    "disk": "disk_bytes",
    "installed": "installed_bytes",
    "files": "installed_files",
}


def _with_limits(config: Config, sources: tuple[_Source, ...], origins: dict[str, str]) -> Config:
    said: dict[str, int] = {"processes": 4096}
    origins |= {f"limits.{name}": "default" for name in LimitsSpec.model_fields}
    for one in reversed(sources):
        for name, value in one.spec.limits.model_dump(exclude_none=True).items():
            said[name] = value
            origins[f"limits.{name}"] = one.origin("limits", name)
    limits = replace(Limits(), **{_LIMITS[name]: value for name, value in said.items()})
    seconds = float(limits.seconds)
    idle = min(limits.idle_seconds, seconds)
    return replace(config, limits=replace(limits, seconds=seconds, idle_seconds=idle))


def _with_use(config: Config, sources: tuple[_Source, ...], origins: dict[str, str]) -> Config:
    layers: list[Layer] = []
    packages: dict[str, tuple[Layer, ...]] = {}
    for one in reversed(sources):
        written = one.node.get("use")
        if written is None:
            continue
        origins["use"] = one.origin("use")
        flags = written.get("flags") if isinstance(written, Keys) else written
        if isinstance(flags, Sequence):
            layers.append(_layer(flags, every_package=True))
        single = written.get("packages") if isinstance(written, Keys) else None
        for key, value in single.items if isinstance(single, Keys) else ():
            layer = _layer(value, every_package=False)
            packages[key.text] = (*packages.get(key.text, ()), layer)
    return replace(config, use=tuple(layers), package_use=packages)


def _layer(flags: Node, *, every_package: bool) -> Layer:
    items = flags.items if isinstance(flags, Sequence) else ()
    assignments = tuple(
        parse_assignment(item.text, f"{item.place.file}:{item.place.line}")
        for item in items
        if isinstance(item, Scalar)
    )
    return Layer("config", assignments, every_package=every_package)
