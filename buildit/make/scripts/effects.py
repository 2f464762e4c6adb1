"""What each command of a maintainer script does to an image, or says. Pure."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise

from buildit.errors import RecipeError
from buildit.make.capture.normalise import encoded_capabilities
from buildit.make.scripts.certificates import SHIPPED
from buildit.make.scripts.pam import PROFILES, STACKS, TEMPLATES, pam_stack, parsed_profile
from buildit.make.scripts.registered import DELEGATES, Alternative, Delegation, Slave
from buildit.make.scripts.state import ScriptState, inside, is_base
from buildit.make.scripts.walk import UNKNOWN, ShellCommand, Told
from buildit.model.accounts import BASE_GROUPS, BASE_USERS, AlternativeLink
from buildit.model.tree import Kind

_RUNNING = """
    . aa-enabled aa-status alias apparmor_parser awk basename busctl calculate_md5sum cat cd chattr
    cmp command cut date db_beginblock db_capb db_endblock db_fget db_fset db_go db_input db_metaget
    db_progress db_purge db_register db_reset db_set db_settitle db_stop db_subst db_title
    db_unregister db_version deb-systemd-helper deb-systemd-invoke debconf-escape df diff dirname
    dpkg dpkg-maintscript-helper dpkg-query dpkg-trigger echo egrep expr fgrep find fc-cache getent
    grep head hostname id invoke-rc.d ischroot kill killall ldconfig logger ls md5sum mktemp
    mountpoint netstat nscd pgrep pidof pkill pre_start print printf ps pwd py3clean py3compile
    pypy3clean pypy3compile read readlink restorecon rm rmdir run-parts runit-helper sed service
    sha256sum sleep sort start-stop-daemon stat sync systemctl systemd systemd-notify
    systemd-sysusers systemd-tmpfiles tail telinit test tr trap type ucfr udevadm umask uname
    uniq unset update-binfmts update-inetd update-menus update-mime update-mime-database
    update-rc.d wait wc which xargs /usr/lib/runit/runit-helper /lib/runit-helper/runit-helper
