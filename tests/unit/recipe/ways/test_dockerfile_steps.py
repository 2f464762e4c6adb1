"""A Dockerfile as steps of container.yaml: every instruction, scopes of variables, stages."""

from __future__ import annotations

import time
from collections.abc import Mapping as Map
from typing import Any

import pytest

from buildit.errors import BuilditError, RecipeError, UsageError
from buildit.model.image import App, Inherited
from buildit.model.platform import PLATFORMS
from buildit.model.recipe import RecipeOptions
from buildit.recipe.ways.dockerfile.scope import USUAL_PATH
from buildit.recipe.ways.dockerfile.steps import read_dockerfile
from buildit.recipe.ways.find import Foreign, Translated
from buildit.recipe.yaml.node import Node, Scalar, Sequence

pytestmark = pytest.mark.unit

AMD64, ARM64 = PLATFORMS["linux/amd64"], PLATFORMS["linux/arm64"]
BASE = Inherited(
    App(
        ("/bin/app",),
        environment=(("PATH", "/opt/bin:/bin"), ("HOME_OF", "/srv")),
        working_directory="/srv",
    )
)
Plain = str | list[Any] | dict[str, Any]


def plain(node: Node) -> Plain:
    """A node without its places."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key.text: plain(value) for key, value in node.items}


def translated(
    text: str,
    base: Inherited | None = BASE,
    target: str = "",
    images: Map[str, str] | None = None,
    beside: Map[str, str] | None = None,
    name: str = "Dockerfile",
    **values: str,
) -> Translated:
    wanted = RecipeOptions(
        stage=target, values=tuple(values.items()), images=tuple((images or {}).items())
    )
    files = dict(beside or {})
    return read_dockerfile(Foreign(name, name, text, wanted, AMD64, ARM64, base, files.get))


def steps(text: str, *args: Any, **more: Any) -> list[Plain]:
    """The steps of a file that begins with nothing, without the PATH that such an image has."""
    first, *done = translated(f"FROM scratch\n{text}", *args, **more).steps.items
    assert plain(first) == {"env": {"PATH": USUAL_PATH}}
    return [plain(node) for node in done]


def over(text: str, **more: Any) -> list[Plain]:
    """The steps over a base, without its `from`."""
    return [plain(node) for node in translated(f"FROM x\n{text}", **more).steps.items][1:]


def only(text: str, **more: Any) -> Any:
    (one,) = steps(text, **more)
    return one


def refused(text: str, **more: Any) -> BuilditError:
    with pytest.raises((RecipeError, UsageError)) as caught:
        translated(text, **more)
    return caught.value


# -- what a stage begins with


@pytest.mark.parametrize(
    ("name", "images", "expected"),
    [
        ("debian:12", {}, {"oci": "debian:12"}),
        ("team/app", {}, {"oci": "team/app"}),
        ("registry.example.org/a/b:1", {}, {"oci": "docker://registry.example.org/a/b:1"}),
        ("localhost:5000/a", {}, {"oci": "docker://localhost:5000/a"}),
        ("./base", {}, {"container": "./base"}),
        ("../base", {}, {"container": "../base"}),
        ("debian:12", {"debian:12": "oci:../b"}, {"oci": "oci:../b"}),
        ("debian", {"debian:latest": "docker-archive:b.tar"}, {"docker-archive": "b.tar"}),
        ("b", {"b": "docker-image://h.example.org/x:1"}, {"oci": "docker://h.example.org/x:1"}),
        ("b", {"b": "./dir"}, {"container": "./dir"}),
        ("b", {"b": "base.aci"}, {"aci": "base.aci"}),
    ],
)
def test_from_an_image(name: str, images: dict[str, str], expected: dict[str, str]) -> None:
    done = translated(f"FROM {name}", images=images)
    assert [plain(node) for node in done.steps.items] == [{"from": expected}]
    assert not done.pending


def test_scratch_is_nothing() -> None:
    assert steps("") == []


def test_arguments_before_from_choose_the_image() -> None:
    text = "ARG TAG=12\nARG NAME=debian:${TAG}\nFROM ${NAME:-x} AS a\nFROM a\nFROM b:$TARGETARCH"
    assert plain(translated(text, target="a").steps.items[0]) == {"from": {"oci": "debian:12"}}
    with_tag = translated(text, target="a", TAG="13").steps.items[0]
    assert plain(with_tag) == {"from": {"oci": "debian:13"}}
    assert plain(translated(text, target="1").steps.items[0]) == {"from": {"stage": "a"}}
    assert plain(translated(text).steps.items[0]) == {"from": {"oci": "b:amd64"}}


def test_a_base_is_awaited_where_it_matters() -> None:
    text = "FROM x\nWORKDIR a\nENV P=$PATH\nUSER $WHO\nEXPOSE $N\nSTOPSIGNAL ${S?told}\nCMD b"
    first = translated(text, None)
    assert first.pending
    assert first.remarks == ()
    assert [plain(one) for one in first.steps.items] == [
        {"from": {"oci": "x"}},
        {"workdir": "/a"},
        {"directories": [{"path": "/a", "keep": "yes"}]},
        {"cmd": ["/bin/sh", "-c", "b"]},
    ]
    assert not translated("FROM scratch\nCMD a", None).pending
    assert "USER" in str(refused("FROM x\nUSER a:b:c", base=None))


def test_what_a_base_keeps_is_read_first() -> None:
    base = Inherited(
        App(
            (),
            environment=(("PATH", "/b"),),
            onbuild=("ARG V=1", "COPY . /app/", "RUN <<E\nmake $V\nE"),
        )
    )
    done = [plain(one) for one in translated("FROM x\nRUN a $V", base, V="2").steps.items]
    assert done == [
        {"from": {"oci": "x"}},
        {"sync": {"src": ["."], "dest": "/app/", "recursive": "yes"}},
        {"run": {**run("make $V\n"), "env": {"V": "2"}}},
        {"run": {**run("a $V"), "env": {"V": "2"}}},
    ]
    wrong = Inherited(App((), onbuild=("FROM y",)))
    assert refused("# c\nFROM x", base=wrong).place == "Dockerfile:2:1"


# -- commands


def run(script: str, *shell: str) -> dict[str, Any]:
    return {"exec": [*(shell or ("/bin/sh", "-c")), script], "as-app": "yes", "network": "yes"}


def test_run() -> None:
    assert only("RUN a '$b'  c") == {"run": run("a '$b'  c")}
    assert only('RUN ["a", "$b"]') == {"run": {**run(""), "exec": ["a", "$b"]}}
    quiet = run("a")
    del quiet["network"]
    assert only("RUN --network=none a") == {"run": quiet}
    assert only("RUN --network=default --security=sandbox a") == {"run": run("a")}


def test_run_with_the_shell_of_the_image() -> None:
    told = steps('SHELL ["/bin/bash", "-ec"]\nRUN a\nCMD b\nENTRYPOINT c')
    assert told == [
        {"shell": ["/bin/bash", "-ec"]},
        {"run": run("a", "/bin/bash", "-ec")},
        {"cmd": ["/bin/bash", "-ec", "b"]},
        {"entrypoint": ["/bin/bash", "-ec", "c"]},
    ]
    base = Inherited(App((), environment=(("PATH", "/b"),), interpreter=("/bin/ash", "-c")))
    assert over("RUN a", base=base) == [{"run": run("a", "/bin/ash", "-c")}]


def test_run_with_heredocs() -> None:
    assert only("RUN <<E\na $b\n\tc\nE") == {"run": run("a $b\n\tc\n")}
    assert only("RUN <<-E\n\ta\n\tE") == {"run": run("a\n")}
    assert only("RUN cat <<A <<'B' > x\n1\nA\n$2\nB") == {
        "run": run("cat <<A <<'B' > x\n1\nA\n$2\nB")
    }
    script = {"type": "text", "dest": "/dev/pipes/E", "content": "#!/usr/bin/perl\n1\n"}
    assert only("RUN <<E\n#!/usr/bin/perl\n1\nE") == {
        "run": {**run("/dev/pipes/E"), "mounts": [{**script, "mode": "0755"}]}
    }


def test_mounts() -> None:
    text = """\
