from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from buildit.errors import UsageError
from buildit.make.advice import advice, notes
from buildit.model.platform import PLATFORMS, build_platform, platform
from buildit.plan.steps import STYLES, Phase, Step, environment, reads_use, script, steps

pytestmark = pytest.mark.unit

AMD64 = PLATFORMS["linux/amd64"]
ARM64 = PLATFORMS["linux/arm64"]


def test_autotools() -> None:
    configure, compile_, install = steps("autotools", AMD64, ("--with-x",), {})
    assert configure.phase is Phase.CONFIGURE
    assert configure.argv[:3] == ("sh", "-eu", "-c")
    assert configure.argv[4:] == (
        "sh",
        "--build=x86_64-linux-gnu",
        "--prefix=/usr",
        "--libdir=/usr/lib/x86_64-linux-gnu",
        "--sysconfdir=/etc",
        "--localstatedir=/var",
        "--disable-dependency-tracking",
        "--with-x",
    )
    assert compile_ == Step(Phase.COMPILE, ("sh", "-eu", "-c", 'make -j"$JOBS"', "sh"))
    words = ("sh", "-eu", "-c", 'make DESTDIR="$DESTDIR" install', "sh")
    assert install == Step(Phase.INSTALL, words)


def configured(directory: Path) -> subprocess.CompletedProcess[str]:
    argv = steps("autotools", AMD64, ("--with-x='a b'",), {})[0].argv
    return subprocess.run(argv, check=False, cwd=directory, capture_output=True, text=True)


@pytest.mark.parametrize("mode", [0o755, 0o644])
def test_configure_runs_with_and_without_its_x_bit(tmp_path: Path, mode: int) -> None:
    """A zip made on Windows has no x bits."""
    script = tmp_path / "configure"
    script.write_text('#!/bin/sh\nfor each; do echo "$each"; done\n')
    script.chmod(mode)
    done = configured(tmp_path)
    assert done.returncode == 0
    assert done.stdout.endswith("\n--with-x='a b'\n")
    assert bool(notes(done.stdout.splitlines())) is (mode == 0o644)


def test_no_configure_is_said_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").touch()
    done = configured(tmp_path)
    said = advice(done.returncode, done.stdout.splitlines())
    assert said is not None
    assert (said[0], said[1]) == (
        "there is no ./configure in the sources",
        "the sources have a CMakeLists.txt: style: cmake",
    )


