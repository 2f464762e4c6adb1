"""Asking a container whether it can be used: a program of it, an answer over HTTP, a port.

Ports are asked at the container's own address, as the other members find it: what podman forwards
from the machine may accept a connection before anybody listens behind it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from buildit.model.stack import HttpProbe, Readiness
from buildit.podman.engine import Podman, own_module
from buildit.sandbox.asking import HttpAnswer, Question, answer_over
from buildit.stack.converge import KnownContainer

LARGEST_OUTPUT = 1 << 20
"""Bytes of what a program says that are kept."""


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    """What a program in a container answered; `status` is None where it took too long."""

    status: int | None
    out: bytes = b""
    told: bytes = b""


def not_ready(podman: Podman, container: KnownContainer, ready: Readiness, timeout: float) -> str:
    """Why a container that runs is not ready; empty where it is."""
    if ready.argv:
        said = told_by(podman, container, ready.argv, timeout)
        if said.status is None:
            return f"{ready.argv[0]} took longer than {timeout:g} s"
        last = (said.told or said.out).decode("utf-8", "replace").strip().splitlines()[-1:]
        more = "".join(f": {line}" for line in last)
        return f"{ready.argv[0]} ended with status {said.status}{more}" if said.status else ""
    if ready.http is not None:
        return _http_problem(podman, container, ready.http, timeout)
    if ready.tcp:
        return _asked(podman, container, ready.tcp, None, timeout).problem
    return ""


def _http_problem(
    podman: Podman, container: KnownContainer, http: HttpProbe, timeout: float
) -> str:
    answer = http_answer(podman, container, question_of(http), timeout)
    if answer.problem:
        return answer.problem
    if answer.status == http.status or (not http.status and answer.status < 400):
        return ""
    wanted = str(http.status) if http.status else "below 400"
    return f"port {http.port} answers {http.path} with status {answer.status}, not {wanted}"


def question_of(http: HttpProbe) -> Question:
    return Question(http.port, http.path, http.host, http.tls)


def http_answer(
    podman: Podman, container: KnownContainer, question: Question, timeout: float
) -> HttpAnswer:
    """One answer; `problem` says why there is none."""
    return _asked(podman, container, question.port, question, timeout)


def _asked(
    podman: Podman, container: KnownContainer, port: int, question: Question | None, timeout: float
) -> HttpAnswer:
    """`question` None only connects. Networks of a user's own podman are in a namespace that only
    podman leads into."""
    addresses = [one for one in container.networks.values() if one] or ["127.0.0.1"]
    if podman.is_root:
        return ask_at(addresses[0], port, question, timeout)
    asked = [addresses[0], port, question and asdict(question), timeout]
    words = own_module("buildit.podman.probing", json.dumps(asked))
    said = podman.piped("unshare", "--rootless-netns", *words)
    return HttpAnswer(**json.loads(said)) if said else HttpAnswer(problem="podman unshare failed")


def ask_at(address: str, port: int, question: Question | None, timeout: float) -> HttpAnswer:
    """As `_asked`, where the address can be reached from this process."""

    def connect() -> socket.socket:
        return socket.create_connection((address, port), timeout)

    if question is not None:
        return answer_over(connect, question)
    try:
        connect().close()
    except OSError:
        return HttpAnswer(problem=f"nothing listens on port {port}")
    return HttpAnswer()


def told_by(
    podman: Podman, container: KnownContainer, argv: Sequence[str], timeout: float
) -> ProgramAnswer:
    """What a program in a container says."""
    with podman.begin("exec", container.identifier or container.name, *argv) as process:
        try:
            out, told = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            return ProgramAnswer(None)
    return ProgramAnswer(process.returncode, out[:LARGEST_OUTPUT], told[:LARGEST_OUTPUT])


def _main(text: str) -> None:
    address, port, question, timeout = json.loads(text)
    known = None if question is None else Question(**question)
    sys.stdout.write(json.dumps(asdict(ask_at(address, port, known, timeout))))


if __name__ == "__main__":
    _main(sys.argv[1])