"""
RUNNING = frozenset(_RUNNING.split())
"""Commands that look at a system, or that concern one that runs; what `sysusers` and `tmpfiles`
make is read from their files."""

_LONGEST = 4096  # characters of a path, with its end (PATH_MAX)
_CHANGES = {"find": ("-exec", "-execdir"), "sed": ("-i", "--in-place"), "xargs": ("chown", "chgrp")}
_KEYS = {"ssh-keygen", "make-ssl-cert", "rndc-confgen", "nsd-control-setup", "openssl"}
_WITHOUT = "makes keys, which an image must not share: make them at the first start"

_OPTIONS = {
    "adduser": "home shell uid gid ingroup gecos comment firstuid lastuid conf",
    "addgroup": "gid conf",
    "useradd": "home-dir home shell uid gid comment groups base-dir h d s u g c G b K",
    "groupadd": "gid g K",
    "install": "mode owner group m o g",
    "mkdir": "mode m",
    "ucf": "conf-file state-dir",
}


def answered(state: ScriptState, command: ShellCommand) -> Told:
    """What one command says, with what it does noted."""
    state.line = command.line
    name, *words = command.words or ("",)
    if name in ("command", "which", "type") and words:
        return (True if words[-1] in ("ucf", "ucfr", "adduser") else None), UNKNOWN
    if name in ("if", "!", "builtin"):
        name, words = (words or [""])[0], words[1:]
    name = name.rpartition("/")[2] if name.startswith(("/bin/", "/usr/", "/sbin/")) else name
    for operator, path in command.writes:
        _write(state, command, name, words, operator, path)
    answer = _ANSWERS.get(name)
    if answer is not None:
        return answer(state, words)
    effect = _EFFECTS.get(name) or _OURS.get(name)
    if effect is None:
        changing = set(words) & set(_CHANGES.get(name, ()))
        if name and (changing or name not in RUNNING) and not _on_nothing(state, name, words):
            state.left(state.place, shlex.join(command.words), _WITHOUT if name in _KEYS else "")
        return None, UNKNOWN
    text = shlex.join(command.words).replace(UNKNOWN, "…")
    if not command.known or any(len(word) > _LONGEST for word in words):
        state.left(state.place, text, "not literal")
    else:
        why = effect(state, words)
        if why:
            state.left(state.place, text, why)
    return True, ""


def _on_nothing(state: ScriptState, name: str, words: Sequence[str]) -> bool:
    """Whether a command is about files that a first installation, or an image, does not have."""
    if any(word.endswith("/py_compile.py") or word == "rtupdate" for word in words):
        return True  # byte code: Python compiles without it
    if name not in ("mv", "sed", "find", "ed", "dd"):
        return False
    paths = [word for word in words if word.startswith("/") and UNKNOWN not in word]
    return bool(paths) and inside(paths[0]) not in state.kinds


def _write(
    state: ScriptState,
    command: ShellCommand,
    name: str,
    words: Sequence[str],
    operator: str,
    path: str,
) -> None:
    at, text = inside(path), " ".join(words)
    if not path.startswith("/") or path.startswith("/dev/"):
        return
    if UNKNOWN in path or name not in ("", "echo", ":", "true") or UNKNOWN in text:
        shown = f"{shlex.join(command.words)} {operator} {path}".replace(UNKNOWN, "…")
        state.left(state.place, shown, "not literal")
    elif at not in state.kinds:
        state.parents(at)
        state.rule("write", at, f"{text}\n" if name == "echo" else "")
        state.kinds[at] = Kind.FILE


# -- commands


def _parsed(name: str, words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Options, long ones by their name and short ones by their letter, and operands."""
    valued = _OPTIONS.get(name, "").split()
    options: dict[str, str] = {}
    operands: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return options, operands + queue
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            options[key] = value if equals else queue.pop(0) if key in valued and queue else ""
        elif word.startswith("-") and len(word) > 1:
            for at, letter in enumerate(word[1:], start=2):
                if letter in valued:
                    options[letter] = word[at:] or (queue.pop(0) if queue else "")
                    break
                options[letter] = ""
        else:
            operands.append(word)
    return options, operands


def _adduser(state: ScriptState, words: Sequence[str]) -> str:
    options, names = _parsed("adduser", words)
    if len(names) == 2:
        state.group(names[1], names[0])
        return ""
    if len(names) != 1:
        return "not literal"
    if "system" not in options:
        return "a user who logs in; declare it in `users:`"
    (name,), home = names, options.get("home", "/nonexistent")
    group = options.get("ingroup") or (name if "group" in options else "nogroup")
    if options.get("gid"):
        known = [one for one, gid in BASE_GROUPS.items() if str(gid) == options["gid"]]
        group = (known or [name])[0]
    comment = options.get("gecos", options.get("comment", "")).replace(":", " ")
    fresh = name not in state.users and name not in BASE_USERS
    state.user(name, group, home, options.get("shell", "/usr/sbin/nologin"), comment)
    fresh = fresh and name in state.users
    if fresh and "no-create-home" not in options and home.startswith("/"):
        at = inside(home)
        if at and not home.startswith("/nonexistent") and at not in state.kinds:
            state.directory(at)
            state.rule("owner", at, state.named(f"{name}:{group}"))
    return ""


def _addgroup(state: ScriptState, words: Sequence[str]) -> str:
    _, names = _parsed("addgroup", words)
    if len(names) == 2:
        state.group(names[1], names[0])
    elif len(names) == 1:
        state.group(names[0])
    return "" if names else "not literal"