@pytest.mark.parametrize("style", ["cmake", "meson", "python"])
def test_a_missing_tool_is_the_shells_word(tmp_path: Path, style: str) -> None:
    """Never bubblewrap's, whose failures to set up a sandbox are another thing."""
    argv = steps(style, AMD64, (), {})[0].argv
    sh = shutil.which("dash") or "/bin/sh"
    done = subprocess.run(
        [sh, *argv[1:]],
        check=False,
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    said = advice(done.returncode, done.stderr.splitlines())
    assert said is not None
    assert f"debian:{'python3' if style == 'python' else style}]" in said[1]


def built_by(style: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The compile phase, where go and cargo only say what they are asked."""
    tools = directory / "tools"
    tools.mkdir()
    for name in ("go", "cargo"):
        text = '#!/bin/sh\necho "$(pwd): $*"\nenv | grep -E "^(GO|CARGO|RUST)" | sort\n'
        (tools / name).write_text(
            f"{text}if [ -f $CARGO_HOME/config.toml ]; then cat $CARGO_HOME/*; fi"
        )
        (tools / name).chmod(0o755)
    source = directory / "src"
    given = {"PATH": f"{tools}:{os.environ['PATH']}", "SRC": str(source), "JOBS": "3"}
    given |= {name: f"-of-{name}" for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS")}
    given |= {"HOME": str(directory), "CARGO_HOME": f"{directory}/.cargo", **env}
    argv = steps(style, AMD64, ("./cmd/x",), {})[0].argv
    return subprocess.run(argv, check=False, cwd=source, env=given, capture_output=True, text=True)


FLAGS = "-p 3 -trimpath -buildvcs=false -ldflags=-buildid= -o"


def test_go_builds_what_is_vendored_or_needs_nothing(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "vendor").mkdir(parents=True)
    (source / "go.mod").write_text("module example.org/x\n\nrequire example.org/y v1.0.0\n")
    (source / "vendor/modules.txt").write_text("")
    said = built_by("go", tmp_path).stdout
    assert f"{source}: build -mod=vendor {FLAGS} {source}/.buildit/bin/ ./cmd/x\n" in said
    assert "GOPROXY=off" in said
    (source / "vendor/modules.txt").unlink()
    (source / "go.mod").write_text("module example.org/x\n")
    shutil.rmtree(tmp_path / "tools")
    assert f"{source}: build {FLAGS}" in built_by("go", tmp_path).stdout


def test_go_without_vendored_modules_is_built_under_its_name(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "vendor").mkdir(parents=True)
    (source / "a.go").write_text("")
    (source / "go.mod").write_text('module "example.org/x"\nrequire (\n\texample.org/y v1.0.0\n)\n')
    said = built_by("go", tmp_path).stdout
    path = f"{source}/.buildit/path"
    assert f"{path}/src/example.org/x: build {FLAGS} {source}/.buildit/bin/ ./cmd/x\n" in said
    assert "GO111MODULE=off" in said
    assert f"GOPATH={path}:/usr/share/gocode" in said
    assert (source / ".buildit/path/src/example.org/x/a.go").exists()
    assert not (source / ".buildit/path/src/example.org/x/.buildit").exists()


def test_go_says_what_it_lacks(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    done = built_by("go", tmp_path)
    said = advice(done.returncode, done.stdout.splitlines())
    assert said is not None
    assert "GO_IMPORT_PATH" in said[1]
    shutil.rmtree(tmp_path / "tools")
    (source / "go.mod").write_text("module example.org/x\nrequire example.org/y v1.0.0\n")
    done = built_by("go", tmp_path)
    said = advice(done.returncode, done.stdout.splitlines())
    if not Path("/usr/share/gocode/src").exists():
        assert said is not None
        assert "directory: vendor" in said[1]


def test_cargo_builds_of_vendored_crates(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "vendor").mkdir(parents=True)
    (source / "Cargo.lock").write_text("")
    said = built_by("cargo", tmp_path).stdout
    assert f"{source}: build --release --frozen -j 3 ./cmd/x\n" in said
    assert "generate-lockfile" not in said
    assert f'replace-with = "here"\n[source.here]\ndirectory = "{source}/vendor"' in said
    assert f"RUSTFLAGS=--remap-path-prefix={source}=." in said


@pytest.mark.parametrize("style", ["go", "cargo"])
def test_programs_are_installed_and_libraries_are_not(tmp_path: Path, style: str) -> None:
    argv = steps(style, AMD64, (), {})[1].argv
    made = tmp_path / (".buildit/bin" if style == "go" else ".buildit/release")
    made.mkdir(parents=True)
    env = {"PATH": os.environ["PATH"], "DESTDIR": str(tmp_path / "out")}

    def install() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, check=False, cwd=tmp_path, env=env, capture_output=True, text=True
        )

    (made / "libx.so").write_text("")
    (made / "libx.so").chmod(0o755)
    (made / "notes.d").write_text("")
    done = install()
    said = advice(done.returncode, done.stdout.splitlines())
    assert said is not None
    assert "left no program" in said[0]
    (made / "tool").write_text("")
    (made / "tool").chmod(0o755)
    assert install().returncode == 0
    assert [path.name for path in (tmp_path / "out/usr/bin").iterdir()] == ["tool"]


SHOW = """
all:
\t@echo "[$(CC)] [$(CFLAGS)] [$(LDFLAGS)] [$(CXX)]"
"""
OURS = "-O2 -DOURS"
LINK = "-Wl,-z,relro"


def made_with(directory: Path, text: str, *arguments: str) -> str:
    (directory / "Makefile").write_text(f"{text}{SHOW}")
    argv = steps("make", AMD64, arguments, {})[0].argv
    env = {"PATH": os.environ["PATH"], "JOBS": "1"}
    env |= {"CFLAGS": OURS, "CXXFLAGS": OURS, "LDFLAGS": LINK}
    done = subprocess.run(
        argv, check=True, cwd=directory, env=env, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", f"[cc] [{OURS}] [{LINK}] [g++]"),
        # dnsmasq's, which beat the environment
        ("CFLAGS = -Wall -W -O2\nLDFLAGS =\n", f"[cc] [{OURS}] [{LINK}] [g++]"),
        ("CFLAGS ?= -g\nCFLAGS += -Wextra\n", f"[cc] [{OURS}] [{LINK}] [g++]"),
        ('all: sub\nsub: ; : CFLAGS="$(CFLAGS)"\n', f"[cc] [{OURS}] [{LINK}] [g++]"),
        # what the program needs stays, and ours are used as well
        ("CFLAGS = -O3\nCFLAGS += -Iinclude\n", f"[cc {OURS}] [-O3 -Iinclude] [{LINK}] [g++]"),
        (
            "CFLAGS = -Wall \\\n  -D_GNU_SOURCE\n",
            f"[cc {OURS}] [-Wall -D_GNU_SOURCE] [{LINK}] [g++]",
        ),
        (
            "CC = gcc -std=c99\nCFLAGS += -fPIC\n",
            f"[gcc -std=c99 {OURS}] [{OURS} -fPIC] [{LINK}] [g++]",
        ),
        ("CC = $(CROSS)gcc\nCFLAGS = -Dx\n", f"[cc {OURS}] [-Dx] [{LINK}] [g++]"),
        ("LDFLAGS = -lm\n", f"[cc {LINK}] [{OURS}] [-lm] [c++ {LINK}]"),
        (
            "LDFLAGS = -Wl,--export-dynamic\n",
            f"[cc {LINK}] [{OURS}] [-Wl,--export-dynamic] [c++ {LINK}]",
        ),
    ],
)
def test_make_gets_our_flags_and_keeps_the_programs(tmp_path: Path, text: str, shown: str) -> None:
    assert made_with(tmp_path, text) == shown


def test_flags_of_the_recipe_win(tmp_path: Path) -> None:
    assert made_with(tmp_path, "CFLAGS = -O2\n", "CFLAGS=-O3", "CC=clang").startswith(
        "[clang] [-O3]"
    )


def test_a_makefile_below_counts_as_well(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/rules.mk").write_text("CFLAGS += -Iinclude\n")
    assert made_with(tmp_path, "").startswith(f"[cc {OURS}]")


def test_only_the_install_phase_is_under_fakeroot() -> None:
    plain = steps("make", AMD64, ("x",), {Phase.CHECK: "y"})
    faked = steps("make", AMD64, ("x",), {Phase.CHECK: "y"}, fakeroot=True)
    assert faked[:-1] == plain[:-1]
    assert faked[-1].argv[5:] == plain[-1].argv
    assert "fakeroot -- " in faked[-1].argv[3]
    assert steps("custom", AMD64, (), {}, fakeroot=True) == ()


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
