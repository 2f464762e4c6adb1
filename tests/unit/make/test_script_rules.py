"""What maintainer scripts would have done, as rules."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from buildit.archive.beneath import Root
from buildit.make.scripts.apply import Attributes, apply_rules, new_mode
from buildit.make.scripts.effects import RUNNING
from buildit.make.scripts.instead import INSTEAD
from buildit.make.scripts.read import script_rules
from buildit.make.scripts.shell import NotShell, parsed
from buildit.make.scripts.state import ScriptRules
from buildit.make.scripts.walk import UNKNOWN, ShellCommand, Told, Walk
from buildit.model.accounts import BASE_USERS, SYSTEM_IDS, Group, User, group_id, user_id
from buildit.model.tree import Kind

pytestmark = pytest.mark.unit


def rules(postinst: str, *paths: str, **files: str) -> ScriptRules:
    """What a postinst comes to, of a package with these paths; a slash at the end: a directory."""
    kinds = {p.rstrip("/"): Kind.DIRECTORY if p.endswith("/") else Kind.FILE for p in paths}
    control = {"postinst": f"#!/bin/sh\nset -e\n{postinst}".encode()}
    texts = {path.replace("__", "/"): text for path, text in files.items()}
    kinds |= dict.fromkeys(texts, Kind.FILE)
    return script_rules("x", control, kinds, lambda path: texts.get(path, ""))


def said(found: ScriptRules) -> list[str]:
    return [rule.said for rule in found.rules]


# -- the shell


def walked(script: str, arguments: tuple[str, ...] = ("configure", "")) -> list[str]:
    """The commands that a script comes to."""
    told: list[str] = []

    def run(command: ShellCommand) -> Told:
        told.append(" ".join(command.words).replace(UNKNOWN, "?"))
        return {"yes": True, "no": False}.get(command.words[0]), "out"

    Walk(run, arguments, {}).script(script)
    return told


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("a 'b c' \"d $1\" # e", ["a b c d configure"]),
        ("case $1 in configure|x) a;; *) b; exit 1;; esac; c", ["a", "c"]),
        ("yes && a; no && b; no || c; ! no && d", ["yes", "a", "no", "no", "c", "no", "d"]),
        ("if no; then a; elif yes; then b; else c; fi", ["no", "yes", "b"]),
        ("if perhaps; then a; else b; fi", ["perhaps", "a", "b"]),
        ("perhaps || exit 1; a", ["perhaps", "a"]),
        ("yes; exit 0; a", ["yes"]),
        ("for i in a 'b c' d; do x $i; done", ["x a", "x b c", "x d"]),
        ("X=1 Y=${X:-2}; a $X ${Y:-3} ${Z:-4} ${1%gure}", ["a 1 1 4 confi"]),
        ("F=/a/b.c; a ${F##*/} ${F%.*} ${F%%/*}x", ["a b.c /a/b x"]),
        ("f() { a $1; return 0; b; }\nf x; f y", ["a x", "a y"]),
        ("a $(b c) `d`", ["b c", "d", "a out out"]),
        ("a $(b | c) $((1+1))", ["a ? ?"]),
        ("cat <<EOF\n$(boom)\nEOF\na", ["cat", "a"]),
        ("a \\\n  b", ["a b"]),
        ("a 2>/dev/null >/dev/null 2>&1 <b", ["a"]),
        ('set -- p q; a "$@" $#', ["a p q 2"]),
        ("{ a; } && (b)", ["a", "b"]),
        ("while x; do a; exit 3; done; b", ["x", "a", "b"]),
    ],
)
def test_a_script_is_walked_as_the_shell_would(script: str, commands: list[str]) -> None:
    assert walked(script) == commands


@pytest.mark.parametrize("script", ["if a; then b", "a 'b", "case x in", "fi", "a $(b", "a )"])
def test_what_is_no_script_is_refused(script: str) -> None:
    with pytest.raises(NotShell):
        parsed(script)


def test_a_script_that_does_not_end_is_given_up() -> None:
    with pytest.raises(NotShell, match="more steps"):
        walked("f() { f; }; f")


# -- rules


def test_accounts_have_ids_that_follow_from_their_names() -> None:
    found = rules(
        "addgroup --system bar\nadduser --system --quiet --home /var/lib/foo --ingroup bar \\\n"
        "  --shell /bin/false --gecos 'The foo' foo\nadduser foo ssl-cert\nadduser foo adm\n"
    ).declared
    assert found.users == (
        User("foo", user_id("foo"), group_id("bar"), "/var/lib/foo", "/bin/false", "The foo"),
    )
    assert found.groups == (
        Group("adm", 4, ("foo",)),
        Group("bar", group_id("bar")),
        Group("ssl-cert", SYSTEM_IDS["ssl-cert"], ("foo",)),
    )


def test_ids_are_fixed() -> None:
    """An id that changed would give files in images that exist to somebody else."""
    assert (user_id("redis"), user_id("mosquitto"), user_id("postgres")) == (200, 203, 212)
    assert (user_id("www-data"), user_id("man"), group_id("man"), group_id("adm")) == (33, 6, 12, 4)
    assert user_id("never-heard-of") == 996
    assert len({*SYSTEM_IDS.values()}) == len(SYSTEM_IDS)
    assert max(SYSTEM_IDS.values()) < 600
    assert not {*SYSTEM_IDS} & {*BASE_USERS}


def test_a_users_home_is_made_where_nobody_says_otherwise() -> None:
    found = rules("adduser --system --group --home /var/lib/foo foo\n")
    assert said(found) == ["directory /var/lib/foo", "owner /var/lib/foo foo:foo"]
    assert said(rules("adduser --system --no-create-home --home /var/lib/foo foo")) == []
    with_it = rules("adduser --system --home /var/lib/foo foo", "var/lib/foo/")
    assert said(with_it) == []


@pytest.mark.parametrize(
    ("line", "done"),
    [
        ("mkdir -p -m 0750 /var/lib/x/y", [
            "directory /var/lib/x", "directory /var/lib/x/y", "mode /var/lib/x/y 0750"]),
        ("chown www-data:adm /etc/x", ["owner /etc/x www-data:adm"]),
        ("chown -R root.adm /etc/x", ["owner /etc/x -R root:adm"]),
        ("chgrp adm /etc/x", ["owner /etc/x :adm"]),
        ("chmod 640 /etc/x", ["mode /etc/x 640"]),
        ("chmod -R u=rwX,g-w /etc/d", ["mode /etc/d -R u=rwX,g-w"]),
        ("dpkg-statoverride --update --add root adm 02755 /etc/x",
            ["owner /etc/x root:adm", "mode /etc/x 02755"]),
        ("if ! dpkg-statoverride --list /etc/x; then chmod 1 /etc/x; fi", ["mode /etc/x 1"]),
        ("ucf --three-way /usr/share/x /etc/x/new", ["directory /etc/x/new", ]),
        ("cp -p /usr/share/x /etc/new", ["copy /etc/new usr/share/x"]),
        ("cp /usr/share/x /etc/x", []),
        ("install -d -o root -g adm -m 2750 /var/log/x", [
            "directory /var/log/x", "mode /var/log/x 2750", "owner /var/log/x root:adm"]),
        ("install -m 600 /dev/null /var/lib/x", [
            "write /var/lib/x", "mode /var/lib/x 600", "owner /var/lib/x root:root"]),
        ("ln -sf /usr/share/x /etc/d/", ["link /etc/d/x /usr/share/x"]),
        ("touch /var/log/x.log", ["write /var/log/x.log"]),
        ("echo hi > /etc/new", ["write /etc/new hi"]),
        ("[ -e /etc/x ] || touch /etc/x2", []),
        ("[ -d /run/systemd/system ] && touch /etc/x2", []),
        ("test -z \"$2\" && touch /etc/x2", ["write /etc/x2"]),
        ("dpkg --compare-versions \"$2\" lt-nl 3 && touch /etc/x2", []),
        ("getent passwd foo || touch /etc/x2", ["write /etc/x2"]),
        ("getent group adm || touch /etc/x2", []),
        ("setcap cap_net_raw=ep /usr/share/x", ["capabilities /usr/share/x cap_net_raw=ep"]),
        ("mkdir /var/run/x", ["directory /run/x"]),
        ("chmod 1 /sbin/s", ["mode /usr/sbin/s 1"]),
        ("rm -f /etc/x; invoke-rc.d x start; deb-systemd-helper enable x; py3compile -p x", []),
    ],
)  # fmt: skip
def test_a_line_becomes_rules(line: str, done: list[str]) -> None:
    found = rules(line, "etc/x", "etc/d/", "usr/share/x", "usr/sbin/s")
    if line.startswith("ucf"):  # below a file nothing is made; the rule is there all the same
        assert [rule.kind for rule in found.rules][-1] == "copy"
    else:
        assert said(found) == done
    assert found.remainder == ()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("frobnicate --all", ""),
        ("chown foo:foo $(find /etc -name x)", "not literal"),
        ("chmod 640 /etc/absent", "/etc/absent is no path of the package"),
        ("cp /usr/share/absent /etc/y", "/usr/share/absent is no file of the package"),
        ("ssh-keygen -A", "makes keys"),
        ("adduser --home /home/joe joe", "a user who logs in"),
        ("cat >> /etc/y <<E\nx\nE", "not literal"),
        ("sed -i s/a/b/ /etc/x", ""),
        ("find /etc -user 0 -print0 | xargs -0 -r chown foo", ""),
        ("if", "it cannot be read"),
        ("$(" * 4000, "too deep in others"),
        ("a=x\n" + "a=$a$a\n" * 60 + "chmod $a /etc/x", "not literal"),
        ("adduser --system 'a b'", "not the name of a user or group"),
        ("update-alternatives --install / x /usr/bin/x 1", "not literal"),
    ],
)
def test_what_no_rule_covers_is_said_by_its_line(line: str, why: str) -> None:
    (left,) = rules(line, "etc/x").remainder
    assert why in left.said
    assert left.place in ("postinst:3", "postinst", "postinst:64")
    assert left.place in ("postinst:3", "postinst") or "$a$a" in line


def test_what_cannot_be_known_is_walked_both_ways() -> None:
    found = rules(
        "if pidof x; then touch /etc/a; else touch /etc/b; fi\n[ -x /usr/bin/z ] || exit 1"
    )
    assert said(found) == ["write /etc/a", "write /etc/b"]


def test_questions_have_their_default_answers() -> None:
    control = {
        "templates": b"Template: x/go\nType: boolean\nDefault: false\nDescription: z\n",
        "postinst": b'#!/bin/sh\ndb_get x/go\nif [ "$RET" = true ]; then touch /etc/a; fi\n',
    }
    assert script_rules("x", control, {}, lambda _: "").rules == ()


def test_alternatives_keep_their_priorities() -> None:
    line = (
        "update-alternatives --install /usr/bin/awk awk /usr/bin/gawk 10 "
        "--slave /usr/share/man/a.gz a.gz /usr/share/man/g.gz "
        "--slave /usr/bin/nawk nawk /usr/bin/gawk"
    )
    found = rules(line, "usr/bin/gawk").declared.alternatives
    assert [(one.link, one.target, one.priority) for one in found] == [
        ("usr/bin/awk", "usr/bin/gawk", 10),
        ("usr/bin/nawk", "usr/bin/gawk", 10),
    ]


def test_a_priority_follows_from_the_architecture_of_the_package() -> None:
    """OpenJDK takes one off its own for a foreign architecture."""
    script = """
        if [ "$DPKG_MAINTSCRIPT_ARCH" != $(dpkg --print-architecture) ]; then
            p=$(expr $p - 1)
        fi
        update-alternatives --install /usr/bin/x x /usr/bin/y ${p:-17}
    """
    control = {"control": b"Package: x\nArchitecture: arm64\n", "postinst": b"#!/bin/sh\n"}
    control["postinst"] += script.encode()
    found = script_rules("x", control, {"usr/bin/y": Kind.FILE}, lambda _: "")
    assert [one.priority for one in found.declared.alternatives] == [17]
    assert found.remainder == ()


def test_what_is_read_is_not_known() -> None:
    """As dh_usrlocal's lines are."""
    script = "while read line; do set -- $line; mkdir $1; chmod $2 $1; done <<E\n/a 1\nE\n"
    assert [one.why for one in rules(script).remainder] == ["not literal", "not literal"]


