"""Every flag of nginx has an effect that one can see in the image; only nginx is built again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.demo import Demo
from tests.integration.compare import content, tree

pytestmark = pytest.mark.e2e

LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True, slots=True)
class Seen:
    """What an image shows of nginx's flags."""

    gzip: bool
    http2: bool
    ipv6: bool
    pcre: bool
    selinux: bool
    ssl: bool


def seen(oci: Path) -> Seen:
    nginx, paths = content(oci, "usr/sbin/nginx"), tree(oci)
    return Seen(
        gzip=b"gzip_min_length" in nginx and f"{LIBRARIES}/libz.so.1" in paths,
        http2=b"http2_max_concurrent_streams" in nginx,
        ipv6=b"INET6 sockets are not supported" not in nginx,
        pcre=b"pcre_jit" in nginx and f"{LIBRARIES}/libpcre2-8.so.0" in paths,
        selinux="usr/share/selinux/packages/nginx/file_contexts" in paths,
        ssl=b"ssl_certificate" in nginx and f"{LIBRARIES}/libssl.so.3" in paths,
    )


def test_flags_of_the_demo(demo: Demo) -> None:
    assert seen(demo.oci) == Seen(
        gzip=True, http2=True, ipv6=True, pcre=True, selinux=True, ssl=True
    )


@pytest.mark.parametrize(
    ("off", "libraries"),
    [
        (("ipv6", "gzip"), {"libz"}),
        (("pcre", "selinux"), {"libpcre2-8"}),
        (("http2", "ssl"), {"libssl", "libcrypto"}),
    ],
)
def test_switched_off(demo: Demo, here: Path, off: tuple[str, ...], libraries: set[str]) -> None:
    """Two at a time. What only the flag needed leaves the image; nothing else does."""
    box = here / "nginx-prod"
    box.symlink_to(demo.box)  # another name, so that this is no question of the demo's stamp
    recipe = demo.box / "pkgs/nginx/pkg.yaml"
    text, lock = recipe.read_text(), (demo.box / "buildit.lock").read_text()
    try:
        flags = ", ".join(off)
        wanted = [flag for flag in ("ipv6", "selinux") if flag not in off]
        changed = re.sub(
            r"use:\n  with: .*", f"use:\n  with: [{', '.join(wanted)}]\n  without: [{flags}]", text
        )
        assert changed != text
        recipe.write_text(changed)
        out = here / "out"
        done = demo.program.run(str(box), "--output", str(out), timeout=1800).good()
    finally:
        recipe.write_text(text)
        (demo.box / "buildit.lock").write_text(lock)
    assert re.findall(r"(\S+)-[0-9.]+: built in", done.err) in (["www-servers/nginx"], [])
    (oci,) = out.glob("*.oci")
    expected = {name: name not in off for name in Seen.__dataclass_fields__}
    assert seen(oci) == Seen(**expected)
    before = {path for path, entry in tree(demo.oci).items() if not entry.isdir()}
    after = {path for path, entry in tree(oci).items() if not entry.isdir()}
    assert after < before or after == before
    gone = {path.rpartition("/")[2].partition(".so")[0] for path in before - after if ".so" in path}
    assert gone == libraries
