"""`test` steps in the real sandbox: commands, answers and files of the finished image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buildit.archive.contents import parse_contents
from buildit.archive.tar.read import read_tar
from buildit.digest import digest_bytes
from buildit.errors import BuildError, BuilditError, UnsatisfiableError
from buildit.image.reading import FOREIGN
from buildit.make import image_test
from buildit.make.image_test import Starting, image_test_task
from buildit.make.makers import make_task
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.image_test import CommandTest, FileTest, HttpTest, ImageTest, TextTest
from buildit.model.plan import LayerFile, LayerRef, Task
from buildit.model.services import Ready, Service
from buildit.model.tree import Entry, Kind
from buildit.sandbox.spaces import one_id
from buildit.store.artifacts import commit, lookup
from buildit.store.attest import LOCAL
from buildit.store.names import find_failure
from tests.sandbox.test_images import libraries, tool
from tests.sandbox.test_run_steps import HERE, Steps, directory, link, made_steps
from tests.sandbox.test_services import merged, service, services_image
from tests.unit.image.samples import BlobDirectory, file

pytestmark = pytest.mark.sandbox

NOBODY = (65534, 65534, (33,))
SERVER = r"""
print STDERR "starting as $< in $ENV{PWD}\n"; sleep $ENV{LATE} if $ENV{LATE};
socket(S,2,1,6) or die; bind(S,pack("SnNx8",2,8080,0x7f000001)) or die $!; listen(S,5) or die;
open(O, ">", "/dev/stdout") or die "no stdout: $!";
while (accept(C,S)) {
  my $asked = <C>; my $host = ""; while (<C>) { $host = $1 if /^Host: (\S+)/; last if /^\r?$/ }
  my $status = $asked =~ m{^GET /health} ? "200 OK" : "404 Not Found"; my $body = "up: $host\n";
  print C "HTTP/1.1 $status\r\nX-Word: yes\r\nContent-Length: ".length($body)."\r\n\r\n$body";
  close C;
}
"""
"""A server that needs no module of Perl's."""


APP = Starting(("/usr/bin/perl", "-e", SERVER), {"PATH": "/usr/bin", "WORD": "w"}, "/srv", *NOBODY)


@dataclass
class Tests:
    """Tests of the layers of a `Steps`."""

    __test__ = False
    steps: Steps
    starting: Starting = APP

    def task(self, test: ImageTest) -> Task:
        copies = tuple(self._copy(one.path) for one in test.files if one.content)
        return image_test_task(test, self.starting, self.steps.below, (), copies, HERE)

    def _copy(self, path: str) -> LayerFile:
        """Where a file of the uppermost layer lies."""
        layer, store = self.steps.below[-1], self.steps.store
        start = 0
        with store.seekable(layer.diff_id) as stream:
            for entry, _ in read_tar(stream, FOREIGN, "layer"):
                if entry.path == path:
                    start = stream.tell()
            size = store.path(layer.diff_id).stat().st_size
        return LayerFile(path, layer.diff_id, size, start)

    def passes(self, **what: Any) -> Artifact:
        return make_task(self.task(asked(**what)), {}, self.steps.place)

    def fails(self, **what: Any) -> BuilditError:
        task = self.task(asked(**what))
        with pytest.raises(BuildError) as error:
            make_task(task, {}, self.steps.place)
        failure = find_failure(self.steps.store, task.key)
        assert failure is not None
        assert failure.work is not None
        assert (failure.work / "upper").is_dir()
        assert error.value.message in failure.log.read_text()
        assert [*(self.steps.store.root / "cache/layers").glob("tmp-*")] == []
        return error.value


def asked(
    command: CommandTest | None = None,
    http: HttpTest | None = None,
    files: tuple[FileTest, ...] = (),
    timeout: int = 20,
) -> ImageTest:
    commands = () if command is None else (command,)
    return ImageTest(
        "a test", "container.yaml:9:3", commands, (http,) if http else (), files, timeout
    )


def shell(script: str, status: int = 0, **texts: tuple[str, str]) -> CommandTest:
    tests = {name: (TextTest(*text),) for name, text in texts.items()}
    return CommandTest(("/bin/sh", "-ec", script), status, **tests)


def get(path: str = "/health", status: int = 200, **more: Any) -> HttpTest:
    plain: dict[str, Any] = {"port": 8080, "host": "localhost", "tls": False, **more}
    return HttpTest(path=path, status=status, **plain)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    with made_steps(tmp_path_factory.mktemp("tests")) as made:
        yield made


@pytest.fixture
def tests(image: Steps) -> Tests:
    return Tests(replace(image, below=[*image.below]))


