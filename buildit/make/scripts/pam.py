"""The `common-*` files of PAM as pam-auth-update(8) writes them on a first installation, of the
profiles that one package has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

TEMPLATES, PROFILES = "usr/share/pam", "usr/share/pam-configs"
STACKS = ("account", "auth", "password", "session", "session-noninteractive")
_BLOCKS = {
    '# here are the per-package modules (the "Primary" block)': "Primary",
    '# and here are more per-package modules (the "Additional" block)': "Additional",
}
_ENDS = ("# here's the fallback if no module succeeds", "# end of pam-auth-update config")
_MODULE = re.compile(r"((?:\[[^]]+\]|\w+)\s+\S+)\s*(.*)")
_Profile = Mapping[str, str]


def parsed_profile(text: str) -> _Profile:
    """The fields of a profile, lines of modules joined by newlines; `Auth-Final` is `Auth`."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        field, colon, value = line.partition(":")
        if colon and line[:1].strip() and not re.search(r"\s", field):
            name = field.removesuffix("-Final")
            found[name] = value.strip()
        elif line.strip():
            found[name] = f"{found.get(name, '')}\n{line.strip()}".strip("\n")
    if "Session-Interactive-Only" not in found:
        session = {key: value for key, value in found.items() if key.startswith("Session")}
        found |= {key.replace("Session", "Session-noninteractive"): session[key] for key in session}
    return found


def pam_stack(template: str, stack: str, profiles: Sequence[_Profile]) -> str:
    """The text of /etc/pam.d/common-STACK; of `profiles` those that are on by default count, by
    their priority."""
    chosen = [one for one in profiles if one.get("Default") == "yes"]
    chosen.sort(key=_priority, reverse=True)
    lines, skips = [], False
    for line in template.splitlines():
        skips = skips and line not in _ENDS
        lines += [] if skips else [line]
        if line in _BLOCKS:
            lines += _block(_BLOCKS[line], stack, chosen)
            skips = True
    return "".join(f"{line}\n" for line in lines)


def _priority(profile: _Profile) -> int:
    text = profile.get("Priority", "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _block(block: str, stack: str, profiles: Sequence[_Profile]) -> Iterator[str]:
    kind, field = stack.removesuffix("-noninteractive"), stack.capitalize()
    modules: list[str] = []
    for one in (one for one in profiles if one.get(f"{field}-Type") == block):
        first = "" if modules else one.get(f"{field}-Initial", "")
        modules += (first or one.get(field, "")).splitlines()
    if not modules and block == "Primary":
        yield f"{kind}\t[default=1]\t\t\tpam_permit.so"
    for number, module in enumerate(modules):
        over = len(modules) - number - (block == "Additional")  # a jump leads past the others
        match = _MODULE.match(module)
        if match is not None:
            yield f"{kind}\t{match[1].replace('end', str(over))} {' '.join(match[2].split())}"
