"""How ssh is called, where a directory behind it is, and what its complaints mean."""

from __future__ import annotations

import pytest

from buildit.model.config import Ssh
from buildit.remote.sftp.login import Waits, ssh_argv, ssh_program, why_ssh_ended
from buildit.remote.transport import LocationError, ssh_address

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "account"),
    [
        ("user@host/path", Ssh("user", "host", 0, "path")),
        ("user@host//srv/bin", Ssh("user", "host", 0, "/srv/bin")),
        ("ssh://user@host:2222/a b/it's", Ssh("user", "host", 2222, "a b/it's")),
        ("host.example.org/", Ssh("", "host.example.org", 0, "")),
        ("host", Ssh("", "host", 0, "")),
    ],
)
def test_accounts(text: str, account: Ssh) -> None:
    assert ssh_address(text) == account
    assert ssh_address(account.shown) == account


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=touch x/path",
        "user@-oProxyCommand=x/path",
        "-l@host/path",
        "host;reboot/path",
        "us er@host/path",
        "user@host:99999/path",
        "user@host/../etc",
        "user@host//a/../../b",
        "user@host/a\nb",
        "user@host/a\0b",
        "user@host -p 1/x",
        "",
    ],
)
def test_what_is_no_account(text: str) -> None:
    with pytest.raises(LocationError, match="not a directory behind SSH") as caught:
        ssh_address(text)
    assert "user@host/path" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("path", "below"),
    [("bin", "bin/k/a"), ("/srv/bin/", "/srv/bin/k/a"), ("", "k/a"), ("/", "/k/a")],
)
def test_paths_of_the_server(path: str, below: str) -> None:
    assert Ssh("", "host", 0, path).below("k/a") == below


def test_ssh_never_asks_forwards_or_learns() -> None:
    argv = ssh_argv(Ssh("user", "host", 2222, "x"), ("ssh", "-F", "f"), Waits(connect=7))
    assert argv[:3] == ["ssh", "-F", "f"]
    assert argv[-5:] == ["-T", "-s", "--", "user@host", "sftp"]
    options = {argv[at + 1] for at, word in enumerate(argv) if word == "-o"}
    assert {
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "ForwardAgent=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "ConnectTimeout=7",
    } <= options
    assert argv[argv.index("-p") + 1] == "2222"
    assert "-p" not in ssh_argv(Ssh("", "host", 0, ""), ("ssh",), Waits())


def test_the_program_may_be_another() -> None:
    assert ssh_program({}) == ("ssh",)
    assert ssh_program({"BUILDIT_SSH": "ssh -F '/my file'"}) == ("ssh", "-F", "/my file")
    assert ssh_program({"BUILDIT_SSH": " "}) == ("ssh",)


@pytest.mark.parametrize(
    ("said", "code", "reason", "transient"),
    [
        ("u@h: Permission denied (publickey).", 255, "refuses the login", False),
        ("subsystem request failed on channel 0", 255, "offers no SFTP", False),
        ("ssh: connect to host h port 22: Connection refused", 255, "ssh: connect to host", False),
        ("ssh: Could not resolve hostname h: Name or service not known", 255, "resolve", False),
        ("Connection closed by 127.0.0.1 port 22", 255, "was lost", True),
        ("", None, "was lost", True),
        ("", 0, "was lost", True),
    ],
)
def test_what_ssh_says(said: str, code: int | None, reason: str, transient: bool) -> None:
    error = why_ssh_ended(Ssh("u", "h", 0, "x"), said, code)
    assert reason in error.reason
    assert error.transient is transient
    assert error.unreachable
    assert error.place == "ssh://u@h/x"
