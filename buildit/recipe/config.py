"""`.buildit-config.yaml`: what a file may say, and the configuration of a run.

Three files, the first one that says something wins: that of the container (in its directory or
the nearest one above), the user's own, and the one that is shipped, which comes last even where
it is the nearest (in a checkout). Maps (`mirrors`, `limits`, `trust`) merge by key, `use` adds up
with the nearest last, everything else replaces. The environment is read only here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from buildit.errors import RecipeError, UsageError
from buildit.home import cache_of, home_of
from buildit.model import config as model
from buildit.model.globs import fits_some
from buildit.model.use import Assignment, FlagLayer, parse_assignment
from buildit.recipe import schema
from buildit.recipe.leaf import HOST_NAME, LeafError
from buildit.recipe.schema import Model, parse, spelled
from buildit.recipe.yaml.node import Mapping as Keys
from buildit.recipe.yaml.node import Scalar, follow, shown_place
from buildit.recipe.yaml.read import load_yaml

CONFIG_FILE = ".buildit-config.yaml"
_BELOW_HOME = re.compile(r"~(/|\Z)")

Scheme = Literal["ssh", "https", "file", "oci"]

_WORDS = "use letters, digits . _ -"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A host may not begin with a dash: it is an argument of ssh (CVE-2023-51385).
_HOST = rf"{HOST_NAME}(?::[0-9]{{1,5}})?"
_PLACES = {
    "ssh": (rf"(?:[a-z_][a-z0-9_.-]*@)?{_HOST}/.*", "user@host/path"),
    "https": (rf"(?:https://)?{_HOST}(?:/[!-~]*)?", "host/path"),
    "oci": (rf"(?:oci://)?{_HOST}/{model.OCI_NAME.pattern}", "registry/name"),
    "file": (r"[^\n]+", "a directory"),
}


class RepositorySpec(Model):
    """A binhost: where artifacts and images are published, and where they are taken from."""

    name: schema.Line
    """What messages call it."""
    upload_type: Scheme | None = None
    """How to publish to it: ssh, https, file or oci."""
    upload_path: schema.Line | None = None
    """Where to publish: `user@host/path` is relative to the login directory, `user@host//path` is
    absolute; for `file` a directory, relative to this file; for `oci` `host/name`, a repository of
    a registry."""
    download_type: Scheme | None = None
    """How to take from it: https, file, ssh or oci."""
    download_path: schema.Line | None = None
    """Where to take from."""
    unsigned: schema.OnOff = False
    """Also publish and take what nobody signed; only between directories of this machine."""
    secrets: schema.OnOff = False
    """Also publish containers into which files with private keys are copied."""
    allowed_signers: schema.Line | None = None
    """Whom to believe of what is taken from here, instead of `trust: {allowed-signers: …}`."""

    @property
    def directories(self) -> tuple[str, ...]:
        """The ends of it that are of this machine."""
        ends = ((self.upload_type, self.upload_path), (self.download_type, self.download_path))
        return tuple(path for scheme, path in ends if scheme == "file" and path)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise LeafError(f"{self.name!r} cannot name a repository", _WORDS)
        _check_endpoint("upload", self.upload_type, self.upload_path)
        _check_endpoint("download", self.download_type, self.download_path)
        kinds = {self.upload_type, self.download_type} - {None}
        if not kinds:
            hint = "write download-type and download-path, upload-type and upload-path, or all four"
            raise LeafError("a repository needs a way to it", hint)
        if self.unsigned and kinds != {"file"}:
            hint = "sign with `signing-key`, or publish to a directory"
            raise LeafError("unsigned is only possible where both types are file", hint)
        return self


def _check_endpoint(way: str, scheme: Scheme | None, path: str | None) -> None:
    if scheme is None and path is None:
        return
    if scheme is None or path is None:
        missing = f"{way}-type" if scheme is None else f"{way}-path"
        raise LeafError(f"the key {missing!r} is missing", f"write both {way}-type and {way}-path")
    pattern, example = _PLACES[scheme]
    if not re.fullmatch(pattern, path):
        hint = "write the host and path only" if scheme != "file" else None
        raise LeafError(f"{way}-path: expected {example} for {scheme}, found {path!r}", hint)
    if scheme == "file":
        return
    host, _, below = path.removeprefix("https://").partition("/")
    port = re.search(r":([0-9]+)$", host)
    if port is not None and not 0 < int(port[1]) < 1 << 16:
        raise LeafError(f"{way}-path: there is no port {port[1]}", "ports are 1 to 65535")
    if ".." in below.split("/"):
        hint = "write the path to the directory itself"
        raise LeafError(f"{way}-path: {path!r} has a part `..`", hint)


class TrustRuleSpec(Model):
    """How many builders must agree on the packages that `match`."""

    match: schema.Line
    """A glob over category/name, such as `dev-libs/*`. One that no name can fit is an error."""
    need: schema.Count
    """Independent builders, one's own build included."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.need < 1:
            raise LeafError("need: expected at least 1, found 0", "one's own build counts as one")
        if not fits_some(self.match):
            hint = "write a glob over category/name, such as `dev-libs/*`, or over `debian:name`; "
            hint += "categories are lower case, and there are no {braces}"
            said = f"match: no package can be called {self.match!r}: the rule would guard nothing"
            raise LeafError(said, hint)
        return self


