"""Ebuilds as recipes: what is understood, and that the rest stays as a comment in its place. The
expansions are what bash 5.2 gives for the same words."""

from __future__ import annotations

import subprocess
import time

import pytest

from buildit.digest import Digest
from buildit.errors import RecipeError
from buildit.model.atom import Version
from buildit.recipe.package import TreePackage
from buildit.recipe.schema import parse
from buildit.recipe.ways.ebuild.header import name_and_version
from buildit.recipe.ways.ebuild.needs import DebianNames, TreePackageFacts
from buildit.recipe.ways.ebuild.recipe import (
    EbuildFacts,
    PinnedSource,
    WrittenRecipe,
    read_ebuild,
    written_recipe,
)
from buildit.recipe.ways.ebuild.shell import parse_shell
from buildit.recipe.ways.ebuild.syntax import ShCommand
from buildit.recipe.ways.ebuild.values import ShellScope, UnreadError, fields_of
from buildit.recipe.yaml.read import parse_yaml

pytestmark = pytest.mark.unit

HEAD = 'EAPI=8\nDESCRIPTION="A thing"\nSRC_URI="https://example.org/${P}.tar.gz"\nSLOT=0\n'
SOURCE = PinnedSource("https://example.org/x-1.2.tar.gz", Digest("a" * 64), top="x-1.2")


def written(
    text: str, *, head: str = HEAD, files: tuple[str, ...] = (), configure: bool = True
) -> WrittenRecipe:
    ebuild = read_ebuild(head + text, "x-1.2.ebuild", "x", "1.2", "app-misc")
    facts = EbuildFacts(
        (SOURCE,),
        frozenset(files),
        {"dev-libs/openssl": TreePackageFacts((Version.parse("3.0.20"),), frozenset({"asm"}))},
        {
            "dev-libs/expat": DebianNames(("libexpat1-dev",)),
            "sys-apps/less": DebianNames((), ("less",)),
        },
        has_configure=configure,
    )
    done = written_recipe(ebuild, facts)
    parse(parse_yaml(done.text, "pkg.yaml"), TreePackage)  # it is a recipe, whatever was read
    return done


def recipe(text: str, **more: object) -> TreePackage:
    return parse(parse_yaml(written(text, **more).text, "pkg.yaml"), TreePackage)  # type: ignore[arg-type]


EXPANSIONS = (
    *('"${PN}-${PV/_/-}"', "${PV%%_*}", "${PV%.*}", "${PV##*.}", "${PV//./_}", '"${A[@]}"'),
    *('"x${A[@]}y"', '"${E[@]}"', '""', "x{a,b}z{1,2}", '"{a,b}"', "'a b'", "${PV:0:3}"),
    *("${PV:-x}", "${Q:-x}", "${Q:+x}", "${PN^}", "${PN^^}", "${A[1]}", "${#A[@]}"),
    *('"${A[@]/#/p-}"', "${PV/%rc1/X}", "${PV: -3}", r'"${L//\[s(+)]}"', "${PN}{,-1}"),
    *("${PV/#1/x}", "${PV#*.}", '${PV//"."/-}', r"a\ b", "pre{x}", "${PN:1}", "${PV/.*/}"),
)
SETUP = 'PN=foo PV=1.2.3_rc1 A=(a "b c") E=() L=">=a/b[s(+)] c/d[s(+)]"'


@pytest.mark.parametrize("word", EXPANSIONS)
def test_words_expand_as_in_bash(word: str) -> None:
    scope = ShellScope("x", {"PN": "foo", "PV": "1.2.3_rc1", "A": ("a", "b c"), "E": ()})
    scope.names["L"] = ">=a/b[s(+)] c/d[s(+)]"
    (command,) = parse_shell(f"c {word}", "x")
    assert isinstance(command, ShCommand)
    ours = [one for each in command.words[1:] for one in fields_of(each, scope)]
    script = f"set -f; {SETUP}; printf '%s\\0' {word}; echo"
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True).stdout
    theirs = told.removesuffix("\n").split("\0")[:-1]
    # printf prints one empty text where there is no word at all
    assert ours == theirs or (not ours and theirs == [""])


