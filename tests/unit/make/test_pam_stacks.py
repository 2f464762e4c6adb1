"""The `common-*` files of PAM, against what pam-auth-update of Debian 12 wrote."""

from __future__ import annotations

import pytest

from buildit.make.scripts.pam import STACKS
from buildit.make.scripts.read import script_rules
from buildit.model.tree import Kind

pytestmark = pytest.mark.unit

TEMPLATE = """\
# /etc/pam.d/common-X
# here are the per-package modules (the "Primary" block)
$X_primary
# here's the fallback if no module succeeds
X	requisite			pam_deny.so
# and here are more per-package modules (the "Additional" block)
$X_additional
# end of pam-auth-update config
"""
UNIX = """\
Name: Unix authentication
Default: yes
Priority: 256
Auth-Type: Primary
Auth:
	[success=end default=ignore]	pam_unix.so nullok try_first_pass
Auth-Initial:
	[success=end default=ignore]	pam_unix.so nullok
Session-Type: Additional
Session:
	required	pam_unix.so
"""
OTHER = """\
Name: Another
Default: yes
Priority: 300
Auth-Type: Primary
Auth-Final:
	[success=end default=ignore]	pam_krb5.so  minimum_uid=1000
Session-Type: Additional
Session-Interactive-Only: yes
Session:
	optional	pam_systemd.so
"""
OFF = OTHER.replace("yes", "no").replace("krb5", "off")
POSTINST = b'#!/bin/sh\npam-auth-update --root "$DPKG_ROOT" --package $force\n'


def test_pam_stacks_are_those_of_the_packages_own_profiles() -> None:
    files = {f"usr/share/pam/common-{one}": TEMPLATE.replace("X", one) for one in STACKS}
    files |= {f"usr/share/pam-configs/{n}": t for n, t in (("a", OFF), ("o", OTHER), ("u", UNIX))}
    kinds = dict.fromkeys(files, Kind.FILE)
    found = script_rules("libpam-runtime", {"postinst": POSTINST}, kinds, files.__getitem__)
    assert found.remainder == ()
    made = {rule.path.rpartition("common-")[2]: rule.value.splitlines() for rule in found.rules}
    assert {*made} == {*STACKS}
    assert made["auth"] == [
        "# /etc/pam.d/common-auth",
        '# here are the per-package modules (the "Primary" block)',
        "auth\t[success=2 default=ignore]\tpam_krb5.so minimum_uid=1000",
        "auth\t[success=1 default=ignore]\tpam_unix.so nullok try_first_pass",
        "# here's the fallback if no module succeeds",
        "auth\trequisite\t\t\tpam_deny.so",
        '# and here are more per-package modules (the "Additional" block)',
        "# end of pam-auth-update config",
    ]
    assert made["session"][2] == "session\t[default=1]\t\t\tpam_permit.so"
    assert made["session"][-3:-1] == [
        "session\toptional\tpam_systemd.so ",
        "session\trequired\tpam_unix.so ",
    ]
    assert made["session-noninteractive"][-2] == "session\trequired\tpam_unix.so "


def test_the_profile_of_another_package_is_said() -> None:
    kinds = {"usr/share/pam-configs/cap": Kind.FILE}
    found = script_rules("libpam-cap", {"postinst": POSTINST}, kinds, lambda _: OTHER)
    assert found.rules == ()
    assert "bring them with this profile's lines" in found.remainder[0].said
