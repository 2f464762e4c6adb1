"""The maker of `test` steps: a command, an HTTP answer or files of the finished image, on a branch
of its layers that is thrown away.

A test that passes leaves an artifact with a layer of nothing: an image with the same layers is not
tested again. One that fails keeps what it wrote, as a `run` step that fails does.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from buildit.archive.contents import contents_blob, way
from buildit.errors import BuildError, UnsatisfiableError, UsageError
from buildit.make.build_directory import TAIL_LINES, TREES, BuildDirectory, PhaseFailed
from buildit.make.layer import Copied, put_layer
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.make.run_step import (
    KEPT,
    RANGE_HINT,
    UNUSED,
    check_machine,
    kept_upper,
    tree_below,
    trees_below,
)
from buildit.model.artifact import RUNTIME
from buildit.model.image_test import FileTest, HttpTest, ImageTest, TextTest
from buildit.model.plan import About, Inputs, LayerFile, LayerRef, Task, Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import ImageTestInputs, read_test_record, step_task
from buildit.sandbox.asking import HttpAnswer, Question, ask, is_answered, read_answer
from buildit.sandbox.container import Contained
from buildit.sandbox.limits import Watch
from buildit.sandbox.owned import OwnedTrees
from buildit.sandbox.run import Outcome, end_of, printable_output
from buildit.sandbox.spaces import IdMap, ids_for, own_name
from buildit.sandbox.step import run_step

TESTING = "1"
"""Version of how an image is tested; in the key."""

MOST_SHOWN = 200
"""Characters of a text that are shown where it is not what was expected."""

_ANSWERED = "answered"
_LATER = 2.0  # seconds after which an app is ended whose answer never does
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Starting:
    """What starts in an image, with numbers for who runs it; `app` is empty where it has none."""

    app: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]


NOBODY_STARTS = Starting((), {}, "/", 0, 0, ())


def image_test_task(
    test: ImageTest,
    starting: Starting,
    below: Sequence[LayerRef],
    restated: Sequence[Entry],
    copies: tuple[LayerFile, ...],
    platform: str,
) -> Task:
    """The task of a test of an image with these layers, the lowest first; `copies` are where the
    files lie whose content is looked at."""
    start = starting if test.runs else NOBODY_STARTS
    inputs = ImageTestInputs(
        commands=test.commands,
        http=test.http,
        files=test.files,
        timeout=test.timeout,
        app=start.app if test.http else (),
        environment=start.environment,
        cwd=start.cwd,
        uid=start.uid,
        gid=start.gid,
        groups=start.groups,
        below=tuple(layer.diff_id for layer in below),
        restated=contents_blob(restated).decode() if restated else "",
        platform=PLATFORMS[platform],
        rules=TESTING,
    )
    looked = Inputs(below=tuple(below), copies=copies)
    about = About(origin=test.place, description=test.said)
    return step_task(inputs.record(), looked, about, (), platform=platform)


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """Nothing: the layers are in the store."""
    del task, toolchain
    return Inputs()


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Test the image.

    Raises:
        BuildError: the test fails, or exceeds a limit; log and tree are kept.
        UnsatisfiableError: this machine cannot run it.
        StoreError, CorruptBlob: the store cannot be written, or a layer of it is damaged.
        Interrupted: `place.stop` was set.
    """
    del at_hand
    inputs, store = read_test_record(task.record), place.store
    label, runs = task.about.origin or task.label, bool(inputs.commands or inputs.http)
    if runs:
        check_machine(inputs.platform, "tests that run programs", label)
    ids = ids_for(0, 0, own_name())
    if runs and not ids.several():
        _check_alone(inputs, label, place, task)
    parts = BuildDirectory(work, store.root / TREES, (), label, place.limits, place.stop)
    (work / "logs").mkdir()
    owned = OwnedTrees.opened(store.cache("layers"), ids)
    owned.sweep(KEPT, UNUSED)
    with owned.scratch() as layer, kept_upper(task, parts, layer, ids, store), ExitStack() as stack:
        owned.make_layer(layer)
        wrong = Mismatches()
        if inputs.files:
            _test_files(task, inputs, place, wrong)
        if runs:
            below = trees_below(owned, inputs.below, inputs.restated, label, store)
            trees = stack.enter_context(below)
            _Running(inputs, parts, ids, trees, layer).test(wrong)
        wrong.check(label)
        with store.batch() as batch:
            record = put_record(task, batch)
            nothing = put_layer(batch, (), lambda _: io.BytesIO())
            with batch.ingest() as sink:
                parts.write_log(sink.write)
                log = sink.commit()
    return Made({RUNTIME: nothing}, record, 0, log)


