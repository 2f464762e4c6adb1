"""A Dockerfile of two stages: nothing changed, and its last line, against buildah."""

from __future__ import annotations

from itertools import count

from bench.rivals import installed
from bench.room import Room, clear
from bench.steps import base_layout, buildah, once
from bench.tables import Table, Verdict, ahead, rows
from bench.timing import Side, interleaved

UNCHANGED, CHANGED = 10.0, 1.0
_TEXT = """FROM oci:BASE AS build
WORKDIR /work
COPY src/ ./
RUN --network=none cat *.txt > all && mkdir out && cp all out/
FROM oci:BASE
ENV PORT=8080 LANG=C.UTF-8
COPY --from=build /work/out/ /srv/
RUN --network=none useradd --system web && chown web: /srv
USER web
WORKDIR /srv
RUN --network=none echo LAST > /srv/last
CMD ["cat", "/srv/last"]
"""


def measure(room: Room, rounds: int) -> Table:
    """Both over one OCI layout, which buildit makes of Debian's .debs once."""
    base = base_layout(room)
    theirs, numbers = room.root / "dockerfile-buildah", count(1)
    ours = room.place("dockerfile", {"Dockerfile": ""})
    clear(theirs)
    places = (ours, theirs)
    for place in places:
        (place / "src").mkdir(parents=True, exist_ok=True)
        for name in "abc":
            (place / "src" / f"{name}.txt").write_text(name * 1000)

    def change() -> None:
        text = _TEXT.replace("BASE", str(base)).replace("LAST", f"{room.salt}-{next(numbers)}")
        (ours / "Dockerfile").write_text(text)
        # Debian 12's buildah knows no --network of RUN
        (theirs / "Dockerfile").write_text(text.replace(" --network=none", ""))

    runs = {"buildit": room.buildit(ours)}
    if installed("buildah"):
        runs["buildah"] = buildah(room, theirs)
    change()
    sides = []
    for name, run in runs.items():
        run()
        sides += [
            Side(f"{name}, nothing changed", run, once(run)),
            Side(f"{name}, its last line changed", run, change),
        ]
    found = interleaved(sides, rounds)
    verdicts: list[Verdict] = []
    if "buildah" in runs:
        for what, limit in (("nothing changed", UNCHANGED), ("its last line changed", CHANGED)):
            verdicts.append(ahead(found, f"buildit, {what}", f"buildah, {what}", limit))
    return Table("dockerfile", "a Dockerfile of two stages", rows(found), tuple(verdicts))
