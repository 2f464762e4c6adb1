"""From files to keys: what moves a key and what does not, and what each build sees."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.codec import decode, encode
from buildit.digest import BuildKey, digest_bytes
from buildit.errors import RecipeError, UnsatisfiableError
from buildit.model.artifact import RUNTIME
from buildit.model.plan import ContainerPlan, PackageStep, Task
from buildit.plan.identity import build_key, deb_view
from tests.planning import LOCKED, TOOLCHAIN, Checkout, checkout, deb, locked

pytestmark = pytest.mark.unit

H = "a" * 64
PATCH = """\
--- a/src/x.c
+++ b/src/x.c
@@ -1 +1 @@
-a
+b
"""
APP = """\
description: An app
homepage: https://example.org
license: MIT
versions:
  1.0:
    sources:
      - url: https://example.org/app-1.0.tar.gz
        mirrors: [mirror://debian/pool/app.tar.gz]
        sha256: {H}
use:
  ssl: {default: on, description: TLS}
  docs: {default: off, description: Manuals}
depends:
  link: [lib/z, {when: ssl, atom: lib/tls}]
patches:
  one.patch: First
  two.patch: Second
style: autotools
configure:
  - {when: ssl, then: --with-ssl}
environment: {ONE: "1", TWO: "2"}
steps:
  check: make check
files:
  - {path: usr/bin/app, mode: 0755}
outputs:
  dev: [usr/share/app/**]
""".replace("{H}", H)
LIB = f"versions: {{1: {{sources: [{{url: https://example.org/l-1.tgz, sha256: {H}}}]}}}}\n"
CONTAINER = """\
- vars: {name: web, version: 1.0}
- package: {atom: x/app}
"""


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    made = checkout(tmp_path)
    made.write("container/container.yaml", CONTAINER)
    made.write("pkgs/x/app/pkg.yaml", APP)
    made.write("pkgs/x/app/one.patch", PATCH)
    made.write("pkgs/x/app/two.patch", PATCH.replace("x.c", "y.c"))
    made.write("pkgs/x/app/files/run", "#!/bin/sh\n")
    made.write("pkgs/lib/z/pkg.yaml", LIB)
    made.write("pkgs/lib/tls/pkg.yaml", LIB + "depends: {link: [lib/z]}\n")
    return made


def turned(text: str) -> str:
    """The same document with its top keys the other way around."""
    parts = re.split(r"(?m)^(?=[a-z])", text)
    return "".join(reversed(parts))


Edit = Callable[[Checkout], None]


def recipe(old: str, new: str, path: str = "pkgs/x/app/pkg.yaml") -> Edit:
    def edit(project: Checkout) -> None:
        text = (project.root / path).read_text()
        assert text.count(old) == 1
        project.write(path, text.replace(old, new))

    return edit


def written(path: str, text: str) -> Edit:
    return lambda project: project.write(path, text)


def executable(project: Checkout) -> None:
    (project.root / "pkgs/x/app/files/run").chmod(0o755)


def other_modes(project: Checkout) -> None:
    for path in sorted(project.root.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)


def newer_deb(project: Checkout) -> None:
    project.lock(locked("run", (deb("gcc", "2.0-1"), deb("libc6"), deb("libgcc-s1"))))


def reordered_debs(project: Checkout) -> None:
    project.lock(locked("run", (deb("libgcc-s1"), deb("libc6"), deb("gcc"))))


SAME: dict[str, Edit] = {
    "a comment": recipe("license: MIT", "# well\nlicense: MIT  # known"),
    "a description": recipe("An app", "Another app"),
    "a homepage": recipe("homepage: https://example.org", "homepage: https://example.com"),
    "a licence": recipe("MIT", "BSD-2-Clause"),
    "a flag's description": recipe("Manuals", "Many manuals"),
    "a flag without effect": recipe("docs: {default: off", "docs: {default: on"),
    "another such flag": recipe("  docs:", "  more: {default: on, description: d}\n  docs:"),
    "a mirror": recipe("pool/app", "pool/other"),
    "a URL": recipe("https://example.org/app", "https://example.com/app"),
    "a patch's description": recipe("First", "Foremost"),
    "a patch's fixes": recipe("Second", "{description: S, fixes: [CVE-2023-1], upstream: no}"),
    "the order of keys and their style": recipe(
        'environment: {ONE: "1", TWO: "2"}', "environment:\n  TWO: '2'\n  ONE: 1"
    ),
    "the order of top keys": lambda project: project.write("pkgs/x/app/pkg.yaml", turned(APP)),
    "a patch's mail header": written("pkgs/x/app/one.patch", "From: me\nSubject: x\n\n" + PATCH),
    "an ignored file": written("pkgs/x/app/README", "x"),
    "modes but for the x bit": other_modes,
    "the order of the locked .debs": reordered_debs,
    "another version in the tree": recipe("versions:\n", "versions:\n  0.9: {}\n"),
    "the container's name": recipe("name: web", "name: other", "container/container.yaml"),
    "CRLF line ends": lambda project: project.write(
        "pkgs/x/app/pkg.yaml", APP.replace("\n", "\r\n")
    ),
}  # fmt: skip

OTHER: dict[str, Edit] = {
    "a byte of a patch": written("pkgs/x/app/one.patch", PATCH.replace("+b", "+c")),
    "the order of patches": recipe(
        "  one.patch: First\n  two.patch: Second", "  two.patch: Second\n  one.patch: First"
    ),
    "a patch's strip": recipe("First", "{description: First, strip: 2}"),
    "a patch less": recipe("  two.patch: Second\n", ""),
    "a source's digest": recipe(H, "b" * 64),
    "a source's strip": recipe(f"sha256: {H}", f"sha256: {H}\n        strip: 0"),
    "a flag that matters": recipe("ssl: {default: on", "ssl: {default: off"),
    "the version": recipe("  1.0:", "  1.1:"),
    "an argument": recipe("--with-ssl", "--with-tls"),
    "a variable": recipe('TWO: "2"', 'TWO: "3"'),
    "a script": recipe("make check", "make test"),
    "a blank in a script": recipe("make check", "make  check"),
    "the style": recipe("style: autotools", "style: cmake"),
    "a rule for files": recipe("mode: 0755", "mode: 04755"),
    "a rule for outputs": recipe("usr/share/app/**", "usr/share/**"),
    "a file's bytes": written("pkgs/x/app/files/run", "#!/bin/dash\n"),
    "a file's x bit": executable,
    "a file more": written("pkgs/x/app/files/more", ""),
    "a .deb of the toolchain": newer_deb,
    "a dependency": recipe("sha256: a", "sha256: b", "pkgs/lib/z/pkg.yaml"),
    "a dependency less": recipe("[lib/z, ", "["),
    "a script that reads USE": recipe("make check", 'make check "$USE"'),
}


@pytest.mark.parametrize("what", SAME)
def test_the_key_stays_with(what: str, project: Checkout) -> None:
    before = project.key("x/app")
    SAME[what](project)
    assert project.key("x/app") == before


@pytest.mark.parametrize("what", OTHER)
def test_the_key_moves_with(what: str, project: Checkout) -> None:
    before = project.key("x/app")
    OTHER[what](project)
    assert project.key("x/app") != before


def test_flags_on_the_command_line_count_by_their_effect(project: Checkout) -> None:
    plain = project.key("x/app")
    assert project.key("x/app", ("ssl",)) == plain
    assert project.key("x/app", ("docs",)) == plain
    assert project.key("x/app", ("-ssl",)) != plain


def test_every_flag_counts_where_a_script_reads_use_sorted(project: Checkout) -> None:
    OTHER["a script that reads USE"](project)
    plain = project.key("x/app")
    assert project.key("x/app", ("docs",)) != plain
    record = record_of(project, "x/app", ("docs",))
    assert record["environment"]["USE"] == "docs ssl"
    recipe("  ssl: {default: on, description: TLS}\n", "")(project)
    recipe("use:\n", "use:\n  zip: {default: on, description: d}\n")(project)
    recipe("{when: ssl, atom: lib/tls}", "lib/tls")(project)
    recipe("{when: ssl, then: --with-ssl}", "--with-ssl")(project)
    assert record_of(project, "x/app", ("docs",))["environment"]["USE"] == "docs zip"


def record_of(project: Checkout, name: str, use: tuple[str, ...] = ()) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(node_of(project, name, use).record)
    return found


def node_of(project: Checkout, name: str, use: tuple[str, ...] = ()) -> Task:
    return next(node for node in project.plan(use).plan.tasks if node.name == name)


def test_without_a_script_that_reads_it_use_is_not_there(project: Checkout) -> None:
    assert "USE" not in record_of(project, "x/app")["environment"]


# -- what a build sees


def names(project: Checkout, name: str) -> dict[str, tuple[str, ...]]:
    plan = project.plan().plan
    node = next(one for one in plan.tasks if one.name == name)
    return {plan.task(dep.key).name: dep.outputs for dep in node.inputs.dependencies}


def test_link_dependencies_are_transitive_with_their_headers(project: Checkout) -> None:
    recipe("[lib/z, ", "[")(project)
    assert names(project, "x/app") == {"lib/tls": ("dev", RUNTIME), "lib/z": ("dev", RUNTIME)}


def test_a_tool_comes_with_what_it_runs_with_but_no_headers(project: Checkout) -> None:
    project.write("pkgs/x/tool/pkg.yaml", LIB + "depends: {link: [lib/z], run: [x/data]}\n")
    project.write("pkgs/x/data/pkg.yaml", LIB)
    recipe("depends:\n  link: [lib/z, {when: ssl, atom: lib/tls}]", "depends: {build: [x/tool]}")(
        project
    )
    assert names(project, "x/app") == {
        "x/tool": (RUNTIME,),
        "lib/z": (RUNTIME,),
        "x/data": (RUNTIME,),
    }


def test_a_run_dependency_is_no_input_of_the_build(project: Checkout) -> None:
    before = project.key("x/app")
    project.write("pkgs/x/data/pkg.yaml", LIB)
    recipe("depends:\n", "depends:\n  run: [x/data]\n")(project)
    node = node_of(project, "x/app")
    assert node.key == before
    data = node_of(project, "x/data")
    assert [need.key for need in node.run_needs()] == [data.key]


LIBC6 = locked(libc6=(deb("libc6"), deb("libgcc-s1")))


def test_a_deb_of_the_toolchain_is_at_hand_already(project: Checkout) -> None:
    project.lock(LIBC6)
    before = project.key("x/app")
    recipe("depends:\n", "depends:\n  build: [debian:gcc]\n  run: [debian:libc6]\n")(project)
    plan = project.plan().plan
    node = next(one for one in plan.tasks if one.name == "x/app")
    assert node.key == before
    assert [plan.task(need.key).name for need in node.run_needs()] == ["debian:libc6"]
    libc = plan.task(node.run_needs()[0].key)
    assert libc.inputs.debs[0] == deb("libc6")
    assert libc.inputs.dependencies == ()


def asking(project: Checkout, *packages: str) -> ContainerPlan:
    """The plan of a container of .debs."""
    steps = "".join(f"- package: {package}\n" for package in packages)
    project.write("container/container.yaml", f"- vars: {{name: web, version: 1.0}}\n{steps}")
    return project.plan().plan


def first(plan: ContainerPlan) -> Task:
    """The node that the first step asks for."""
    step = plan.steps[0]
    assert isinstance(step, PackageStep)
    return plan.task(step.key)


def runs(plan: ContainerPlan, name: str) -> set[str]:
    """What an image with a .deb takes besides."""
    return {
        plan.task(need.key).name.removeprefix("debian:")
        for node in plan.tasks
        if node.name == f"debian:{name}"
        for need in node.run_needs()
    }


def test_what_a_deb_loads_besides_is_in_the_plan(project: Checkout) -> None:
    plan = asking(project, "{debian: libc6, closure: files}")
    assert [node.name for node in plan.tasks] == ["debian:libc6", "debian:libgcc-s1"]
    assert [need.key for need in plan.tasks[0].run_needs()] == [plan.tasks[1].key]


def test_a_deb_that_is_asked_for_takes_its_depends_along(project: Checkout) -> None:
    m4 = (deb("m4"), deb("libsigsegv2"), deb("libc6"), deb("libgcc-s1"))
    project.lock(locked(m4=m4))
    plan = asking(project, "{debian: m4}")
    assert runs(plan, "m4") == {"libsigsegv2", "libc6", "libgcc-s1"}
    assert runs(plan, "libsigsegv2") == set()
    assert first(plan).name == "debian:m4"
    files = asking(project, "{debian: m4, closure: files}")
    assert runs(files, "m4") == set()
    assert first(files).key == first(plan).key


def test_a_deb_of_the_toolchain_takes_its_depends_along(project: Checkout) -> None:
    project.lock(locked(gcc=(deb("gcc"), deb("libc6"), deb("libgcc-s1"))))
    assert runs(asking(project, "{debian: gcc}"), "gcc") == {"libc6", "libgcc-s1"}


def test_what_the_toolchain_declares_holds_for_further_debs(project: Checkout) -> None:
    toolchain = TOOLCHAIN.replace("{libc6: [libgcc-s1]}", "{m4: [libsigsegv2, libc6]}")
    project.write("pkgs/toolchain/debian-12/pkg.yaml", toolchain)
    project.lock(locked(m4=(deb("m4"), deb("libsigsegv2"), deb("other"))))
    plan = asking(project, "{debian: m4, closure: files}")
    assert runs(plan, "m4") == {"libsigsegv2", "libc6"}


def test_a_program_may_need_a_deb_with_its_depends(project: Checkout) -> None:
    project.lock(locked(m4=(deb("m4"), deb("libsigsegv2"), deb("libc6"))))
    recipe("depends:\n", "depends:\n  run: [debian:m4]\n")(project)
    plan = project.plan().plan
    assert runs(plan, "m4") == {"libsigsegv2", "libc6"}


def test_what_is_left_out_of_a_deb_is_in_its_key(project: Checkout) -> None:
    project.lock(locked(m4=(deb("m4"), deb("libsigsegv2"))))
    keys = {
        first(asking(project, f"{{debian: m4, without: [{globs}]}}")).key
        for globs in ("", "usr/bin/a", "usr/bin/b", "usr/bin/b, usr/bin/a")
    }
    assert len(keys) == 4
    plan = asking(project, "{debian: m4, without: [usr/bin/a, usr/bin/b]}")
    assert first(plan).key in keys
    node = first(plan)
    assert deb_view(node.record).without == ("usr/bin/a", "usr/bin/b")
    assert runs(plan, "m4") == {"libsigsegv2"}


def test_two_steps_leave_the_same_out_of_a_deb(project: Checkout) -> None:
    project.lock(locked(m4=(deb("m4"),)))
    with pytest.raises(RecipeError, match="asked for twice") as caught:
        asking(project, "{debian: m4, without: [usr/bin/a]}", "{debian: m4}")
    assert (caught.value.place or "").endswith("container.yaml:3:3")
    with pytest.raises(RecipeError, match="malformed glob") as caught:
        asking(project, "{debian: m4, without: [/usr/bin/a]}")
    assert (caught.value.place or "").endswith("container.yaml:2:35")


def test_a_name_that_others_provide_is_no_package(project: Checkout) -> None:
    project.lock(locked(awk=(deb("mawk"),)))
    with pytest.raises(UnsatisfiableError, match="debian:awk is the name of no package") as caught:
        asking(project, "{debian: awk}")
    assert "mawk" in (caught.value.hint or "")


def test_a_tool_may_name_a_deb_that_loads_others(project: Checkout) -> None:
    project.lock(locked(m4=(deb("m4"), deb("libsigsegv2"), deb("libc6"))))
    project.write("pkgs/x/tool/pkg.yaml", LIB + "depends: {run: [debian:m4]}\n")
    recipe("depends:\n", "depends:\n  build: [x/tool]\n")(project)
    seen = {name for name in names(project, "x/app") if name.startswith(("x/", "debian:"))}
    # The toolchain's own are in the chroot already.
    assert seen == {"x/tool", "debian:m4", "debian:libsigsegv2"}


def test_a_version_that_the_toolchain_has_not_is_refused(project: Checkout) -> None:
    recipe("depends:\n", "depends:\n  build: [debian:gcc=1.0-1]\n")(project)
    project.plan()
    recipe("gcc=1.0-1", "gcc=9")(project)
    with pytest.raises(UnsatisfiableError, match=r"the toolchain has gcc 1\.0-1, not 9") as caught:
        project.plan()
    assert (caught.value.place or "").endswith("x/app/pkg.yaml:14:11")


def test_the_tools_of_a_library_are_no_inputs_of_its_dependents(project: Checkout) -> None:
    project.lock(locked(m4=(deb("m4"),), tk=(deb("tk"),), how="depends"))
    project.write("pkgs/x/tool/pkg.yaml", LIB)
    depends = "depends: {build: [debian:m4, x/tool], link: [debian:tk]}\n"
    project.write("pkgs/lib/z/pkg.yaml", LIB + depends)
    assert set(names(project, "lib/z")) == {"debian:m4", "x/tool", "debian:tk"}
    assert set(names(project, "x/app")) == {"lib/z", "lib/tls", "debian:tk"}


def test_a_tool_that_is_linked_too_comes_with_its_headers(project: Checkout) -> None:
    recipe("depends:\n", "depends:\n  build: [lib/z]\n")(project)
    assert names(project, "x/app")["lib/z"] == ("dev", RUNTIME)


def test_a_further_deb_comes_from_the_lock_with_those_beside_it(project: Checkout) -> None:
    project.lock(locked(m4=(deb("libsigsegv2"), deb("m4")), how="depends"))
    before = project.key("x/app")
    recipe("depends:\n", "depends:\n  build: [debian:m4]\n")(project)
    assert names(project, "x/app")["debian:m4"] == ("dev", RUNTIME)
    assert "debian:libsigsegv2" in names(project, "x/app")
    assert project.key("x/app") != before
    m4 = node_of(project, "debian:m4")
    assert m4.inputs.debs[1:] == (deb("libsigsegv2"),)
    assert node_of(project, "debian:libsigsegv2").inputs.debs[1:] == (deb("m4"),)


def test_the_key_of_a_deb_follows_the_deb_and_those_beside_it(project: Checkout) -> None:
    recipe("depends:\n", "depends:\n  build: [debian:m4]\n")(project)
    keys = set()
    for debs in (
        (deb("m4"),),
        (deb("m4", "2"),),
        (deb("m4"), deb("libsigsegv2")),
        (deb("m4"), deb("libsigsegv2", "2")),
    ):
        project.lock(locked(m4=debs, how="depends"))
        keys.add(node_of(project, "debian:m4").key)
    assert len(keys) == 4


def test_a_package_may_come_from_debian(project: Checkout) -> None:
    project.lock(locked("run", **{"nginx=1.22": (deb("nginx", "1.22"),)}))
    project.write(
        "container/container.yaml",
        "- vars: {name: web, version: 1.0}\n- package: {debian: nginx=1.22}\n",
    )
    plan = project.plan().plan
    assert [node.label for node in plan.tasks if node.key == plan.steps[0].key] == [  # type: ignore[union-attr]
        "debian:nginx-1.22"
    ]


# -- the node itself


def test_what_a_node_carries_besides_its_key(project: Checkout) -> None:
    recipe(
        "sha256: a", "signature: {url: https://example.org/a.asc, keys: [k.asc]}\n        sha256: a"
    )(project)
    project.write("pkgs/x/app/k.asc", "key")
    node = node_of(project, "x/app")
    source = node.inputs.sources[0]
    assert source.name == "app-1.0.tar.gz"
    assert source.urls == ("https://example.org/app-1.0.tar.gz", "mirror://debian/pool/app.tar.gz")
    assert source.signature is not None
    assert source.signature.keys == (digest_bytes(b"key"),)
    assert node.about.patch_names() == ("one.patch", "two.patch")
    assert len(node.inputs.blobs) == 4
    assert build_key(node.record) == node.key
    assert node.label == "x/app-1.0"


def test_a_plan_survives_json(project: Checkout) -> None:
    project.write(
        "container/container.yaml",
        CONTAINER
        + "- sync: {src: ./x, dest: /x, chmod: 0640, owner: 7}\n"
        + "- users: {www: {uid: 5, gid: 5}}\n- groups: {www: {gid: 5, members: [www]}}\n"
        + "- app: {exec: [/bin/x], ports: [a=1/udp], volumes: ['/v:ro'], environment: {A: b}}\n"
        + "- image: {type: oci}\n",
    )
    plan = project.plan().plan
    assert decode(ContainerPlan, encode(plan)) == plan


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"format":"0"}', '{"format":"1"}', "[" * 100_000, '{"format":"1",'],
)
def test_what_is_no_plan_is_refused_as_a_stamp_expects(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode(ContainerPlan, text)


def test_a_damaged_plan_is_refused_as_a_stamp_expects(project: Checkout) -> None:
    text = encode(project.plan().plan)
    data = json.loads(text)
    refused = 0
    for name in data:
        wrong: object
        for wrong in (None, [], {}, "x", [[]], ["x"], {"x": 1}):
            try:
                decode(ContainerPlan, json.dumps({**data, name: wrong}))
            except (ValueError, KeyError, TypeError):
                refused += 1
    assert refused > 30


def test_the_lock_follows_from_the_plan(project: Checkout) -> None:
    planned = project.plan()
    section = planned.pins.section
    assert section.debs == LOCKED.debs
    assert section.indices == LOCKED.indices
    keys = {node.name: node.key for node in planned.plan.tasks}
    assert {p.name: p.key for p in section.packages} == keys
    app = next(p for p in section.packages if p.name == "x/app")
    assert app.flags == ("+ssl", "-docs")
    assert [p.name for p in section.patches] == ["one.patch", "two.patch"]
    project.lock(section)
    assert project.plan().pins.section == section


def test_the_lock_keeps_a_version_until_it_may_move(project: Checkout) -> None:
    project.lock(project.plan().pins.section)
    recipe("versions:\n", "versions:\n  1.5: {}\n")(project)
    assert node_of(project, "x/app").version == "1.0"
    moved = project.plan(update=("x/app",)).plan
    assert next(n for n in moved.tasks if n.name == "x/app").version == "1.5"


def test_a_url_patch_is_taken_from_the_lock(project: Checkout) -> None:
    url = "https://example.org/fix.patch"
    recipe("two.patch: Second", f"{url}: Second")(project)
    pinned = f"{{description: S, sha256: {'c' * 64}}}"
    recipe(f"{url}: Second", f"{url}: {pinned}")(project)
    planned = project.plan()
    node = next(n for n in planned.plan.tasks if n.name == "x/app")
    assert [(p.url, p.digest) for p in node.inputs.patches] == [(url, "c" * 64)]
    project.lock(planned.pins.section)
    recipe(f"{url}: {pinned}", f"{url}: Second")(project)
    assert node_of(project, "x/app").key == node.key


def test_a_default_that_is_no_switch_is_refused(project: Checkout) -> None:
    recipe("docs: {default: off", "docs: {default: maybe")(project)
    with pytest.raises(RecipeError, match="the default of flag 'docs' is 'maybe'") as caught:
        project.plan()
    assert (caught.value.place or "").endswith("pkgs/x/app/pkg.yaml:12:19")


def test_keys_are_no_digests_of_their_own_kind(project: Checkout) -> None:
    found: list[BuildKey] = [node.key for node in project.plan().plan.tasks]
    assert len(set(found)) == len(found) == 3


def test_two_images_of_one_type_are_refused(project: Checkout) -> None:
    images = "- image: {type: oci}\n- image: {type: aci}\n"
    project.write("container/container.yaml", CONTAINER + images)
    assert [image.format for image in project.plan().plan.images] == ["oci", "aci"]
    project.write("container/container.yaml", CONTAINER + images + "- image: {type: oci}\n")
    with pytest.raises(RecipeError, match="second image of type oci") as caught:
        project.plan()
    assert (caught.value.place or "").endswith("container.yaml:5:3")