def _useradd(state: ScriptState, words: Sequence[str]) -> str:
    options, names = _parsed("useradd", words)
    if len(names) != 1:
        return "not literal"

    def said(*keys: str) -> str:
        return next((options[key] for key in keys if options.get(key)), "")

    group = said("g", "gid") or names[0]
    home = said("d", "home-dir", "home") or "/nonexistent"
    state.user(
        names[0], group, home, said("s", "shell") or "/usr/sbin/nologin", said("c", "comment")
    )
    for one in filter(None, said("G", "groups").split(",")):
        state.group(one, names[0])
    return ""


def _usermod(state: ScriptState, words: Sequence[str]) -> str:
    match list(words):
        case ["-a", "-G" | "--groups", groups, user] | ["-aG" | "-G", groups, user]:
            for one in groups.split(","):
                state.group(one, user)
            return ""
        case ["-a", user, group]:  # gpasswd
            state.group(group, user)
            return ""
        case [*_, user] if user in state.users or user in BASE_USERS:
            return ""  # changes what an older version of the package made
    return "changes an account"


def _chown(state: ScriptState, words: Sequence[str], prefix: str = "") -> str:
    options, operands = _parsed("chown", words)
    if len(operands) < 2:
        return "not literal"
    return _on_paths(state, "owner", state.named(prefix + operands[0]), operands[1:], options)


def _chmod(state: ScriptState, words: Sequence[str]) -> str:
    options = {"R": ""} if {"-R", "--recursive"} & {*words} else {}
    operands = [w for w in words if not re.fullmatch(r"-[Rvfc]+|--[a-z-]+", w)]
    if len(operands) < 2:
        return "not literal"
    return _on_paths(state, "mode", operands[0], operands[1:], options)


def _on_paths(
    state: ScriptState, kind: str, value: str, paths: Iterable[str], options: Mapping[str, str]
) -> str:
    recursive = bool({"R", "recursive"} & {*options})
    lacking = []
    for path in paths:
        at = inside(path)
        globbed = [one for one in state.kinds if _fits(one, at)] if "*" in at else [at]
        for one in globbed:
            if one in state.kinds:
                state.rule(kind, one, value, recursive=recursive)
            else:
                lacking.append(path)
    return f"{', '.join(lacking)} is no path of the package" if lacking else ""


def _fits(path: str, glob: str) -> bool:
    parts, patterns = path.split("/"), glob.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _statoverride(state: ScriptState, words: Sequence[str]) -> str:
    operands = [word for word in words if not word.startswith("--")]
    if len(operands) != 4:
        return "" if "--remove" in words else "not literal"
    user, group, mode, path = operands
    at = inside(path)
    says_directory = re.fullmatch("[0-7]+", mode) and int(mode, 8) & 0o111
    if says_directory and at.startswith(("var/", "run/")):
        state.directory(at)
    lacking = _on_paths(state, "owner", state.named(f"{user}:{group}"), [path], {})
    return lacking or _on_paths(state, "mode", mode, [path], {})


def _mkdir(state: ScriptState, words: Sequence[str]) -> str:
    options, paths = _parsed("mkdir", words)
    mode = options.get("m") or options.get("mode")
    for path in paths:
        if not path.startswith("/"):
            return "not literal"
        at, fresh = inside(path), inside(path) not in state.kinds
        state.directory(at)
        if mode and fresh:
            state.rule("mode", at, mode)
    return ""


def _install(state: ScriptState, words: Sequence[str]) -> str:
    options, operands = _parsed("install", words)
    mode, owner, group = (
        options.get(one[0], options.get(one, "")) for one in ("mode", "owner", "group")
    )
    if "d" in options or "directory" in options:
        made = [inside(path) for path in operands]
        for at in made:
            state.directory(at)
    elif len(operands) == 2:
        if why := _copied(state, operands[0], operands[1]):
            return why
        made = [inside(operands[1])]
    else:
        return "not literal"
    for at in (one for one in made if one in state.kinds):
        state.attributes(at, mode or "0755", owner or "root", group or "root")
    return ""


