"""Errors as text and JSON, golden; bugs; what the file system refuses."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest

from buildit.cli.screen import BUG, DETAIL_LINES, bug, error_lines, error_plain, fail, known_error
from buildit.errors import BuildError, BuilditError, Interrupted, RecipeError, StoreError
from buildit.files import NotRegularError

pytestmark = pytest.mark.unit

WRONG = RecipeError(
    "unknown key 'sycn'",
    place="containers/x/container.yaml:3:3",
    hint="did you mean sync?",
    details=("line one", "tab\tand \x1b[31mcolour"),
)


def test_an_error_is_place_message_details_hint() -> None:
    assert error_lines(WRONG) == (
        "buildit: error: containers/x/container.yaml:3:3: unknown key 'sycn'",
        "  line one",
        "  tab and ?[31mcolour",
        "hint: did you mean sync?",
    )


def test_a_bare_error_is_one_line() -> None:
    assert error_lines(BuildError("no")) == ("buildit: error: no",)


def test_details_and_lines_are_bounded() -> None:
    error = BuildError("x" * 10_000, details=tuple(map(str, range(100))))
    lines = error_lines(error)
    assert len(lines) == DETAIL_LINES + 2
    assert lines[-1] == f"  … and {100 - DETAIL_LINES} more"
    assert len(lines[0]) == 400


@pytest.mark.parametrize("as_json", [False, True])
def test_every_kind_of_error_ends_with_its_code(as_json: bool) -> None:
    for kind in BuilditError.__subclasses__():
        stream = io.StringIO()
        assert fail(kind("no"), stream, as_json=as_json) == kind.exit_code
        assert stream.getvalue().count("\n") == 1


def test_json_has_all_of_it() -> None:
    stream = io.StringIO()
    fail(WRONG, stream, as_json=True)
    assert json.loads(stream.getvalue()) == {
        "event": "error",
        "kind": "RecipeError",
        "exit": 2,
        "message": "unknown key 'sycn'",
        "place": "containers/x/container.yaml:3:3",
        "hint": "did you mean sync?",
        "details": list(WRONG.details),
    }


def test_the_kind_is_one_of_the_documented_ones() -> None:
    assert error_plain(NotRegularError(Path("no"), 0))["kind"] == "IntegrityError"


def test_interrupts_and_full_disks_are_no_bugs() -> None:
    assert isinstance(known_error(KeyboardInterrupt()), Interrupted)
    full = known_error(OSError(errno.ENOSPC, "No space left on device", "/out/x"))
    assert isinstance(full, StoreError)
    assert error_lines(full)[0] == "buildit: error: /out/x: No space left on device"
    assert known_error(WRONG) is WRONG
    gone = known_error(ModuleNotFoundError("No module named 'buildit.x'", name="buildit.x"))
    assert gone is not None
    assert gone.message.endswith("cannot be read: buildit.x")
    assert known_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert known_error(ValueError("x")) is None


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), BlockingIOError(errno.EAGAIN, "again")]
)
def test_a_thread_that_cannot_start_is_no_bug(error: Exception) -> None:
    said = known_error(error)
    assert isinstance(said, StoreError)
    assert "a limit on processes is reached" in said.message
    assert "ulimit -u" in str(said.hint)


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as found:
        return found


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    stream = io.StringIO()
    assert bug(caught(ValueError("odd\x1b[1m")), stream, tmp_path / "logs" / "bugs") == BUG
    first, second = stream.getvalue().splitlines()
    assert first == "buildit: error: this is a bug of buildit: ValueError: odd?[1m"
    kept = Path(second.removeprefix("hint: report it with "))
    assert kept.parent == tmp_path / "logs" / "bugs"
    assert "Traceback" in kept.read_text("utf-8")


def test_a_bug_is_printed_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDIT_DEBUG", "1")
    stream = io.StringIO()
    bug(caught(ValueError("odd")), stream, tmp_path)
    assert stream.getvalue().startswith("Traceback")


def test_a_bug_with_no_place_for_it_is_still_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(other))
    stream = io.StringIO()
    bug(caught(ValueError("odd")), stream, tmp_path / "file")
    assert len(list(other.iterdir())) == 1