def test_a_command_runs_as_the_app_would_and_leaves_nothing(tests: Tests) -> None:
    script = 'echo "$(id -u) $WORD $PWD"; echo bad >&2; echo kept > /tmp/x || exit 9; exit 3'
    tests.steps.lay([Entry("tmp", Kind.DIRECTORY, 0o1777)], {})
    command = shell(script, 3, stdout=("equals", "65534 w /srv"), stderr=("matches", "^b.d$"))
    done = tests.passes(command=command)
    assert parse_contents(tests.steps.store.read(done.outputs[RUNTIME].contents)) == ()
    assert done.log is not None
    assert b"65534 w /srv" in tests.steps.store.read(done.log)
    gone = shell("ls /tmp", stdout=("equals", ""))
    tests.passes(command=gone)
    commit(tests.steps.store, done, LOCAL, None)
    assert lookup(tests.steps.store, done.key) == done


def test_what_a_command_does_wrong_is_told(tests: Tests) -> None:
    error = tests.fails(
        command=shell("echo one; echo two >&2; exit 4", stdout=("contains", "three"))
    )
    assert error.message == "the test failed: expected status 0, got status 4 (and 1 more)"
    assert error.details == (
        *("expected stdout to contain 'three'", "stdout is:", "  one"),
        *("last lines of its output:", "  one", "  two"),
    )
    assert error.place == "container.yaml:9:3"
    assert "upper" in (error.hint or "")
    error = tests.fails(command=shell("kill -9 $$"))
    assert error.message == "the test failed: expected status 0, got signal 9"
    error = tests.fails(command=CommandTest(("/usr/bin/none", "x"), 0))
    assert (
        error.message
        == "the test failed: /usr/bin/none cannot be started: No such file or directory"
    )
    begun = time.monotonic()
    error = tests.fails(command=shell("echo waiting; sleep 100 & sleep 100"), timeout=1)
    assert error.message == "the test failed: it had not ended after 1 s"
    assert error.details == ("waiting",)
    assert time.monotonic() - begun < 6


def test_the_app_answers_in_a_network_of_its_own(tests: Tests) -> None:
    body = (TextTest("equals", "up: web.example.org:8080"),)
    wanted = get(host="web.example.org", headers={"x-word": "yes"}, body=body)
    tests.passes(http=wanted)
    tests.passes(http=get("/none", 404))
    tests.starting = replace(tests.starting, environment={"PATH": "/usr/bin", "LATE": "1"})
    tests.passes(http=get())
    error = tests.fails(http=get("/none", headers={"x-word": "no", "x-other": "1"}, body=body))
    assert error.message == "the test failed: expected status 200, got 404 (and 3 more)"
    assert {*error.details[:3]} == {
        "expected the header x-word to be 'no', got 'yes'",
        "expected the header x-other to be '1', got none",
        "expected the body to equal 'up: web.example.org:8080', got 'up: localhost:8080\\n'",
    }
    assert error.details[-2:] == ("last lines of its output:", "  starting as 65534 in ")


def test_an_app_that_does_not_answer_is_told(tests: Tests) -> None:
    error = tests.fails(http=get(port=8081), timeout=1)
    said = "expected an HTTP answer within 1 s: nothing listens on port 8081"
    assert error.message == f"the test failed: {said}"
    assert any("starting as 65534" in line for line in error.details)
    perl = ("/usr/bin/perl", "-e")
    tests.starting = replace(tests.starting, app=(*perl, 'print "no config\n"; exit 5'))
    error = tests.fails(http=get())
    assert error.message == "the test failed: the app ended with status 5 before it answered"
    assert error.details == ("last lines of its output:", "  no config")
    silent = SERVER.replace("while (accept", "sleep 100; while (accept")
    tests.starting = replace(tests.starting, app=(*perl, silent))
    error = tests.fails(http=get(), timeout=1)
    assert "port 8080 is open, but no HTTP answer came: timed out" in error.message
    garbage = SERVER.replace("HTTP/1.1", "SMTP")
    tests.starting = replace(tests.starting, app=(*perl, garbage))
    error = tests.fails(http=get(), timeout=1)
    assert error.message.endswith("port 8080 is open, but no HTTP answer came: SMTP 200 OK")
    endless = SERVER.replace("close C;", 'print C "x" x 65536 while 1;').replace(
        "Content-Length", "X-Length"
    )
    tests.starting = replace(tests.starting, app=(*perl, endless))
    tests.passes(http=get())
    some = (TextTest("contains", "up"),)
    error = tests.fails(http=get(body=some))
    assert error.message == "the test failed: the body is larger than 4 MiB, more than a test reads"