def _check_alone(inputs: ImageTestInputs, label: str, place: BuildPlace, task: Task) -> None:
    """Raises UnsatisfiableError where who runs is not root, who is alone."""
    message = "this machine grants no range of user ids"
    if (inputs.uid, inputs.gid, inputs.groups) != (0, 0, ()):
        what = f"the test runs as {inputs.uid}:{inputs.gid}, and {message}"
        raise UnsatisfiableError(what, place=label, hint=RANGE_HINT.partition(", or say")[0])
    place.warn(task, [f"{message}: all files belong to root in it"])


class Mismatches:
    """What is not as it was expected, and what people see of what was got."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.got: list[str] = []

    def check(self, label: str) -> None:
        """Raises PhaseFailed where something was found."""
        if self.found:
            more = f" (and {len(self.found) - 1} more)" if self.found[1:] else ""
            details = (*self.found[1:], *self.got[-2 * TAIL_LINES :])
            message = f"the test failed: {self.found[0]}{more}"
            raise PhaseFailed(message, place=label, details=details)

    def texts(self, tests: Sequence[TextTest], got: str, what: str) -> None:
        bad = [text_problem(test, got, what) for test in tests if not is_so(test, got)]
        self.found += bad
        if bad:
            shown = [line for line in got.splitlines() if line.strip()]
            self.got.append(f"{what} is:" if shown else f"{what} is empty")
            self.got += [f"  {_shown(line)}" for line in shown[:TAIL_LINES]]

    def answer(self, one: HttpTest, answer: HttpAnswer) -> None:
        if answer.status != one.status:
            self.found.append(f"expected status {one.status}, got {answer.status}")
        for name, value in one.headers.items():
            got = answer.headers.get(name)
            if got != value:
                said = "none" if got is None else repr(_shown(got))
                self.found.append(f"expected the header {name} to be {value!r}, got {said}")
        if one.body and not answer.whole:
            self.found.append("the body is larger than 4 MiB, more than a test reads")
        else:
            self.texts(one.body, answer.body, "the body")


def is_so(test: TextTest, got: str) -> bool:
    """Whether a text is what it must be."""
    if test.how == "contains":
        return test.text in got
    if test.how == "equals":
        return test.text.removesuffix("\n") == got.removesuffix("\n")
    return re.search(test.text, got, re.MULTILINE) is not None


def text_problem(test: TextTest, got: str, what: str) -> str:
    """What is said of a text that is not what it must be."""
    wanted = f"expected {what} to {_VERBS[test.how]} {_shown(test.text)!r}"
    return wanted if test.how != "equals" else f"{wanted}, got {_shown(got)!r}"


_VERBS = {"contains": "contain", "equals": "equal", "matches": "match"}


def _shown(text: str) -> str:
    plain = printable_output(text.encode())
    return plain if len(plain) <= MOST_SHOWN else f"{plain[:MOST_SHOWN]}…"


# -- files


def _test_files(task: Task, inputs: ImageTestInputs, place: BuildPlace, wrong: Mismatches) -> None:
    tree = tree_below(task, inputs, place.store)
    copies = {one.path: one for one in task.inputs.copies}
    for test in inputs.files:
        entry = found_file(tree, test)
        problems = list(file_problems(test, entry))
        wrong.found += problems
        if problems or not test.content or entry is None:
            continue
        with Copied(copies[entry.path], entry, place.store.path) as stream:
            text = stream.read(_LARGEST).decode("utf-8", "replace")
        wrong.texts(test.content, text, f"/{test.path}")


def found_file(tree: Mapping[str, Entry], test: FileTest) -> Entry | None:
    """What a path of an image is; links lead nowhere but into it."""
    end = way(test.path, tree.get, last=not test.of_link).end
    return None if end is None else tree.get(end)


def file_problems(test: FileTest, entry: Entry | None) -> Iterator[str]:
    """What of a path is not as it must be, but for its content."""
    name = f"/{test.path}"
    if entry is None or not test.exists:
        if (entry is not None) != test.exists:
            there = "nothing is there" if entry is None else f"a {_KINDS[entry.kind]} is there"
            yield f"expected {name} to {'exist' if test.exists else 'be absent'}: {there}"
        return
    is_file = bool(test.content or test.sha256)
    rows = (
        ("be a", "file" if is_file else test.kind, _KINDS[entry.kind]),
        ("have mode", test.mode, f"{entry.mode:04o}"),
        ("belong to", test.owner, f"{entry.uid}:{entry.gid}"),
        ("lead to", test.target, entry.target),
        ("have SHA-256", test.sha256, entry.digest or ""),
    )
    for verb, wanted, got in rows:
        if wanted and wanted != got:
            yield f"expected {name} to {verb} {wanted}, got {got or 'none'}"
            if verb == "be a":
                return


_KINDS = dict.fromkeys(Kind, "special file") | {
    Kind.FILE: "file",
    Kind.HARDLINK: "file",
    Kind.DIRECTORY: "directory",
    Kind.SYMLINK: "link",
}


# -- what runs


@dataclass(frozen=True, slots=True)
class _Running:
    """A test that starts something of the image, over its `trees` and a `layer` to write to."""

    inputs: ImageTestInputs
    parts: BuildDirectory
    ids: IdMap
    trees: tuple[Path, ...]
    layer: Path

    def test(self, wrong: Mismatches) -> None:
        for command in self.inputs.commands:
            files = self.parts.work / "stdout", self.parts.work / "stderr"
            log, outcome = self._run(command.argv, outputs=files)
            self._check_end(outcome, log)
            if outcome.status != command.status:
                how = f"signal {outcome.signal}" if outcome.signal else f"status {outcome.status}"
                wrong.found.append(f"expected status {command.status}, got {how}")
            for path, tests in zip(files, (command.stdout, command.stderr), strict=True):
                wrong.texts(tests, path.read_text("utf-8", "replace"), path.name)
            self._add_tail(wrong, log)
        for one in self.inputs.http:
            self._ask(one, wrong)

    def _ask(self, one: HttpTest, wrong: Mismatches) -> None:
        into = os.memfd_create("answer", os.MFD_CLOEXEC)
        try:
            question = Question(one.port, one.path, one.host, one.tls)
            beside = partial(ask, question, self.inputs.timeout, into)

            def ends() -> str | None:
                return _ANSWERED if is_answered(into) else None

            contained = replace(self._contained(self.inputs.app), beside=beside)
            log, outcome = self._started(contained, ends=ends, later=_LATER)
            answer = read_answer(into)
        finally:
            os.close(into)
        if answer is None:
            self._check_end(outcome, log)
            how = f"signal {outcome.signal}" if outcome.signal else f"status {outcome.status}"
            wrong.found.append(f"the app ended with {how} before it answered")
        elif answer.problem:
            within = f"within {self.inputs.timeout} s"
            problem = _shown(" ".join(answer.problem.split()))
            wrong.found.append(f"expected an HTTP answer {within}: {problem}")
        else:
            wrong.answer(one, answer)
        self._add_tail(wrong, log)

    def _check_end(self, outcome: Outcome, log: Path) -> None:
        """Raises BuildError where time or another limit ended it."""
        if outcome.limit == "seconds":
            message = f"the test failed: it had not ended after {self.inputs.timeout} s"
            hint = "give it longer: `timeout: 2m`; see `buildit log`"
            raise BuildError(message, place=self.parts.label, hint=hint, details=tuple(_tail(log)))
        if outcome.limit is not None and outcome.limit != _ANSWERED:
            raise self.parts.failed("test", outcome, log, recipe=False)

    def _add_tail(self, wrong: Mismatches, log: Path) -> None:
        if wrong.found and (tail := _tail(log)):
            wrong.got += ["last lines of its output:", *(f"  {line}" for line in tail)]

    def _run(self, argv: tuple[str, ...], outputs: tuple[Path, Path]) -> tuple[Path, Outcome]:
        return self._started(self._contained(argv), outputs=outputs)

    def _contained(self, argv: tuple[str, ...]) -> Contained:
        one = self.inputs
        who = one.uid, one.gid, one.groups
        return Contained(
            self.ids, self.trees, self.layer, argv, dict(one.environment), one.cwd, *who
        )

    def _started(
        self,
        one: Contained,
        outputs: tuple[Path, Path] | None = None,
        ends: Watch | None = None,
        later: float = 0.0,
    ) -> tuple[Path, Outcome]:
        parts = self.parts
        log = parts.log_of("test")
        limits = replace(parts.limits, seconds=self.inputs.timeout + later)
        try:
            return log, run_step(
                one, log=log, limits=limits, stop=parts.stop, outputs=outputs, ends=ends
            )
        except UsageError as error:
            hint = "a test runs with what the finished image has: name a program of it"
            message = f"the test failed: {error.message}"
            raise BuildError(message, place=parts.label, hint=hint) from error


def _tail(log: Path) -> list[str]:
    return [printable_output(line) for line in end_of(log, 64 << 10)[-TAIL_LINES:]]
