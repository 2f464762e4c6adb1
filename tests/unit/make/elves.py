"""Small ELF files written from the specification, for tests on machines without a compiler."""

from __future__ import annotations

import json
import struct

AMD64 = 62


def elf(
    *,
    needed: tuple[str, ...] = (),
    soname: str = "",
    runpath: str = "",
    rpath: str = "",
    interp: str = "",
    dlopen: object = None,
    wide: bool = True,
    little: bool = True,
    machine: int = AMD64,
    kind: int = 3,
) -> bytes:
    """One PT_LOAD over the whole file at address 0x10000, then the segments asked for."""
    end, word = "<" if little else ">", "Q" if wide else "I"
    base = 0x10000
    strings = b"\0"

    def text(value: str) -> int:
        nonlocal strings
        strings += value.encode() + b"\0"
        return len(strings) - 1 - len(value.encode())

    tags = [(1, text(name)) for name in needed]
    tags += [(14, text(soname))] if soname else []
    tags += [(29, text(runpath))] if runpath else []
    tags += [(15, text(rpath))] if rpath else []
    note = b""
    if dlopen is not None:
        raw = json.dumps(dlopen).encode() + b"\0"
        note = struct.pack(end + "III", 4, len(raw), 0x407C0C0A) + b"FDO\0"
        note += raw + b"\0" * (-len(raw) % 4)
    header_size, entry = (64, 56) if wide else (52, 32)
    count = 2 + bool(interp) + bool(note)
    at = header_size + entry * count
    places = {}
    body = b""
    for name, part in (("strings", strings), ("note", note),
                       ("interp", interp.encode() + b"\0")):  # fmt: skip
        places[name] = at + len(body)
        body += part
    tags += [(5, base + places["strings"]), (10, len(strings))]
    dynamic = b"".join(struct.pack(end + word * 2, *tag) for tag in (*tags, (0, 0)))
    places["dynamic"] = at + len(body)
    body += dynamic
    size = at + len(body)

    def segment(kind: int, offset: int, length: int) -> bytes:
        address = base + offset
        if wide:
            return struct.pack(end + "IIQQQQQQ", kind, 4, offset, address, 0, length, length, 8)
        return struct.pack(end + "IIIIIIII", kind, offset, address, 0, length, length, 4, 4)

    segments = segment(1, 0, size) + segment(2, places["dynamic"], len(dynamic))
    segments += segment(3, places["interp"], len(interp) + 1) if interp else b""
    segments += segment(4, places["note"], len(note)) if note else b""
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if little else 2, 1]) + b"\0" * 9
    header = ident + struct.pack(
        end + f"HHI{word * 3}IHHHHHH", kind, machine, 1, 0, header_size, 0, 0,
        header_size, entry, count, 0, 0, 0,
    )  # fmt: skip
    return header + segments + body
