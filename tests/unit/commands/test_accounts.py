from __future__ import annotations

import pytest

from buildit.commands.accounts import (
    GROUP,
    PASSWD,
    account_entries,
    account_files,
    check_borrowed,
    with_debians,
)
from buildit.digest import digest_bytes
from buildit.errors import RecipeError
from buildit.model.accounts import Declared, Group, User
from buildit.model.tree import Entry, Kind

pytestmark = pytest.mark.unit

ROOT = User("root", 0, 0, "/root", "/bin/sh", "root")
WWW = User("www", 101, 101, "/srv", "/usr/sbin/nologin", "Web, server")
GROUPS = [("a/base", Group("root", 0)), ("a/nginx", Group("www", 101, ("root", "www")))]


def test_the_files_are_sorted_by_id() -> None:
    files = account_files([("a/nginx", WWW), ("a/base", ROOT)], list(reversed(GROUPS)))
    assert files == {
        "etc/group": b"root:x:0:\nwww:x:101:root,www\n",
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n"
        b"www:x:101:101:Web, server:/srv:/usr/sbin/nologin\n",
    }


def test_the_same_declaration_twice_is_one() -> None:
    users = [("a/base", ROOT), ("container.yaml", ROOT)]
    assert account_files(users, [*GROUPS, *GROUPS])["etc/passwd"].count(b"\n") == 1


def test_without_accounts_there_is_no_layer() -> None:
    assert account_files([], []) == {}


def test_groups_alone_make_a_layer() -> None:
    assert account_files([], GROUPS)["etc/passwd"] == b""


def test_entries_are_ordinary_files() -> None:
    files = account_files([("a", ROOT)], GROUPS)
    entries = account_entries(files, {}, 7)
    assert [entry.path for entry in entries] == ["etc", "etc/group", "etc/passwd"]
    assert {entry.mode for entry in entries if entry.kind is Kind.FILE} == {0o644}
    assert {(entry.mtime, entry.uid) for entry in entries} == {(7, 0)}
    assert entries[2].digest == digest_bytes(files["etc/passwd"])
    assert entries[2].size == len(files["etc/passwd"])
    below = Entry("etc", Kind.DIRECTORY, 0o700, mtime=3, gid=9)
    assert account_entries(files, {"etc": below}, 7)[0] == below
    with pytest.raises(RecipeError, match="beneath /etc, which is a symlink"):
        account_entries(files, {"etc": Entry("etc", Kind.SYMLINK, 0o777, target="x")}, 7)


@pytest.mark.parametrize(
    ("users", "groups", "message"),
    [
        (
            [("a/x", WWW), ("a/y", User("www", 102, 101))],
            GROUPS,
            "user 'www' is declared differently by a/x and a/y",
        ),
        (
            [("a/x", WWW), ("a/y", User("web", 101, 101))],
            GROUPS,
            "user id 101 is 'www' for a/x and 'web' for a/y",
        ),
        (
            [],
            [("a/x", Group("www", 5)), ("a/y", Group("web", 5))],
            "group id 5 is 'www' for a/x and 'web' for a/y",
        ),
        (
            [],
            [("a/x", Group("www", 5)), ("a/y", Group("www", 5, ("root",)))],
            "group 'www' is declared differently by a/x and a/y",
        ),
        ([("a/x", WWW)], [], "user 'www' has gid 101, which no group declares"),
        (
            [("a/x", User("www", 101, 101, comment="a:0:0"))],
            GROUPS,
            "the comment of user 'www' in a/x cannot be in /etc/passwd: 'a:0:0'",
        ),
        (
            [("a/x", User("www", 101, 101, comment="a\nevil:x:0:0::/:/bin/sh"))],
            GROUPS,
            (
                "the comment of user 'www' in a/x cannot be in /etc/passwd: "
                r"'a\nevil:x:0:0::/:/bin/sh'"
            ),
        ),
        (
            [("a/x", User("www", 101, 101, home="/a:b"))],
            GROUPS,
            "the home of user 'www' in a/x cannot be in /etc/passwd: '/a:b'",
        ),
        (
            [("a/x", User("www", 101, 101, shell="/bin/sh\r"))],
            GROUPS,
            r"the shell of user 'www' in a/x cannot be in /etc/passwd: '/bin/sh\r'",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(
    users: list[tuple[str, User]], groups: list[tuple[str, Group]], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        account_files(users, groups)
    assert caught.value.message == message
    assert caught.value.hint


def test_accounts_of_debians_packages_join_the_others() -> None:
    """With root and nobody; what the container says of one with the same ids counts."""
    redis = User("redis", 200, 200)
    mine = User("redis", 200, 200, home="/srv")
    found = Declared((redis,), (Group("redis", 200),))
    users, groups = with_debians([("container.yaml", mine)], [], found)
    files = account_files(users, groups)
    assert files[PASSWD].decode().split("\n") == [
        "root:x:0:0:root:/root:/bin/bash",
        "redis:x:200:200::/srv:/usr/sbin/nologin",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
        "",
    ]
    assert files[GROUP].decode() == "root:x:0:\nredis:x:200:\nnogroup:x:65534:\n"
    assert with_debians([], [], Declared()) == ([], [])


@pytest.mark.parametrize(
    ("borrowed", "message"),
    [
        (("user", "reddis"), "names the user 'reddis', whom none"),
        (("group", "adm"), "names the group 'adm', whom none"),
        (("user", "proftpd"), "has the group 65534, not one of its own"),
    ],
)
def test_a_name_that_no_package_declares_is_refused(
    borrowed: tuple[str, str], message: str
) -> None:
    found = Declared((User("redis", 200, 200), User("proftpd", 213, 65534)))
    check_borrowed([("user", "redis")], found)
    with pytest.raises(RecipeError, match=message):
        check_borrowed([borrowed], found)