class TrustSpec(Model):
    """Whose statements are believed; without it only those of one's own key."""

    allowed_signers: schema.Line | None = None
    """An OpenSSH allowed-signers file (ssh-keygen(1)), relative to this file."""
    packages: tuple[TrustRuleSpec, ...] = ()
    """The first rule that matches a package holds; without one, one builder is enough."""


class ConfigUseSpec(Model):
    """Flags, for all packages and for single ones."""

    flags: tuple[schema.Line, ...] = ()
    """For every package that declares them: `ipv6`, `-selinux`, `tls=openssl`."""
    packages: dict[schema.PackageName, tuple[schema.Line, ...]] = Field(default_factory=dict)
    """For one package."""


class LimitsSpec(Model):
    """What a build may use before it is stopped."""

    memory_bytes: schema.Size | None = Field(None, alias="memory")
    """Memory of all its processes, such as 4G."""
    processes: schema.Count | None = None
    """Processes and threads at one time."""
    seconds: schema.Duration | None = Field(None, alias="time")
    """Time from start to end, such as 2h."""
    log_bytes: schema.Size | None = Field(None, alias="log")
    """Length of its log, such as 64M."""
    disk_bytes: schema.Size | None = Field(None, alias="disk")
    """What it may write at all, such as 64G."""
    installed_bytes: schema.Size | None = Field(None, alias="installed")
    """What it may install, holes in files counted, such as 4G."""
    installed_files: schema.Count | None = Field(None, alias="files")
    """How many files and directories it may install."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in self.model_dump(by_alias=True).items():
            if value == 0:
                raise LeafError(f"{name}: a limit of 0 lets nothing run", "leave it out, or more")
        return self


def _check_signing_keys(keys: tuple[str, ...]) -> None:
    for key in keys:
        if key.startswith("gpg:") and not re.fullmatch(r"gpg:[0-9A-Fa-f]{40,64}", key):
            raise LeafError(f"signing-key: {key!r} is no whole fingerprint", "run gpg -K")
        if key.startswith("agent") and not re.fullmatch(r"agent:SHA256:[A-Za-z0-9+/]{43}", key):
            hint = "run ssh-add -l for agent:SHA256:…"
            raise LeafError(f"signing-key: {key!r} names no key", hint)
    openpgp = sum(key.startswith("gpg:") for key in keys)
    if max(openpgp, len(keys) - openpgp) > 1:
        hint = "name one SSH key, one gpg: key"
        raise LeafError("signing-key: more than one key of a kind", hint)


class SecretSpec(Model):
    """Where the value of a secret is; the value itself stands in no file of buildit's."""

    file: schema.Line | None = None
    """A file that holds it, relative to this file; all of its bytes are the value."""
    env: schema.VariableName | None = None
    """A variable of the environment that buildit is started with."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise LeafError("a secret is in a file or in a variable", "write {file: …} or {env: …}")
        return self


class ConfigSpec(Model):
    """One `.buildit-config.yaml`."""

    repository: RepositorySpec | None = None
    """The binhost."""
    repositories: tuple[RepositorySpec, ...] | None = None
    """Several binhosts, asked in this order, instead of `repository`."""
    mirrors: dict[str, tuple[schema.Url, ...]] = Field(default_factory=dict)
    """What `mirror://NAME/path` stands for: base URLs, tried in order. `debian` is built in."""
    images: dict[schema.Line, schema.Line] = Field(default_factory=dict)
    """What names of images stand for that say no registry: `debian: docker://HOST/debian`, of what
    they begin with `tools/: docker://HOST/tools/`, of any `"*"`; or `oci:DIR`, from this file."""
    trust: TrustSpec = TrustSpec()
    """Whose artifacts are believed."""
    signing_key: schema.TextOrList[schema.Line] | None = None
    """An SSH private key (its path) or `agent:SHA256:…`, which signs what is published, and
    `gpg:FINGERPRINT`, which signs `.aci` files; one of them, or a list of both."""
    store: schema.Line | None = None
    """The local store; ~/.cache/buildit without it."""
    use: schema.ListOrMap[schema.Line, ConfigUseSpec] = ConfigUseSpec()
    """Flags: a list for all packages, or `flags` and `packages`."""
    jobs: schema.Count | None = None
    """Packages built and files fetched at one time; the number of processors without it."""
    trees: tuple[schema.Line, ...] | None = None
    """Directories that hold category/name/pkg.yaml, the first one first; relative to this file."""
    limits: LimitsSpec = LimitsSpec()
    """What one build may use."""
    secrets: dict[schema.SecretId, SecretSpec] = Field(default_factory=dict)
    """Where the secrets are that `run` steps ask for by their ids; `--secret` goes before it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.repository is not None and self.repositories is not None:
            raise LeafError("write either repository or repositories", "move all to repositories")
        names = [one.name for one in self.all_repositories]
        for name in names:
            if names.count(name) > 1:
                raise LeafError(f"two repositories are named {name!r}", "give each its own name")
        if self.jobs == 0:
            raise LeafError("jobs: expected at least 1, found 0", "leave it out for all processors")
        _check_signing_keys(self.signing_keys)
        for name, urls in self.mirrors.items():
            if not _NAME.fullmatch(name):
                raise LeafError(f"{name!r} cannot name a mirror list", _WORDS)
            if not urls:
                raise LeafError(f"the mirror list {name!r} is empty", "name a URL, or leave it out")
        return self

    @property
    def signing_keys(self) -> tuple[str, ...]:
        keys = self.signing_key
        return (keys,) if isinstance(keys, str) else keys or ()

    @property
    def all_repositories(self) -> tuple[RepositorySpec, ...]:
        return self.repositories or ((self.repository,) if self.repository else ())


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and every file that was looked for, whether it is there or not."""

    config: model.Config
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
        place = (follow(self.node, path)[1] or self.node).place
        return f"{place.file}:{place.line}"

    def path(self, text: str) -> Path:
        if _BELOW_HOME.match(text):
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
    start = Path(os.path.abspath(directory))
    upward = _until_found(tuple(one / CONFIG_FILE for one in (start, *start.parents)))
    own = _users_file(home, environ)
    users = (own,) if own else ()
    # Only the nearest file of each of the three kinds says something.
    candidates = (upward[-1], *users, *_until_found(shipped_files()))
    # In a checkout the shipped file is often the nearest one too: it is read once.
    found = {os.path.realpath(path): path for path in reversed(candidates) if os.path.lexists(path)}
    sources = tuple(_source(path, directory, home) for path in reversed(found.values()))
    signers = tuple(file.with_name(_SIGNERS) for file in users)
    config = _Merge(sources, environ, signers).config(directory)
    lists = (config.trust.allowed_signers, *config.trust.own_signers.values())
    looked_for = (*upward, *candidates, *signers, *(Path(path) for path in lists if path))
    return Loaded(config, tuple(dict.fromkeys(looked_for)))


def shipped_files() -> tuple[Path, ...]:
    """Where the shipped settings are: in an installed package, else at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / "_tree" / CONFIG_FILE, package.parent / CONFIG_FILE


