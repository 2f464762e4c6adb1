"""A binhost in a registry: what lies there, publishers at the same time, and bad answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.digest import BuildKey, Digest, digest_bytes, oci_digest
from buildit.errors import BuilditError, FetchError, IntegrityError, UsageError
from buildit.events import Event, Notice
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.config import Oci, Trust, parse_address
from buildit.model.plan import Task
from buildit.plan.identity import build_key, record_text
from buildit.remote import fetch
from buildit.remote.binhost import manifests
from buildit.remote.binhost.binhost import Binhost, Push, Pushed
from buildit.remote.binhost.manifests import key_tag, name_tag, named_by, statement_tag
from buildit.remote.binhost.nearby import Nearby, untrusted_builds
from buildit.remote.binhost.protocols import SignedStatement, unheard
from buildit.remote.binhost.remotes import Remotes
from buildit.remote.discovery import parse_discover
from buildit.site.pages import repage
from buildit.store.artifacts import commit, entry_bytes, entry_name
from buildit.store.attest import statement_bytes
from buildit.store.cas import Store
from buildit.store.names import name_place
from buildit.trust.policy import Accept, Policy
from buildit.trust.signers import Signer
from tests.hosts import BUILDER, accept, repository, sign
from tests.registries import MemoryRegistry, remembered
from tests.remote_contract import There, made, outgoing

pytestmark = pytest.mark.unit

OTHER = "cd" * 32
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def anyone(_content: bytes, _signature: bytes | None, _builder: str) -> None:
    """A policy that takes all."""


def push(there: There, store: Store, artifact: Artifact, builder: str = BUILDER) -> Pushed:
    """Publish what the builder signed of it."""
    judge: Accept = accept if builder == BUILDER else anyone
    work = Push(
        store, there.remote, judge, signer=Signer(builder, sign), compressed=True, codec="gzip"
    )
    return work([artifact.key])


def by(store: Store, builder: str, layer: bytes = b"") -> Artifact:
    """nginx, as a builder made it."""
    artifact = made(store, "www-servers/nginx", layer) if builder == BUILDER else None
    if artifact is None:
        with Store.open(store.root.parent / "scratch") as scratch:
            artifact = made(scratch, "www-servers/nginx", layer)
            for blob in (scratch.root / "blobs/sha256").iterdir():
                store.put_bytes(blob.read_bytes())
        commit(store, artifact, builder, sign)
    return artifact


def document(web: MemoryRegistry, tag: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(web.manifests[web.tags[tag]])
    return found


def kept(web: MemoryRegistry) -> set[str]:
    """The blobs that a registry keeps which removes manifests without a tag, too."""
    found: set[str] = set()
    for digest in web.tags.values():
        one = json.loads(web.manifests[digest])
        found |= {blob["digest"] for blob in (*one.get("layers", ()), one.get("config")) if blob}
    return found


@pytest.mark.parametrize("api", [False, True])
def test_nothing_of_it_is_garbage(api: bool, tmp_path: Path) -> None:
    web = MemoryRegistry(api)
    there = remembered(web, tmp_path)
    with there.store("own") as store:
        artifact = made(store, "www-servers/nginx", b"a layer\n" * 5000)
        source = store.put_bytes(b"a .deb of the toolchain")
        Push(store, there.remote, accept, signer=Signer(BUILDER, sign), compressed=True)(
            [artifact.key], (source,)
        )
    assert oci_digest(source) in web.blobs
    assert web.blobs.keys() - kept(web) == set()
    assert web.manifests.keys() - web.tags.values() <= (
        set() if api else {one for one in web.manifests if b"manifests" in web.manifests[one]}
    )
    assert [tag for tag in web.tags if _TAG.fullmatch(tag) is None] == []
    assert {len(tag) for tag in web.tags if tag.startswith(artifact.key)} == {97, 128}


def test_a_package_is_an_image_and_its_statement_a_referrer(tmp_path: Path) -> None:
    web = MemoryRegistry(api=True)
    there = remembered(web, tmp_path)
    with there.store("own") as store:
        artifact = made(store, "www-servers/nginx", b"a layer\n" * 5000)
        push(there, store, artifact)
        content = statement_bytes(artifact, BUILDER)
    image = document(web, key_tag(artifact.key, BUILDER))
    layers, config = image["layers"], image["config"]
    assert isinstance(layers, list)
    assert isinstance(config, dict)
    types = [one["mediaType"] for one in layers]
    assert types == ["application/vnd.oci.image.layer.v1.tar+gzip"]
    said = json.loads(web.blobs[config["digest"]])
    assert (said["os"], said["architecture"]) == ("linux", "amd64")
    assert said["rootfs"]["diff_ids"] == [oci_digest(artifact.outputs[RUNTIME].diff_id)]
    marks = image["annotations"]
    assert isinstance(marks, dict)
    assert marks["buildit.builder"] == BUILDER
    published = web.blobs[marks["buildit.statement"]]
    assert json.loads(published)["subject"] == json.loads(content)["subject"]
    tag = statement_tag(artifact.key, BUILDER, digest_bytes(published))
    listing = document(web, tag)
    assert listing["artifactType"] == "application/vnd.in-toto+json"
    subject = listing["subject"]
    assert isinstance(subject, dict)
    assert subject["digest"] == web.tags[key_tag(artifact.key, BUILDER)]
    blobs = listing["layers"]
    assert isinstance(blobs, list)
    titles = [one["annotations"]["org.opencontainers.image.title"] for one in blobs[:2]]
    assert titles == [f"{BUILDER}.json", f"{BUILDER}.json.sig"]
    named = {one["digest"] for one in blobs}
    assert {oci_digest(digest) for _, digest in artifact.materials} <= named


def test_a_build_without_a_runtime_output_is_an_image_of_all(tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    with there.store("own") as store:
        artifact = made(store, "nginx")
        second = store.put_bytes(b"of another .deb")
        one = artifact.outputs[RUNTIME]
        outputs = {"nginx": one, "libnginx": replace(one, diff_id=second, size=15)}
        artifact = replace(artifact, outputs=outputs, key=BuildKey("7" * 64))
        commit(store, artifact, BUILDER, sign)
        push(there, store, artifact)
    image = document(web, key_tag(artifact.key, BUILDER))
    layers = image["layers"]
    assert isinstance(layers, list)
    assert [one["digest"] for one in layers] == [oci_digest(second), oci_digest(one.diff_id)]


def test_two_builders_have_their_own(tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    with there.store("one") as store, there.store("two") as other:
        first, second = by(store, BUILDER), by(other, OTHER)
        assert first.outputs == second.outputs
        assert push(there, store, first).differs == ()
        own = web.tags[key_tag(first.key, BUILDER)]
        assert push(there, other, second, OTHER).differs == ()
        assert web.tags[key_tag(first.key, BUILDER)] == own
    names = [f"{builder}.json" for builder in (BUILDER, OTHER)]
    found = there.reader.of([(first.key, name) for name in names])
    assert [one[0] for one in found if one] == [
        statement_bytes(first, BUILDER),
        statement_bytes(second, OTHER),
    ]
    listed = there.reader.names([f"k/{first.key[:2]}/{first.key}"])
    assert listed == [tuple(sorted(names))]


def meanwhile(method: str, path: str, work: Callable[[], None]) -> Callable[[str, str], int]:
    """What a registry does that is asked for `path` for the first time."""
    left = [work]

    def fails(asked: str, at: str) -> int:
        if left and (asked, at) == (method, path):
            left.pop()()
        return 0

    return fails


def test_of_two_publishers_at_once_nothing_is_lost(tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    with there.store("one") as store, there.store("two") as other:
        first, second = made(store, "nginx"), made(other, "nginx", b"another layer")
        tag = key_tag(first.key, BUILDER)
        done: list[Pushed] = []
        web.fails = meanwhile(
            "PUT", f"manifests/{tag}", lambda: done.append(push(there, other, second))
        )
        assert push(there, store, first).differs == ()
        assert done[0].differs == (), "it was there first, and is overwritten"
        for one in (first, second):
            statement = digest_bytes(statement_bytes(one, BUILDER))
            assert statement_tag(one.key, BUILDER, statement) in web.tags
        (path,) = push(there, other, second).differs
        assert path.endswith(f"{digest_bytes(statement_bytes(second, BUILDER))}.json")
        name = path.rpartition("/")[2]
        assert there.reader.of([(first.key, name)]) == [
            (statement_bytes(second, BUILDER), sign(statement_bytes(second, BUILDER)))
        ]


def test_who_is_overwritten_at_once_says_so(tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    with there.store("one") as store, there.store("two") as other:
        first, second = made(store, "nginx"), made(other, "nginx", b"another layer")
        tag = key_tag(first.key, BUILDER)
        push(there, other, second)
        theirs = web.tags.pop(tag)
        named = name_tag(first.name, first.key)
        web.fails = meanwhile(
            "PUT", f"manifests/{named}", lambda: web.tags.__setitem__(tag, theirs)
        )
        assert len(push(there, store, first).differs) == 1


def test_a_tag_that_leads_nowhere_is_taken(tmp_path: Path) -> None:
    """Its statement was removed by somebody, or it is an image of another program."""
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    with there.store("one") as store, there.store("two") as other:
        first, second = made(store, "nginx"), made(other, "nginx", b"another layer")
        push(there, other, second)
        del web.blobs[oci_digest(digest_bytes(statement_bytes(second, BUILDER)))]
        assert push(remembered(web, tmp_path), store, first).differs == ()
    with there.store("taken") as taken:
        assert there.binhost().pull(first.key, taken) == first


def test_a_push_mends_what_was_deleted(tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    with there.store("own") as store:
        artifact = made(store, "nginx")
        push(there, store, artifact)
        web.tags.clear()
        web.manifests.clear()
        web.blobs.clear()
        with there.store("none") as taken:
            assert there.binhost().pull(artifact.key, taken) is None
        assert push(remembered(web, tmp_path), store, artifact).statements == 1
        del web.blobs[oci_digest(artifact.outputs[RUNTIME].diff_id)]
        with there.store("less") as taken, pytest.raises(FetchError, match="not all that it names"):
            there.binhost().pull(artifact.key, taken)
        assert push(remembered(web, tmp_path), store, artifact).blobs == 1
    with there.store("taken") as taken:
        assert there.binhost().pull(artifact.key, taken) == artifact


def test_policy_comes_before_bytes(tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    with there.store("own") as store, there.store("taken") as taken:
        artifact = by(store, OTHER)
        push(there, store, artifact, OTHER)
        web.asked.clear()
        host = replace(there.binhost(), builders=(OTHER,))
        with pytest.raises(IntegrityError, match="not trusted"):
            host.pull(artifact.key, taken)
    content = statement_bytes(artifact, OTHER)
    parts = [f"GET blobs/{oci_digest(digest_bytes(one))}" for one in (content, sign(content))]
    assert web.asked == [f"GET manifests/{key_tag(artifact.key, OTHER)}", *parts]


def test_a_damaged_blob_that_a_registry_keeps_is_told(tmp_path: Path) -> None:
    class Keeping(dict[str, bytes]):
        def __setitem__(self, name: str, content: bytes) -> None:
            self.setdefault(name, content)

    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    content = b"what a power loss has cut"
    digest = digest_bytes(content)
    web.blobs = Keeping({oci_digest(digest): content[:5]})
    assert there.remote.missing({digest: len(content)}) == {digest}
    with pytest.raises(IntegrityError, match="has a damaged blob, and keeps it"):
        there.remote.put([outgoing(content)], unheard)


def test_an_entry_of_the_resolved_key(tmp_path: Path) -> None:
    there = remembered(MemoryRegistry(), tmp_path)
    resolved = Digest("5" * 64)
    with there.store("own") as store:
        artifact = made(store, "nginx")
        push(there, store, artifact)
        content = statement_bytes(artifact, BUILDER)
        said = SignedStatement(artifact, BUILDER, content, sign(content), resolved=resolved)
        assert there.remote.add([said]) == []
    paths = [entry_name(resolved, BUILDER), entry_name(resolved, OTHER)]
    assert there.reader.read(paths, 1000) == [entry_bytes(artifact.key), None]


# -- names


@pytest.mark.parametrize("name", ["dev-libs/gtk+", "a/b_c", "a/_s", "a_s/b", "a/_u_p+_", "local"])
def test_names_are_found_by_their_tags(name: str) -> None:
    key = BuildKey("3" * 64)
    tag = name_tag(name, key)
    place = name_place(name)
    assert tag is not None
    assert place is not None
    assert _TAG.fullmatch(tag)
    others = [name_tag(one, key) or "" for one in ("a/b", "a/b-c", "x/_", "a/s")]
    assert named_by([*others, tag, key_tag(key, BUILDER)], place) == (f"{key}.json",)
    assert named_by(others, place) == ()


def test_a_name_that_no_tag_can_have() -> None:
    assert name_tag("a/" + "b" * 80, BuildKey("3" * 64)) is None
    assert name_tag("debian:libc6", BuildKey("3" * 64)) is None


def test_builds_are_found_by_name(tmp_path: Path, store: Store) -> None:
    def node(use: str) -> Task:
        about = {"name": "app/hello", "version": "1.0", "environment": {"USE": use}, "steps": []}
        record = record_text(about)
        return Task(build_key(record), "package", "app/hello", "1.0", record)

    there = remembered(MemoryRegistry(), tmp_path)
    near, wanted = node("ipv6"), node("ipv6 ssl")
    with there.store("own") as own:
        output = Output(own.put_bytes(b"layer"), 5, own.put_bytes(b"contents"))
        record = own.put_bytes(near.record.encode())
        artifact = Artifact(near.key, near.name, "1.0", "linux/amd64", {RUNTIME: output}, record)
        commit(own, artifact, OTHER, sign)
        push(there, own, artifact, OTHER)
    host = Binhost("far", there.reader, accept, (BUILDER,))
    closest = Nearby(store, (host,), {}).closest(wanted)
    assert closest is not None
    assert (closest.key, closest.place) == (near.key, "'far'")

    def doubting(_content: bytes, _signature: bytes | None, builder: str) -> None:
        raise IntegrityError("not trusted", details=(f"signed by {builder[:4]}",))

    strict = Binhost("far", there.reader, doubting, (BUILDER,))
    (found,) = untrusted_builds(near, [strict])
    assert (found.place, found.who) == ("far", "signed by cdcd")


# -- bad answers


@pytest.fixture
def asked(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> tuple[MemoryRegistry, Callable[[], list[str]]]:
    """A registry, and what is said while two keys are looked for there."""
    web = MemoryRegistry()
    monkeypatch.setattr(web, "close", lambda: None, raising=False)
    monkeypatch.setattr(fetch, "web_transport", lambda _limits: web)
    monkeypatch.setenv("HOME", str(tmp_path))

    def look() -> list[str]:
        told: list[Event] = []
        far = repository("far", "oci://registry.example.org/bin/host")
        remotes = Remotes((far,), Policy(Trust(), store, told.append), store, told.append)
        for key in ("1" * 64, "2" * 64):
            for binhost in remotes.binhosts():
                trusting = replace(binhost, builders=(BUILDER,))
                try:
                    assert trusting.pull(BuildKey(key), store) is None
                except BuilditError as error:
                    told.append(Notice(f"raised {error}"))
        remotes.close()
        return [one.message for one in told if isinstance(one, Notice)]

    return web, look


Asked = tuple[MemoryRegistry, Callable[[], list[str]]]


def about(told: list[str], word: str) -> list[str]:
    return [one for one in told if word in one]


def test_what_is_not_there_is_no_news(asked: Asked) -> None:
    web, look = asked
    assert about(look(), "raised") == []
    assert len(web.asked) == 2, "one request for each key"


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "'far' is left out: the login is refused: TESTED"), (401, "'far' is left out")],
)
def test_a_registry_that_refuses_is_told_of_once(asked: Asked, status: int, said: str) -> None:
    web, look = asked
    web.fails = lambda _method, _path: status
    told = look()
    assert len(about(told, said)) == 1
    assert len(web.asked) == 1


def test_a_dead_registry_is_told_of_once(asked: Asked) -> None:
    web, look = asked
    web.dead = True
    assert len(about(look(), "'far' is left out: connection refused")) == 1
    assert len(web.asked) == 1


def test_a_registry_that_stumbles_is_asked_again(asked: Asked) -> None:
    web, look = asked
    web.fails = lambda _method, _path: 503
    told = look()
    assert about(told, "the binhost cannot be read: the registry refuses to serve it: TESTED")
    assert len(web.asked) > 2


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{", b"[" * 100_000, b'{"annotations": []}', b'{"annotations": {}}']
)
def test_a_tag_that_is_none_of_ours_is_none(manifest: bytes, tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    web.manifests["x"] = manifest
    web.tags[key_tag(BuildKey("1" * 64), BUILDER)] = "x"
    assert there.reader.of([(BuildKey("1" * 64), f"{BUILDER}.json")]) == [None]


@pytest.mark.parametrize("digest", ["", "md5:00", "sha256:x", "../../v2/x"])
def test_a_digest_that_is_none_is_refused(digest: str, tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    web.manifests["x"] = json.dumps({"annotations": {manifests.STATEMENT_MARK: digest}}).encode()
    web.tags[key_tag(BuildKey("1" * 64), BUILDER)] = "x"
    with pytest.raises(IntegrityError, match="wrong bytes: names a blob by"):
        there.reader.of([(BuildKey("1" * 64), f"{BUILDER}.json")])


def test_a_failed_push_says_how_to_go_on(tmp_path: Path) -> None:
    web = MemoryRegistry()
    there = remembered(web, tmp_path)
    with there.store("own") as store:
        artifact = made(store, "nginx")
        web.fails = lambda method, _path: 500 if method == "PUT" else 0
        with pytest.raises(FetchError, match="publishing failed: the registry") as caught:
            push(there, store, artifact)
        assert "push again" in str(caught.value.hint)
        assert web.tags == {}, "nothing is visible"
        web.fails = lambda _method, _path: 0
        assert push(there, store, artifact).statements == 1


# -- addresses


def test_addresses() -> None:
    assert parse_address("oci://registry.example.org:5000/a/b-c") == Oci(
        "registry.example.org:5000", "a/b-c"
    )
    for wrong in (
        "oci://",
        "oci://host",
        "oci://host/",
        "oci://host/A",
        "oci://host/a:1",
        "oci:/x",
    ):
        with pytest.raises(UsageError, match="not the address of a binhost"):
            parse_address(wrong)
    named = parse_discover("oci://registry.example.org/bin,push=True")
    assert (named.address, named.push) == (Oci("registry.example.org", "bin"), True)
    with pytest.raises(UsageError, match="is no repository of a registry"):
        parse_discover("oci://registry.example.org/Bin")


def test_a_registry_has_no_pages(store: Store) -> None:
    place = "oci://registry.example.org/bin"
    with pytest.raises(UsageError, match="a registry has no pages"):
        repage("far", (repository("far", place, place),), Trust(), store, lambda _: None)
