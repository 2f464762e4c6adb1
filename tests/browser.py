"""Headless Chromium over a pipe (Chrome DevTools Protocol): what a page does, how wide it is."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = "chromium"
WAIT = 90.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root it has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


@dataclass(frozen=True)
class Visit:
    """What a page was: its title, the bytes of its picture, how wide its content is in CSS pixels,
    all that it asked for, and all that was written to the console or logged."""

    title: str
    picture: bytes
    width: int
    requests: tuple[str, ...]
    messages: tuple[str, ...]


@dataclass
class Browser:
    """One tab. JavaScript of pages is switched off."""

    process: subprocess.Popen[bytes]
    to: int
    come: int
    _number: int = 0
    _rest: bytes = b""
    _session: str = ""
    _events: list[dict[str, Any]] = field(default_factory=list)

    def prepare(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setScriptExecutionDisabled", value=True)

    def visit(self, url: str, width: int, *, scheme: str = "light", media: str = "") -> Visit:
        """Open a page in a window of this width, in a colour scheme, on a medium."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self._events.clear()
        frame = self.call("Page.navigate", url=url)
        assert "errorText" not in frame, frame
        self._wait("Page.loadEventFired")
        metrics = self.call("Page.getLayoutMetrics")
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        history = self.call("Page.getNavigationHistory")
        return Visit(
            history["entries"][history["currentIndex"]]["title"],
            base64.b64decode(picture),
            int(metrics["cssContentSize"]["width"]),
            tuple(e["params"]["request"]["url"] for e in self._named("Network.requestWillBeSent")),
            tuple(
                json.dumps(event["params"])
                for name in (
                    "Log.entryAdded",
                    "Runtime.consoleAPICalled",
                    "Runtime.exceptionThrown",
                )
                for event in self._named(name)
            ),
        )

    def _named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self._events if event["method"] == name]

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError(f"{method} is not answered")

    def _wait(self, name: str) -> None:
        end = time.monotonic() + WAIT
        while not self._named(name):
            assert time.monotonic() < end, f"no {name}"
            self._message()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self.come, 1 << 16)
            assert chunk, "the browser ended"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._events.append(message)
        return message


@contextmanager
def browser(root: Path) -> Iterator[Browser]:
    """A browser with a profile of its own below `root`."""
    theirs_in, to = os.pipe()
    come, theirs_out = os.pipe()
    # The protocol is spoken on descriptors 3 and 4.
    words = [PROGRAM, *_FLAGS, f"--user-data-dir={root}/profile", "about:blank"]
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *words],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(root)},
        start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    made = Browser(process, to, come)
    try:
        made.prepare()
        yield made
    finally:
        os.close(to)  # it ends where nobody speaks to it
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        os.close(come)
