"""A stack as podman is told of it, and what brings one to the other: pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.digest import Digest
from buildit.errors import UsageError
from buildit.model.stack import (
    Attachment,
    ContainerStack,
    Link,
    Restart,
    Rights,
    SecretUse,
    StackFile,
    StackMember,
    StackMount,
    StackNetwork,
    StackPort,
    StackSecret,
    StackVolume,
    StartsAfter,
)
from buildit.podman.engine import EngineFacts, engine_options, reason_of
from buildit.podman.loglines import LogReader, moment, parse_log_row, since_of
from buildit.stack.converge import (
    EngineState,
    KnownContainer,
    KnownSecret,
    container_changes,
    read_containers,
    removal_waves,
    remove_rest,
    stale_networks,
    superfluous,
)
from buildit.stack.local import (
    LoadedImage,
    LocalFacts,
    LocalNetwork,
    StackIdentity,
    WantedContainer,
    create_network,
    create_secret,
    network_settings,
    wanted_containers,
)

pytestmark = pytest.mark.unit

WHO = StackIdentity("shop", "/srv/shop")
IMAGE = LoadedImage(Digest("a" * 64))
NET = {"default": LocalNetwork("shop-net", "10.89.0.0/24", answers=True)}


def stack_of(*members: StackMember, **more: object) -> ContainerStack:
    return ContainerStack("shop", Path("/srv/shop"), Path("/srv/shop/stack.yaml"), members, **more)  # type: ignore[arg-type]


def wanted(
    stack: ContainerStack,
    networks: Mapping[str, LocalNetwork] = NET,
    taken: Mapping[str, Mapping[str, str]] | None = None,
    facts: LocalFacts = LocalFacts(),  # noqa: B008 - frozen
) -> tuple[WantedContainer, ...]:
    images = {one.name: IMAGE for one in stack.members}
    return wanted_containers(WHO, stack, images, networks, taken or {}, facts)


def pairs(words: tuple[str, ...], option: str) -> list[str]:
    return [words[n + 1] for n, word in enumerate(words) if word == option]


def test_two_stacks_of_one_name_do_not_meet() -> None:
    other = StackIdentity("shop", "/home/shop")
    assert WHO.prefix != other.prefix
    assert WHO.prefix.startswith("shop-")
    assert len(WHO.prefix) == len("shop-") + 8


def test_a_member_in_the_words_of_podman() -> None:
    member = StackMember(
        "web",
        "stack.yaml:3",
        command=("-v",),
        entrypoint=("/bin/web", "--fast"),
        environment=(("A", "1"), ("FROM_OUTSIDE", None), ("NOT_SET", None)),
        ports=(
            StackPort(80, published=True, outside=8080, address="127.0.0.1"),
            StackPort(53, "udp", published=True, address="::1"),
            StackPort(81, published=True),
            StackPort(82),
        ),
        mounts=(
            StackMount("/data", "volume", "rows", read_only=True),
            StackMount('/a,"b', "host", "/srv/x"),
            StackMount("/m", "memory", size=1024),
        ),
        secrets=(SecretUse("token", "/run/secrets/token", 5, 6, 0o440),),
        restart=Restart("on-failure", 3),
        rights=Rights(read_only=True, no_new_privileges=True, dropped=("CHOWN",)),
        stop_timeout=3,
    )
    stack = stack_of(
        member, volumes=(StackVolume("rows"),), secrets=(StackSecret("token", "generated"),)
    )
    (one,) = wanted(stack, facts=LocalFacts(("--ulimit", "x"), {"FROM_OUTSIDE": "y"}))
    p = WHO.prefix
    assert one.name == f"{p}-web"
    assert pairs(one.create, "--env") == ["A=1", "FROM_OUTSIDE"]
    assert pairs(one.create, "--publish") == ["127.0.0.1:8080:80/tcp", "[::1]::53/udp", "81/tcp"]
    assert pairs(one.create, "--mount") == [
        f"type=volume,src={p}-rows,dst=/data,ro=true",
        'type=bind,src=/srv/x,"dst=/a,""b"',
        "type=tmpfs,dst=/m,tmpfs-size=1024",
    ]
    assert pairs(one.create, "--secret") == [
        f"{p}-token,type=mount,target=/run/secrets/token,uid=5,gid=6,mode=0440"
    ]
    assert pairs(one.create, "--restart") == ["on-failure:3"]
    assert pairs(one.create, "--network") == ["shop-net:ip=10.89.0.2,alias=web"]
    assert {"--read-only", "no-new-privileges", "CHOWN", "--ulimit"} <= {*one.create}
    assert one.create[-3:] == ("a" * 64, "--fast", "-v")
    assert pairs(one.create, "--entrypoint") == ['["/bin/web"]']
    assert one.grace == 3


def test_addresses_stay_and_are_given_once() -> None:
    stack = stack_of(StackMember("a", ""), StackMember("b", "", replicas=2))
    names = [WHO.called(one) for one in ("a", "b-1", "b-2")]
    first = {one.name: one.addresses["default"] for one in wanted(stack)}
    assert first == dict(zip(names, ("10.89.0.2", "10.89.0.3", "10.89.0.4"), strict=True))
    taken = {names[2]: {"default": "10.89.0.2"}, names[0]: {"default": "10.1.1.1"}}
    again = {one.name: one.addresses["default"] for one in wanted(stack, taken=taken)}
    assert again == dict(zip(names, ("10.89.0.3", "10.89.0.4", "10.89.0.2"), strict=True))
    small = {"default": LocalNetwork("n", "10.0.0.0/30", answers=True)}
    with pytest.raises(UsageError, match="no address left"):
        wanted(stack, small)


def test_names_are_written_down_where_nobody_answers_for_them() -> None:
    stack = stack_of(StackMember("app", "", links=(Link("db", "database"),)), StackMember("db", ""))
    app, _ = wanted(stack)
    assert pairs(app.create, "--add-host") == ["database:10.89.0.3"]
    app, db = wanted(stack, {"default": LocalNetwork("n", "10.89.0.0/24")})
    assert pairs(app.create, "--add-host") == ["db:10.89.0.3", "database:10.89.0.3"]
    assert pairs(db.create, "--add-host") == ["app:10.89.0.2"]
    assert app.waits == ((WHO.called("db"), "ready"),)


def known(one: WantedContainer, **more: object) -> KnownContainer:
    before = KnownContainer(one.name, WHO.prefix, one.member.name, "running", settings=one.settings)
    return replace(before, **more)  # type: ignore[arg-type]


def test_only_what_changed_is_made_again() -> None:
    stack = stack_of(
        StackMember("job", ""),
        StackMember("app", "", depends=(StartsAfter("job", "completed"),)),
        StackMember("db", ""),
    )
    job, app, db = wanted(stack)
    now = EngineState((known(job, state="exited"), known(app), known(db, settings="other")))
    assert [one.how for one in container_changes((job, app, db), now)] == [
        "kept",
        "kept",
        "replaced",
    ]
    now = EngineState((known(job, state="exited", status=1), known(app, state="exited")))
    assert [one.how for one in container_changes((job, app, db), now)] == [
        "started",
        "started",
        "created",
    ]
    moved = container_changes((app,), EngineState((known(app),)), {app.name})
    assert [one.how for one in moved] == ["replaced"]
    gone = KnownContainer(WHO.called("old"), WHO.prefix, "old", "running")
    assert superfluous((job,), EngineState((gone, known(job)))) == (gone,)


def test_settings_follow_image_environment_and_files() -> None:
    def settings(member: StackMember, image: LoadedImage = IMAGE, **environ: str) -> str:
        facts = LocalFacts(environment=environ)
        (one,) = wanted_containers(WHO, stack_of(member), {"a": image}, NET, {}, facts)
        return one.settings

    plain = StackMember("a", "here")
    seen = {
        settings(plain),
        settings(plain, LoadedImage(Digest("b" * 64))),
        settings(replace(plain, environment=(("X", "1"),))),
        settings(replace(plain, environment=(("X", None),)), X="1"),
        settings(replace(plain, environment=(("X", None),)), X="2"),
        settings(replace(plain, files=(StackFile("f", "/f", content="1"),))),
        settings(replace(plain, files=(StackFile("f", "/f", content="2"),))),
    }
    assert len(seen) == 7
    assert settings(replace(plain, place="elsewhere")) == settings(plain)


def test_what_came_later_ends_first() -> None:
    def one(name: str, *after: str) -> KnownContainer:
        return KnownContainer(name, "s", name, "running", after=after)

    db, app, web, alone = one("db"), one("app", "db"), one("web", "app", "db"), one("alone")
    assert removal_waves((db, app, web, alone)) == ((web, alone), (app,), (db,))
    circle = (one("x", "y"), one("y", "x"))
    assert removal_waves(circle) == (circle,)


def test_a_drawn_secret_lives_as_long_as_the_volumes() -> None:
    secrets = (KnownSecret("given"), KnownSecret("drawn", generated=True))
    with_volume = EngineState(volumes=("v",), secrets=secrets)
    assert remove_rest(with_volume, volumes=False) == (("secret", "rm", "given"),)
    assert remove_rest(with_volume, volumes=True) == (
        ("secret", "rm", "given", "drawn"),
        ("volume", "rm", "v"),
    )
    bare = EngineState(secrets=secrets)
    assert remove_rest(bare, volumes=False) == (("secret", "rm", "given", "drawn"),)


def test_a_network_that_is_another_one_is_stale() -> None:
    network = StackNetwork("back", internal=True)
    stack = stack_of(StackMember("a", "", networks=(Attachment("back"),)), networks=(network,))
    assert "--internal" in create_network(WHO, network)
    from buildit.stack.converge import KnownNetwork

    good = KnownNetwork(WHO.called("back"), settings=network_settings(network))
    old = KnownNetwork(WHO.called("back"), settings="x")
    other = KnownNetwork(WHO.called("gone"), settings="x")
    assert stale_networks(WHO, stack, EngineState(networks=(good, other))) == (other,)
    assert stale_networks(WHO, stack, EngineState(networks=(old,))) == (old,)


def test_a_secret_is_read_from_standard_input() -> None:
    words = create_secret(WHO, StackSecret("token", "file", "/etc/token"))
    assert words[-2:] == (WHO.called("token"), "-")
    assert "/etc/token" not in words


def test_what_podman_says_of_a_container() -> None:
    said = {
        "Name": "shop-1-web",
        "Id": "c0ffee",
        "Image": "a" * 64,
        "RestartCount": 2,
        "State": {"Status": "running", "Pid": 17, "ExitCode": 0},
        "Config": {
            "Labels": {
                "org.buildit.stack": "shop-1",
                "org.buildit.stack.member": "web",
                "org.buildit.stack.after": "shop-1-a shop-1-b",
                "org.buildit.stack.grace": "4",
            }
        },
        "NetworkSettings": {
            "Networks": {"shop-1-default": {"IPAddress": "10.89.0.2"}},
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None},
        },
        "HostConfig": {"LogConfig": {"Path": "/x/ctr.log"}, "RestartPolicy": {"Name": "always"}},
    }
    (one,) = read_containers(json.dumps([said]))
    assert (one.shown, one.member, one.pid, one.restarts, one.grace) == ("web", "web", 17, 2, 4)
    assert one.after == ("shop-1-a", "shop-1-b")
    assert one.networks == {"shop-1-default": "10.89.0.2"}
    assert [(port.address, port.outside, port.inside) for port in one.ports] == [("", 8080, 80)]
    assert read_containers("") == ()


HYBRID = "1 2 0:3 / /c rw - cgroup cgroup rw\n4 5 0:6 / /u rw - cgroup2 none rw\n"


def test_options_that_a_machine_needs() -> None:
    here = EngineFacts((), HYBRID, 0, 20000, 96365, has_runc=True)
    assert engine_options(here) == (
        ("--runtime", "runc"),
        ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=32768:32768"),
    )
    own = '[engine]\nruntime = "crun"\n[containers]\ndefault_ulimits = ["nofile=1:1"]\n'
    assert engine_options(replace(here, configs=(own,))) == ((), ())
    usual = EngineFacts((), "4 5 0:6 / /u rw - cgroup2 none rw\n", -1, 20000, 5, has_runc=True)
    assert engine_options(usual) == ((), ())


def test_the_telling_line_of_podman() -> None:
    told = 'time="x" level=warning msg="y"\nError: no such network\nexit\n'
    assert reason_of(told, 125) == "no such network"
    assert reason_of("", 125) == "status 125"


def test_lines_are_read_as_they_come(tmp_path: Path) -> None:
    log = tmp_path / "ctr.log"
    reader = LogReader("web", str(log))
    assert [*reader.lines()] == []
    log.write_bytes(b"2030-01-01T00:00:00.5+00:00 stdout F one\n2030-01-01T00:00:01Z stderr P ha")
    assert [(one.source, one.text) for one in reader.lines()] == [("stdout", "one")]
    with log.open("ab") as stream:
        stream.write(b"lf \n2030-01-01T00:00:02Z stdout F between\n")
        stream.write(b"2030-01-01T00:00:03Z stderr F done\nnonsense\n")
    assert [(one.source, one.text) for one in reader.lines()] == [
        ("stdout", "between"),
        ("stderr", "half done"),
    ]
    log.rename(tmp_path / "old")
    log.write_bytes(b"2030-01-01T00:00:04Z stdout P open")
    log.write_bytes(b"2030-01-01T00:00:04Z stdout P open\n")
    assert [one.text for one in reader.lines(all_of_it=True)] == ["open"]
    reader.close()


def test_times_of_lines() -> None:
    assert parse_log_row(b"x y z") == ("", "", "", "")
    assert moment("1970-01-01T01:00:01.25+01:00") == (1.0, 250_000_000)
    assert moment("soon") == (0.0, 0)
    assert since_of("1h30m", 10_000.0) == 10_000.0 - 5400
    assert since_of("90", 100.0) == 10.0
    assert since_of("1970-01-01T00:00:07Z", 0.0) == 7.0
    for wrong in ("", "later", "5x"):
        with pytest.raises(UsageError, match="not a time"):
            since_of(wrong, 0.0)