def test_systemds_files_count() -> None:
    found = rules(
        "",
        **{
            "usr/lib/sysusers.d/x.conf": 'u foo - "The foo" /var/lib/foo\nm foo adm\n# c\n',
            "usr/lib/tmpfiles.d/x.conf": (
                "d /run/foo 0750 foo foo -\nL /etc/l - - - - /etc/t\nz /x 1\n"
            ),
            "usr/lib/systemd/system/x.service": (
                "[Service]\nUser=foo\nGroup=foo\nStateDirectory=foo\nStateDirectoryMode=0700\n"
                "ExecStartPre=-/bin/mkdir -m 740 -p /run/pre\nExecStartPre=/usr/bin/boom\n"
                "ExecStartPre=-/usr/libexec/x-helper key\n"
            ),
        },
    )
    assert found.declared.users == (
        User("foo", user_id("foo"), group_id("foo"), "/var/lib/foo", comment="The foo"),
    )
    assert said(found) == [
        "directory /run",
        "directory /var/log",
        "directory /run/pre",
        "mode /run/pre 740",
        "directory /var/lib/foo",
        "mode /var/lib/foo 0700",
        "owner /var/lib/foo foo:foo",
        "directory /run/foo",
        "mode /run/foo 0750",
        "owner /run/foo foo:foo",
        "link /etc/l /etc/t",
    ]
    assert [one.text for one in found.remainder] == ["-/usr/libexec/x-helper key"]


