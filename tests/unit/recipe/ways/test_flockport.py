"""Flockport recipes as steps, and what is refused, with its line."""

from __future__ import annotations

from typing import Any

import pytest

from buildit.errors import RecipeError, UsageError
from buildit.recipe.ways.flockport import read_flockport
from tests.unit.recipe.ways.reading import foreign, steps

pytestmark = pytest.mark.unit

RUN = {"as-app": "yes"}
NET = {"as-app": "yes", "network": "yes"}
PINNED = {"as-app": "yes", "debs": ["nginx"]}


def read(text: str, **said: Any) -> list[tuple[int, Any]]:
    return steps(read_flockport, foreign(text, "Flockportfile", **said))


def test_every_keyword() -> None:
    text = r"""
# a blog
FROM debian-12
ENV APP=blog HOME_DIR=/srv/$APP
env TITLE My   own blog

COPY conf/ /etc/blog/
COPY ./one.txt two.txt ${HOME_DIR}/
RUN apt-get update && \
    # what it needs
    apt-get install -y nginx
RUN echo "$APP"
PORT 8080:80 443/TCP 53/udp
VOLUME /srv/blog/data /var/log/
DBASE mysql blog
"""
    assert read(text) == [
        (3, {"from": {"suite": "debian-12"}}),
        (3, {"entrypoint": []}),  # LXC's own: the init
        (4, {"env": {"APP": "blog", "HOME_DIR": "/srv/"}}),  # as Docker: of the lines above
        (5, {"env": {"TITLE": "My   own blog"}}),
        (7, {"sync": {"src": ["conf/"], "dest": "/etc/blog/"}}),
        (8, {"sync": {"src": ["./one.txt", "two.txt"], "dest": "/srv//"}}),
        (9, {"run": {"script": "apt-get update && \\\n    apt-get install -y nginx\n", **PINNED}}),
        (12, {"run": {"script": 'echo "$APP"\n', **RUN}}),
        (15, {"database": {"engine": "mariadb", "name": "blog"}}),
        (13, {"ports": ["80/tcp", "443/tcp", "53/udp"]}),
        (14, {"volumes": ["/srv/blog/data", "/var/log"]}),
    ]


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("debian:12", {"suite": "debian-12"}),
        ("Debian:trixie", {"suite": "debian-13"}),
        ("debian-bookworm", {"suite": "debian-12"}),
        ("debian", {"oci": "debian"}),
        ("debian:12-slim", {"oci": "debian:12-slim"}),
        ("alpine:3.19", {"oci": "alpine:3.19"}),
        ("oci:../base.oci", {"oci": "oci:../base.oci"}),
        ("docker://registry.example.org/a:1", {"oci": "docker://registry.example.org/a:1"}),
        ("docker-archive:../a.tar", {"docker-archive": "../a.tar"}),
    ],
)
def test_bases(name: str, spec: dict[str, str]) -> None:
    first, *more = read(f"FROM {name}")
    assert first == (1, {"from": spec})
    assert more == ([(1, {"entrypoint": []})] if "suite" in spec else [])


def test_the_command_line_says_what_a_name_stands_for() -> None:
    said = (("debian:12", "oci:../base"),)
    assert read("FROM debian:12", images=said) == [(1, {"from": {"oci": "oci:../base"}})]


def test_a_script_of_several_lines() -> None:
    text = """FROM debian:12
RUN <<EOF
cd /srv
FROM here on it is text
EOF
RUN cat > /etc/motd <<-'END' && touch /etc/done
\thello $NAME
\tEND
PORT 80
"""
    assert read(text) == [
        (1, {"from": {"suite": "debian-12"}}),
        (1, {"entrypoint": []}),
        (2, {"run": {"script": "cd /srv\nFROM here on it is text\n", **NET}}),
        (
            6,
            {
                "run": {
                    "script": "cat > /etc/motd <<-'END' && touch /etc/done\n\thello $NAME\n\tEND\n",
                    **NET,
                }
            },
        ),
        (9, {"ports": ["80/tcp"]}),
    ]


def test_variables_of_the_base_are_known_later() -> None:
    text = "FROM debian:12\nENV PATH=/opt/bin:$PATH ROOT=$PREFIX/x\n"
    first = read_flockport(foreign(text))
    assert first.pending
    again = foreign(text, base={"PREFIX": "/usr", "PATH": "/bin"})
    assert not read_flockport(again).pending
    env = {"PATH": "/opt/bin:/bin", "ROOT": "/usr/x"}
    assert steps(read_flockport, again)[2] == (2, {"env": env})
    with pytest.raises(RecipeError, match="'PREFIX' is not set by an ENV above") as caught:
        read_flockport(foreign(text, base={}))
    assert caught.value.place == "box/recipe:2:1"