FROM scratch AS a
FROM scratch
WORKDIR /w
ARG ID=pip
RUN --mount=type=cache,id=$ID,target=.cache,sharing=locked,mode=0700,uid=5 \\
    --mount=target=/src,rw --mount=type=bind,from=a,src=/x/../y,dst=/y,ro \\
    --mount=type=tmpfs,target=/t,size=64m \\
    --mount=type=secret,id=token --mount=type=secret,id=k,env=K,required \\
    --mount="type=secret,id=a b,target=key" x
"""
    done = translated(text, beside={".dockerignore": "*.o"}).steps.items[-1]
    assert plain(done)["run"]["mounts"] == [  # type: ignore[call-overload,index]
        {
            "type": "cache",
            "dest": "/w/.cache",
            "id": "pip",
            "sharing": "locked",
            "mode": "0700",
            "uid": "5",
        },
        {"type": "bind", "dest": "/src", "src": ".", "ignore": ["*.o"], "writable": "yes"},
        {"type": "bind", "dest": "/y", "from": {"stage": "a"}, "src": "y"},
        {"type": "tmpfs", "dest": "/t", "size": "64M"},
        {"type": "secret", "dest": "/run/secrets/token", "id": "token"},
        {"type": "secret", "id": "k", "required": "yes", "env": "K"},
        {"type": "secret", "dest": "/w/key", "id": "a b"},
    ]


@pytest.mark.parametrize(
    ("mount", "message", "hint"),
    [
        ("type=bnid,target=/x", "no mount of type 'bnid'", "did you mean 'bind'?"),
        ("type=cache", "has no target", "target=/PATH"),
        ("type=cache,taget=/x", "has no 'taget'", "did you mean 'target'?"),
        ("type=tmpfs,target=/x,from=a", "has no 'from'", "valid here"),
        ("type=cache,target", "'target' of --mount has no value", "target="),
        ("type=ssh", "an SSH agent cannot be had", "type=secret"),
        ("type=secret", "has no id", "--secret"),
        ("type=cache,target=/x,sharing=lokced", "cannot be shared as", "did you mean 'locked'?"),
        ("type=cache,target=/x,mode=9", "no octal number", "0755"),
        ("type=cache,target=/x,uid=me", "no number", ""),
        ("type=tmpfs,target=/x,size=big", "no size", "64m"),
        ("type=bind,target=/", "nothing can be mounted over /", "directory"),
        ("type=bind,target=/x,ro=maybe", "true or false", ""),
    ],
)
def test_mounts_that_are_wrong(mount: str, message: str, hint: str) -> None:
    error = refused(f"FROM scratch\n\nRUN --mount={mount} x")
    assert message in error.message
    assert hint in str(error.hint)
    assert error.place == "Dockerfile:3:1"


# -- files


def sync(*src: str, dest: str, **more: Any) -> dict[str, Any]:
    made = {"src": [*src], "dest": dest, "recursive": "yes", **more}
    return {"sync": {key.replace("_", "-"): value for key, value in made.items()}}


def test_copy() -> None:
    assert only("COPY a ./b/../c /x/") == sync("a", "c", dest="/x/")
    assert only("COPY a /x") == sync("a", dest="/x")
    assert only("COPY a* /b ./c/ /x/") == sync("a*", "b", "c", dest="/x/")
    assert only("COPY . .") == sync(".", dest="/")
    assert only('COPY ["a b", "/x y/"]') == sync("a b", dest="/x y/")
    assert only('COPY "a b" /x') == sync("a b", dest="/x")
    assert over("COPY a b/") == [sync("a", dest="/srv/b/")]
    assert over("COPY a .") == [sync("a", dest="/srv/")]
    assert over("WORKDIR b\nCOPY a ./")[-1] == sync("a", dest="/srv/b/")
    assert over("COPY a $HOME_OF/${unset:-y}") == [sync("a", dest="/srv/y")]


def test_copy_with_flags() -> None:
    assert only("ARG U=me\nCOPY --chown=$U:you --chmod=644 --link a /x") == sync(
        "a", dest="/x", owner="me:you", chmod="0644", dirmode="0644"
    )
    assert only("COPY --chmod=u=rwx,go=rx a /x") == sync(
        "a", dest="/x", chmod="u=rwx,go=rx", dirmode="u=rwx,go=rx"
    )
    assert only("COPY --parents a/b c/d /x/") == sync("a/b", "c/d", dest="/x/", parents="yes")
    assert only("COPY --exclude=*.o --exclude=**/tmp a /x/") == sync(
        "a", dest="/x/", exclude=["*.o", "**/tmp", "*.o/**", "**/tmp/**"]
    )


def test_copy_from() -> None:
    text = "FROM scratch AS One\nFROM scratch\nCOPY --from={} /a/. b/ /x/"
    for name, origin in (
        ("ONE", {"stage": "one"}),
        ("0", {"stage": "one"}),
        ("./dir", {"container": "./dir"}),
        ("img", {"oci": "img"}),
        ("ctx", {"oci": "oci:../c"}),
    ):
        done = translated(text.format(name), images={"ctx": "oci:../c"}).steps.items
        assert [plain(one) for one in done[1:]] == [sync("a", "b", dest="/x/", **{"from": origin})]
    told = translated(text.format("on")).remarks
    assert told == (
        "Dockerfile:3:1: no stage is called 'on', so it is an image; did you mean one?",
    )


def test_what_docker_leaves_out_stays_out_of_the_context_alone() -> None:
    beside = {".dockerignore": "*.o\n", "ci.Dockerfile.dockerignore": "*.c\n"}
    text = "FROM scratch AS a\nCOPY . /\nFROM scratch\nCOPY . /\nCOPY --from=a / /"
    done = translated(text, beside=beside)
    assert [plain(one) for one in done.steps.items[1:]] == [
        sync(".", dest="/", ignore=["*.o"]),
        sync(".", dest="/", **{"from": {"stage": "a"}}),
    ]
    other = translated(text, beside=beside, name="ci.Dockerfile").steps.items[1]
    assert plain(other) == sync(".", dest="/", ignore=["*.c"])


def test_copy_with_heredocs() -> None:
    inner = 'it\'s "$A" \\$A\none\n\t$A\n\ttwo'
    text = f"ARG A=1\nCOPY --chown=5 --chmod=600 <<one <<-'two' f /d/\n{inner}"
    more = {"mode": "0600", "owner": "5"}
    assert steps(text) == [
        sync("f", dest="/d/", owner="5", chmod="0600", dirmode="0600"),
        {
            "texts": [
                {"path": "/d/one", "content": 'it\'s "1" $A\n', **more},
                {"path": "/d/two", "content": "$A\n", **more},
            ]
        },
    ]
    assert only("COPY <<E /d\nE") == {"texts": [{"path": "/d", "content": ""}]}


def test_add() -> None:
    assert only("ADD a.tar b /x/") == sync("a.tar", "b", dest="/x/", extract="yes")
    assert only("ADD --unpack=false a.tar /x/") == sync("a.tar", dest="/x/")
    url, digest = "https://example.org/a.tgz", "ab" * 32
    text = f"ADD --checksum=sha256:{digest} {url} /x/"
    assert only(text) == {"sync": {"src": [url], "dest": "/x/", "sha256": digest, "chmod": "0600"}}
    assert steps(f"ADD --chmod=755 a {url} b /x/") == [
        sync("a", dest="/x/", extract="yes", chmod="0755", dirmode="0755"),
        {"sync": {"src": [url], "dest": "/x/", "chmod": "0755", "dirmode": "0755"}},
        sync("b", dest="/x/", extract="yes", chmod="0755", dirmode="0755"),
    ]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("COPY a", "takes sources and a destination", "COPY SOURCE… DESTINATION"),
        ("COPY a b c", "several sources go to c", "c/"),
        ("COPY ../a /", "'../a' leads out of the directory", "copy it"),
        ("COPY $A /", "a source of COPY is empty", "variable"),
        ("COPY a it's /", "a single quote is not closed", "close it"),
        ("COPY --chmod=rwx a /", "--chmod=rwx is no mode", "0755"),
        ("COPY --chown=a: a /", "--chown=a: is no owner", "USER:GROUP"),
        ("COPY --from=7 a /", "there is no stage 7", "numbered from 0 to 0"),
        ("COPY --from=$A a /", "may not have a variable", "FROM $A AS files"),
        ("COPY --from=0 a /", "needs", "3"),
        ("ADD --checksum=sha256:12 https://example.org/a /", "is no SHA-256", "64 digits"),
        ("ADD --checksum=sha256:12 a /", "--checksum is for a URL", "leave it out"),
        ("ADD https://example.org/a.git#v1 /", "a git repository cannot be added", "sources:"),
        ("ADD git@example.org:a /", "a git repository cannot be added", "sources:"),
        ("ADD ftp://example.org/a /", "cannot be fetched", "https://"),
    ],
)
def test_copies_that_are_wrong(text: str, message: str, hint: str) -> None:
    error = refused(f"# c\nFROM scratch\n{text}")
    assert message in error.message
    assert hint in str(error.hint)
    assert error.place == "Dockerfile:3:1"


# -- what is said of the start


def test_env_sees_what_held_before_it() -> None:
    told = over("ENV A=1 B=$A\nENV A=2 B=$A C=${B:-x} PATH=$PATH:/own\nENV D  two $A  words ")
    assert told == [
        {"env": {"A": "1", "B": ""}},
        {"env": {"A": "2", "B": "1", "C": "x", "PATH": "/opt/bin:/bin:/own"}},
        {"env": {"D": "two 2  words"}},
    ]
    assert only(r"""ENV A="a b" B=c\ d E='$A' F="\"q\"" G= """) == {
        "env": {"A": "a b", "B": "c d", "E": "$A", "F": '"q"', "G": ""}
    }


def test_labels() -> None:
    assert only('LABEL a=b "c d"="e\\\n f" g.h=') == {"labels": {"a": "b", "c d": "e f", "g.h": ""}}
    assert only("LABEL a b c") == {"labels": {"a": "b c"}}


def test_workdir_and_user() -> None:
    assert over("WORKDIR a\nWORKDIR ../b/./c\nWORKDIR /\nWORKDIR $HOME_OF\nUSER ${U:-me}:5") == [
        {"workdir": "/srv/a"},
        {"directories": [{"path": "/srv/a", "keep": "yes"}]},
        {"workdir": "/srv/b/c"},
        {"directories": [{"path": "/srv/b/c", "keep": "yes"}]},
        {"workdir": "/"},
        {"workdir": "/srv"},
        {"directories": [{"path": "/srv", "keep": "yes"}]},
        {"user": "me:5"},
    ]
    owned = {"path": "/srv/a", "keep": "yes", "owner": "me"}
    assert over("USER me\nWORKDIR a")[-1] == {"directories": [owned]}


def test_ports_and_volumes_are_all_of_the_stage() -> None:
    told = steps('EXPOSE 80 53/UDP\nVOLUME /a /b\nARG P=90-92\nEXPOSE $P 80/tcp\nVOLUME ["/c d"]')
    assert told == [
        {"ports": ["80/tcp", "53/udp", "90/tcp", "91/tcp", "92/tcp"]},
        {"volumes": ["/a", "/b", "/c d"]},
    ]
    done = translated("FROM scratch\nEXPOSE 1\n\nEXPOSE 2").steps.items[1]
    ports = done.get("ports")  # type: ignore[union-attr]
    assert isinstance(ports, Sequence)
    assert [item.place.line for item in ports.items] == [2, 4]


def test_entrypoint_empties_the_command_of_the_base() -> None:
    assert steps("ENTRYPOINT a $b") == [{"entrypoint": ["/bin/sh", "-c", "a $b"]}, {"cmd": []}]
    assert steps('CMD ["c"]\nENTRYPOINT ["a"]') == [{"cmd": ["c"]}, {"entrypoint": ["a"]}]
    assert steps("ENTRYPOINT []\nCMD []") == [{"entrypoint": []}, {"cmd": []}, {"cmd": []}]


def test_healthcheck() -> None:
    flags = "--interval=1m30s --timeout=3s --start-period=2m --retries=5"
    times = {"interval": "90s", "timeout": "3s", "start": "120s", "retries": "5"}
    assert only(f'HEALTHCHECK {flags} CMD ["a", "b"]') == {
        "healthcheck": {"exec": ["a", "b"], **times}
    }
    assert only("HEALTHCHECK  cmd  curl $x || exit 1") == {
        "healthcheck": {"script": "curl $x || exit 1"}
    }
    assert only("HEALTHCHECK --interval=0 --retries=0 CMD a") == {"healthcheck": {"script": "a"}}
    assert only("HEALTHCHECK NONE") == {"healthcheck": {"none": "yes"}}
    told = translated("FROM scratch\nHEALTHCHECK --start-interval=1s CMD a").remarks
    assert told == ("Dockerfile:2:1: --start-interval is left out: no image of OCI can say it",)


def test_the_rest() -> None:
    assert only("STOPSIGNAL SIGQUIT") == {"stop-signal": "SIGQUIT"}
    assert only("MAINTAINER Me <me@example.org>") == {"vars": {"author": "Me <me@example.org>"}}
    assert steps("ONBUILD RUN a \\\n b\nONBUILD COPY <<E /x\n1\nE") == [
        {"onbuild": ["RUN a  b", "COPY <<E /x\n1\nE"]}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN", "RUN has no command"),
        ("RUN []", "RUN has no command"),
        ("RUN --network=host a", "--network=host cannot be had"),
        ("RUN --security=insecure a", "insecure is refused"),
        ("RUN --device=x a", "no devices"),
        ("ENV", "ENV says nothing"),
        ("ENV A", "ENV A has no value"),
        ("ENV A=1 B", "'B' is no NAME=value"),
        ("LABEL =a", "is no NAME=value"),
        ("ARG", "ARG has no name"),
        ("ARG =a", "ARG has no name"),
        ("EXPOSE", "EXPOSE says nothing"),
        ("EXPOSE 0", "'0' is no port"),
        ("EXPOSE 99999", "'99999' is no port"),
        ("EXPOSE 80:80", "'80:80' is no port"),
        ("EXPOSE 9-8", "'9-8' is no port"),
        ("EXPOSE 1-65535", "more than 1000 ports"),
        ("VOLUME", "VOLUME names nothing"),
        ("VOLUME data", "is no absolute path"),
        ("USER", "USER says nothing"),
        ("USER a:b:c", "is no user"),
        ("WORKDIR", "WORKDIR says nothing"),
        ("WORKDIR $A", "WORKDIR is empty"),
        ("SHELL /bin/bash -c", "SHELL takes a list"),
        ("SHELL []", "SHELL takes a list"),
        ("HEALTHCHECK", "HEALTHCHECK  is none"),
        ("HEALTHCHECK RUN a", "HEALTHCHECK RUN is none"),
        ("HEALTHCHECK CMD", "HEALTHCHECK CMD is none"),
        ("HEALTHCHECK NONE a", "HEALTHCHECK NONE is none"),
        ("HEALTHCHECK --interval=500ms CMD a", "--interval=500ms cannot be kept"),
        ("HEALTHCHECK --retries=-1 CMD a", "--retries=-1 is no number"),
        ("ONBUILD", "ONBUILD has no instruction"),
        ("ONBUILD ONBUILD RUN a", "a trigger that is none"),
        ("ONBUILD FROM a", "a trigger that is none"),
        ("ONBUILD RNU a", "unknown instruction 'RNU'"),
        ("MAINTAINER", "MAINTAINER says nothing"),
        ("STOPSIGNAL ${A?told}", "A: told"),
    ],
)
def test_instructions_that_are_wrong(text: str, message: str) -> None:
    error = refused(f"# c\nFROM scratch\n{text}")
    assert message in error.message
    assert str(error.place).startswith("Dockerfile:3:")


# -- variables


def argued(text: str, **values: str) -> Any:
    """The environment that the last RUN has for its arguments."""
    done = plain(translated(text, BASE, "", None, None, "Dockerfile", **values).steps.items[-1])
    assert isinstance(done, dict)
    return done["run"].get("env")


def test_an_argument_counts_from_its_line_on() -> None:
    assert argued("FROM x\nARG A=1\nARG B=$A$C C=3\nRUN x") == {"A": "1", "B": "1", "C": "3"}
    assert argued("FROM x\nRUN x\nARG A=1\nRUN x", A="2") == {"A": "2"}
    assert argued("FROM x\nARG A=1\nFROM y\nRUN x") is None
    assert argued("FROM x\nARG A\nRUN x") is None


def test_an_argument_before_all_stages_is_named_again() -> None:
    text = "ARG A=1\nARG B=${A}x\nFROM x AS s\nARG B\nFROM y\nARG B\nARG A=9\nRUN x"
    assert argued(text) == {"A": "9", "B": "1x"}
    assert argued(text, A="2") == {"A": "2", "B": "2x"}
    assert argued("ARG A=1\nFROM x\nRUN x") is None


def test_the_environment_wins_over_arguments() -> None:
    assert argued("FROM x\nENV A=e\nARG A=a\nARG B=$A\nRUN x", A="c") == {"B": "e"}
    assert argued("FROM x\nARG PATH=/x\nRUN x") is None


def test_arguments_that_are_there_by_themselves() -> None:
    assert argued("FROM x\nRUN x", HTTP_PROXY="p", no_proxy="n") == {
        "HTTP_PROXY": "p",
        "no_proxy": "n",
    }
    text = "FROM x AS s\nARG TARGETARCH BUILDARCH TARGETPLATFORM\nRUN x"
    assert argued(text) == {
        "TARGETARCH": "amd64",
        "BUILDARCH": "arm64",
        "TARGETPLATFORM": "linux/amd64",
    }
    assert argued("FROM x\nRUN x $TARGETARCH") is None


def test_an_argument_that_nothing_asks_for_is_refused() -> None:
    error = refused("FROM x\nARG VERSION\nONBUILD ARG later=1", VERSOIN="1")
    assert error.message == "no ARG declares 'VERSOIN', which --build-arg gives"
    assert error.hint == "did you mean VERSION? it declares VERSION, later"
    assert refused("FROM x", A="1").hint == "it has no ARG"
    translated("FROM x\nONBUILD ARG later=1", later="2", SOURCE_DATE_EPOCH="1", BUILDKIT_X="1")
    translated("FROM x", Inherited(App((), onbuild=("ARG A",))), A="1")


def test_a_variable_that_is_not_set_is_told() -> None:
    done = translated("FROM x\nARG VERSION=1\nENV A=$VERSOIN B=${C:-d}")
    (told,) = done.remarks
    assert told.startswith(
        "Dockerfile:3:1: no variable 'VERSOIN' is set here: it stands for nothing"
    )
    assert told.endswith("did you mean VERSION?")
    assert translated("FROM x\nARG A\nENV B=$A").remarks == ()


# -- stages


def test_only_what_is_asked_for_and_needed_has_to_be_right() -> None:
    text = "FROM x AS a\nFROM y AS b\nEXPOSE nonsense\nFROM a"
    assert [plain(one) for one in translated(text).steps.items] == [{"from": {"stage": "a"}}]
    assert "no port" in str(refused(text, target="b"))


def test_a_stage_that_there_is_not() -> None:
    error = refused("FROM x AS build\nFROM y AS final", target="biuld")
    assert error.message == "there is no stage 'biuld', which --target asks for"
    assert error.hint == "did you mean 'build'? valid here: build, final"


def test_stages_that_need_each_other() -> None:
    text = "FROM x AS a\nCOPY --from=c /x /\nFROM a AS b\nFROM b AS c\nRUN a"
    error = refused(text)
    assert error.message == "stages need each other: c needs b needs a needs c"
    assert (error.place, error.hint) == ("Dockerfile:2:1", "take one of the lines out: 4, 3, 2")
    mount = "FROM x AS a\nRUN --mount=from=b,target=/b y\nFROM a AS b"
    assert "a needs b needs a" in str(refused(mount, target="a"))
    assert "0 needs 0" in str(refused("FROM x\nRUN --mount=from=0,target=/b y"))


def test_a_stage_of_that_name_further_down_is_an_image() -> None:
    text = "FROM b AS a\nFROM a AS b"
    assert plain(translated(text, target="a").steps.items[0]) == {"from": {"oci": "b"}}


def test_a_stage_for_another_platform_is_refused() -> None:
    for fits in ("linux/amd64", "$TARGETPLATFORM", "amd64"):
        translated(f"FROM --platform={fits} x")
    error = refused("FROM --platform=$BUILDPLATFORM x")
    assert error.message == "the stage is for linux/arm64, and linux/amd64 is built for"


def test_no_image() -> None:
    assert "it is empty" in str(refused("ARG A\nFROM $A"))
    assert "is no name of an image" in str(refused("FROM Debian:12"))


def test_hostile_files_end_soon() -> None:
    begin = time.process_time()
    bomb = "ENV A=" + "x" * 1000 + "\n" + "ENV A=$A$A\n" * 100
    assert "longer than" in str(refused(f"FROM scratch\n{bomb}"))
    many = "".join(f"ENV A{number}=${{A{number - 1}}}{'x' * 1000}\n" for number in range(1, 4000))
    assert "larger than 1 MiB" in str(refused(f"FROM scratch\n{many}"))
    assert "200 arguments" in str(refused("FROM scratch\n" + "".join(
        f"ARG A{number}=1\n" for number in range(4000)
    )))  # fmt: skip
    chain = "FROM scratch AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(2000))
    translated(chain)
    steps("EXPOSE 1-900\n" * 4000)
    steps("ARG A=1\n" + "RUN x\n" * 4000)
    assert time.process_time() - begin < 20
