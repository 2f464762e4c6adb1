"""The variable `packages` of templates: what was chosen, or stand-ins where it is not known yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Mapping as Map

from buildit.model.listed import PackageFacts
from buildit.recipe.template.render import Value

PACKAGES_VARIABLE = "packages"
"""The variable that says what was chosen: `{{ packages['www-servers/nginx'].version }}`."""

FACTS = ("version", "license", "homepage", "description", "flags", "digest")
"""What templates may ask of a package."""


_DEBIAN = "debian:"


class _AnyFlag(Map[str, Value]):
    """The flags of a package that is not known: each is there, and empty."""

    def __getitem__(self, name: str) -> Value:
        return ""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


_STAND_INS: Map[str, Value] = {**dict.fromkeys(FACTS, "0"), "flags": _AnyFlag(), "digest": "0" * 64}


class _Asked(Map[str, Value]):
    """A package of which not all is known; `note` is told when that is asked for."""

    def __init__(self, known: Map[str, Value], note: Callable[[], None]) -> None:
        self._known, self._note = known, note

    def __getitem__(self, name: str) -> Value:
        if name in self._known:
            return self._known[name]
        self._note()
        return _STAND_INS[name]

    def __contains__(self, name: object) -> bool:
        return name in FACTS

    def __iter__(self) -> Iterator[str]:
        return iter(FACTS)

    def __len__(self) -> int:
        return len(FACTS)


class KnownPackages(Map[str, Map[str, Value]]):
    """The packages of a container by name, those of Debian's as `debian:NAME`.

    Before anything is chosen (`known` None) each is there, with stand-ins. Until all is `pinned`
    that holds for those of Debian's and for digests. `asked` is whether a stand-in was given.
    A loop goes over those that were chosen, without Debian's.
    """

    def __init__(
        self, known: Map[str, PackageFacts] | None = None, *, pinned: bool = False
    ) -> None:
        self.asked = False
        self._any = known is None
        self._pinned = pinned
        self._known = {name: facts_of(one, pinned=pinned) for name, one in (known or {}).items()}

    def _note(self) -> None:
        self.asked = True

    def __getitem__(self, name: str) -> Map[str, Value]:
        if name not in self:
            raise KeyError(name)
        known = self._known.get(name, {})
        return known if self._pinned else _Asked(known, self._note)

    def __contains__(self, name: object) -> bool:
        if name in self._known or self._any:
            return True
        return not self._pinned and str(name).startswith(_DEBIAN)

    def __iter__(self) -> Iterator[str]:
        self.asked = self.asked or self._any
        return (name for name in self._known if not name.startswith(_DEBIAN))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def facts_of(one: PackageFacts, *, pinned: bool = True) -> Map[str, Value]:
    """The facts of a package as templates have them; without what is only known when all is
    pinned."""
    found: dict[str, Value] = {name: getattr(one, name) for name in FACTS}
    if not pinned:
        del found["digest"]
    return found