def test_a_package_of_the_table_is_not_walked() -> None:
    control = {"postinst": b"#!/bin/sh\nfrobnicate\n"}
    assert script_rules("libc6", control, {}, lambda _: "").remainder == ()
    assert "libc6" in INSTEAD
    (left,) = script_rules("ca-certificates", control, {}, lambda _: "").remainder
    assert left.why == "the package's certificates are left out"
    assert all(parsed(text) for text in INSTEAD.values())
    assert not RUNNING & {"adduser", "chown", "cp", "ln", "mkdir", "mv", "ucf"}


# -- done to a tree


def test_rules_are_done_to_the_tree(tmp_path: Path) -> None:
    (tmp_path / "usr/share").mkdir(parents=True)
    (tmp_path / "usr/share/x").write_text("x = 1\n")
    (tmp_path / "usr/share/x").chmod(0o640)
    script = """
        adduser --system --group --home /var/lib/foo foo
        cp /usr/share/x /etc/x/x.conf
        chown -R foo:adm /etc/x
        chmod 2750 /etc/x
        chmod u+s,o= /etc/x/x.conf
        ln -s ../x/x.conf /etc/l
        echo hi > /etc/motd
        setcap cap_net_raw=ep /usr/share/x
    """
    found = rules(script, "usr/share/x", "etc/x/")
    (tmp_path / "etc/x").mkdir(parents=True)
    attributes = Attributes()
    with Root.open(tmp_path) as tree:
        apply_rules(found.rules, tree, attributes)
    assert (tmp_path / "etc/x/x.conf").read_text() == "x = 1\n"
    assert stat.S_IMODE((tmp_path / "etc/x/x.conf").stat().st_mode) == 0o640
    assert (tmp_path / "etc/l").readlink() == Path("../x/x.conf")
    assert (tmp_path / "etc/motd").read_text() == "hi\n"
    foo = user_id("foo")
    assert attributes.owners == {
        "var/lib/foo": (foo, foo),
        "etc/x": (foo, 4),
        "etc/x/x.conf": (foo, 4),
    }
    assert attributes.modes == {"etc/x": 0o2750, "etc/x/x.conf": 0o4640}
    assert attributes.set_ids() == ["etc/x/x.conf"]
    plain = {rule.path: rule.mode for rule in attributes.file_rules(keep_set_id=False)}
    kept = {rule.path: rule.mode for rule in attributes.file_rules(keep_set_id=True)}
    assert (plain["etc/x/x.conf"], kept["etc/x/x.conf"]) == ("0640", "4640")
    assert plain["etc/x"] == "2750"


