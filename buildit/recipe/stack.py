"""`stack.yaml`: several containers that are built and started as one thing. Its models alone;
`recipe.stackread` makes a `ContainerStack` of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Tag, WithJsonSchema, model_validator

from buildit.recipe import leaf, schema
from buildit.recipe.leaf import LeafError
from buildit.recipe.schema import Model
from buildit.recipe.testspec import Command, ImageTestSpec

STACK_FILE = "stack.yaml"

StackName = Annotated[
    str,
    AfterValidator(leaf.stack_name),
    WithJsonSchema({"type": "string", "pattern": f"^(?:{leaf.STACK_NAME})$"}),
]
"""What a container, network or volume of a stack is called."""

_Nothing = Annotated[str, AfterValidator(leaf.is_nothing), WithJsonSchema({"type": ["null"]})]


class PortSpec(Model):
    """A port that a container listens on."""

    inside: schema.Count
    """Its number in the container."""
    outside: schema.Line | None = None
    """The port of the machine that leads there; `8080-8089`, of which each replica takes one; `any`
    for whatever is free. Without it only the other containers reach it."""
    address: schema.Line | None = None
    """The machine's address of that port; all of them without it."""
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    """What it speaks."""


class MountSpec(Model):
    """What a container finds at a path: a volume, a path of the machine, or memory."""

    dest: schema.ImagePath
    """Where."""
    source: schema.Line | None = None
    """The name of a volume, or a path of the machine, which begins with / or a dot. Without it, a
    volume without a name."""
    read_only: schema.OnOff = False
    """Whether it may only be read."""
    memory: schema.Size | None = None
    """In the place of `source`: memory, of at most that size; 0 for as much as the engine lets."""


class MountedFileSpec(Model):
    """A file that is not of the image, and no secret: it is copied into what is emitted."""

    dest: schema.ImagePath
    """Where the container finds it, read-only."""
    src: schema.Line | None = None
    """A file, relative to the stack's."""
    content: schema.Text | None = None
    """Its text, in the place of `src`."""
    mode: schema.Mode | None = None
    """Its mode, octal with a leading zero."""
    uid: schema.NumericId | None = None
    """Its owner."""
    gid: schema.NumericId | None = None
    """Its group."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.src is None) == (self.content is None):
            hint = "write {src: …, dest: …} or {content: …, dest: …}"
            raise LeafError("a file has a `src` or a `content`", hint)
        return self


class AttachmentSpec(Model):
    """A container on a network."""

    aliases: tuple[StackName, ...] = ()
    """Further names that it has there."""


class SecretUseSpec(Model):
    """A secret that a container is given as a file."""

    id: schema.SecretId
    """Which, of the `secrets` of the stack."""
    target: schema.Line | None = None
    """Where: a path, or a name in /run/secrets; its id without it."""
    uid: schema.NumericId = 0
    """Who owns the file."""
    gid: schema.NumericId = 0
    """Its group."""
    mode: schema.Mode = 0o444
    """Its mode, octal with a leading zero."""


class HttpProbeSpec(Model):
    """A GET that a container answers when it is ready."""

    port: schema.Count
    """Where, inside."""
    path: schema.Line = "/"
    """What is asked for."""
    host: schema.Line = "localhost"
    """The name that it is asked by (Host)."""
    tls: schema.OnOff = False
    """Whether it is asked over TLS; any certificate will do."""
    status: schema.Count | None = None
    """The status of the answer; without it any from 200 to 399."""


class ReadinessSpec(Model):
    """How a container tells that it can be used: by one of `exec`, `script`, `http` and `tcp`."""

    exec: Command | None = None
    """A program of the image, which ends with 0 once it is ready."""
    script: schema.Text | None = None
    """A text for /bin/sh of the image, which does."""
    http: HttpProbeSpec | None = None
    """An answer over HTTP."""
    tcp: schema.Count | None = None
    """A port that it listens on."""
    interval: schema.Duration = 5
    """Time between two questions."""
    timeout: schema.Duration = 5
    """How long one may take."""
    retries: schema.Count = 12
    """So many failures in a row mean that it is not ready."""
    start: schema.Duration = 0
    """Time after the start in which failures do not count."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        ways = ("exec", "script", "http", "tcp")
        said = [one for one in ways if getattr(self, one) is not None]
        if len(said) != 1:
            message = f"expected one of {', '.join(ways)}, found {', '.join(said) or 'none'}"
            raise LeafError(message, "write ready: {http: {port: 8080}}")
        if not (self.interval and self.timeout and self.retries):
            raise LeafError("interval, timeout and retries are at least 1", "leave them out")
        return self


