"""What the back half needs of the configuration: plain data that a stamp can carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildit.build.limits import Limits

if TYPE_CHECKING:
    from buildit.model.config import Config


@dataclass(frozen=True, slots=True)
class FileRepository:
    """A binhost that is a directory: where to take from and publish to; empty where not."""

    name: str
    download: str
    upload: str
    unsigned: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """`jobs` builds or downloads run at once. `distfiles` are directories asked before mirrors."""

    store: str
    jobs: int
    signing_key: str = ""
    repositories: tuple[FileRepository, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    distfiles: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    allowed_signers: str = ""
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
            "repositories": tuple(FileRepository(**one) for one in data["repositories"]),
            "mirrors": {name: tuple(urls) for name, urls in data["mirrors"].items()},
            "distfiles": tuple(data["distfiles"]),
            "limits": Limits(**data["limits"]),
        }
    )


def settings_of(
    config: Config, directory: Path, environ: Mapping[str, str]
) -> tuple[Settings, tuple[str, ...]]:
    """The settings, and remarks on what this buildit does not do yet."""
    remarks = []
    repositories = []
    for one in config.repositories:
        ways = {"download": one.download, "upload": one.upload}
        paths = {}
        for way, endpoint in ways.items():
            paths[way] = ""
            if endpoint is not None and endpoint.scheme == "file":
                paths[way] = endpoint.path
            elif endpoint is not None:
                remarks.append(
                    f"repository {one.name}: {way} over {endpoint.scheme} is not possible yet; "
                    "only directories are asked"
                )
        repositories.append(
            FileRepository(one.name, paths["download"], paths["upload"], one.unsigned)
        )
    limits = Limits(
        memory_bytes=config.limits.memory or Limits().memory_bytes,
        processes=config.limits.processes,
        seconds=float(config.limits.time),
        idle_seconds=min(Limits().idle_seconds, float(config.limits.time)),
        log_bytes=config.limits.log,
    )
    settings = Settings(
        store=str(config.store),
        jobs=config.jobs,
        signing_key=config.signing_key or "",
        repositories=tuple(repositories),
        mirrors=dict(config.mirrors),
        # Whether it is there is looked up when something is fetched: a plan may be kept for long.
        distfiles=(str(directory.absolute() / "distfiles"),),
        limits=limits,
        allowed_signers=str(config.allowed_signers or ""),
        ssh_agent=environ.get("SSH_AUTH_SOCK", ""),
    )
    return settings, tuple(remarks)