def test_a_rule_never_leads_out_of_the_tree(tmp_path: Path) -> None:
    inner, outer = tmp_path / "in", tmp_path / "out"
    inner.mkdir()
    outer.mkdir()
    (inner / "var").symlink_to(outer)
    found = rules("mkdir /var/x; touch /var/y; ln -s a /var/z; touch /../../w")
    with Root.open(inner) as tree:
        undone = apply_rules(found.rules, tree, Attributes())
    found = found.without(undone)
    assert said(found) == ["write /w"]
    assert [one.said for one in found.remainder] == [
        f"postinst:3: {rule} (it lies below a link or file)"
        for rule in ("directory /var/x", "write /var/y", "link /var/z a")
    ]
    assert list(outer.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("0644", 0o600, 0o644),
        ("u=rwX,go=rX", 0o600, 0o644),
        ("a+X", 0o644, 0o644),
        ("a+X", 0o744, 0o755),
        ("+x", 0o644, 0o755),
        ("ug+s", 0o755, 0o6755),
        ("o-rwx,g-w", 0o777, 0o750),
        ("what", 0o777, 0o777),
    ],
)
def test_a_mode_is_what_chmod_makes_of_it(text: str, before: int, after: int) -> None:
    assert new_mode(text, before, directory=False) == after


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("(" * 5000 + "a" + ")" * 5000, "line 3: commands are too deep in others"),
        ("x=" + '"$(' * 3000 + "a" + ')"' * 3000, "line 3: expansions are too deep in others"),
        ("mkdir " + "${a:-" * 3000 + "b" + "}" * 3000, "line 3: expansions are too deep in others"),
        ("x=abc\n" + "x=$x$x\n" * 40 + "mkdir /$x", "not literal"),
        ("f() { f $1 $1$1 $1$1; }\nf a", "it takes more steps than a maintainer script should"),
        ("set -- a\n" + 'set -- "$@" "$@"\n' * 40, "it takes more steps"),
        ("x=" + "a" * 9000 + "\nmkdir /${x%b*c}", "held against more than a name"),
        ("case x in a", "'' in the place of ')'"),
        ("cat <", "'<' has no file"),
        ("#" * 300_000, "longer than a maintainer script is"),
        ("mkdir -p /srv" + "/a" * 9000, "not literal"),
        ("update-alternatives --install /usr/bin/x x /usr/bin/y " + "9" * 5000, "not literal"),
        ("chgrp -R", "not literal"),
    ],
)
def test_what_no_maintainer_script_does_is_left_and_ends_soon(script: str, why: str) -> None:
    (left,) = rules(script).remainder
    assert why in left.said