class PlacementSpec(Model):
    """On which machines a container may run, where there are several."""

    host: schema.Line | None = None
    """The machine's name."""
    platform: schema.Line | None = None
    """Its platform, such as linux/arm64."""
    labels: dict[schema.LabelName, schema.Line] = Field(default_factory=dict)
    """Labels that it has, with their values."""
    without: dict[schema.LabelName, schema.Line] = Field(default_factory=dict)
    """Labels that it does not have with that value."""
    spread: tuple[schema.LabelName, ...] = ()
    """Labels over whose values the replicas are spread."""
    most: schema.Count = 0
    """How many replicas one machine may have; 0 for any number."""


class AmountsSpec(Model):
    """Amounts of what a machine has."""

    memory: schema.Size | None = None
    """Memory: 512M."""
    cpus: schema.Line | None = None
    """Processors: 2, or 0.5."""
    processes: schema.Count | None = None
    """Processes and threads."""


class RightsSpec(Model):
    """What a container may do, beside or beyond what the engine lets it by itself."""

    read_only: schema.OnOff = False
    """Its root cannot be written."""
    no_new_privileges: schema.OnOff = False
    """No program gives it more rights than it began with."""
    add: tuple[schema.Line, ...] = ()
    """Capabilities that it has besides: [NET_ADMIN]."""
    drop: tuple[schema.Line, ...] = ()
    """Capabilities that it lacks: [ALL]."""


_Depends = schema.ListOrMap[StackName, dict[StackName, Literal["started", "ready", "completed"]]]


class MemberSpec(Model):
    """One container of a stack: of a `path`, or of an `image`."""

    path: schema.WorkDirectory | None = None
    """The directory of its recipe, relative to the stack's; it is built."""
    file: schema.Line | None = None
    """The name of the recipe in there; what lies there, without it."""
    target: schema.Line | None = None
    """The stage of a Dockerfile that is meant; the last one without it."""
    build_args: dict[schema.Identifier, schema.MaybeEmpty] = Field(default_factory=dict)
    """Values of its build arguments."""
    image: schema.Line | None = None
    """In the place of `path`, an image as it is: docker://HOST/NAME:TAG, oci:DIR, oci-archive:FILE,
    docker-archive:FILE, or a short name. The lock beside the stack pins its digest."""
    platform: schema.Line | None = None
    """What it is built or taken for: linux/arm64."""
    entrypoint: Command | None = None
    """A program and arguments, in the place of the image's."""
    command: tuple[schema.MaybeEmpty, ...] | None = None
    """The arguments of its program, in the place of the image's."""
    user: schema.Line | None = None
    """Who runs it: a user, or `uid:gid`."""
    workdir: schema.ImagePath | None = None
    """Where it starts."""
    environment: dict[schema.VariableName, schema.MaybeEmpty] = Field(default_factory=dict)
    """Its variables, word for word; over those of `env-files` and of its links."""
    env_files: tuple[schema.Line, ...] = ()
    """Files with lines NAME=VALUE, relative to the stack's; the later counts. They are read when
    the stack is built, and are no place for secrets: their values stand in what is emitted."""
    pass_environment: tuple[schema.VariableName, ...] = ()
    """Variables that have the value that they have where the stack is started."""
    links: tuple[schema.Line, ...] = ()
    """Containers that it uses: [db], or [db:database] where it finds it by another name. It starts
    once they are ready, and finds them by DB_HOST, and DB_PORT where they listen on one port."""
    depends: _Depends = ()
    """Containers that it starts after: [db], or {db: ready, migration: completed}."""
    ports: tuple[schema.TextOrMap[schema.Line, PortSpec], ...] = ()
    """Ports: 8080 for the other containers, `8443:443` or `127.0.0.1:5353:53/udp` for all that
    reach the machine's."""
    volumes: tuple[schema.TextOrMap[schema.Line, MountSpec], ...] = ()
    """What is mounted: `data:/var/lib/web`, `./conf:/etc/web:ro`."""
    files: tuple[MountedFileSpec, ...] = ()
    """Files that it finds beside those of its image."""
    networks: schema.ListOrMap[
        StackName,
        dict[
            StackName,
            Annotated[
                Annotated[_Nothing, Tag(schema.SCALAR)]
                | Annotated[AttachmentSpec, Tag(schema.MAPPING)],
                schema.BY_KIND,
            ],
        ],
    ] = ()
    """The networks that it is on: [front, back]; without it, that of all others which say none."""
    secrets: tuple[schema.TextOrMap[schema.SecretId, SecretUseSpec], ...] = ()
    """Secrets that it is given, each as a file in /run/secrets."""
    replicas: schema.Count = 1
    """How many of it run."""
    restart: schema.Line = "no"
    """When it is started again: no, always, on-failure, on-failure:5, unless-stopped."""
    placement: PlacementSpec = PlacementSpec()
    """On which machines it may run."""
    ready: ReadinessSpec | None = None
    """How it tells that it can be used; without it, as its image's healthcheck says."""
    test: (
        Annotated[
            Annotated[ImageTestSpec, Tag(schema.MAPPING)]
            | Annotated[tuple[ImageTestSpec, ...], Tag(schema.LIST)],
            schema.BY_KIND,
        ]
        | None
    ) = None
    """What is asked of it while the stack runs, as in a `test` step of container.yaml."""
    stop_signal: schema.Line | None = None
    """The signal that asks it to stop; the image's without it."""
    stop_timeout: schema.Duration | None = None
    """How long it may take to stop; then it is killed."""
    labels: dict[schema.LabelName, schema.MaybeEmpty] = Field(default_factory=dict)
    """Labels of the running container."""
    limits: AmountsSpec = AmountsSpec()
    """What it may use at most."""
    reserved: AmountsSpec = AmountsSpec()
    """What is kept for it."""
    rights: RightsSpec = RightsSpec()
    """What it may do."""
    hostname: schema.Line | None = None
    """The name that it knows itself by."""
    hosts: dict[schema.Line, schema.Line] = Field(default_factory=dict)
    """Names of other machines, with their addresses."""
    init: schema.OnOff = False
    """Whether the engine puts an init before its program."""


