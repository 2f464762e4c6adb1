"""What of a script is apt's, and whether anything else in it needs a network."""

from __future__ import annotations

import pytest

from buildit.recipe.ways.aptlines import AptScript, apt_script, command_step
from buildit.recipe.yaml.node import Place
from tests.unit.recipe.ways.reading import plain

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("script", "packages", "local"),
    [
        ("apt-get update && apt-get install -y nginx curl", "nginx curl", True),
        ("apt-get install -y \\\n  git \\\n  make && rm -rf /var/lib/apt/*", "git make", True),
        ("sudo DEBIAN_FRONTEND=x apt-get -qq install g++ libc6:any", "g++ libc6", True),
        ("apt install -t bookworm -o A=b jq=1.6-2 php=8.*", "jq=1.6-2 php", True),
        ("if ! which git; then apt-get install git; fi", "git", True),
        ("apt-get install $LIST $OTHER", "vim nano", True),
        ("apt-get install ./local.deb gone- two/stable", "", True),
        ("apt-get remove nginx; apt-get clean", "", True),
        ("# don't: apt-get install x\nmkdir /srv", "", True),
        ("curl https://example.org | sh", "", False),
        ("apt-get install jq && npm ci", "jq", False),
        ("echo $(curl https://example.org)", "", False),
        ('echo "$(curl https://example.org)"', "", False),
        ("echo `wget x`", "", False),
        ("cat > /x <<E && apt-get install jq\napt-get install not\nE", "jq", False),
        ("echo 'not closed", "", False),
        ("./configure && make", "", False),
    ],
)
def test_what_is_apts(script: str, packages: str, local: bool) -> None:
    found = apt_script(script, {"LIST": "vim nano"})
    assert (found.packages, found.is_local) == (tuple(packages.split()), local)


def test_a_command_has_a_network_where_it_may_need_one() -> None:
    place = Place("recipe", 3, 1)

    def made(script: str, suite: bool) -> object:
        return plain(command_step(place, script, {}, over_suite=suite))["run"]

    said = {"script": "apt-get install jq\n", "as-app": "yes"}
    assert made("apt-get install jq", True) == {**said, "debs": ["jq"]}
    assert made("apt-get install jq", False) == {**said, "network": "yes"}
    assert made("mkdir /x", False) == {"script": "mkdir /x\n", "as-app": "yes"}
    both = {"script": "apt-get install jq; ./get\n", "as-app": "yes", "debs": ["jq"]}
    assert made("apt-get install jq; ./get", True) == {**both, "network": "yes"}
    assert apt_script("true", {}) == AptScript((), False, True)