def _cp(state: ScriptState, words: Sequence[str]) -> str:
    _, operands = _parsed("cp", words)
    return _copied(state, *operands) if len(operands) == 2 else "not literal"


def _ucf(state: ScriptState, words: Sequence[str]) -> str:
    options, operands = _parsed("ucf", words)
    if {"p", "purge"} & {*options}:
        return ""
    return _copied(state, *operands) if len(operands) == 2 else "not literal"


def _copied(state: ScriptState, source: str, path: str) -> str:
    at = inside(path)
    if path.endswith("/") or state.kinds.get(at) is Kind.DIRECTORY:
        at = f"{at}/{posixpath.basename(source)}"
    return state.copy(source, at)


def _ln(state: ScriptState, words: Sequence[str]) -> str:
    options, operands = _parsed("ln", words)
    if len(operands) != 2 or not ({"s", "symbolic"} & {*options}):
        return "not literal"
    target, path = operands
    at = inside(path)
    if path.endswith("/") or state.kinds.get(at) is Kind.DIRECTORY:
        at = f"{at}/{posixpath.basename(target)}"
    return state.link(at, target)


def _touch(state: ScriptState, words: Sequence[str]) -> str:
    for path in (word for word in words if not word.startswith("-")):
        at = inside(path)
        if at not in state.kinds:
            state.parents(at)
            state.rule("write", at)
            state.kinds[at] = Kind.FILE
    return ""


def _alternatives(state: ScriptState, words: Sequence[str]) -> str:
    """`--install LINK NAME PATH PRIORITY [--slave LINK NAME PATH]…` (update-alternatives(1))."""
    operands = [word for word in words if word not in ("--quiet", "--force")]
    if operands[:1] != ["--install"]:
        return "" if operands[:1] in (["--remove"], ["--auto"], ["--remove-all"]) else "not literal"
    if len(operands) < 5 or not re.fullmatch(r"-?[0-9]{1,9}", operands[4]):
        return "not literal"
    slaves = []
    rest = operands[5:]
    while rest[:1] == ["--slave"] and len(rest) >= 4:
        slaves.append(Slave(*rest[1:4]))
        rest = rest[4:]
    link, name, path, priority = *operands[1:4], int(operands[4])
    paths = (link, path, *(one for each in slaves for one in (each.link, each.path)))
    if not all(one.startswith("/") and one.isprintable() and inside(one) for one in paths):
        return "not literal"
    state.alternatives.append(Alternative(link, name, path, priority, tuple(slaves)))
    if priority < 0:
        return "a last resort: where you want it, write the link in `symlinks`"
    pairs = [(link, path), *((s.link, s.path) for s in slaves if inside(s.path) in state.kinds)]
    for link, target in pairs:
        found = AlternativeLink(inside(link), inside(target), priority)
        known = state.links.get(found.link)
        if found.link not in state.kinds and (known is None or known.priority < priority):
            state.links[found.link] = found
    return ""


def _xml_catalog(state: ScriptState, words: Sequence[str]) -> str:
    """`--add --type KIND --id START --local CATALOG` (update-xmlcatalog(8)); what it says of the
    catalogs between is not needed."""
    said = dict(pairwise(words))
    kind, start, local = (said.get(f"--{name}", "") for name in ("type", "id", "local"))
    if "--add" not in words or not local:
        return ""
    if kind not in DELEGATES or not start or not local.startswith("/"):
        return "not literal"
    state.catalogs.append(Delegation(kind, start, local))
    return "an image has no catalog of all its packages: bring /etc/xml/catalog"


def _pam(state: ScriptState, words: Sequence[str]) -> str:
    """pam-auth-update(8) of the package that has the templates: with its own profiles."""
    if "--remove" in words:
        return ""
    profiles = [path for path in sorted(state.kinds) if path.startswith(f"{PROFILES}/")]
    templates = {one: f"{TEMPLATES}/common-{one}" for one in STACKS}
    if not {*templates.values()} <= {*state.kinds}:
        return (
            "/etc/pam.d/common-* are libpam-runtime's alone: bring them with this profile's lines"
        )
    every = [parsed_profile(state.read(path)) for path in profiles]
    for stack, template in templates.items():
        state.rule(
            "write", f"etc/pam.d/common-{stack}", pam_stack(state.read(template), stack, every)
        )
    return ""


