"""Several platforms: what a container says of them, keys, the lock, and the index of all images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from buildit.cli.images import ls_verb, verify_verb
from buildit.commands.pins import EMULATOR_DEBS, request_digest
from buildit.commands.planning import PlannedContainer, make_plan
from buildit.commands.run import Options, opened_run
from buildit.digest import BuildKey, Digest
from buildit.errors import RecipeError, UnsatisfiableError, UsageError
from buildit.events import silent
from buildit.image.formats.table import emit_groups, output_name
from buildit.image.verify import read_image, verify
from buildit.make import emulator
from buildit.model.config import Config
from buildit.model.plan import DebRef, Inputs, Task
from buildit.model.platform import EMULATIONS, PLATFORMS, named_platform, spelled_platform
from buildit.plan.identity import read_record
from buildit.plan.lock import Lock, LockedPatch, Section, format_lock
from buildit.recipe.config import Loaded
from buildit.recipe.lists import load_container
from buildit.sandbox import probe
from buildit.sandbox.jail import Jail, Places, chain
from buildit.store.cas import Store
from tests.planning import LOCKED, PLATFORM, Checkout, checkout, locked
from tests.unit.image.samples import BlobDirectory, file, image, nginx_layers

pytestmark = pytest.mark.unit

OTHER = next(one for one in PLATFORMS.values() if one != PLATFORM)
BOTH = f"- platforms: [{PLATFORM}, {OTHER}]\n"
HEAD = "- vars: {name: web, version: 1.0}\n"


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "container.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["linux/arm64", "linux/arm64/v8", "Linux/ARM64", "linux/aarch64"])
def test_names_of_one_platform(name: str) -> None:
    assert str(named_platform(name)) == spelled_platform(name) == "linux/arm64"


def test_a_platform_that_can_only_be_read_is_one() -> None:
    assert spelled_platform("Linux/RISCV64") == "linux/riscv64"
    for name in ("arm64", "linux/", "linux/arm/v7/x", "a b/c"):
        with pytest.raises(UsageError, match="is no platform"):
            spelled_platform(name)


def test_templates_know_the_platform_that_is_built_for(tmp_path: Path) -> None:
    text = HEAD + BOTH + '- labels: {on: "{{ os }}-{{ arch }}"}\n'
    place = written(tmp_path, text)
    first, second = load_container(place), load_container(place, platform=str(OTHER))
    assert first.platforms == second.platforms == (PLATFORM, OTHER)
    assert first.steps[2].spec.labels == {"on": f"linux-{PLATFORM.arch}"}
    assert second.steps[2].spec.labels == {"on": f"linux-{OTHER.arch}"}


@pytest.mark.parametrize(
    ("steps", "platform", "place", "message"),
    [
        ("- platforms: [linux/amd64, linux/AMD64]\n", "", ":2:28", "linux/amd64 is there twice"),
        ("- platforms: [linux/arm64, linux/arm64/v8]\n", "", ":2:28", "is there twice"),
        ("- platforms: [linux/amd64, linux/mips]\n", "", ":2:28", "cannot build for linux/mips"),
        ("- platforms: [freebsd/amd64]\n", "", ":2:15", "cannot build for freebsd/amd64"),
        ("- platforms: []\n", "", ":2:14", ""),
        (f"{BOTH}{BOTH}", "", ":3:3", "a second `platforms` step"),
        (f"{BOTH}- vars: {{arch: amd64}}\n", "", ":3:16", "`platforms` says the arch"),
        (f"- platforms: [{PLATFORM}]\n", str(OTHER), "container.yaml", f"is not for {OTHER}"),
        (
            f"- vars: {{arch: {PLATFORM.arch}}}\n",
            str(OTHER),
            ":2:16",
            f"--platform for {OTHER.arch}",
        ),
    ],
)
def test_a_wrong_platform_is_refused_where_it_is_written(
    tmp_path: Path, steps: str, platform: str, place: str, message: str
) -> None:
    with pytest.raises((RecipeError, UsageError)) as caught:
        load_container(written(tmp_path, HEAD + steps), platform=platform)
    assert message in caught.value.message
    assert (caught.value.place or "").endswith(place)


STEP = "- package: {atom: dev/lib}\n"
LIB = "description: x\nversions: {1.0: {}}\nstyle: custom\nsteps: {install: touch $DESTDIR/x}\n"
QEMU = DebRef(
    "qemu-user-static", "1:7.2", PLATFORM.debian, "bookworm", "pool/q.deb", 9, Digest("e" * 64)
)


def test_the_keys_of_the_own_platform_are_what_they_were_and_those_of_another_are_emulated(
    tmp_path: Path,
) -> None:
    made = checkout(tmp_path)
    made.write("pkgs/dev/lib/pkg.yaml", LIB)
    made.write("container/container.yaml", HEAD + STEP)
    alone = planned(made).plan
    made.write("container/container.yaml", HEAD + BOTH + STEP)
    request = emulator_request()
    other = replace(
        LOCKED,
        debs={**LOCKED.debs, "emulator": (QEMU,)},
        requests={**LOCKED.requests, "emulator": request},
    )
    lock = Lock({str(PLATFORM): LOCKED, str(OTHER): other})
    made.write("container/buildit.lock", format_lock(lock))
    own, further = planned(made), planned(made, str(OTHER))
    assert [one.key for one in own.plan.tasks] == [one.key for one in alone.tasks]
    assert "emulator" not in alone.tasks[-1].record
    assert own.plan.platforms == further.plan.platforms == (str(PLATFORM), str(OTHER))
    (task,) = further.plan.tasks
    record = read_record(task.record)
    assert task.inputs.emulator == (QEMU,)
    assert (record.emulator, str(record.build_platform)) == (QEMU.digest, str(OTHER))
    assert record.environment["QEMU_CPU"] == EMULATIONS[str(OTHER)].cpu
    assert record.environment["LIBDIR"] == f"/usr/lib/{OTHER.triplet}"
    assert further.pins.section.debs["emulator"] == (QEMU,)
    assert further.pins.changed().sections.keys() == {str(PLATFORM), str(OTHER)}


def planned(made: Checkout, platform: str = "") -> PlannedContainer:
    config = Config(made.root / "store", 1, (made.root / "pkgs",))
    with Store.open(config.store) as store, opened_run(config, store, silent, offline=True) as run:
        options = Options(made.container, platform=platform)
        return make_plan(options, Loaded(config, ()), run.downloads)


def emulator_request() -> Digest:
    return request_digest(("bookworm", "", PLATFORM.debian, *EMULATOR_DEBS))


def test_a_platform_that_is_new_in_the_lock_begins_with_what_holds_for_all() -> None:
    patch = LockedPatch("a/b", Digest("1" * 64), None, "https://example.org/x.patch")
    first = replace(
        locked(),
        patches=(patch,),
        synced={("etc/x", Digest("2" * 64)): 5},
        outputs={("a/b", "r"): Digest("3" * 64)},
        images={"docker://example.org/base:1": Digest("4" * 64)},
    )
    lock = Lock({"linux/amd64": first})
    begun = lock.begun("linux/arm64")
    assert (begun.patches, begun.synced) == (first.patches, first.synced)
    assert begun == Section(patches=first.patches, synced=first.synced, packages=first.packages)
    assert lock.begun("linux/amd64") == first
    assert lock.section("linux/arm64") == Section()
    both = lock.with_section("linux/arm64", Section(synced={("etc/x", Digest("2" * 64)): 9}))
    assert both.synced("linux/arm64")[("etc/x", Digest("2" * 64))] == 9


# -- the emulator


def test_the_sandbox_registers_the_emulator_before_bubblewrap(tmp_path: Path) -> None:
    told = EMULATIONS["linux/arm64"].registration("emulator-x/usr/bin/qemu-aarch64-static")
    assert told.count(":") == 7
    assert told.endswith(":emulator-x/usr/bin/qemu-aarch64-static:POCF")
    magic = told.split(":")[4].encode().decode("unicode_escape").encode("latin-1")
    mask = told.split(":")[5].encode().decode("unicode_escape").encode("latin-1")
    assert len(magic) == len(mask) == 20
    assert magic[:7] == b"\x7fELF\x02\x01\x01"
    assert magic[18:] == b"\xb7\x00"  # EM_AARCH64
    jail = Jail(("t",), (), {}, "/build", emulator=told)
    line = chain(jail, ("true",), Places(tmp_path, "./w", "./t"), ("9",), terminal=False)
    assert told in line
    assert line.index(told) < line.index("--")
    plain = chain(
        replace(jail, emulator=""),
        ("true",),
        Places(tmp_path, "./w", "./t"),
        ("9",),
        terminal=False,
    )
    assert "" in plain[: plain.index("--")]


def test_a_machine_without_emulation_says_so_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emulated = Task(
        BuildKey(Digest("1" * 64)),
        "package",
        "a/b",
        "1",
        "{}",
        str(OTHER),
        Inputs(emulator=(QEMU,)),
    )
    native = replace(emulated, inputs=Inputs())
    monkeypatch.setattr(emulator, "no_emulation", lambda: "mount: permission denied")
    emulator.check_emulation((native,))
    with pytest.raises(UnsatisfiableError, match="permission denied") as caught:
        emulator.check_emulation((native, emulated))
    assert caught.value.exit_code == 3
    assert caught.value.place == "a/b-1"
    assert "6.7" in (caught.value.hint or "")
    monkeypatch.setattr(emulator, "no_emulation", lambda: "")
    emulator.check_emulation((emulated,))


def test_doctor_says_what_other_platforms_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "no_emulation", lambda: "")
    (fine,) = probe._emulation(Path("/"))
    assert (fine.level, str(OTHER) in fine.text) == (probe.Level.FINE, True)
    monkeypatch.setattr(probe, "no_emulation", lambda: "no such device")
    (weak,) = probe._emulation(Path("/"))
    assert (weak.level, "no such device" in weak.text) == (probe.Level.WEAK, True)
    assert weak.hint == probe.EMULATION_HINT


# -- one image for several platforms


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    (tmp_path / "blobs").mkdir()
    return BlobDirectory(tmp_path / "blobs")


def emitted(blobs: BlobDirectory, out: Path, *forms: str) -> list[Path]:
    """The same container for two platforms: two layers of three are shared."""
    layers = nginx_layers(blobs)
    other = (*layers[:2], blobs.layer("sync x", [file("etc/other", b"arm")]))
    groups = []
    for form in forms:
        amd64 = image(layers, form, arch="amd64")
        groups.append([(amd64, None), (replace(amd64, arch="arm64", layers=other), None)])
    out.mkdir(exist_ok=True)
    return [one.path for one in emit_groups(groups, blobs, out)]


def test_a_platform_that_an_image_is_not_for_is_refused(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    (several,) = emitted(blobs, tmp_path / "out", "oci")
    layers = nginx_layers(blobs)
    (one,) = (each.path for each in emit_groups([[(image(layers, "oci"), None)]], blobs, tmp_path))
    (aci,) = (each.path for each in emit_groups([[(image(layers, "aci"), None)]], blobs, tmp_path))
    for path, message in [
        (several, "it holds no image for linux/s390x"),
        (one, "it holds no image for linux/s390x"),
        (aci, "the image is for one platform"),
    ]:
        for verb in (ls_verb, verify_verb):
            told = CliRunner().invoke(verb, [str(path), "--platform", "linux/s390x"])
            assert isinstance(told.exception, UsageError), (verb, told.output)
            assert told.exception.message == message
    told = CliRunner().invoke(verify_verb, [str(one), "--platform", "linux/amd64"])
    assert told.exit_code == 0


@pytest.mark.parametrize("what", ["version", "compress"])
def test_an_index_of_unlike_images_is_refused(
    what: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    amd64 = image(nginx_layers(blobs), "oci", arch="amd64")
    other: dict[str, Any] = {what: "gzip"}
    arm64 = replace(amd64, arch="arm64", **other)
    with pytest.raises(RecipeError, match=f"its {what} is '.*' for linux/amd64 and 'gzip' for"):
        emit_groups([[(amd64, None), (arm64, None)]], blobs, tmp_path)
    assert not [*tmp_path.glob("*.oci")]


def test_an_index_holds_all_platforms_and_is_verified(blobs: BlobDirectory, tmp_path: Path) -> None:
    directory, archive = emitted(blobs, tmp_path / "out", "oci", "oci-archive")
    assert directory.name.endswith("-linux-multi.oci")
    assert archive.name.endswith("-linux-multi.oci.tar")
    top = json.loads((directory / "index.json").read_text())
    (named,) = top["manifests"]
    assert named["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert named["annotations"]["org.opencontainers.image.ref.name"]
    index = json.loads((directory / "blobs/sha256" / named["digest"][7:]).read_text())
    platforms = [one["platform"] for one in index["manifests"]]
    assert platforms[0] == {"architecture": "amd64", "os": "linux"}
    assert platforms[1] == {"architecture": "arm64", "os": "linux", "variant": "v8"}
    report = verify([directory, archive])
    assert report.passed()
    assert [one.platform for one in report.images] == ["linux/amd64", "linux/arm64"] * 2
    assert report.images[0].root != report.images[1].root
    again = emitted(blobs, tmp_path / "again", "oci-archive")
    assert again[0].read_bytes() == archive.read_bytes()


def test_one_platform_of_an_index_is_compared_with_its_like(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    (directory,) = emitted(blobs, tmp_path / "out", "oci")
    layers = nginx_layers(blobs)
    alone = image(layers, "oci", arch="amd64")
    wrong = replace(alone, arch="arm64")
    tree = image(layers, "rootfs", arch="arm64")
    (single,) = (one.path for one in emit_groups([[(alone, None)]], blobs, tmp_path))
    (other,) = (one.path for one in emit_groups([[(wrong, None)]], blobs, tmp_path))
    (rootfs,) = (one.path for one in emit_groups([[(tree, None)]], blobs, tmp_path))
    assert verify([single, directory]).passed()
    assert verify([directory, rootfs]).passed()  # a tree says no platform: it is amd64's
    found = verify([directory, other])
    assert not found.passed()
    assert any("etc/other" in line for line in found.differences)
    entries = read_image(directory, "linux/arm64").entries
    assert "etc/other" in {entry.path for entry in entries or ()}
    with pytest.raises(UsageError, match="no image for linux/riscv64"):
        read_image(directory, "linux/riscv64")


def _named(directory: Path) -> tuple[dict[str, object], Path]:
    top = json.loads((directory / "index.json").read_text())
    path = directory / "blobs/sha256" / top["manifests"][0]["digest"][7:]
    return top, path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["manifests"].clear(), "names 0 images"),
        (lambda index: index.update(manifests=index["manifests"] * 20), "names 40 images"),
        (lambda index: index.update(manifests=index["manifests"][:1] * 2), "two images are for"),
        (lambda index: index["manifests"][0].update(mediaType="x/y"), "names what is no image"),
        (lambda index: index.update(schemaVersion=1), "is no image index"),
        (lambda index: index.update(manifests=7), "no list of objects"),
    ],
)
def test_a_wrong_index_is_told(
    blobs: BlobDirectory, tmp_path: Path, change: object, message: str
) -> None:
    (directory,) = emitted(blobs, tmp_path / "out", "oci")
    top, path = _named(directory)
    index = json.loads(path.read_text())
    change(index)  # type: ignore[operator]
    content = json.dumps(index).encode()
    digest = blobs.put(content)
    (directory / "blobs/sha256" / digest).write_bytes(content)
    top["manifests"][0].update(digest=f"sha256:{digest}", size=len(content))  # type: ignore[index]
    (directory / "index.json").write_text(json.dumps(top))
    report = verify([directory])
    assert not report.passed()
    assert any(message in problem for one in report.images for problem in one.problems)


def test_formats_that_hold_one_image_have_a_file_each(blobs: BlobDirectory) -> None:
    layers = nginx_layers(blobs)
    for form, name in (("aci", "aarch64.aci"), ("docker-archive", "arm64.docker.tar")):
        assert output_name(image(layers, form, arch="arm64")).endswith(f"-linux-{name}")


def test_platform_is_part_of_the_question() -> None:
    assert Options(Path("x")).question("plan") != Options(Path("x"), platform="a/b").question(
        "plan"
    )
