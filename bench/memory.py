"""P10: peak memory of buildit's processes: an image of 80 layers, a 2 GB package, a 2 GB ACI, 1 GB
of .debs."""

from __future__ import annotations

from bench.debian import large_debs
from bench.emitting import BYTES, COUNT, data_container
from bench.room import Room, clear
from bench.tables import Table, Verdict, row
from bench.timing import Side, interleaved

LIMIT_MIB = 200.0
LARGE = 2_000_000_000
DEBS = 1_050_000_000


def measure(room: Room, rounds: int) -> Table:
    """Each once: what a process needs does not vary. The packages are built anew where they are."""
    emitting = data_container(room, "emitting", COUNT, BYTES)
    packing = data_container(room, f"packing-{room.salt}", 1, LARGE)
    room.buildit(emitting)()
    sides = (
        Side("OCI of 80 layers, 300 MB", room.buildit(emitting), lambda: clear(emitting / "out")),
    )
    found = interleaved(sides, rounds)
    recipe = packing / "pkgs" / "bench" / "blob000" / "pkg.yaml"
    recipe.write_text(f"{recipe.read_text()}    echo {room.salt} > salt\n")
    found["2 GB package built, packed, emitted as OCI"] = [room.buildit(packing)()]
    listing = packing / "container.yaml"
    listing.write_text(listing.read_text().replace("type: oci", "type: aci"))
    found["2 GB as ACI, gzip"] = [room.buildit(packing)()]
    clear(packing)
    found["1 GB of .debs laid out"] = [large_debs(room, DEBS, 100 << 20)()]
    rows = tuple(row(name, samples) for name, samples in found.items())
    verdicts = tuple(Verdict(row.side, row.peak, "MiB", LIMIT_MIB) for row in rows)
    return Table(
        "P10",
        "peak memory of any process of buildit",
        rows,
        verdicts,
        ("The largest process of a run, the compiler's and the shell's of the sandbox included.",),
    )