def _setcap(state: ScriptState, words: Sequence[str]) -> str:
    operands = [word for word in words if not word.startswith("-")]
    if len(operands) != 2:
        return "not literal"
    try:
        encoded_capabilities(operands[0].split(), place=state.place)
    except RecipeError as error:
        return error.message
    return _on_paths(state, "capabilities", operands[0], [operands[1]], {})


def _nothing(state: ScriptState, words: Sequence[str]) -> str:
    del state, words
    return ""


def _certificates(state: ScriptState, words: Sequence[str]) -> str:
    del words
    if not any(path.startswith(f"{SHIPPED}/") for path in state.kinds):
        return "the package's certificates are left out"
    state.rule("certificates", "etc/ssl/certs")
    return ""


_EFFECTS: Mapping[str, Callable[[ScriptState, Sequence[str]], str]] = {
    "adduser": _adduser,
    "addgroup": _addgroup,
    "useradd": _useradd,
    "groupadd": _addgroup,
    "usermod": _usermod,
    "gpasswd": _usermod,
    "chsh": _usermod,
    "deluser": _nothing,
    "delgroup": _nothing,
    "chown": _chown,
    "chgrp": partial(_chown, prefix=":"),
    "chmod": _chmod,
    "mkdir": _mkdir,
    "install": _install,
    "cp": _cp,
    "ucf": _ucf,
    "ln": _ln,
    "touch": _touch,
    "update-alternatives": _alternatives,
    "update-xmlcatalog": _xml_catalog,
    "pam-auth-update": _pam,
    "setcap": _setcap,
}
_OURS: Mapping[str, Callable[[ScriptState, Sequence[str]], str]] = {
    "certificates": _certificates,
    "keys": lambda _state, _words: _WITHOUT,
    "needs": lambda _state, _words: "to do at the first start, or in files of your own",
}


# -- what can be answered


def _test(state: ScriptState, words: Sequence[str]) -> Told:
    words = [*words]
    if words[-1:] == ["]"]:
        words.pop()
    if len(words) > 100:
        return None, ""
    return _tested(state, words), ""


def _tested(state: ScriptState, words: list[str]) -> bool | None:
    for word in ("-o", "-a"):
        if word in words[1:-1] and len(words) > 3:
            at = words.index(word, 1)
            parts = _tested(state, words[:at]), _tested(state, words[at + 1 :])
            decided = word == "-o"
            return decided if decided in parts else None if None in parts else not decided
    match words:
        case ["!", *rest]:
            found = _tested(state, rest)
            return None if found is None else not found
        case [only]:
            return None if UNKNOWN in only else bool(only)
        case []:
            return False
        case ["-n" | "-z" as operator, text]:
            return None if UNKNOWN in text else bool(text) == (operator == "-n")
        case [operator, path] if re.fullmatch(r"-[a-zA-Z]", operator):
            return _exists(state, operator, path)
        case [left, "=" | "==" | "!=" as operator, right]:
            if UNKNOWN in left + right:
                return None
            return (left == right) == (operator != "!=")
        case _:
            return None


def _exists(state: ScriptState, operator: str, path: str) -> bool | None:
    if UNKNOWN in path:
        return None
    at = inside(path)
    kind = state.kinds.get(at)
    if kind is None:
        # what other packages may bring is not known; the state of a system is not there
        return None if at.startswith(("usr/", "etc/init.d/", "dev/")) else is_base(at)
    match operator:
        case "-d":
            return None if kind is Kind.SYMLINK else kind is Kind.DIRECTORY
        case "-f":
            return None if kind is Kind.SYMLINK else kind in (Kind.FILE, Kind.HARDLINK)
        case "-L" | "-h":
            return kind is Kind.SYMLINK
        case "-e" | "-r" | "-w":
            return True
        case _:
            return None


