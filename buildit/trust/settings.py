"""What the back half needs of the configuration: plain data that a stamp can carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildit.sandbox.limits import Limits
from buildit.trust.votes import Rule

if TYPE_CHECKING:
    from buildit.recipe.config import Config, Endpoint


@dataclass(frozen=True, slots=True)
class Repository:
    """A binhost: where to take from and publish to; empty where not.

    Each is an absolute path, an `https://` URL, or `ssh://user@host:port/path`.
    """

    name: str
    download: str
    upload: str
    unsigned: bool
    secrets: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """`jobs` builds or downloads run at once. `distfiles` are directories asked before mirrors.

    `signing_key` is an SSH key, `openpgp_key` the fingerprint that signs `.aci` files. `agreement`
    are the rules of `trust: {packages: …}`, `allowed_signers` the file of `trust:`, and
    `own_signers` the files of repositories that have one of their own.
    """

    store: str
    jobs: int
    signing_key: str = ""
    repositories: tuple[Repository, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    distfiles: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    allowed_signers: str = ""
    own_signers: Mapping[str, str] = field(default_factory=dict)
    agreement: tuple[Rule, ...] = ()
    openpgp_key: str = ""
    ssh_agent: str = ""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def from_plain(data: dict[str, Any]) -> Settings:
    """Read what `Settings.plain` gave.

    Raises:
        KeyError, TypeError: it is something else.
    """
    return Settings(
        **{
            **data,
            "repositories": tuple(Repository(**one) for one in data["repositories"]),
            "mirrors": {name: tuple(urls) for name, urls in data["mirrors"].items()},
            "distfiles": tuple(data["distfiles"]),
            "limits": Limits(**data["limits"]),
            "agreement": tuple(Rule(**one) for one in data["agreement"]),
        }
    )


def settings_of(
    config: Config, directory: Path, environ: Mapping[str, str]
) -> tuple[Settings, tuple[str, ...]]:
    """The settings, and remarks on what this buildit does not do yet."""
    remarks: list[str] = []
    repositories = tuple(
        Repository(
            one.name,
            _address(one.name, "download", one.download, remarks),
            _address(one.name, "upload", one.upload, remarks),
            one.unsigned,
            one.secrets,
        )
        for one in config.repositories
    )
    limits = Limits(
        memory_bytes=config.limits.memory or Limits().memory_bytes,
        processes=config.limits.processes,
        seconds=float(config.limits.time),
        idle_seconds=min(Limits().idle_seconds, float(config.limits.time)),
        log_bytes=config.limits.log,
        disk_bytes=config.limits.disk,
        installed_bytes=config.limits.installed,
        installed_files=config.limits.files,
    )
    settings = Settings(
        store=str(config.store),
        jobs=config.jobs,
        signing_key=config.signing_key or "",
        repositories=repositories,
        mirrors=dict(config.mirrors),
        # Whether it is there is looked up when something is fetched: a plan may be kept for long.
        distfiles=(str(directory.absolute() / "distfiles"),),
        limits=limits,
        allowed_signers=str(config.allowed_signers or ""),
        own_signers={
            one.name: str(one.allowed_signers)
            for one in config.repositories
            if one.allowed_signers is not None
        },
        agreement=tuple(Rule(one.match, one.need) for one in config.agreement),
        openpgp_key=config.openpgp_key or "",
        ssh_agent=environ.get("SSH_AUTH_SOCK", ""),
    )
    return settings, tuple(remarks)


WAYS = {"download": ("file", "https", "ssh"), "upload": ("file", "ssh")}
"""How a binhost can be reached; a web server takes nothing."""


def _address(name: str, way: str, endpoint: Endpoint | None, remarks: list[str]) -> str:
    if endpoint is None:
        return ""
    scheme, path = endpoint.scheme, endpoint.path
    if scheme not in WAYS[way]:
        known = " or ".join(WAYS[way])
        remarks.append(f"repository {name}: {way} over {scheme} is not possible; use {known}")
        return ""
    return path if scheme == "file" else f"{scheme}://{path.removeprefix(f'{scheme}://')}"