def test_the_command_line_sets_variables() -> None:
    text = "FROM debian:12\nENV PORT=80 NAME=a\nPORT $PORT\n"
    found = read(text, values=(("PORT", "81"),))
    assert found[2:] == [(2, {"env": {"PORT": "81", "NAME": "a"}}), (3, {"ports": ["81/tcp"]})]
    with pytest.raises(UsageError, match="ENV asks for no 'PRT'") as caught:
        read(text, values=(("PRT", "81"),))
    assert "did you mean 'PORT'?" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="a Flockport recipe has no stages"):
        read(text, stage="build")


def test_databases() -> None:
    words = {"mysql": "mariadb", "MySQL": "mariadb", "PostgreSQL": "postgresql"}
    for word, engine in words.items():
        found = {"engine": engine, "name": "app"}
        assert read(f"FROM debian:12\nDBASE {word} app")[2] == (2, {"database": found})
    found = {"engine": "postgresql"}
    assert read("FROM debian:12\nDBASE postgresql")[2] == (2, {"database": found})
    own = {"engine": "mariadb", "name": "app", "password": "db-password", "host": "database"}
    text = "FROM debian:12\nDBASE mysql app own"
    assert read(text)[2] == (2, {"database": own})
    (told,) = read_flockport(foreign(text)).remarks
    assert "the database is a container of its own" in told


def test_a_port_of_the_machine_is_told() -> None:
    told = read_flockport(foreign("FROM debian:12\nPORT 8080:80")).remarks
    assert told == (
        (
            "box/recipe:2: an image cannot say which port of the machine leads to 80/tcp: "
            "start it so, as with `podman run -p 8080:80`"
        ),
    )


@pytest.mark.parametrize(
    ("text", "place", "said", "hint"),
    [
        ("", "1:1", "the recipe is empty", "FROM debian:12"),
        ("# nothing\n\n", "1:1", "the recipe is empty", "FROM debian:12"),
        ("RUN true\nFROM debian:12", "1:1", "begins with RUN, not with FROM", "FROM debian:12"),
        ("FROM a:1\n\n  RUM true", "3:3", "unknown keyword 'RUM'", "did you mean RUN?"),
        ("FROM a:1\nCMD true", "2:1", "unknown keyword 'CMD'", "the init of the base"),
        ("FROM a:1\nEXPOSE 80", "2:1", "unknown keyword 'EXPOSE'", "write PORT"),
        ("FROM a:1\nFROM b:2", "2:1", "a second FROM", "Dockerfile"),
        ("FROM a:1 AS x", "1:1", "FROM takes one name", "write FROM NAME"),
        ("FROM", "1:1", "FROM says nothing", "write FROM NAME"),
        ("FROM a:1\nENV", "2:1", "ENV says nothing", "write ENV"),
        ("FROM a:1\nENV A", "2:1", "ENV gives 'A' no value", "write ENV"),
        ("FROM a:1\nENV A=1 B", "2:1", "ENV gives 'B' no value", "into quotes"),
        ("FROM a:1\nENV 1A=1", "2:1", "cannot be the name of a variable", "write ENV"),
        ('FROM a:1\nENV A="x', "2:1", "a double quote is not closed", "close it"),
        ("FROM a:1\nCOPY x", "2:1", "COPY takes what is copied", "write COPY"),
        ("FROM a:1\nCOPY a b /c", "2:1", "several files are copied to '/c'", "write /c/"),
        ("FROM a:1\nCOPY --from=x a /b", "2:1", "COPY takes no --from=x", "Dockerfile"),
        ("FROM a:1\nRUN cat <<EOF\nx\n", "2:1", "the here-document EOF does not end", "EOF alone"),
        ("FROM a:1\nPORT http", "2:1", "'http' is no port", "write PORT"),
        ("FROM a:1\nPORT 0", "2:1", "'0' is no port", "write PORT"),
        ("FROM a:1\nPORT 80:65536", "2:1", "'80:65536' is no port", "write PORT"),
        ("FROM a:1\nPORT 80/tpc", "2:1", "there is no protocol 'tpc'", "did you mean tcp?"),
        ("FROM a:1\nPORT 80\nPORT 080", "3:1", "the port 80/tcp is there twice", "at BOX:2"),
        (
            "FROM a:1\nPORT 8:80 8:81",
            "2:1",
            "the port 8/tcp of the machine is there twice",
            "BOX:2",
        ),
        ("FROM a:1\nVOLUME data", "2:1", "expected an absolute path, found 'data'", "/PATH"),
        ("FROM a:1\nVOLUME /a /a/", "2:1", "the volume /a/ is there twice", "leave one out"),
        ("FROM a:1\nDBASE mongo", "2:1", "there is no database 'mongo'", "mysql|postgresql"),
        ("FROM a:1\nDBASE mysql a b", "2:1", "DBASE takes an engine and a name", "write DBASE"),
        ("FROM a:1\nDBASE mysql a\nDBASE mysql b", "3:1", "a second database", "BOX:2"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, place: str, said: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert said in caught.value.message
    assert caught.value.place == f"box/Flockportfile:{place}"
    assert hint.replace("BOX", "box/Flockportfile") in (caught.value.hint or "")