def _until_found(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The paths up to the first one that is there; all of them where none is."""
    found = (count for count, path in enumerate(paths, 1) if os.path.lexists(path))
    return paths[: next(found, None)]


def _home(environ: Mapping[str, str]) -> Path | None:
    home = home_of(environ)
    given = environ.get("HOME", "")
    if home is None and given:
        hint = f'export HOME="$PWD/{given}", or unset it'
        raise UsageError(f"HOME is {given!r}, which is no absolute path", hint=hint)
    return None if home is None else Path(home)


def _homeless(what: str) -> UsageError:
    hint = "set HOME, or BUILDIT_STORE for the store and an absolute path for all else"
    why = f"HOME is not set, and user {os.getuid()} has no passwd entry"
    return UsageError(f"{what}, and there is none: {why}", hint=hint)


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
    with suppress(OSError):  # whatever is wrong with it, reading it says so better
        owner = path.stat().st_uid
        if owner not in {0, os.geteuid(), directory.stat().st_uid}:
            message = f"the file belongs to another user (uid {owner})"
            hint = "move the container elsewhere, or make the file your own"
            raise RecipeError(message, place=shown_place(path), hint=hint)


def _source(path: Path, directory: Path, home: Path | None) -> _Source:
    _check_owner(path, directory)
    node = load_yaml(path)
    if not isinstance(node, Keys):
        hint = f"write one of {', '.join(ConfigSpec.keys())}"
        raise node.error("expected settings such as `store: …`", hint)
    spec = parse(node, ConfigSpec)
    return _Source(spec, node, path.parent.resolve(), home, path in shipped_files())


@dataclass(frozen=True, slots=True)
class _Merge:
    """The files of a run, the one that wins first; `origins` is filled as they are asked.

    `signers` is the user's own list, which holds where no file names another.
    """

    sources: tuple[_Source, ...]
    environ: Mapping[str, str]
    signers: tuple[Path, ...]
    origins: dict[str, str] = field(default_factory=dict)

    def config(self, directory: Path) -> model.Config:
        store = self.store()
        jobs, trees = self.first("jobs"), self.first("trees")
        source = self.first("repositories", "repository")
        specs = source.spec.all_repositories if source else ()
        if source and source.shipped and source.home is None:
            # Nobody asked for a place below the home.
            specs = tuple(one for one in specs if not any(map(_BELOW_HOME.match, one.directories)))
        remarks: list[str] = []
        use, package_use = self.use()
        return model.Config(
            store=store,
            jobs=(jobs.spec.jobs if jobs else None) or len(os.sched_getaffinity(0)),
            trees=tuple(map(trees.path, trees.spec.trees or ())) if trees else (),
            repositories=tuple(_repository(source, one, remarks) for one in specs if source),
            mirrors=self.mirrors(),
            images=self.images(),
            # Whether it is there is looked up when something is fetched: a plan may be kept.
            distfiles=(str(directory.absolute() / "distfiles"),),
            trust=self.trust(source, specs),
            limits=self.limits(),
            use=use,
            package_use=package_use,
            origins=dict(sorted(self.origins.items())),
            remarks=tuple(remarks),
            secrets=self.secrets(),
        )

    def first(self, *names: str) -> _Source | None:
        """The file that decides a setting, which may have several names."""
        for one in self.sources:
            for name in one.spec.model_fields_set.intersection(names):
                self.origins[spelled(names[0])] = one.origin(spelled(name))
                return one
        self.origins[spelled(names[0])] = "default"
        return None

    def store(self) -> Path:
        source = self.first("store")
        if given := self.environ.get("BUILDIT_STORE"):
            self.origins["store"] = "BUILDIT_STORE"
            return Path(os.path.abspath(given))
        if source is not None:
            return source.path(source.spec.store or "")
        if cache := cache_of(self.environ):
            return Path(cache, "buildit")
        raise _homeless("the store is below the home directory")

    def keys(self) -> model.SigningKeys:
        source = self.first("signing_key")
        ssh = openpgp = ""
        for text in source.spec.signing_keys if source else ():
            if text.startswith("gpg:"):
                openpgp = text.removeprefix("gpg:").upper()
            else:
                ssh = text if text.startswith("agent:") or not source else str(source.path(text))
        return model.SigningKeys(ssh, openpgp, self.environ.get("SSH_AUTH_SOCK", ""))

    def mirrors(self) -> dict[str, tuple[str, ...]]:
        mirrors: dict[str, tuple[str, ...]] = {}
        for one in reversed(self.sources):
            mirrors |= one.spec.mirrors
            for name in one.spec.mirrors:
                self.origins[f"mirrors.{name}"] = one.origin("mirrors", name)
        return dict(sorted(mirrors.items()))

    def images(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in reversed(self.sources):
            for name, text in one.spec.images.items():
                scheme, colon, path = text.partition(":")
                local = bool(colon) and not path.startswith("//")
                found[name] = f"{scheme}:{one.path(path)}" if local else text
                self.origins[f"images.{name}"] = one.origin("images", name)
        return found

    def trust(self, source: _Source | None, specs: tuple[RepositorySpec, ...]) -> model.Trust:
        """`specs` are the repositories of `source`."""
        keys = self.keys()
        listed = ""
        rules: tuple[model.TrustRule, ...] = ()
        lists = ((spec.name, spec.allowed_signers) for spec in specs)
        own = {name: str(source.path(path)) for name, path in lists if source and path}
        for one in reversed(self.sources):
            spec = one.spec.trust
            if spec.allowed_signers is not None:
                listed = str(one.path(spec.allowed_signers))
                self.origins["trust.allowed-signers"] = one.origin("trust", "allowed-signers")
            if "packages" in spec.model_fields_set:
                rules = tuple(model.TrustRule(rule.match, rule.need) for rule in spec.packages)
                self.origins["trust.packages"] = one.origin("trust", "packages")
        if not listed and any(map(os.path.lexists, self.signers)):
            listed = str(self.signers[0])
            self.origins["trust.allowed-signers"] = "default"
        return model.Trust(keys, listed, own, rules, any(spec.unsigned for spec in specs))

    def secrets(self) -> dict[str, model.SecretSource]:
        found: dict[str, model.SecretSource] = {}
        for one in reversed(self.sources):
            for name, spec in one.spec.secrets.items():
                self.origins[f"secrets.{name}"] = one.origin("secrets", name)
                if spec.env is None:
                    found[name] = model.SecretSource("file", str(one.path(spec.file or "")))
                else:
                    found[name] = model.SecretSource("env", spec.env)
        return found

    def limits(self) -> model.Limits:
        said: dict[str, int] = {"processes": 4096}
        self.origins.update(dict.fromkeys(map("limits.{}".format, LimitsSpec.keys()), "default"))
        for one in reversed(self.sources):
            said |= one.spec.limits.model_dump(exclude_none=True)
            for name in one.spec.limits.model_dump(exclude_none=True, by_alias=True):
                self.origins[f"limits.{name}"] = one.origin("limits", name)
        limits = model.Limits(**said)
        seconds = float(limits.seconds)
        return replace(limits, seconds=seconds, idle_seconds=min(limits.idle_seconds, seconds))

    def use(self) -> tuple[tuple[FlagLayer, ...], dict[str, tuple[FlagLayer, ...]]]:
        """The flags for every package, and for single ones."""
        layers: list[FlagLayer] = []
        packages: dict[str, tuple[FlagLayer, ...]] = {}
        for one in reversed(self.sources):
            written = one.node.get("use")
            if written is None:
                continue
            self.origins["use"] = one.origin("use")
            if not isinstance(written, Keys):
                written = Keys(((Scalar("flags", written.place), written),), written.place)
            if written.get("flags") is not None:
                layers.append(FlagLayer("config", _flags(written, "flags"), every_package=True))
            if isinstance(single := written.get("packages"), Keys):
                for key, _ in single.items:
                    layer = FlagLayer("config", _flags(single, key.text))
                    packages[key.text] = (*packages.get(key.text, ()), layer)
        return tuple(layers), packages


def _flags(keys: Keys, name: str) -> tuple[Assignment, ...]:
    written = ((item.text, item.place) for item in keys.texts(name))
    return tuple(parse_assignment(text, f"{at.file}:{at.line}") for text, at in written)


def _repository(source: _Source, spec: RepositorySpec, remarks: list[str]) -> model.Repository:
    download, upload = (_address(source, spec, way, remarks) for way in _WAYS)
    return model.Repository(spec.name, download, upload, spec.unsigned, spec.secrets)


_WAYS = {"download": ("file", "https", "ssh", "oci"), "upload": ("file", "ssh", "oci")}
"""How a binhost can be reached; a web server takes nothing."""


def _address(
    source: _Source, spec: RepositorySpec, way: str, remarks: list[str]
) -> model.Address | None:
    scheme, path = getattr(spec, f"{way}_type"), getattr(spec, f"{way}_path")
    if scheme is None:
        return None
    if scheme == "file":
        return model.parse_address(str(source.path(path)))
    if scheme not in _WAYS[way]:
        known = " or ".join(_WAYS[way])
        remarks.append(f"repository {spec.name}: {way} over {scheme} is not possible; use {known}")
        return None
    return model.parse_address(f"{scheme}://{path.removeprefix(f'{scheme}://')}")
