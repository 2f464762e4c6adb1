"""What each format says of the start, and who that is inside: one app, however it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.errors import UsageError
from buildit.image.launch import (
    Accounts,
    Identity,
    Launch,
    identity_of,
    launch_environment,
    launch_of,
    quoted_words,
)
from buildit.image.verify import read_image
from buildit.model.image import App
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers

pytestmark = pytest.mark.unit

WORDS = ("/usr/sbin/nginx", "-g", "daemon off;", "it's", "", "a\\b")
APP = App(
    exec=WORDS,
    user="www-data",
    group="33",
    environment=(("LANG", "C.UTF-8"), ("EMPTY", ""), ("A", "b = c")),
    working_directory="/srv",
)
FORMATS = ("oci", "oci-archive", "docker-archive", "aci", "lxc", "nspawn")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_the_same(form: str, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blobs = BlobDirectory(tmp_path / "blobs")
    made = emit(image(nginx_layers(blobs), form, app=APP), blobs, tmp_path / "out")
    reading = read_image(made.path)
    assert reading.problems == ()
    group = None if form == "nspawn" else "33"  # which can say none, and tells so
    found = launch_of(reading.format, reading.start)
    assert found == Launch(WORDS, "www-data", group, (), APP.environment, "/srv")


@pytest.mark.parametrize("form", ["rootfs", "squashfs", "directory"])
def test_a_tree_says_nothing(form: str) -> None:
    assert launch_of(form, b"") == Launch()


@pytest.mark.parametrize(
    ("form", "document", "wanted"),
    [
        ("oci", b'{"config": {"Cmd": ["a"], "Entrypoint": ["/e"]}}', Launch(("/e", "a"))),
        ("oci", b'{"config": {"User": "7:8"}}', Launch((), "7", "8")),
        ("oci", b'{"config": null}', Launch()),
        ("oci", b"{}", Launch()),
        ("aci", b'{"acKind": "ImageManifest"}', Launch()),
        (
            "aci",
            b'{"app": {"exec": ["/a"], "user": "/f", "group": "g", "supplementaryGids": [4, 5]}}',
            Launch(("/a",), "/f", "g", (4, 5)),
        ),
        (
            "lxc",
            b"# lxc.init.cmd = /no\nlxc.init.cmd = /bin/a b\n",
            Launch(("/bin/a", "b"), "0", "0"),
        ),
        ("nspawn", b"[Files]\nUser=no\n[Exec]\n#User=no\nParameters=\n", Launch()),
    ],
)
def test_documents_of_others(form: str, document: bytes, wanted: Launch) -> None:
    assert launch_of(form, document) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("""'it'"'"'s' "" 'a b'""", ["it's", "", "a b"]),
        ("", []),
        (r"a\ b", ["a\\", "b"]),
    ],
)
def test_words_in_quotes(text: str, words: list[str]) -> None:
    assert list(quoted_words(text)) == words


ACCOUNTS = Accounts(
    "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:34::/srv:/bin/sh\nodd:x:a:b::/:/bin/sh\n"
    f"long:x:{'1' * 5000}:0::/:/bin/sh\n",
    f"long:x:{'1' * 5000}:web\nroot:x:0:\nweb:x:34:\nlog:x:4:web,other\nssl:x:110:web\nbroken:x\n",
    {"/etc/owned": (7, 8)},
)


@pytest.mark.parametrize(
    ("user", "group", "wanted"),
    [
        ("web", None, Identity(33, 34, (4, 110), "/srv")),
        ("33", None, Identity(33, 34, (4, 110), "/srv")),
        ("web", "ssl", Identity(33, 110, (), "/srv")),
        ("1000", None, Identity(1000, 0, (), "/")),
        ("1000", "1001", Identity(1000, 1001, (), "/")),
        ("/etc/owned", "/etc/owned", Identity(7, 8, (), "/")),
    ],
)
def test_who_runs(user: str, group: str | None, wanted: Identity) -> None:
    assert identity_of(Launch(user=user, group=group), ACCOUNTS) == wanted


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("nobody", None, "the image has no user 'nobody'"),
        ("0", "nogroup", "the image has no group 'nogroup'"),
        ("/etc/missing", None, "the image has no user '/etc/missing'"),
        ("4294967296", None, "the image has no user '4294967296'"),
        ("odd", None, "the image has no user 'odd'"),
        ("long", None, "the image has no user 'long'"),
        ("0", "long", "the image has no group 'long'"),
    ],
)
def test_nobody_runs(user: str, group: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        identity_of(Launch(user=user, group=group), ACCOUNTS)


def test_the_callers_variables_come_last() -> None:
    launch = Launch(environment=(("PATH", "/own"), ("A", "image"), ("B", "image")))
    found = launch_environment(launch, Identity(0, 0, (), "/root"), {"A": "caller"}, "xterm")
    assert found == {
        "PATH": "/own",
        "HOME": "/root",
        "container": "buildit",
        "TERM": "xterm",
        "A": "caller",
        "B": "image",
    }
    assert "TERM" not in launch_environment(launch, Identity(0, 0, (), "/"), {}, "")
