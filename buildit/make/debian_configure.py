"""The recipe's `configure:` for a Debian source: appended where debhelper configures, and checked.

debian/rules says what its program is configured with, and nearly all have dh_auto_configure do it
(DEBIAN §5: 75 of 82). A program of that name, found before debhelper's, calls it with the switches
at the end, where they win. debhelper switches off what autoconf would say of a switch that it does
not know, and cmake only warns, so each switch is held against what the program knows. Pure.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from buildit.errors import BuilditError, RecipeError
from buildit.model.words import nearest

SHIM = "dh_auto_configure"
"""The name of the program in whose place it is called."""

NOTES = "buildit-configure"
"""The directory in the build's home in which it leaves `called`, and what it learned: `help`,
`cache`, `meson`, `output`, `unknown`."""

_SWITCH = re.compile(r"--(?:(?P<kind>with|without|enable|disable)-)?(?P<stem>[^=]+)(?:=.*)?", re.S)
_KINDS = {"with": "with|without", "enable": "enable|disable"}
_OF = {"without": "with", "disable": "enable"}
_DEFINE = re.compile(r"-D\s*(?P<name>[A-Za-z0-9_.+:-]+?)(?::[A-Z]+)?=.*", re.S)
_OPTION = re.compile(r"--[A-Za-z][A-Za-z0-9_.+-]*")
_CACHED = re.compile(r"^([A-Za-z0-9_.+-]+):[A-Z]+=", re.MULTILINE)
_UNUSED = "Manually-specified variables were not used by the project"
_MESON = re.compile(r"ERROR: Unknown options?: (.*)")

_SHIM = """\
#!/bin/sh
# buildit: the switches of `configure:`, after those of debian/rules
notes=/build/home/NOTES
rm -rf "$notes/now"
mkdir -p "$notes/now" && touch -d "2 seconds ago" "$notes/called" || exit 2  # clocks are coarse
own=no
for word do [ "$word" = -- ] && own=yes; done
[ "$own" = yes ] || set -- "$@" --
{ /usr/bin/SHIM "$@" SWITCHES 2>&1; echo "$?" >"$notes/now/status"; } | tee "$notes/output"
status=$(cat "$notes/now/status")
find . -name config.log -newer "$notes/called" | while read -r log; do
  script=$(sed -n 's/^  \\$ \\([^ ]*\\).*/\\1/p' "$log" | head -n 1)
  (cd "${log%/*}" && "$script" --help=recursive && sed -n "/^ac_user_opts=/,/^'/p" "$script")
done >>"$notes/help" 2>/dev/null
find . -name CMakeCache.txt -newer "$notes/called" -exec cat {} + >>"$notes/cache"
if [ "$status" != 0 ]; then
  if [ -f meson.build ]; then meson introspect --buildoptions meson.build >"$notes/meson"; fi
  if [ -x configure ]; then ./configure --help >>"$notes/help" 2>&1; fi
  exit "$status"
fi
unknown() { echo "$1" >>"$notes/unknown"; }
in_help() { [ ! -s "$notes/help" ] || grep -Eq -e "$2" "$notes/help" || unknown "$1"; }
in_cache() {
  sed -n '/UNUSED/,$p' "$notes/output" | grep -Eqx -e " *$2" && unknown "$1"
}
CHECKS
if [ -s "$notes/unknown" ]; then
  echo "buildit: not a switch of this program: $(cat "$notes/unknown")"
  exit 1
fi
exit 0
"""


def shim(switches: Sequence[str]) -> str:
    """The text of the program that is called in the place of dh_auto_configure."""
    said = {
        "NOTES": NOTES,
        "SHIM": SHIM,
        "UNUSED": _UNUSED,
        "SWITCHES": " ".join(map(shlex.quote, switches)),
        "CHECKS": "\n".join(check for switch in switches for check in _checks(switch)),
    }
    return re.sub("|".join(said), lambda found: said[found[0]], _SHIM)


def _checks(switch: str) -> Iterator[str]:
    """The lines that look whether a switch is known; none for what no program lists."""
    if define := _DEFINE.fullmatch(switch):
        yield f"in_cache {shlex.quote(switch)} {shlex.quote(_plain(define['name']))}"
    elif found := _SWITCH.fullmatch(switch):
        stem, kind = found["stem"], _OF.get(found["kind"] or "", found["kind"])
        if kind is None:
            pattern = f"--{_plain(stem)}({_END})"
        else:
            variable = re.sub("[-+.]", "_", stem)  # as configure itself does
            pattern = f"--({_KINDS[kind]})-{_plain(stem)}({_END})|^{kind}_{_plain(variable)}$"
        yield f"in_help {shlex.quote(switch)} {shlex.quote(pattern)}"


_END = "[^A-Za-z0-9_.+-]|$"


def _plain(text: str) -> str:
    """A pattern of grep -E that matches the text alone."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda found: f"[{found[0]}]", text)


def not_used(label: str) -> RecipeError:
    """What is said where nothing calls the program."""
    text = "`configure:` was not used: debian/rules does not call dh_auto_configure"
    hint = "give the switches to debian/rules itself, by a patch"
    return RecipeError(text, place=label, hint=hint)


_INCLUDES = re.compile(r"^\s*-?s?include\s+(?!/usr/share/dpkg/)", re.MULTILINE)
_OVERRIDES = re.compile(r"^override_dh_auto_configure\s*:", re.MULTILINE)
_TARGET = re.compile(r"(?:override|execute_before|execute_after)_dh_auto_configure")
_DH = re.compile(r"(?<![\w./-])dh\b(?![-_.])")


def calls_nothing(rules: str) -> bool:
    """Whether it can be read from a debian/rules that nothing will call the program: it does not
    itself, and dh(1), where it calls that, is told to do something else in its place."""
    text = re.sub(r"^\s*#.*", "", rules, flags=re.MULTILINE)
    if _INCLUDES.search(text) or SHIM in _TARGET.sub("", text):
        return False
    return bool(_OVERRIDES.search(text)) or not _DH.search(text)


def problem(notes: Mapping[str, bytes], switches: Sequence[str], label: str) -> BuilditError | None:
    """What is wrong with the switches, by the files that the program left in `NOTES`; None where
    nothing is."""
    if "called" not in notes:
        return not_used(label)
    texts = {name: text.decode("utf-8", "replace") for name, text in notes.items()}
    unknown = texts.get("unknown", "").splitlines()
    if said := _MESON.search(texts.get("output", "")):
        names = re.findall(r"[A-Za-z0-9_.:-]+", said[1])
        unknown += [one for one in switches if any(one.startswith(f"-D{name}=") for name in names)]
    if not unknown:
        return None
    first = unknown[0]
    near = nearest(first.partition("=")[0], _known(texts))
    told = ", ".join(dict.fromkeys(unknown))
    hint = f"did you mean {near}?" if near else "`buildit log` has what the program was told"
    return RecipeError(
        f"not a switch of this program: {told}", place=f"{label}: configure", hint=hint
    )


def _known(texts: Mapping[str, str]) -> set[str]:
    """The switches of a program, as far as it said them."""
    known = {*_OPTION.findall(texts.get("help", ""))}
    known |= {f"-D{name}" for name in _CACHED.findall(texts.get("cache", ""))}
    with suppress(ValueError, TypeError, KeyError):
        known |= {f"-D{one['name']}" for one in json.loads(texts.get("meson", ""))}
    return known
