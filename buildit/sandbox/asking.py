"""An HTTP question to what listens in a container's network, asked from inside it.

The container needs no program for it: the process that asks is ours. What answers may be anything:
what is read of it is bounded in bytes here, and in time by who ends the container.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from buildit.sandbox.forward import connected

LARGEST_BODY = 4 << 20
"""Bytes of an answer that are read."""

_PAUSE = 0.03


@dataclass(frozen=True, slots=True)
class Question:
    """A GET to a port of the network's loopback: `host` is what the Host header says."""

    port: int
    path: str
    host: str
    tls: bool


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came: lower case names of headers; `problem` says why there is no answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    whole: bool = True
    problem: str = ""


def ask(question: Question, timeout: float, into: int) -> int:
    """Ask until there is an answer, or the time (seconds) is over; write it to a file, in one line.
    With SIGTERM, which is blocked, the container has ended: then nothing is asked any more, and
    without an answer nothing written."""
    end, answer = time.monotonic() + timeout, HttpAnswer()
    while (left := end - time.monotonic()) > 0:
        answer = _asked(question, left)
        if not answer.problem:
            break
        if signal.SIGTERM in signal.sigpending():
            return 0
        time.sleep(_PAUSE)
    data = json.dumps(asdict(answer)).encode() + b"\n"
    while data:
        data = data[os.write(into, data) :]
    return 0


def is_answered(source: int) -> bool:
    """Whether `ask` has written all."""
    size = os.fstat(source).st_size
    return size > 0 and os.pread(source, 1, size - 1) == b"\n"


def read_answer(source: int) -> HttpAnswer | None:
    """What `ask` wrote to a file; None where it was not finished."""
    if not is_answered(source):
        return None
    return HttpAnswer(**json.loads(os.pread(source, os.fstat(source).st_size, 0)))


def _asked(question: Question, timeout: float) -> HttpAnswer:
    return answer_over(lambda: connected(question.port, timeout), question)


def answer_over(connect: Callable[[], socket.socket], question: Question) -> HttpAnswer:
    """The answer over a connection; `connect` raises OSError where nobody listens."""
    try:
        one = connect()
    except OSError:
        return HttpAnswer(problem=f"nothing listens on port {question.port}")
    with one:
        try:
            return _answer(question, one)
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
            what = "TLS fails" if isinstance(error, ssl.SSLError) else "no HTTP answer came"
            return HttpAnswer(problem=f"port {question.port} is open, but {what}: {said}")


def _answer(question: Question, one: socket.socket) -> HttpAnswer:
    """Raises OSError, HTTPException: it is none."""
    if question.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        one = context.wrap_socket(one, server_hostname=question.host)
    connection = http.client.HTTPConnection(question.host, question.port)
    connection.sock = one
    plain = 443 if question.tls else 80
    host = question.host if question.port == plain else f"{question.host}:{question.port}"
    headers = {"Host": host, "Connection": "close", "User-Agent": "buildit"}
    connection.request("GET", question.path, headers=headers)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    body = response.read(LARGEST_BODY + 1)
    whole = len(body) <= LARGEST_BODY
    with suppress(OSError):
        connection.close()
    return HttpAnswer(response.status, found, body[:LARGEST_BODY].decode("utf-8", "replace"), whole)