def test_nothing_is_ever_run() -> None:
    scope = ShellScope("x")
    for word in ("$(touch /tmp/never)", "`touch /tmp/never`", "$((1 + 1))", "<(true)"):
        statements = parse_shell(f"c {word}", "x")
        for one in statements:
            if isinstance(one, ShCommand):
                with pytest.raises(UnreadError):
                    fields_of(one.words[1], scope)


def test_arguments_stand_under_their_flags() -> None:
    made = recipe(
        'IUSE="+ssl nls test"\n'
        "src_configure() {\n"
        "  local args=(\n"
        "    --plain  # a comment\n"
        "    $(use_enable ssl) $(use_with nls intl) $(use_enable nls x y)\n"
        '    --mode="$(usex ssl fast slow)"\n'
        "    $(usev test --t)\n"
        "  )\n"
        "  use ssl && args+=( --a )\n"
        "  if use nls; then args+=( --b ); elif use test; then args+=( --c ); "
        "else args+=( --d ); fi\n"
        '  econf "${args[@]}" --last\n'
        "}\n"
    )
    listed = [one if isinstance(one, str) else (one.when, one.then) for one in made.configure]
    assert listed == [
        "--localstatedir=/var/lib",
        "--plain",
        ("ssl", "--enable-ssl"),
        ("!ssl", "--disable-ssl"),
        ("nls", "--with-intl"),
        ("!nls", "--without-intl"),
        ("nls", "--enable-x=y"),
        ("!nls", "--disable-x"),
        ("ssl", "--mode=fast"),
        ("!ssl", "--mode=slow"),
        ("test", "--t"),
        ("ssl", "--a"),
        ("nls", "--b"),
        ("!nls && test", "--c"),
        ("!nls && !test", "--d"),
        "--last",
    ]
    assert {name: one.default for name, one in made.use.items()} == {
        "ssl": "on",
        "nls": "off",
        "test": "off",
    }


def test_what_only_the_build_knows_becomes_a_script() -> None:
    made = recipe('src_configure() {\n  econf --x="${EPREFIX}/usr/$(get_libdir)/y"\n}\n')
    assert made.steps.configure is not None
    assert made.steps.configure.endswith('"$@" "--x=/usr/lib/$TRIPLET/y"\n')


def test_dependencies_go_to_the_trees_or_to_debian() -> None:
    made = recipe(
        'IUSE="ssl"\n'
        'DEPEND="ssl? ( >=dev-libs/openssl-3.0:0=[asm(+),-bindist] )\n'
        "  dev-libs/expat:= !dev-libs/old\n"
        '  || ( dev-libs/none dev-libs/expat ) kernel_Darwin? ( dev-libs/mac )"\n'
        'RDEPEND="${DEPEND} acct-user/redis sys-apps/less"\n'
        "BDEPEND='virtual/nothing-known'\n"
    )
    assert [str(one) for one in made.depends.link if isinstance(one, str)] == [
        "debian:libexpat1-dev"
    ]
    conditional = [one for one in made.depends.link if not isinstance(one, str)]
    assert [(one.when, one.atom) for one in conditional] == [
        ("ssl", ">=dev-libs/openssl-3.0[asm(+)]")
    ]
    assert made.depends.run == ("debian:less",)
    assert made.users["redis"].uid == 200


def test_what_is_not_known_is_told_with_its_line() -> None:
    done = written(
        "BDEPEND='virtual/nothing-known'\nsrc_install() {\n  dobin x\n  odd_thing y\n}\n"
    )
    assert [(one.line, one.text) for one in done.unread] == [
        (5, "virtual/nothing-known"),
        (8, "odd_thing y"),
    ]
    assert "    # x-1.2.ebuild:8: odd_thing y\n" in done.text
    assert "#   x-1.2.ebuild:5: virtual/nothing-known" in done.text


