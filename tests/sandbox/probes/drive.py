"""Run one jail as told by JSON on standard input; print what came of it as JSON.

Standard library only, so that the machine's own python3 can run it as another user. SIGTERM sets
the stop event, as `buildit` does.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from buildit.errors import BuilditError
from buildit.model.config import Limits
from buildit.sandbox import run as sandbox
from buildit.sandbox.jail import Bind, Jail


def jail_of(spec: dict[str, Any]) -> Jail:
    binds = tuple(Bind(**bind) for bind in spec["binds"])
    return Jail(tuple(spec["lowers"]), binds, spec["env"], spec["cwd"], tmp_bytes=64 << 20)


def run(spec: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
    places = {name: Path(spec[name]) for name in ("trees", "work")}
    limits = Limits(**spec["limits"])
    begun = time.monotonic()
    try:
        jail = jail_of(spec["jail"])
        if spec.get("terminal"):
            outcome = sandbox.shell(jail, spec["command"], limits=limits, **places)
        else:
            log = Path(spec["log"])
            outcome = sandbox.run(
                jail, spec["command"], log=log, limits=limits, stop=stop, **places
            )
    except BuilditError as error:
        details = list(error.details)
        names = {"kind": type(error).__name__, "message": str(error)}
        return {"error": names | {"hint": error.hint, "details": details}}
    return {"outcome": asdict(outcome) | {"seconds": time.monotonic() - begun}}


def peak() -> int:
    """Peak memory in bytes of this program alone: ru_maxrss still counts who forked it."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    answer = run(spec, stop)
    answer["peak"] = peak()
    answer["descriptors"] = len(list(Path("/proc/self/fd").iterdir()))
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