class NetworkSpec(Model):
    """A network of the stack."""

    internal: schema.OnOff = False
    """Whether it leads nowhere else."""
    external: schema.Line | None = None
    """The name of one that is there already, which is used in its place."""
    subnet: schema.Line | None = None
    """Its addresses: 10.89.5.0/24."""
    labels: dict[schema.LabelName, schema.MaybeEmpty] = Field(default_factory=dict)
    """Labels of it."""


class VolumeSpec(Model):
    """A volume of the stack; it outlives its containers."""

    external: schema.Line | None = None
    """The name of one that is there already, which is used in its place."""
    size: schema.Size | None = None
    """What is asked for where volumes have a size (Kubernetes); 1G without it."""
    labels: dict[schema.LabelName, schema.MaybeEmpty] = Field(default_factory=dict)
    """Labels of it."""


class StackSecretSpec(Model):
    """Where the value of a secret comes from: one of these. The value stands in no file that is
    emitted."""

    file: schema.Line | None = None
    """A file, relative to the stack's; all of its bytes are the value."""
    env: schema.VariableName | None = None
    """A variable of the environment that the stack is started with."""
    generate: schema.Count | None = None
    """So many letters and digits, drawn at the first start, kept with the volumes."""
    external: schema.Line | None = None
    """The name of one that the engine or the cluster has already."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.model_fields_set) != 1:
            hint = "write {file: …}, {env: …}, {generate: 32} or {external: …}"
            raise LeafError("a secret comes from one place", hint)
        if self.generate is not None and not 16 <= self.generate <= 1024:
            raise LeafError("a secret is drawn with 16 to 1024 characters", "write {generate: 32}")
        return self


_Networks = Annotated[
    Annotated[_Nothing, Tag(schema.SCALAR)] | Annotated[NetworkSpec, Tag(schema.MAPPING)],
    schema.BY_KIND,
]
_Volumes = Annotated[
    Annotated[_Nothing, Tag(schema.SCALAR)] | Annotated[VolumeSpec, Tag(schema.MAPPING)],
    schema.BY_KIND,
]


class StackSpec(Model):
    """One `stack.yaml`."""

    name: schema.Line | None = None
    """What the stack is called; the directory's name without it."""
    containers: dict[StackName, MemberSpec] = Field(min_length=1)
    """Its containers, by name."""
    networks: dict[StackName, _Networks] = Field(default_factory=dict)
    """Its networks, by name."""
    volumes: dict[StackName, _Volumes] = Field(default_factory=dict)
    """Its volumes, by name."""
    secrets: dict[schema.SecretId, StackSecretSpec] = Field(default_factory=dict)
    """Its secrets, by id."""
