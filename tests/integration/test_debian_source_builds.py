"""Debian source packages built for real: the archive's own bytes, the user's changes, the traps."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import closing

import pytest

from buildit.archive.deb import read_control
from buildit.errors import BuildError, RecipeError
from buildit.make import debian_root
from buildit.make.debian_compare import Reason, compare_debs
from buildit.make.debian_outputs import DEBS
from buildit.make.debian_root import control_fields
from buildit.make.patching import Refused
from buildit.model.artifact import Artifact
from buildit.store.cas import Store
from tests.debian_builds import DebianBuilds, debian_builds
from tests.integration.seeds import Seed

pytestmark = pytest.mark.sandbox

JQ = ("jq", "1.6-2.1+deb12u2")
TINI = ("tini", "0.19.0-1")
PATCH = b"""\
--- a/src/tini.c
+++ b/src/tini.c
@@ -1,3 +1,4 @@
 /* See LICENSE file for copyright and license details. */
 #define _GNU_SOURCE
+const char *const patched_by = "a sysadmin was here";
\x20
"""

OVERRIDE = b"""\
--- a/debian/rules
+++ b/debian/rules
@@ -4,3 +4,5 @@
\x20
 %:
 \tdh $@
+override_dh_auto_configure:
+\tmkdir obj && cd obj && cmake ..
"""


@pytest.fixture(scope="module")
def builds(seed: Seed) -> Iterator[DebianBuilds]:
    with (
        closing(Store.open(seed.program.store)) as store,
        debian_builds(store, store.cache("debian")) as found,
    ):
        yield found


def debs_of(builds: DebianBuilds, artifact: Artifact) -> dict[str, bytes]:
    """The .debs that were built, by package."""
    found = {}
    layer = builds.store.path(artifact.outputs[DEBS].diff_id)
    with tarfile.open(layer) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            found[member.name.partition("_")[0]] = content.read()
    return found


def test_an_unpatched_source_gives_debians_own_bytes(builds: DebianBuilds) -> None:
    """That proves the root: without its links, flags and lists it would give others."""
    task, source = builds.task(*JQ)
    builds.phases.clear()
    artifact = builds.make(task)
    assert builds.phases == ["unpack", "build", "pack"]
    ours = {name: io.BytesIO(deb) for name, deb in debs_of(builds, artifact).items()}
    assert sorted(ours) == ["jq", "libjq-dev", "libjq1"]
    theirs = {name: io.BytesIO(builds.theirs(name, source.version).read_bytes()) for name in ours}
    assert {one.name: one.reason for one in compare_debs(ours, theirs)} == dict.fromkeys(
        ours, Reason.NONE
    )
    jq = artifact.outputs["jq"]
    assert jq.run == (":libjq1",)
    assert jq.providers["soname:libjq.so.1"] == ":libjq1"
    onig = artifact.outputs["libjq1"].providers["soname:libonig.so.5"]
    assert onig.endswith(":runtime"), "found in what its Depends name"
    assert "libjq-dev_dev" in artifact.outputs


def test_a_misspelt_switch_ends_the_build_before_it_compiles(builds: DebianBuilds) -> None:
    task, _ = builds.task(*JQ, configure=("--without-onigurama",), suffix="+buildit1")
    with pytest.raises(RecipeError, match="not a switch of this program: --without-onigurama") as e:
        builds.make(task)
    assert e.value.hint == "did you mean --with-oniguruma?"
    assert builds.phases[-1] == "build"


def test_switches_that_nothing_will_use_are_refused_before_the_build(builds: DebianBuilds) -> None:
    patches = {"patches/rules.patch": OVERRIDE}
    task, _ = builds.task(*TINI, patches=patches, configure=("-DX=1",), suffix="+buildit1")
    with pytest.raises(RecipeError, match="does not call dh_auto_configure"):
        builds.make(task)
    assert builds.phases[-1] == "patch"


def test_a_patch_that_debian_has_is_named_with_its_file(builds: DebianBuilds) -> None:
    task, source = builds.task(*JQ)
    (packed,) = [one for one in source.files if one.name.endswith(".debian.tar.xz")]
    with tarfile.open(builds.store.path(packed.digest)) as tar:
        series = tar.extractfile("debian/patches/series")
        assert series is not None
        name = series.read().decode().split()[-1]
        content = tar.extractfile(f"debian/patches/{name}")
        assert content is not None
        patch = content.read()
    task, _ = builds.task(*JQ, patches={"patches/mine.patch": patch}, suffix="+buildit1")
    with pytest.raises(Refused, match="already applied") as refused:
        builds.make(task)
    assert f"Debian has it in debian/patches/{name}" in refused.value.message
    other = re.sub(rb"(?m)^ (?=\S)", b" not ", patch)
    task, _ = builds.task(*JQ, patches={"patches/mine.patch": other}, suffix="+buildit1")
    with pytest.raises(Refused, match="does not apply") as refused:
        builds.make(task)
    assert "Debian changes that file in debian/patches/" in refused.value.message
    assert name in refused.value.message.rpartition("debian/patches/")[2]


def test_a_patched_source_has_a_version_of_its_own(builds: DebianBuilds) -> None:
    patches = {"patches/mine.patch": PATCH}
    task, source = builds.task(*TINI, patches=patches, suffix="+buildit1")
    artifact = builds.make(task)
    deb = debs_of(builds, artifact)["tini"]
    fields = control_fields(read_control(io.BytesIO(deb))["control"])
    assert fields["version"] == f"{source.version}+buildit1"
    tree = builds.store.tree(artifact.outputs["tini"].diff_id)
    assert b"a sysadmin was here" in (tree / "usr/bin/tini").read_bytes()
    assert b"/build/" not in (tree / "usr/bin/tini").read_bytes()


def test_without_a_vendor_nothing_is_built(
    builds: DebianBuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The silent trap: without this link dpkg-buildflags gives no flags, and the build succeeds."""
    links = {k: v for k, v in debian_root._LINKS.items() if k != "etc/dpkg/origins/default"}
    monkeypatch.setattr(debian_root, "_LINKS", links)
    monkeypatch.setattr(debian_root, "FIX", "root-trap")
    task, _ = builds.task(*TINI)
    with pytest.raises(BuildError, match="unpack failed") as failed:
        builds.make(task)
    told = "buildit: the chroot has no vendor: dpkg-vendor says '', not Debian"
    assert told in "\n".join(failed.value.details)