def test_files_are_looked_at_without_a_program_of_the_image(tests: Tests) -> None:
    tests.steps.below.clear()
    text = b"listen 8080;\nroot /srv;\n"
    rows = [directory("etc"), Entry("etc/web.conf", Kind.FILE, 0o640, 5, uid=0, gid=33)]
    rows += [link("etc/out", "../../../../../../etc/web.conf"), link("etc/gone", "/../../root/x")]
    tests.steps.lay(rows, {"etc/web.conf": text})
    content = TextTest("matches", "^root /srv;$"), TextTest("contains", "8080")
    tests.passes(
        files=(
            FileTest("etc/web.conf", kind="file", mode="0640", owner="0:33", content=content),
            FileTest("etc/web.conf", sha256=digest_bytes(text)),
            FileTest("etc/out", kind="link", target="../../../../../../etc/web.conf"),
            FileTest("etc/out", mode="0640"),  # the image's own, where the link leads
            FileTest("etc/gone", exists=False),  # the machine has a /root
            FileTest("etc", kind="directory"),
            FileTest("usr/bin/gcc", exists=False),
        )
    )
    error = tests.fails(
        files=(
            FileTest("etc/web.conf", mode="0644", owner="1:1", sha256="0" * 64),
            FileTest("etc/none"),
            FileTest("etc", exists=False),
            FileTest("etc", kind="file"),
            FileTest("etc/web.conf", content=(TextTest("contains", "443"),)),
        )
    )
    assert error.message == (
        "the test failed: expected /etc/web.conf to have mode 0644, got 0640 (and 6 more)"
    )
    assert error.details == (
        "expected /etc/web.conf to belong to 1:1, got 0:33",
        f"expected /etc/web.conf to have SHA-256 {'0' * 64}, got {digest_bytes(text)}",
        "expected /etc/none to exist: nothing is there",
        "expected /etc to be absent: a directory is there",
        "expected /etc to be a file, got directory",
        "expected /etc/web.conf to contain '443'",
        *("/etc/web.conf is:", "  listen 8080;", "  root /srv;"),
    )


def test_the_key_is_of_the_layers_and_of_what_is_tested(tests: Tests) -> None:
    def key(test: ImageTest, **starting: Any) -> str:
        start = replace(tests.starting, **starting)
        return image_test_task(test, start, tests.steps.below, (), (), HERE).key

    file, http = asked(files=(FileTest("etc"),)), asked(http=get())
    assert key(file) == key(file, app=("/bin/x",), uid=3, environment={})
    assert key(http) != key(http, app=("/bin/x",))
    assert key(http) != key(http, environment={})
    assert key(asked(shell("true"))) == key(asked(shell("true")), app=("/bin/x",))
    before = key(file)
    tests.steps.lay([directory("more")], {})
    assert key(file) != before


def test_another_architecture_is_never_passed_in_silence(tests: Tests) -> None:
    other = "linux/arm64" if HERE != "linux/arm64" else "linux/amd64"

    def task(test: ImageTest) -> Task:
        return image_test_task(test, tests.starting, tests.steps.below, (), (), other)

    make_task(task(asked(files=(FileTest("etc"),))), {}, tests.steps.place)
    for test in (asked(shell("true")), asked(http=get())):
        with pytest.raises(UnsatisfiableError, match="tests that run programs for"):
            make_task(task(test), {}, tests.steps.place)


def test_without_a_range_of_ids_the_app_must_be_root(
    tests: Tests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_test, "ids_for", lambda *_: one_id(0, 0))
    with pytest.raises(UnsatisfiableError) as error:
        tests.passes(command=shell("true"))
    assert error.value.message.startswith("the test runs as 65534:65534, and this machine grants")
    assert "uidmap" in (error.value.hint or "")
    assert "ids: one" not in (error.value.hint or "")
    tests.starting = replace(tests.starting, uid=0, gid=0, groups=())
    tests.passes(command=shell("id -u", stdout=("equals", "0")))
    told = tests.steps.warnings()[-1]
    assert told.startswith("test a test: this machine grants no range of user ids")


def test_services_under_an_init_are_started_for_an_answer(tests: Tests, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    server = SERVER.replace("open(O", "0; 1 || open(O")  # its output is of the init
    blobs = BlobDirectory(tmp_path / "blobs")
    web = Service("web", ("/usr/bin/perl", "-e", server), after=("db",), uid=33, gid=33)
    db = service("db", ready=Ready(("/bin/sh", "-c", "exit 0")))
    made = services_image(blobs, (web, db), "oci")
    perl = Path(tool("perl"))
    files = {"usr/bin/perl": perl, **{path: host for host, path in libraries(perl)}}
    known = {one.path for one in merged(blobs, made)}
    new = {p if p.startswith("usr/") else f"usr/{p}": host for p, host in files.items()}
    more = [file(p, host.read_bytes(), 0o755) for p, host in new.items() if p not in known]
    layers = (*made.layers, blobs.layer("perl", more))
    store = tests.steps.store
    for layer in layers:
        with store.batch() as batch, batch.ingest() as sink:
            sink.write(blobs(layer.diff_id).read_bytes())
            assert sink.commit() == layer.diff_id
            assert batch.put_bytes(blobs(layer.contents).read_bytes()) == layer.contents
    tests.steps.below[:] = [LayerRef(layer.diff_id, layer.contents) for layer in layers]
    assert made.app is not None
    tests.starting = Starting(made.app.exec, {"PATH": "/usr/bin:/bin"}, "/", 0, 0, ())
    done = tests.passes(http=get(body=(TextTest("contains", "up"),)))
    assert done.log is not None
    log = tests.steps.store.read(done.log)
    assert b"db up 0" in log
    assert b"starting as 33" in log
