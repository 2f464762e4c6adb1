"""`use`, `explain`, `plan`, `why` and `lock` choose the same, and refuse the same (HOUSE §3.3)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.planning import Checkout, checkout
from tests.unit.cli.conftest import Command, Said

pytestmark = pytest.mark.unit

ERRORS = Path(__file__).parents[2] / "golden" / "errors"
VERBS = ("use", "explain", "plan", "why", "lock")

TREE = """\
description: A tool
use:
  ssl: {default: off, description: TLS}
  tls: {default: openssl, choices: [openssl, gnutls], description: Which TLS}
depends: {link: [{when: ssl, atom: ">=dev/lib-1.5"}], run: ["<dev/lib-2"]}
license: MIT
versions: {1.0: {}, 2.0: {}, 2.1: {toolchain: toolchain/other}}
"""
LIB = "description: A library\nversions: {1.4: {}, 1.6: {}, 2.0: {}}\n"

GOOD = {
    "the newest": "- package: {atom: dev/lib}\n",
    "a version": "- package: {atom: app/tool-1.0}\n",
    "a range": "- package: {atom: '<app/tool-2.1'}\n- package: {atom: '>dev/lib-1.4'}\n",
    "flags": (
        "- package: {atom: '<app/tool-2.1'}\n- use: {packages: {app/tool: [ssl, tls=gnutls]}}\n"
    ),
    "a template that asks for what is chosen": (
        "- package: {atom: '<app/tool-2.1'}\n"
        "- labels: {of: '{{ packages[\"app/tool\"].version }}'}\n"
    ),
}
BAD = {
    "no directory": ("", ()),
    "another machine": ("- vars: {arch: riscv64}\n- package: {atom: app/tool-1.0}\n", ()),
    "two toolchains": ("- package: {atom: app/tool-2.1}\n- toolchain: toolchain/debian-12\n", ()),
    "no such toolchain": ("- package: {atom: dev/other}\n", ()),
    "a conflict": ("- package: {atom: '<app/tool-2.1'}\n- package: {atom: dev/lib-2.0}\n", ()),
    "a flag of nobody": ("- package: {atom: app/tool-1.0}\n- use: [zip]\n", ()),
    "a flag of nobody, for this run": ("- package: {atom: app/tool-1.0}\n", ("--use", "zip")),
    "flags for what is not there": (
        "- package: {atom: app/tool-1.0}\n- use: {packages: {app/tol: [ssl]}}\n",
        (),
    ),
    "a template that asks for what is not chosen": (
        "- package: {atom: app/tool-1.0}\n- labels: {of: '{{ packages[\"app/x\"].version }}'}\n",
        (),
    ),
    "a .deb in two ways": (
        "- package: {debian: m4, without: [usr/share/*]}\n- package: {debian: m4}\n",
        (),
    ),
}


def room(root: Path, text: str) -> Checkout:
    made = checkout(root)
    made.write("pkgs/app/tool/pkg.yaml", TREE)
    made.write("pkgs/dev/lib/pkg.yaml", LIB)
    made.write("pkgs/dev/other/pkg.yaml", LIB + "toolchain: toolchain/none\n")
    made.write(
        "pkgs/toolchain/other/pkg.yaml",
        (root / "pkgs/toolchain/debian-12/pkg.yaml").read_text("utf-8"),
    )
    made.write(".buildit-config.yaml", "trees: [pkgs]\nrepositories: []\n")
    made.write("container/container.yaml", "- vars: {name: web, version: 1}\n" + text)
    return made


def said(command: Command, verb: str, *more: str) -> Said:
    words = ["container"]
    offline = () if verb in ("use", "explain") else ("--offline",)
    return command(verb, *words, *more, *offline, "--json")


def refusal(one: Said) -> str:
    """The error as JSON has it: remarks may come before it."""
    last = one.err.splitlines()[-1]
    assert json.loads(last)["event"] == "error"
    return last


@pytest.mark.parametrize("case", GOOD)
def test_verbs_choose_the_same(case: str, command: Command) -> None:
    room(Path.cwd(), GOOD[case])
    used = {one["name"]: one["version"] for one in json.loads(said(command, "use").out)}
    planned = json.loads(said(command, "plan").out)["packages"]
    assert {one["name"]: one["version"] for one in planned} == used
    reasons = json.loads(said(command, "why").out)
    assert {one["name"]: one["version"] for one in reasons} == used  # none is at hand
    for name, version in used.items():
        (shown,) = json.loads(said(command, "explain", name).out)
        assert (shown["name"], shown["version"]) == (name, version)
    assert said(command, "lock").code == 0
    lock = (Path.cwd() / "container/buildit.lock").read_text("utf-8")
    assert all(f"package {name} {version} " in lock for name, version in used.items())
    again = {one["name"]: one["version"] for one in json.loads(said(command, "use").out)}
    assert again == used


def test_a_locked_version_is_kept_by_all(command: Command) -> None:
    made = room(Path.cwd(), "- package: {atom: app/tool-1.0}\n")
    assert said(command, "lock").code == 0
    made.write(
        "container/container.yaml",
        "- vars: {name: web, version: 1}\n- package: {atom: '<app/tool-2.1'}\n",
    )
    for verb in ("use", "explain", "why"):
        found = json.loads(said(command, verb).out)
        assert {one["name"]: one["version"] for one in found}["app/tool"] == "1.0"


@pytest.mark.parametrize("case", BAD)
def test_verbs_refuse_the_same(case: str, command: Command) -> None:
    text, more = BAD[case]
    room(Path.cwd(), text)
    if not text:
        shutil.rmtree("container")
    found = [said(command, verb, *more) for verb in VERBS if text or verb not in ("why", "lock")]
    assert len({(one.code, refusal(one)) for one in found}) == 1
    assert found[0].code != 0


BEYOND = ("container-", "files-", "patch-", "signature-")
"""Where golden mistakes are that only come after the choice: in images and files of packages."""


def test_what_plan_refuses_is_refused_by_use_and_explain(command: Command) -> None:
    here, alike = Path.cwd(), 0
    cases = sorted(path.name for path in ERRORS.iterdir() if not path.name.startswith("_"))
    for number, case in enumerate(cases):
        shutil.rmtree(here / "container", ignore_errors=True)
        shutil.rmtree(here / "pkgs", ignore_errors=True)
        Checkout(here).lock()
        for part in (ERRORS / "_shared", ERRORS / case):
            shutil.copytree(part, here, symlinks=True, dirs_exist_ok=True)
        (here / ".buildit-config.yaml").write_text("trees: [pkgs]\nrepositories: []\n")
        expected = (here / "expected.txt").read_text("utf-8").split("\n")[1]
        one = said(command, ("use", "explain")[number % 2])
        if one.code == 0:
            assert case.startswith(BEYOND), case
            continue
        error = json.loads(refusal(one))
        assert expected.replace("ROOT", str(here)) in f"{error['place']}: {error['message']}"
        alike += 1
    assert alike >= 50