def test_a_hostile_ebuild_is_comments() -> None:
    done = written(
        "X=$(rm -rf /)\n"
        "rm -rf /\n"
        "src_compile() {\n  $(rm -rf /)\n  rm -rf /\n  rm -rf ../..\n  eval evil\n  emake\n}\n"
    )
    code = [line.strip() for line in done.text.split("\n") if not line.strip().startswith("#")]
    assert 'make -j"$JOBS"' in code
    assert not any("rm " in line or "eval" in line for line in code)
    assert len(done.unread) == 6


def test_install_helpers() -> None:
    made = recipe(
        "src_install() {\n"
        "  default\n"
        "  newbin a.sh a\n  dosbin b\n  doman x.1 y.de.8\n"
        "  insinto /etc/x\n  doins conf/*.conf\n  newins c d\n"
        "  dosym ../y /usr/bin/z\n  keepdir /var/lib/x\n  fperms 0750 /var/lib/x\n"
        "  exeinto /usr/libexec\n  doexe e\n  newinitd i x\n  dodoc README\n"
        "  use !nothing && dobin q\n"
        "  for f in 1 2; do newbin ${f}.x ${f%.x}; done\n"
        "}\n"
    )
    lines = (made.steps.install or "").splitlines()
    for one in (
        'make DESTDIR="$DESTDIR" install',
        'install -D -m 0755 a.sh "$DESTDIR/usr/bin/a"',
        'install -D -m 0755 -t "$DESTDIR/usr/sbin" b',
        'install -D -m 0644 -t "$DESTDIR/usr/share/man/man1" x.1',
        'install -D -m 0644 -t "$DESTDIR/usr/share/man/de/man8" y.de.8',
        'install -D -m 0644 -t "$DESTDIR/etc/x" conf/*.conf',
        'install -D -m 0644 c "$DESTDIR/etc/x/d"',
        'ln -s ../y "$DESTDIR/usr/bin/z"',
        'install -d "$DESTDIR/var/lib/x"',
        'chmod 0750 "$DESTDIR/var/lib/x"',
        'install -D -m 0755 -t "$DESTDIR/usr/libexec" e',
        'install -D -m 0644 -t "$DESTDIR/usr/share/doc/x-1.2" README',
    ):
        assert one in lines, one
    assert any("left out, OpenRC" in line for line in lines)
    assert any("use !nothing && dobin q" in line and line.startswith("#") for line in lines)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("emake $(usex nls '' NO=1)", "make -j\"$JOBS\" $(usex nls '' NO=1)"),
        ("use nls && touch a", "if use nls; then"),
        ("use nls || die 'no'", "if ! { use nls; }; then"),
        ("[[ -f x && ${y} != z ]] || touch x", "# x-1.2.ebuild"),
        ("[[ -f x ]] && rm x", "if [ -f x ]; then"),
        ('rm "${ED}"/usr/x || die', 'rm "$DESTDIR/usr/x"'),
        ("if ! emake check; then die no; fi", "  exit 1"),
        ("sed -i -e 's:a:b:' x || die", "sed -i -e s:a:b: x"),
        ('cp "${FILESDIR}/c" .', 'cp "$FILES/c" .'),
        ("pushd sub >/dev/null || die\nemake\npopd", 'cd "$SRC"'),
        ("append-flags -DX", 'export CFLAGS="${CFLAGS:-} -DX"'),
        ("cat > x <<-E\n\thello\n\tE\n", "cat > x <<'END'"),
    ],
)
def test_statements_become_posix_shell(body: str, words: str) -> None:
    text = f'IUSE="nls"\nsrc_compile() {{\n{body}\n}}\n'
    made = recipe(text, files=("c",)).steps.compile or ""
    assert any(line.startswith(words) for line in made.splitlines()), made
    subprocess.run(["dash", "-n"], input=made, text=True, check=True)


