"""The helpers of PMS 12.3 that put files into an image, and those of eclasses that are like them,
as commands of coreutils. Each is a function of its words and of where `into` and its kin point."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from buildit.recipe.ways.ebuild.shwords import ShWord, expanded_word, literal_word
from buildit.recipe.ways.ebuild.values import UnreadError

_USR, _ROOT, _TOP = literal_word("/usr"), literal_word("/"), literal_word("")


@dataclass(slots=True)
class Targets:
    """Where the next files go (PMS 12.3.9): directories below `$DESTDIR`, and modes."""

    doc: str
    into: ShWord = _USR
    insinto: ShWord = _ROOT
    exeinto: ShWord = _ROOT
    docinto: ShWord = _TOP
    insopts: str = "0644"
    exeopts: str = "0755"


Words = list[ShWord]
ShellLines = tuple[str, ...]

_MAN = re.compile(r".*\.([0-9n])[a-z]*(?:\.(?:gz|bz2|xz))?")
_LANGUAGE = re.compile(r".*\.([a-z]{2}(?:_[A-Z]{2})?)\.[0-9n][a-z]*")


def _below(directory: ShWord) -> str:
    return directory.below("$DESTDIR")


def _inside(directory: ShWord, *more: str) -> ShWord:
    """A directory below another one."""
    tail = "/".join(more)
    return ShWord((*directory.pieces, ("quote", f"/{tail}"))) if tail else directory


def _files(mode: str, directory: ShWord, words: Words) -> ShellLines:
    if not words or any(str(one).startswith("-") for one in words):
        raise UnreadError("")
    return (f"install -D -m {mode} -t {_below(directory)} {' '.join(map(str, words))}",)


def _renamed(mode: str, directory: ShWord, words: Words) -> ShellLines:
    match words:
        case [source, name] if source.const != "-":
            target = ShWord((*directory.pieces, ("quote", "/"), *name.pieces))
            return (f"install -D -m {mode} {source} {target.below('$DESTDIR')}",)
        case _:
            raise UnreadError("")


def _tree(directory: ShWord, words: Words, mode: str) -> ShellLines:
    """`-r`: files get the mode, directories are as they are."""
    place = _below(directory)
    return (
        f"install -d {place}",
        f"cp -R {' '.join(map(str, words))} {place}/",
        f"find {place} -type f -exec chmod {mode} {{}} +",
    )


def _recursive(words: Words) -> tuple[bool, Words]:
    is_tree = bool(words) and words[0].const == "-r"
    return is_tree, words[1:] if is_tree else words


def _doins(words: Words, at: Targets) -> ShellLines:
    is_tree, rest = _recursive(words)
    if is_tree:
        return _tree(at.insinto, rest, at.insopts)
    return _files(at.insopts, at.insinto, rest)


def _dodoc(words: Words, at: Targets) -> ShellLines:
    directory = ShWord((*literal_word(f"/usr/share/doc/{at.doc}").pieces, *at.docinto.pieces))
    is_tree, rest = _recursive(words)
    return _tree(directory, rest, "0644") if is_tree else _files("0644", directory, rest)


def _newdoc(words: Words, at: Targets) -> ShellLines:
    directory = ShWord((*literal_word(f"/usr/share/doc/{at.doc}").pieces, *at.docinto.pieces))
    return _renamed("0644", directory, words)


def _manual(text: str) -> ShWord:
    section, language = _MAN.fullmatch(text), _LANGUAGE.fullmatch(text)
    if section is None:
        raise UnreadError(text)
    middle = f"{language[1]}/" if language else ""
    return literal_word(f"/usr/share/man/{middle}man{section[1]}")


def _doman(words: Words, at: Targets) -> ShellLines:  # noqa: ARG001 - as all helpers
    found: dict[str, Words] = {}
    for word in words:
        if str(word).startswith("-"):
            raise UnreadError(str(word))
        shown = str(word).strip("\"'")
        found.setdefault(_manual(shown).const or "", []).append(word)
    return tuple(
        line for place, own in found.items() for line in _files("0644", literal_word(place), own)
    )


def _newman(words: Words, at: Targets) -> ShellLines:  # noqa: ARG001 - as all helpers
    name = words[1].const if len(words) == 2 else None
    if name is None:
        raise UnreadError("")
    return _renamed("0644", _manual(name), words)


def _dosym(words: Words, at: Targets) -> ShellLines:  # noqa: ARG001 - as all helpers
    relative, rest = _recursive(words)
    match rest:
        case [target, link] if not str(link).rstrip("\"'").endswith("/"):
            path = link if (link.const or "/").startswith("/") else _rooted(link)
            made = f'install -d "$(dirname {path.below("$DESTDIR")})"'
            if relative:
                return made, f"ln -s -r -n {_rooted(target).below('$DESTDIR')} {_below(path)}"
            return made, f"ln -s {target} {_below(path)}"
        case _:
            raise UnreadError("")


def _rooted(word: ShWord) -> ShWord:
    if (word.const or "").startswith("/"):
        return word
    return ShWord((("quote", "/"), *word.pieces))


def _dodir(words: Words, at: Targets) -> ShellLines:  # noqa: ARG001 - as all helpers
    return (f"install -d {' '.join(_below(_rooted(word)) for word in words)}",)


def _fperms(words: Words, at: Targets) -> ShellLines:  # noqa: ARG001 - as all helpers
    options = [one for one in words if (one.const or "").startswith("-")]
    mode, *paths = [one for one in words if one not in options]
    shown = "".join(f"{one} " for one in options)
    return (f"chmod {shown}{mode} {' '.join(_below(_rooted(path)) for path in paths)}",)


def _setting(name: str) -> Callable[[Words, Targets], ShellLines]:
    def settle(words: Words, at: Targets) -> ShellLines:
        value = words[0] if words else literal_word("")
        if name == "docinto" and value.const:
            value = literal_word(f"/{value.const.strip('/')}" if value.const.strip("/.") else "")
        elif (value.const or "").startswith("/") is False and value.const is not None:
            value = _rooted(value)
        setattr(at, name, value)
        return ()

    return settle


def _mode(name: str) -> Callable[[Words, Targets], ShellLines]:
    def settle(words: Words, at: Targets) -> ShellLines:
        text = "".join(one.const or "?" for one in words).removeprefix("-m")
        if not re.fullmatch("0?[0-7]{3,4}", text):
            raise UnreadError("")
        setattr(at, name, text)
        return ()

    return settle


def _put(place: str, mode: str = "0644") -> Callable[[Words, Targets], ShellLines]:
    return lambda words, at: _files(mode, literal_word(place), words)  # noqa: ARG005 - as all


def _new(place: str, mode: str = "0644") -> Callable[[Words, Targets], ShellLines]:
    return lambda words, at: _renamed(mode, literal_word(place), words)  # noqa: ARG005 - as all


def _library(words: Words, at: Targets) -> ShellLines:
    return _files("0755", _libraries(at), words)


def _archive(words: Words, at: Targets) -> ShellLines:
    return _files("0644", _libraries(at), words)


def _libraries(at: Targets) -> ShWord:
    return ShWord((*at.into.pieces, *expanded_word("/lib/$TRIPLET").pieces))


_UNITS, _TMPFILES = "/usr/lib/systemd/system", "/usr/lib/tmpfiles.d"
_COMPLETIONS = "/usr/share/bash-completion/completions"
_ZSH, _FISH = "/usr/share/zsh/site-functions", "/usr/share/fish/vendor_completions.d"

INSTALLERS: Mapping[str, Callable[[Words, Targets], ShellLines]] = {
    "into": _setting("into"),
    "insinto": _setting("insinto"),
    "exeinto": _setting("exeinto"),
    "docinto": _setting("docinto"),
    "insopts": _mode("insopts"),
    "exeopts": _mode("exeopts"),
    "dobin": lambda words, at: _files("0755", _inside(at.into, "bin"), words),
    "dosbin": lambda words, at: _files("0755", _inside(at.into, "sbin"), words),
    "newbin": lambda words, at: _renamed("0755", _inside(at.into, "bin"), words),
    "newsbin": lambda words, at: _renamed("0755", _inside(at.into, "sbin"), words),
    "dolib.so": _library,
    "dolib.a": _archive,
    "doins": _doins,
    "newins": lambda words, at: _renamed(at.insopts, at.insinto, words),
    "doexe": lambda words, at: _files(at.exeopts, at.exeinto, words),
    "newexe": lambda words, at: _renamed(at.exeopts, at.exeinto, words),
    "dodoc": _dodoc,
    "newdoc": _newdoc,
    "doman": _doman,
    "newman": _newman,
    "dosym": _dosym,
    "dodir": _dodir,
    "keepdir": _dodir,
    "fperms": _fperms,
    "doheader": _put("/usr/include"),
    "newheader": _new("/usr/include"),
    "doicon": _put("/usr/share/pixmaps"),
    "newicon": _new("/usr/share/pixmaps"),
    "domenu": _put("/usr/share/applications"),
    "newmenu": _new("/usr/share/applications"),
    "systemd_dounit": _put(_UNITS),
    "systemd_newunit": _new(_UNITS),
    "dotmpfiles": _put(_TMPFILES),
    "newtmpfiles": _new(_TMPFILES),
    "dobashcomp": _put(_COMPLETIONS),
    "newbashcomp": _new(_COMPLETIONS),
    "dozshcomp": _put(_ZSH),
    "newzshcomp": _new(_ZSH),
    "dofishcomp": _put(_FISH),
    "newfishcomp": _new(_FISH),
}

MEANINGLESS: Mapping[str, str] = {
    **dict.fromkeys(
        ("doinitd", "newinitd", "doconfd", "newconfd"), "OpenRC starts nothing in a container"
    ),
    **dict.fromkeys(("doenvd", "newenvd"), "no image of ours has env-update"),
}
"""What puts files that mean nothing in an image, and why."""
