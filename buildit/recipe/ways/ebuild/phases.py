"""The functions of an ebuild as the phases of a recipe: the build style, its arguments, patches,
and scripts in the place of phases where the ebuild has its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.recipe.ways.ebuild.arguments import (
    ARRAYS,
    Argument,
    Configured,
    add_flags,
    read_configure,
)
from buildit.recipe.ways.ebuild.header import Header, Unread
from buildit.recipe.ways.ebuild.install import Targets
from buildit.recipe.ways.ebuild.scripts import FLAG_LISTS, Script, einstalldocs
from buildit.recipe.ways.ebuild.shwords import Wording, literal_word
from buildit.recipe.ways.ebuild.syntax import Function, Opaque, ShCommand, ShStatement
from buildit.recipe.ways.ebuild.values import (
    FILES_DIR,
    WORK_DIR,
    ShellScope,
    UnreadError,
    fields_of,
)

WORK = ".workdir"
"""Where further sources lie below the first, as `WORKDIR` has them."""

_STYLES = {
    "cmake": "cmake",
    "cmake-multilib": "cmake",
    "meson": "meson",
    "meson-multilib": "meson",
    "distutils-r1": "python",
    "go-module": "go",
    "cargo": "cargo",
}
_COMPILE = {
    "cmake": 'make -C .buildit -j"$JOBS"',
    "meson": "ninja -C .buildit",
    "autotools": 'make -j"$JOBS"',
    "make": 'make -j"$JOBS"',
}
_INSTALL = {
    "cmake": 'make -C .buildit DESTDIR="$DESTDIR" install',
    "meson": "meson install -C .buildit --no-rebuild",
    "autotools": 'make DESTDIR="$DESTDIR" install',
    "make": 'make DESTDIR="$DESTDIR" install',
}
_TEST = {
    "cmake": "ctest --test-dir .buildit --output-on-failure",
    "meson": "meson test -C .buildit",
    "autotools": 'make -j"$JOBS" check',
    "make": 'make -j"$JOBS" check',
}
_CONFIGURE = {
    "autotools": (
        "./configure --build=$TRIPLET --prefix=/usr --libdir=$LIBDIR --sysconfdir=/etc \\\n"
        "  --localstatedir=/var --disable-dependency-tracking"
    ),
    "cmake": (
        'cmake -S . -B .buildit -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=None \\\n'
        "  -DCMAKE_INSTALL_PREFIX=/usr -DCMAKE_INSTALL_LIBDIR=lib/$TRIPLET \\\n"
        "  -DCMAKE_INSTALL_SYSCONFDIR=/etc -DCMAKE_INSTALL_LOCALSTATEDIR=/var \\\n"
        "  -DCMAKE_SKIP_INSTALL_RPATH=ON -DFETCHCONTENT_FULLY_DISCONNECTED=ON"
    ),
    "meson": (
        "meson setup .buildit --buildtype=plain --prefix=/usr --libdir=lib/$TRIPLET \\\n"
        "  --sysconfdir=/etc --localstatedir=/var --wrap-mode=nodownload"
    ),
}
"""What the styles run (`plan.steps.STYLES`), where a word besides is known to the build alone."""
_FLAGS = {
    "CFLAGS": "-O2 -ffile-prefix-map=/build/src=.",
    "CXXFLAGS": "-O2 -ffile-prefix-map=/build/src=.",
    "LDFLAGS": "-Wl,-z,relro",
    "CPPFLAGS": "",
}
"""What `plan.steps.environment` has, before what an ebuild appends."""
_STATE = "--localstatedir=/var/lib"


@dataclass(frozen=True, slots=True)
class PatchEntry:
    """A patch of FILESDIR by its name there, with the parts of paths that are dropped."""

    name: str
    strip: int = 1


@dataclass(slots=True)
class Phases:
    """What the functions come to. `fetched` are programs that only the further sources have;
    `files` what of FILESDIR the scripts need."""

    style: str
    arguments: tuple[Argument, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    patches: list[PatchEntry] = field(default_factory=list)
    capabilities: list[tuple[str, str]] = field(default_factory=list)
    files: tuple[str, ...] = ()
    unread: list[Unread] = field(default_factory=list)
    strip: int = 1
    asks: frozenset[str] = frozenset()
    build: tuple[str, ...] = ()


def read_phases(
    header: Header,
    flags: frozenset[str],
    files: frozenset[str],
    *,
    has_configure: bool | None,
    further: bool,
) -> Phases:
    """The phases of an ebuild. `files` are those of its FILESDIR; `has_configure` says whether the
    source has a `configure` at its top, None where nobody knows; `further` whether the ebuild has
    several sources.

    Raises:
        RecipeError: a patch is not in FILESDIR.
    """
    return _Reading(header, flags, files, has_configure, further).all()


@dataclass(slots=True)
class _Reading:
    header: Header
    flags: frozenset[str]
    known: frozenset[str]
    has_configure: bool | None
    further: bool
    found: Phases = field(default_factory=lambda: Phases("custom"))
    source: str = ""
    below: str = ""

    def all(self) -> Phases:
        self.directories()
        configured = self.configure()
        self.found.style = configured.style
        self.prepare(configured)
        self.settle(configured)
        self.compile(configured)
        self.test()
        self.install()
        self.packages()
        texts = "\n".join(self.found.steps.values())
        named = re.findall(r"\$FILES\"?/([A-Za-z0-9_.+/-]+)", texts)
        if missing := [one for one in named if one not in self.known]:
            raise self.lacks(missing[0])
        self.found.files = tuple(dict.fromkeys(named))
        return self.found

    def lacks(self, name: str) -> RecipeError:
        message = f"the ebuild takes files/{name}, which is not there"
        hint = "import it out of its directory, with `files/` beside it"
        return RecipeError(message, place=self.header.scope.file, hint=hint)

    def directories(self) -> None:
        """Where `S` is: the directory that the archive has at its top, or one below it."""
        scope = self.header.scope
        text = scope.text("S") or f"{WORK_DIR}/{scope.text('P')}"
        self.source = text.rstrip("/")
        inner = self.source.removeprefix(f"{WORK_DIR}/") if self.source != WORK_DIR else ""
        self.found.strip = 1 if inner else 0
        self.below = inner.partition("/")[2]

    def script(self, defaults: Mapping[str, Callable[[Script], list[str]]]) -> Script:
        names = dict(self.header.scope.names)
        for one in ("FILESDIR", "WORKDIR", "S", "EPREFIX", "EROOT"):
            names.pop(one, None)
        scope = ShellScope(self.header.scope.file, names)
        work = f"$SRC/{WORK}" if self.further else ""
        wording = Wording(scope, self.flags, self.source, self.below, work)
        own = {
            name: one
            for name, one in self.header.functions.items()
            if not name.startswith(("src_", "pkg_", "multilib_src_", "python_"))
        }
        return Script(wording, Targets(self.header.scope.text("PF")), defaults, own)

    def function(self, phase: str) -> tuple[ShStatement, ...] | None:
        """The body of a phase; that of the native build where there is one for each ABI.

        One that is not understood at all becomes a comment.
        """
        for name in (f"src_{phase}", f"multilib_src_{phase}", f"python_{phase}_all"):
            one = self.header.functions.get(name)
            if isinstance(one, Function):
                return one.body
            if isinstance(one, Opaque):
                return (one,)
        return None

    # -- configure

    def configure(self) -> Configured:
        style = next((s for name, s in _STYLES.items() if name in self.header.eclasses), "")
        body = self.function("configure")
        script = self.script({})
        if body is None:
            found = Configured(style or self.usual_style())
            if array := ARRAYS.get(found.style):
                listed = self.header.scope.listed(array)
                found.arguments = tuple(Argument((), text) for text in listed)
            return found
        try:
            found = read_configure(body, script, style)
        except UnreadError as error:
            found = Configured(style or "autotools")
            place = self.header.functions.get("src_configure")
            line, text = (place.line, place.text) if place else (1, "src_configure")
            script.unread.append(Unread(line, text, str(error)))
            shown = [f"# {self.header.scope.file}:{line}: src_configure is not understood: {error}"]
            found.before = [*shown, *(f"#   {one}" for one in text.split("\n"))]
        found.style = found.style or "make"
        self.found.unread += script.unread
        self.found.asks |= script.wording.helpers
        return found

    def usual_style(self) -> str:
        """The style where nothing says it (PMS 9.1.6: econf where there is a `configure`)."""
        if self.has_configure is None:
            return "autotools" if "autotools" in self.header.eclasses else "make"
        made_here = "autotools" in self.header.eclasses
        return "autotools" if self.has_configure or made_here else "make"

    def settle(self, configured: Configured) -> None:
        """The arguments, and a script in the place of the configure phase where it takes one."""
        found, arguments = self.found, configured.arguments
        if found.style == "autotools" and not any(
            one.text.startswith("--localstatedir") for one in arguments
        ):
            arguments = (Argument((), _STATE), *arguments)
        if found.style == "cmake":
            below = self.header.scope.text("CMAKE_USE_DIR").removeprefix(self.source).strip("/")
            if below or self.below:
                arguments = (Argument((), "-S"), Argument((), below or self.below), *arguments)
        shell = [one for one in arguments if one.script]
        found.arguments = tuple(one for one in arguments if not one.script)
        if found.style in _CONFIGURE and (shell or (self.below and found.style == "autotools")):
            self.explicit(shell)
        elif shell:
            for one in shell:
                text = one.script or one.text
                self.found.unread.append(Unread(1, text, "only the build knows its value"))
        elif found.style == "make" and configured.before:
            found.steps["configure"] = self.script({}).text(configured.before)
        for name, words in configured.flags.items():
            found.environment[name] = " ".join((_FLAGS[name], *words)).strip()
        found.environment |= configured.environment

    def explicit(self, shell: list[Argument]) -> None:
        style = self.found.style
        lines = [f"cd {literal_word(self.below)}"] if self.below and style == "autotools" else []
        words = ['"$@"']
        for one in shell:
            if one.given:
                self.found.unread.append(
                    Unread(1, one.script, "under a flag, and known to a build")
                )
            else:
                words.append(one.script)
        lines.append(f"{_CONFIGURE[style]} {' '.join(words)}")
        self.found.steps["configure"] = "\n".join(lines) + "\n"

    # -- prepare

    def prepare(self, configured: Configured) -> None:
        script = self.script(dict.fromkeys(_PREPARES, _always("")))
        body, lines = self.function("prepare"), list[str]()
        if body is None or any(_calls(one, _PREPARES) for one in body):
            lines += self.take_patches(self.header.scope.listed("PATCHES"))
        script.may_append = False
        for one in body or ():
            lines += self.prepared(one, script, configured)
        if self.lacks_configure(configured):
            lines += ["# the source has no configure: it is made", "autoreconf -fi"]
            self.found.build += ("debian:autoconf", "debian:automake", "debian:libtool")
        if configured.style != "make":
            lines += configured.before
            script.wording.helpers |= self.found.asks
        self.keep("prepare", script, lines, style_has_it=False)

    def lacks_configure(self, configured: Configured) -> bool:
        """Whether the source is one without a `configure`, which the ebuild counts on."""
        made_here = "autotools" in self.header.eclasses
        return configured.style == "autotools" and self.has_configure is False and not made_here

    def prepared(self, one: ShStatement, script: Script, configured: Configured) -> list[str]:
        """A statement of `src_prepare`: patches of FILESDIR become the recipe's own, and flags for
        compilers hold for all phases."""
        if isinstance(one, ShCommand) and one.words and one.words[0].plain in FLAG_LISTS:
            try:
                add_flags(one, script, configured)
            except UnreadError as error:
                return script.comment(one, str(error))
            return []
        if not _calls(one, ("eapply", "epatch")) or not isinstance(one, ShCommand):
            return script.lines((one,))
        scope = ShellScope(script.wording.scope.file, {**self.header.scope.names})
        try:
            words = [f for word in one.words[1:] for f in fields_of(word, scope)]
            return self.take_patches(words)
        except UnreadError as error:
            return script.comment(one, str(error))

    def take_patches(self, texts: Iterable[str]) -> list[str]:
        strip, lines = 1, list[str]()
        for text in texts:
            if match := re.fullmatch("-p([0-9])", text):
                strip = int(match[1])
            elif text.startswith(f"{FILES_DIR}/"):
                name = re.sub("/+", "/", text.removeprefix(f"{FILES_DIR}/")).rstrip("/")
                inside = sorted(one for one in self.known if one.startswith(f"{name}/"))
                names = [name] if name in self.known else inside
                if not names:
                    raise self.lacks(name)
                self.found.patches += [PatchEntry(one, strip) for one in names]
            elif text.startswith(f"{WORK_DIR}/") and self.further:
                place = text.replace(WORK_DIR, f"$SRC/{WORK}")
                lines.append(f'patch -p{strip} -N --batch -i "{place}"')
            elif not text.startswith("-"):
                shown = text.replace(WORK_DIR, "${WORKDIR}")
                line = self.header.lines.get("PATCHES", 1)
                self.found.unread.append(Unread(line, shown, "the patch is not in FILESDIR"))
        return lines

    # -- the others

    def compile(self, configured: Configured) -> None:
        style = self.found.style
        usual = _COMPILE.get(style, "")
        body = self.function("compile")
        names = ("default", "default_src_compile", f"{style}_src_compile")
        script = self.script(dict.fromkeys(names, _always(usual)))
        lines = list(configured.after)
        if body is None and (lines or self.below) and usual:
            lines += [usual]
        elif body is not None:
            lines += script.lines(body)
        if body is not None or lines:
            script.wording.helpers |= self.found.asks if configured.after else set()
            self.keep("compile", script, self.entered(lines), style_has_it=True)

    def entered(self, lines: list[str]) -> list[str]:
        """The lines in the directory that `S` is, where that is not the source's top."""
        is_needed = self.below and self.found.style in ("make", "autotools") and lines
        return [f"cd {literal_word(self.below)}", *lines] if is_needed else lines

    def test(self) -> None:
        body = self.function("test")
        if body is None:
            return
        usual = _TEST.get(self.found.style, "")
        names = ("default", "default_src_test", f"{self.found.style}_src_test")
        script = self.script(dict.fromkeys(names, _always(usual)))
        lines = self.entered(script.lines(body))
        if any(not line.lstrip().startswith("#") for line in lines):
            script.wording.helpers.add("use")
            inner = [f"  {line}" for line in lines]
            self.keep("check", script, ["if use test; then", *inner, "fi"], style_has_it=False)
        else:
            self.found.unread += script.unread

    def install(self) -> None:
        style, scope = self.found.style, self.header.scope
        usual = _INSTALL.get(style, "")

        def both(script: Script) -> list[str]:
            return [*_line(usual), *einstalldocs(script)]

        names = ("default", "default_src_install", f"{style}_src_install")
        script = self.script({**dict.fromkeys(names, both), "einstalldocs": einstalldocs})
        body = self.function("install")
        lines = script.lines(body) if body is not None else []
        after = self.header.functions.get("multilib_src_install_all")
        if isinstance(after, Function):
            if body is None:
                lines += usual.split("\n")
            lines += script.lines(after.body)
        if body is None and not lines and self.below and usual:
            lines = [usual]
        if scope.names.get("HTML_DOCS"):
            line = self.header.lines.get("HTML_DOCS", 1)
            self.found.unread.append(Unread(line, "HTML_DOCS", "no image takes documentation"))
        if body is not None or lines:
            self.keep("install", script, self.entered(lines), style_has_it=True)

    def keep(self, phase: str, script: Script, lines: list[str], *, style_has_it: bool) -> None:
        self.found.unread += script.unread
        if lines or style_has_it:
            self.found.steps[phase] = script.text(lines)

    def packages(self) -> None:
        """`pkg_*`: what they would do to a machine is told; capabilities are the recipe's."""
        for name, one in self.header.functions.items():
            if not name.startswith("pkg_"):
                continue
            script = self.script({})
            body = one.body if isinstance(one, Function) else (one,)
            for statement in body:
                if isinstance(statement, ShCommand) and statement.words:
                    if statement.words[0].plain == "fcaps" and self.capability(statement):
                        continue
                    if statement.words[0].plain in _AT_INSTALLATION:
                        continue
                kept = script.lines((statement,))
                if kept and not all(row.lstrip().startswith("#") for row in kept):
                    script.unread.append(Unread(statement.line, statement.text, _NOT_RUN))
            self.found.unread += script.unread

    def capability(self, one: ShCommand) -> bool:
        words = [word.plain or "" for word in one.words[1:]]
        match words:
            case [capability, path] if capability.startswith("cap_"):
                shown = capability if re.search("[=+]", capability) else f"{capability}=ep"
                self.found.capabilities.append((path.lstrip("/"), shown))
                return True
            case _:
                return False


_NOT_RUN = "pkg_ functions change a machine; an image has none of it"
_AT_INSTALLATION = (
    *("xdg_pkg_postinst", "xdg_pkg_postrm", "xdg_desktop_database_update", "xdg_icon_cache_update"),
    *(
        "xdg_mimeinfo_database_update",
        "tmpfiles_process",
        "udev_reload",
        "readme.gentoo_print_elog",
    ),
    *("linux-info_pkg_setup", "systemd_reenable", "fcaps_pkg_postinst", "enewuser", "enewgroup"),
)
"""What refreshes caches of a machine, or asks it for something."""
_PREPARES = (
    *("default", "default_src_prepare", "cmake_src_prepare", "meson_src_prepare"),
    *("distutils-r1_src_prepare", "cargo_src_prepare", "multilib_src_prepare", "xdg_src_prepare"),
)


def _calls(one: ShStatement, names: Iterable[str]) -> bool:
    return isinstance(one, ShCommand) and bool(one.words) and one.words[0].plain in (*names,)


def _line(text: str) -> list[str]:
    return [text] if text else []


def _always(text: str) -> Callable[[Script], list[str]]:
    return lambda _: _line(text)