def test_many_conditions_are_not_decided_and_words_may_be_empty() -> None:
    assert said(rules("[ " + "a -o " * 5000 + "b ] && mkdir /srv/x")) == ["directory /srv/x"]
    odd = "'' /a 0755\nL /var/lock - - - - ../run/lock\n"  # which leads to itself
    conf = {"usr__lib__tmpfiles.d__x.conf": odd, "usr__lib__sysusers.d__x.conf": "'' a"}
    assert not rules("", **conf).rules


def test_numbers_that_are_no_ids_are_names() -> None:
    assert said(rules("chgrp -v ² /etc/x", "etc/x")) == ["owner /etc/x :²"]


def test_accounts_and_capabilities_that_cannot_be_are_left() -> None:
    found = rules(
        "adduser --system 'a:b'; adduser --system --home /x:y c; addgroup --system 'd,e'\n"
        "setcap cap_foo=ep /usr/bin/x; setcap cap_chown=xyz /usr/bin/x",
        "usr/bin/x",
    )
    assert not found.rules
    assert not found.declared
    assert len(found.remainder) == 5


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (f"mkdir /srv/{'a' * 300}", "no file has a name as long"),
        ("touch /etc/x/a", "it lies below a link or file"),
        ("touch /srv/l/a", "it lies below a link or file"),
    ],
)
def test_a_rule_that_cannot_be_done_is_given_back(tmp_path: Path, script: str, why: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/x").write_text("")
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv/l").symlink_to("/tmp")
    with Root.open(tmp_path) as tree:
        assert [
            *apply_rules(rules(script, "etc/x", "srv/").rules, tree, Attributes()).values()
        ] == [why]
