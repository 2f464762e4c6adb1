from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.commands import stamp
from tests.scale import examples

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _stamps(tmp_path: Path) -> Iterator[None]:
    before = os.environ.get("BUILDIT_STORE")
    os.environ["BUILDIT_STORE"] = str(tmp_path / "store")
    yield
    del os.environ["BUILDIT_STORE"]
    if before is not None:
        os.environ["BUILDIT_STORE"] = before


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "place"
    made.mkdir()
    (made / "a").write_text("a")
    return made


def keep(*paths: Path) -> None:
    stamp.write("question", stamp.record(paths), {"answer": 42})


def test_what_is_kept_is_read_back(place: Path) -> None:
    assert stamp.read("question") is None
    keep(place / "a", place, place / "none")
    assert stamp.read("question") == {"answer": 42}
    stamp.forget("question")
    stamp.forget("question")
    assert stamp.read("question") is None


def edited(path: Path) -> None:
    """Other bytes of the same length, with the times put back."""
    status = path.stat()
    path.write_text("b")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced_by_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_a_file(path: Path) -> None:
    other = path.parent.parent / "other"
    other.write_text("a")
    other.rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "an edit": lambda p: (p / "a").write_text("aa"),
    "an edit of the same size and time": lambda p: edited(p / "a"),
    "a removal": lambda p: (p / "a").unlink(),
    "a directory instead": lambda p: replaced_by_a_directory(p / "a"),
    "a mode": lambda p: (p / "a").chmod(0o755),
    "an absent file that comes": lambda p: (p / "none").write_text(""),
    "a new name in a directory": lambda p: (p / "more").write_text(""),
    "a rename": lambda p: (p / "a").rename(p / "b"),
    "a FIFO instead": lambda p: replaced_by_a_fifo(p / "a"),
    "another file by rename": lambda p: replaced_by_a_file(p / "a"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_is_a_miss(what: str, place: Path) -> None:
    keep(place / "a", place, place / "none")
    CHANGES[what](place)
    assert stamp.read("question") is None


def test_a_fifo_never_blocks(place: Path) -> None:
    os.mkfifo(place / "fifo")
    keep(place / "fifo")
    assert stamp.read("question") == {"answer": 42}


def test_old_files_are_judged_by_their_stat_alone(place: Path) -> None:
    rows = stamp.record([place / "a"])
    assert rows[0][2] is not None, "changed within the last seconds: its bytes count too"
    os.utime(place / "a", (1, 1))
    status = (place / "a").stat()
    assert rows != stamp.record([place / "a"])
    seen = [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode]
    assert stamp.unchanged([[str(place / "a"), seen, None]])


def test_a_racy_directory_is_judged_by_its_names(place: Path) -> None:
    [row] = stamp.record([place])
    (place / "sneaked-in").write_text("")
    # As if the clock of the file system had not moved on.
    row[1] = stamp.record([place])[0][1]
    assert not stamp.unchanged([row])


def test_a_stamp_of_other_code_is_a_miss(place: Path) -> None:
    keep(place / "a")
    path = stamp.directory() / "question"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "code": "other"}))
    assert stamp.read("question") is None


def test_every_edit_of_the_code_changes_its_stamp() -> None:
    assert stamp.code_stamp() == stamp.code_stamp()
    assert len(stamp.code_stamp()) == 64


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", "1", '"x"', "[" * 100_000, '{"format":"1","files":5}', "\udcff"],
)
def test_damage_is_a_miss(text: str, place: Path) -> None:
    keep(place / "a")
    (stamp.directory() / "question").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert stamp.read("question") is None


@pytest.mark.parametrize("rows", [None, 5, [5], [[]], [["x"]], [[1, 2, 3]], [[None, None, None]]])
def test_damaged_rows_are_a_miss(rows: object, place: Path) -> None:
    keep(place / "a")
    path = stamp.directory() / "question"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": rows}))
    assert stamp.read("question") is None


def test_a_result_that_is_no_map_is_a_miss(place: Path) -> None:
    keep(place / "a")
    path = stamp.directory() / "question"
    path.write_text(json.dumps({**json.loads(path.read_text()), "result": [1]}))
    assert stamp.read("question") is None


def test_a_disk_that_refuses_costs_only_the_shortcut(place: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where a directory should be")
    keep(place / "a")
    assert stamp.read("question") is None


def test_nothing_half_written_stays(place: Path) -> None:
    with pytest.raises(TypeError):
        stamp.write("question", [], {"not JSON": object()})
    assert list(stamp.directory().iterdir()) == []


def test_names_of_any_bytes_are_kept(place: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(place) + b"/\xff\n"))
    odd.write_text("x")
    keep(odd)
    assert stamp.read("question") == {"answer": 42}


def test_where_stamps_lie(tmp_path: Path) -> None:
    assert stamp.directory() == tmp_path / "store/cache/stamps"


WORDS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4),
    max_size=4,
)


@settings(max_examples=examples(30))
@given(WORDS, WORDS)
def test_questions_have_names_of_their_own(first: list[str], second: list[str]) -> None:
    same = first == second or ([] in (first, second) and [""] in (first, second))
    assert (stamp.name(*first) == stamp.name(*second)) == same


def test_a_tree_that_is_gone_is_a_miss(place: Path) -> None:
    keep(place, place / "a")
    shutil.rmtree(place)
    assert stamp.read("question") is None
