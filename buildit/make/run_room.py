"""What a `run` step sees: the container of its command, as its record has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.archive.contents import way
from buildit.errors import BuildError, UnsatisfiableError
from buildit.make.apt_source import write_source
from buildit.make.run_mounts import RunMounts
from buildit.model.plan import Task
from buildit.model.secret import Secrets
from buildit.model.tree import Entry
from buildit.plan.identity import RunInputs
from buildit.sandbox.container import RESOLVER, Contained, Mounted
from buildit.sandbox.spaces import IdMap
from buildit.sandbox.step import MEMORY, room
from buildit.sandbox.usernet import UserNetwork, user_network
from buildit.store.cas import Store


@dataclass(frozen=True, slots=True)
class RunRoom:
    """The parts of a step's container; `layer` is where it writes. `mounts` are
    those of its record, and of its secrets."""

    task: Task
    inputs: RunInputs
    ids: IdMap
    layer: Path
    store: Store
    network: UserNetwork | None
    mounts: RunMounts

    def contained(
        self, trees: tuple[Path, ...], below: Callable[[str], Entry | None], secrets: Secrets
    ) -> Contained:
        """The container over trees, the top first; `below` is what they hold at a path.

        Raises:
            BuildError: what apt is to find is not what the record has.
        """
        inputs, ids = self.inputs, self.ids
        environment = {**inputs.environment, **self.mounts.variables}
        one = room(ids, trees, self.layer, inputs.argv, environment, secrets)
        memory = [
            (mount.dest.lstrip("/"), f"mode={mount.mode or '1777'},size={mount.size or MEMORY}")
            for mount in (each.mount for each in inputs.mounts)
            if mount.kind == "tmpfs"
        ]
        if inputs.who:
            uid, gid, *groups = inputs.who
            one = replace(one, uid=uid, gid=gid, groups=tuple(groups))
        if inputs.as_app:  # /tmp and /run are the image's, as they are for a Dockerfile's RUN
            one = replace(one, cwd=inputs.cwd, memory=())
        one = replace(one, mounts=tuple(self.mounts.files), memory=(*one.memory, *memory))
        one = replace(one, secret_files=tuple(self.mounts.secret_files))
        if inputs.debs:
            one = replace(one, volumes=(*one.volumes, *self._apt_source()))
        if self.network is not None:
            resolver = way(RESOLVER, below).end or RESOLVER
            one = replace(one, network=self.network, resolver=resolver)
        return one

    def _apt_source(self) -> tuple[Mounted, ...]:
        debs = sorted(self.task.inputs.debs, key=lambda deb: deb.digest)
        if tuple(deb.digest for deb in debs) != self.inputs.debs:
            raise BuildError("its .debs are not those of its record", hint="plan it again")
        return write_source(self.layer / "apt", debs, self.store)


def network_for(label: str) -> UserNetwork:
    """Raises UnsatisfiableError where this machine has none, with the step's place."""
    try:
        return user_network()
    except UnsatisfiableError as error:
        error.place = label
        raise
