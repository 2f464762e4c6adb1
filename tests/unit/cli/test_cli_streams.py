"""Standard streams that are closed, full or gone, and signals before the first import has ended.

One rule: a closed stream is /dev/null; a result that cannot be written is exit 1 with a word on
stderr; what nobody hears on stderr changes no exit code. Real processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.archive.compress import GzipWriter
from buildit.archive.streams import run_all, submit

pytestmark = pytest.mark.program

BUILDIT = (sys.executable, "-m", "buildit")


def shell(words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`buildit WORDS` with a shell's redirections, in a process of its own."""
    line = f'exec "{sys.executable}" -m buildit {words}'
    given = {**os.environ, "BUILDIT_STORE": str(cwd / "store"), **env}
    return subprocess.run(
        ["sh", "-c", line], cwd=cwd, env=given, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("schema pkg >&-", 0),
        ("schema pkg 2>&-", 0),
        ("schema pkg <&- >&- 2>&-", 0),
        ("nosuch 2>&-", 2),
        ("nosuch >&-", 2),
        ("nosuch 2>/dev/full", 2),
        ("store list 2>/dev/full", 0),
        ("store list >&-", 0),
        ("store list --json >/dev/full", 1),
        ("schema pkg >/dev/full", 1),
        ("schema pkg >/dev/full 2>/dev/full", 1),
        ("--help >/dev/full", 1),
        ("--version >&-", 0),
        ("--version >/dev/full", 1),
    ],
)
def test_streams_that_take_nothing(tmp_path: Path, words: str, code: int) -> None:
    done = shell(words, tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if code == 1 and "2>" not in words:
        assert "standard output" in done.stderr
        assert "the result cannot be written: No space left" in done.stderr


def test_a_file_never_gets_what_was_meant_for_a_closed_stream(tmp_path: Path) -> None:
    """Descriptor 1 is free, and the next file to be opened must not be it."""
    assert shell("store list --json >&-", tmp_path).returncode == 0
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith(b"[]")


@pytest.mark.parametrize("words", ["nosuch --json", "build --json", "store list --json --nosuch"])
def test_under_json_each_line_is_json(tmp_path: Path, words: str) -> None:
    done = shell(words, tmp_path)
    assert done.returncode == 2
    for line in done.stderr.splitlines():
        assert json.loads(line)["exit"] == 2


def test_a_bug_is_json_too(tmp_path: Path) -> None:
    code = (
        "import sys, buildit.cli.main as m\n"
        "def bad(*_): raise LookupError('made up')\n"
        "m.cli.invoke = bad\n"
        "sys.exit(m.run_argv(['store', 'list', '--json']))\n"
    )
    env = {**os.environ, "BUILDIT_STORE": str(tmp_path / "store"), "BUILDIT_DEBUG": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 70
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert said["exit"] == 70
    assert "LookupError: made up" in said["message"]
    assert any("made up" in detail for detail in said["details"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("json_", [False, True])
def test_a_signal_during_the_imports_is_an_interruption(
    tmp_path: Path, number: int, json_: bool
) -> None:
    """Sent at every tenth of the way; what came before our first line is the interpreter's."""
    (tmp_path / "sitecustomize.py").write_text("")
    words = ["store", "list", *(["--json"] if json_ else [])]
    env = {**os.environ, "BUILDIT_STORE": str(tmp_path / "store"), "PYTHONPATH": str(tmp_path)}
    hook = (
        "import os, sys, threading, time\n"
        "import buildit.__main__ as m\n"
        f"sys.argv = ['buildit', *{words!r}]\n"
        "real = m._catch\n"
        "def caught():\n"
        "    real()\n"
        "    threading.Thread(target=lambda: (time.sleep(float(os.environ['AFTER'])),"
        f" os.kill(os.getpid(), {int(number)})), daemon=True).start()\n"
        "m._catch = caught\n"
        "m.main()\n"
    )
    for after in ("0", "0.02", "0.08"):
        done = subprocess.run(
            [sys.executable, "-c", hook],
            env={**env, "AFTER": after},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (130, 0), (after, done.stderr)
        assert "Traceback" not in done.stderr
        if done.returncode == 130:
            assert "interrupted" in done.stderr
            if json_:
                assert all(json.loads(line)["exit"] == 130 for line in done.stderr.splitlines())


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup, or in the background of a shell."""
    line = f"trap '' INT HUP; exec '{sys.executable}' -m buildit schema pkg"
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.DEVNULL, cwd=tmp_path) as process:
        for _ in range(20):
            time.sleep(0.01)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("no_threads")
def test_without_threads_the_caller_does_the_work() -> None:
    import gzip
    import io
    from concurrent.futures import ThreadPoolExecutor

    out = io.BytesIO()
    data = os.urandom(1 << 20) * 4
    with GzipWriter(out) as writer:
        writer.write(data)
    assert gzip.decompress(out.getvalue()) == data
    works: list[Callable[[], int]] = [lambda n=n: n * n for n in range(5)]  # type: ignore[misc]
    assert run_all(works, 3) == [0, 1, 4, 9, 16]
    with ThreadPoolExecutor(2) as pool:
        assert [submit(pool, work).result() for work in works] == [0, 1, 4, 9, 16]
        assert isinstance(submit(pool, lambda: 1 // 0).exception(), ZeroDivisionError)


def test_a_pool_that_is_ended_ends_what_waits_for_it() -> None:
    from concurrent.futures import ThreadPoolExecutor

    go = threading.Event()
    pool = ThreadPoolExecutor(1)
    first = submit(pool, go.wait)
    rest = [submit(pool, lambda: 1) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    go.set()
    assert first.result(10)
    assert all(one.cancelled() for one in rest)
    with pytest.raises(RuntimeError):
        submit(pool, lambda: 1)