def test_flags_are_asked_as_gentoo_does() -> None:
    """The functions for scripts give what PMS 12.3.10 says."""
    made = recipe(
        'IUSE="a b"\nsrc_compile() {\n'
        "  echo $(use_enable a) $(use_enable b) $(use_with a x v) $(use_with b x v)"
        " $(use_enable !b q) $(usex a y n) $(usex b y n) $(usex a y n 1 2) $(usev a) $(usev b)\n}\n"
    ).steps.compile
    done = subprocess.run(
        ["dash", "-eu", "-c", made or "false"],
        env={"USE": "a c"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        *("--enable-a", "--disable-b", "--with-x=v", "--without-x", "--enable-q"),
        *("y", "n", "y1", "a"),
    ]


def test_nothing_is_done_in_a_directory_that_nobody_knows() -> None:
    done = written(
        "src_compile() {\n  cd $(find . -name y)\n  rm x\n}\nsrc_test() {\n  emake t\n}\n"
    )
    assert [(one.line, one.text) for one in done.unread] == [
        (6, "cd $(find . -name y)"),
        (7, "rm x"),
    ]
    assert "\n    rm x" not in done.text


def test_patches_come_from_filesdir() -> None:
    done = written(
        'PATCHES=( "${FILESDIR}"/${P}-a.patch )\n'
        'src_prepare() {\n  default\n  eapply -p0 "${FILESDIR}/b.patch"\n  eautoreconf\n}\n',
        files=("x-1.2-a.patch", "b.patch"),
    )
    assert done.patches == ("x-1.2-a.patch", "b.patch")
    assert "strip: 0" in done.text


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("X='never closed\n", "the quote that begins here never ends", 5),
        ("src_install() {\n  dobin x\n", "the function that begins here never ends", 5),
        ("X=( a b\n", "the list X=( that begins here never ends", 5),
        ("if true; then\n", "the if that begins here never ends", 5),
        ("X=" + "$(" * 60 + ")" * 60 + "\n", "nested deeper than 40", 5),
        ("A=xxxxxxxx\n" + 'A="$A$A"\n' * 20, "a value becomes longer than 64 KiB here", 19),
        ("A=('' '')\n" + 'A+=("${A[@]}")\n' * 30, "a value becomes longer than 64 KiB here", 19),
        ("DEPEND='" + "a/b" + "-1" * 400 + "'\n", "is no dependency", 5),
        ("DEPEND='ssl? dev-libs/a'\n", "'ssl?' stands alone in this specification", 5),
        ("DEPEND='( dev-libs/a'\n", "the ( after '(' is never closed", 5),
        ("DEPEND='no-category'\n", "'no-category' is no dependency", 5),
    ],
)
def test_bad_input_is_named(text: str, said: str, line: int) -> None:
    with pytest.raises(RecipeError) as caught:
        written(text)
    assert said in caught.value.message
    assert caught.value.place == f"x-1.2.ebuild:{line}"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("EAPI=5\n", "this ebuild is not read: it is of EAPI 5"),
        ("DESCRIPTION=x\n", "this ebuild is not read: no EAPI is said"),
    ],
)
def test_other_eapis_are_refused(head: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        written("", head=head)
    assert caught.value.message == said


def test_the_name_says_the_version() -> None:
    assert name_and_version("gtk+-3.24.1_rc2-r3.ebuild", "x") == ("gtk+", "3.24.1_rc2-r3")
    with pytest.raises(RecipeError):
        name_and_version("thing.ebuild", "x")


def test_what_grows_on_purpose_is_a_comment() -> None:
    calls = "".join(f"f{n}() {{\n  f{n + 1}\n  f{n + 1}\n}}\n" for n in range(20))
    tests = " && ".join(["-f x"] * 3000)
    begun = time.monotonic()
    done = written(f"{calls}src_compile() {{\n  f0\n  if [[ {tests} ]]; then emake; fi\n}}\n")
    assert time.monotonic() - begun < 5
    assert len(done.text) < 500_000


def test_python_packages() -> None:
    made = recipe("inherit distutils-r1\nDISTUTILS_USE_PEP517=flit\n")
    assert (made.style, made.depends.run) == ("python", ("debian:python3",))
    assert "debian:flit" in made.depends.build


def test_a_large_ebuild_is_read_in_a_second() -> None:
    text = "".join(f'A{n}="$(ver_cut 1) {n}"\n' for n in range(4000))
    begun = time.monotonic()
    written(text)
    assert time.monotonic() - begun < 5
