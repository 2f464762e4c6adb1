from __future__ import annotations

import subprocess

import pytest

from buildit.errors import UsageError
from buildit.model.platform import PLATFORMS, build_platform, platform
from buildit.plan.steps import STYLES, Phase, Step, environment, reads_use, script, steps

pytestmark = pytest.mark.unit

AMD64 = PLATFORMS["linux/amd64"]
ARM64 = PLATFORMS["linux/arm64"]


def test_autotools() -> None:
    assert steps("autotools", AMD64, ("--with-x",), {}) == (
        Step(
            Phase.CONFIGURE,
            (
                "./configure",
                "--build=x86_64-linux-gnu",
                "--prefix=/usr",
                "--libdir=/usr/lib/x86_64-linux-gnu",
                "--sysconfdir=/etc",
                "--localstatedir=/var",
                "--disable-dependency-tracking",
                "--with-x",
            ),
        ),
        Step(Phase.COMPILE, ("sh", "-eu", "-c", 'make -j"$JOBS"', "sh")),
        Step(Phase.INSTALL, ("sh", "-eu", "-c", 'make DESTDIR="$DESTDIR" install', "sh")),
    )


@pytest.mark.parametrize("style", [name for name in STYLES if name != "custom"])
def test_every_style_hands_on_the_arguments_and_installs(style: str) -> None:
    made = steps(style, ARM64, ("-Dx='a b'",), {})
    assert made[-1].phase is Phase.INSTALL
    assert any("-Dx='a b'" in step.argv for step in made)
    phases = [step.phase for step in made]
    assert phases == sorted(phases, key=list(Phase).index)
    assert not any("x86_64" in word for step in made for word in step.argv)
    assert not reads_use(made)


@pytest.mark.parametrize("style", ["autotools", "cmake", "meson", "make"])
def test_libraries_go_to_the_directory_of_the_triplet(style: str) -> None:
    words = [word for step in steps(style, ARM64, (), {}) for word in step.argv]
    assert any("lib/aarch64-linux-gnu" in word for word in words)


def test_custom_has_no_phases_of_its_own() -> None:
    assert steps("custom", AMD64, ("x",), {}) == ()


def test_overrides_replace_add_and_drop_phases_in_their_order() -> None:
    made = steps(
        "autotools",
        AMD64,
        ("--a", "--b c"),
        {Phase.INSTALL: "x", Phase.CHECK: "y", Phase.COMPILE: " \n", Phase.PREPARE: "z"},
    )
    assert [step.phase for step in made] == [
        Phase.PREPARE,
        Phase.CONFIGURE,
        Phase.CHECK,
        Phase.INSTALL,
    ]
    assert made[-1].argv == ("sh", "-eu", "-c", "x", "sh", "--a", "--b c")


def test_arguments_reach_a_script_as_they_are() -> None:
    argv = script('printf "%s|" "$@"', ("a b", "", "$(id)", "'"))
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "a b||$(id)|'|"


def test_a_script_stops_at_the_first_failure() -> None:
    assert subprocess.run(script("false; exit 0"), check=False).returncode == 1
    unset = subprocess.run(script('echo "$NO_SUCH"'), capture_output=True, check=False)
    assert unset.returncode != 0


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ('case " $USE " in', True),
        ('"${USE:-}"', True),
        ("env | grep USE=", True),
        ("USER=x", False),
        ("$BUILD_USE", False),
        ("use", False),
    ],
)
def test_use_counts_where_a_script_reads_it(text: str, reads: bool) -> None:
    assert reads_use([Step(Phase.INSTALL, script(text))]) is reads


def test_the_environment_is_total_and_depends_on_nothing_around_us() -> None:
    made = environment(ARM64, "nginx", "1.22.1")
    assert made["LIBDIR"] == "/usr/lib/aarch64-linux-gnu"
    assert (made["NAME"], made["VERSION"]) == ("nginx", "1.22.1")
    assert not {"JOBS", "USE", "SOURCE_DATE_EPOCH"} & set(made)
    assert made["TZ"] == "UTC0"


@pytest.mark.parametrize(
    ("os", "arch", "name"),
    [
        ("linux", "amd64", "linux/amd64"),
        ("linux", "x86_64", "linux/amd64"),
        ("linux", "aarch64", "linux/arm64"),
    ],
)
def test_platforms_by_each_spelling(os: str, arch: str, name: str) -> None:
    assert str(platform(os, arch)) == name
    assert platform(os, arch) is PLATFORMS[name]


@pytest.mark.parametrize(("os", "arch"), [("linux", "sparc"), ("windows", "amd64"), ("", "")])
def test_an_unknown_platform_is_refused(os: str, arch: str) -> None:
    with pytest.raises(UsageError, match=f"cannot build for {os}/{arch}") as caught:
        platform(os, arch)
    assert caught.value.hint == "known platforms: linux/amd64, linux/arm64"


def test_the_build_machine() -> None:
    assert build_platform("x86_64") is AMD64
    with pytest.raises(UsageError, match="cannot build on a riscv64 machine"):
        build_platform("riscv64")


def test_keys_and_names_of_platforms_agree() -> None:
    assert {name: str(one) for name, one in PLATFORMS.items()} == {n: n for n in PLATFORMS}