def _getent(state: ScriptState, words: Sequence[str]) -> Told:
    match list(words):
        case ["passwd", name]:
            return name in state.users or name in BASE_USERS, UNKNOWN
        case ["group", name]:
            return name in state.groups or name in BASE_GROUPS, UNKNOWN
        case _:
            return None, UNKNOWN


def _id(state: ScriptState, words: Sequence[str]) -> Told:
    names = [word for word in words if not word.startswith("-")]
    known = not names or names[0] in state.users or names[0] in BASE_USERS
    return (None if names and UNKNOWN in names[0] else known), "0" if not names else UNKNOWN


def _dpkg(state: ScriptState, words: Sequence[str]) -> Told:
    match list(words):
        case ["--print-architecture"] if state.walked:
            return True, state.walked.variables["DPKG_MAINTSCRIPT_ARCH"]
        case ["--compare-versions", "", operator, _]:
            # dpkg(1): an empty version is before any, for the words with `-nl` after any
            return operator in ("lt", "le", "ne", "ge-nl", "gt-nl"), ""
        case ["--compare-versions", operator, _]:  # an unquoted $2
            return False, ""
        case _:
            return None, UNKNOWN


def _dpkg_statoverride(state: ScriptState, words: Sequence[str]) -> Told:
    if "--add" not in words:
        return False, ""  # there is none on a first installation
    if any(UNKNOWN in word for word in words):
        state.left(state.place, "dpkg-statoverride --add …", "not literal")
        return True, ""
    why = _statoverride(state, [word for word in words if word != "--add"])
    if why:
        state.left(state.place, shlex.join(("dpkg-statoverride", *words)), why)
    return True, ""


def _dpkg_divert(state: ScriptState, words: Sequence[str]) -> Told:
    if "--truename" in words:
        return True, words[-1]
    if {"--list", "--listpackage"} & {*words}:
        return False, ""
    state.left(state.place, shlex.join(("dpkg-divert", *words)), "")
    return True, ""


def _db_get(state: ScriptState, words: Sequence[str]) -> Told:
    walk = state.walked
    if walk is not None and words:
        walk.variables["RET"] = state.defaults.get(words[0], UNKNOWN)
    return True, ""


def _source(state: ScriptState, words: Sequence[str]) -> Told:
    """A file of settings that the package has; others are a system's."""
    walk = state.walked
    for line in state.read(inside(words[0])).split("\n") if words and walk else ():
        match = re.fullmatch(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*?)\s*", line)
        if match and walk is not None:
            walk.variables[match[1]] = " ".join(walk.expand(match[2], split=False))
    return True, ""


def _printed(function: Callable[[str], str]) -> Callable[[ScriptState, Sequence[str]], Told]:
    def answer(state: ScriptState, words: Sequence[str]) -> Told:
        del state
        names = [word for word in words if not word.startswith("-")]
        return True, function(names[0]) if names and UNKNOWN not in names[0] else UNKNOWN

    return answer


_ANSWERS: Mapping[str, Callable[[ScriptState, Sequence[str]], Told]] = {
    "[": _test,
    "test": _test,
    "getent": _getent,
    "id": _id,
    "dpkg": _dpkg,
    "dpkg-statoverride": _dpkg_statoverride,
    "dpkg-divert": _dpkg_divert,
    "db_get": _db_get,
    ".": _source,
    "basename": _printed(posixpath.basename),
    "dirname": _printed(posixpath.dirname),
    "echo": lambda _state, words: (True, " ".join(words)),
    "systemctl": lambda _state, _words: (False, ""),
    "deb-systemd-helper": lambda _state, _words: (None, ""),
}
