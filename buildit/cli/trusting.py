"""Who is trusted for what, as lines."""

from __future__ import annotations

from buildit.cli.results import columns, printable
from buildit.trust.signers import Added, Trusted, Trusting


def trusting_lines(found: Trusting) -> tuple[str, ...]:
    lines: list[str] = []
    if found.people:
        rows = [("builder", "SSH key", "whose", "from")]
        rows += [(one.builder[:12], one.fingerprint, one.who, _source(one)) for one in found.people]
        lines += columns(rows)
    else:
        lines.append("Nobody is trusted: what binhosts have is not used, and all is built here.")
    for match, need in found.rules:
        lines.append(f"{match}: {need} of them must say the same")
    if found.people:
        lines.append("Otherwise one of them is enough." if found.rules else "One is enough.")
    if found.seen:
        lines.append("Not trusted, and seen on a binhost:")
        lines += [f"  {one.fingerprint}  (builder {one.builder[:12]})" for one in found.seen]
        lines.append(
            "To trust one whose fingerprint its owner told you: buildit trust add SHA256:…"
        )
    return tuple(map(printable, lines))


def _source(one: Trusted) -> str:
    return f"{one.source} ({one.remark})" if one.remark else one.source


def added_lines(done: Added) -> tuple[str, ...]:
    state = "is trusted now" if done.new else "was trusted already"
    return tuple(map(printable, (f"{done.who} {state}: {done.fingerprint}", f"in {done.path}")))
