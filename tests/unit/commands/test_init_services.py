"""`init`: what is refused with its place, and what becomes of it in the plan and the layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.commands.accounts import Ids
from buildit.commands.running import app_of, init_of
from buildit.errors import RecipeError
from buildit.image.services import NEEDED, check_init, init_layer, quoted
from buildit.model.accounts import User
from buildit.model.image import App
from buildit.model.services import Init, Ready, Service, in_order
from buildit.model.tree import Entry, Kind
from buildit.recipe.container import Container
from buildit.recipe.lists import load_container

pytestmark = pytest.mark.unit

IDS = Ids({"web": User("web", 101, 102)}, {})


def loaded(tmp_path: Path, steps: str) -> Container:
    text = f"- vars: {{name: x, version: 1}}\n{steps}\n"
    (tmp_path / "container.yaml").write_text(text)
    return load_container(tmp_path)


def init(tmp_path: Path, services: str) -> Init:
    found = init_of(loaded(tmp_path, f"- init: {{services: {{{services}}}}}"), IDS)
    assert found is not None
    return found


def refused(tmp_path: Path, steps: str) -> RecipeError:
    def read() -> None:
        container = loaded(tmp_path, steps)
        app_of(container)
        init_of(container, IDS)

    with pytest.raises(RecipeError) as caught:
        read()
    return caught.value


def test_services_start_behind_those_that_they_are_after(tmp_path: Path) -> None:
    found = init(
        tmp_path,
        "c: {exec: [/c], after: [b]}, b: {exec: [/b], user: web, stop-timeout: 5s}, "
        "a: {exec: [/a, ''], on-exit: stop, ready: {exec: [/r], timeout: 1m}}",
    )
    assert [one.name for one in found.services] == ["b", "c", "a"]
    by_name = {one.name: one for one in found.services}
    assert (by_name["b"].uid, by_name["b"].gid, by_name["b"].stop_timeout) == (101, 102, 5)
    assert by_name["a"].ready == Ready(("/r",), None, 60)
    assert (by_name["a"].exec, by_name["a"].ends_all) == (("/a", ""), True)
    assert found.place.endswith("container.yaml:2:3")


def test_the_app_of_services_is_the_init(tmp_path: Path) -> None:
    steps = "- init: {services: {a: {exec: [/a]}}}\n- env: {A: b}\n"
    found = app_of(loaded(tmp_path, f"{steps}- app: {{ports: [80]}}"))
    assert found is not None
    assert (found.exec, found.stop_signal, found.environment) == (
        ("/usr/sbin/init",),
        "SIGTERM",
        (("A", "b"),),
    )
    assert [port.number for port in found.ports] == [80]
    assert app_of(loaded(tmp_path, steps)) == App(
        ("/usr/sbin/init",), stop_signal="SIGTERM", environment=(("A", "b"),)
    )


ONE = "- init: {services: {a: {exec: [/a]}}}"


@pytest.mark.parametrize(
    ("steps", "told", "line"),
    [
        ("- init: {services: {a: {exec: [/a], after: [bb]}, b: {exec: [/b]}}}", "called 'bb'", 2),
        ("- init: {services: {a: {exec: [/a], after: [a]}}}", "a after a", 2),
        (
            "- init: {services: {a: {exec: [/a], after: [b]}, b: {exec: [/b], after: [a]}}}",
            "a after b after a",
            2,
        ),
        ("- init: {services: {a: {exec: [a]}}}", "not with an absolute path", 2),
        ("- init: {services: {a: {exec: [/a], user: who}}}", "declares the user 'who'", 2),
        ("- init: {services: {a: {exec: [/a], stop-signal: TERM}}}", "write SIGTERM", 2),
        ("- init: {services: {a: {exec: [/a], ready: {}}}}", "a program or a file descriptor", 2),
        ("- init: {services: {a: {exec: [/a], ready: {fd: 2}}}}", "the service's own", 2),
        ("- init: {services: {A b: {exec: [/a]}}}", "'A b'", 2),
        ("- init: {services: {}}", "services", 2),
        (f"{ONE}\n{ONE}", "the service 'a' is there twice", 3),
        (f"{ONE}\n- app: {{exec: [/b]}}", "`exec` is said beside `init`", 3),
        (f"{ONE}\n- app: {{user: web}}", "`user` is said beside `init`", 3),
        (f"{ONE}\n- user: web", "`user` is said beside `init`", 3),
        ("- app: {ports: [80]}", "the app has no `exec`", 2),
    ],
)
def test_what_cannot_be_is_told_with_its_place(
    steps: str, told: str, line: int, tmp_path: Path
) -> None:
    error = refused(tmp_path, steps)
    assert told in error.message
    assert f"container.yaml:{line}:" in str(error.place)


def tree(*missing: str) -> dict[str, Entry]:
    names = [name for names in NEEDED.values() for name in names if name not in missing]
    return {f"usr/bin/{name}": Entry(f"usr/bin/{name}", Kind.FILE, 0o755) for name in names}


def test_an_image_without_the_programs_or_with_an_init_is_refused() -> None:
    wanted = Init((Service("a", ("/a",)),), "container.yaml:9:3")
    check_init(wanted, tree())
    for program, package in (("s6-svscan", "s6"), ("execlineb", "execline")):
        with pytest.raises(RecipeError, match=f"needs /usr/bin/{program}") as caught:
            check_init(wanted, tree(program))
        assert f"{{debian: {package}}}" in str(caught.value.hint)
        assert caught.value.place == wanted.place
    there = tree() | {"usr/sbin/init": Entry("usr/sbin/init", Kind.FILE, 0o755)}
    with pytest.raises(RecipeError, match="has /usr/sbin/init already"):
        check_init(wanted, there)


def test_words_are_quoted_for_execline() -> None:
    assert quoted('a "b" \\ $c\n') == '"a \\"b\\" \\\\ $c\n"'
    one = Service("a", ("/a", "x y"), uid=5, gid=6, working_directory="/w")
    _, texts = init_layer((one,))
    script = texts["etc/s6/services/a/run"].decode()
    assert script.splitlines()[1:] == ['cd "/w"', 's6-applyuidgid -u 5 -g 6 -G ""', '"/a" "x y"']


def test_stopping_is_starting_the_other_way_round() -> None:
    _, texts = init_layer((Service("a", ("/a",)), Service("b", ("/b",), after=("a",))))
    downs = [
        line.split()[-2] for line in texts["etc/s6/stop"].decode().splitlines() if "-d" in line
    ]
    assert downs == ["_start", "b", "a"]


def test_an_order_keeps_what_is_written() -> None:
    names = ("c", "a", "b")
    ordered, circle = in_order(tuple(Service(name, ("/x",)) for name in names))
    assert ([one.name for one in ordered], circle) == ([*names], ())


def test_a_service_is_started_once_its_supervisor_has_a_status() -> None:
    """s6-supervise listens (`s6-svok`) before it has written the status that `s6-svc -w` reads."""
    _, texts = init_layer((Service("a", ("/a",)),))
    start = next(text for text in texts.values() if b"s6-svc " in text and b"s6-svok" in text)
    places = [start.index(word) for word in (b"s6-svok ../a", b"s6-svstat ../a", b"-u ../a")]
    assert places == sorted(places)
