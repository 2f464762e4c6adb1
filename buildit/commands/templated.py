"""Templates in files: what a synced file becomes over the variables of its step. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from buildit.commands.sync import LARGEST_TEMPLATE, Filler
from buildit.errors import RecipeError
from buildit.model.listed import PackageFacts
from buildit.recipe.packagefacts import PACKAGES_VARIABLE, facts_of
from buildit.recipe.template.render import Variables, render_scalar
from buildit.recipe.yaml.node import Place, Scalar, character_name

_HINT = "sync it in a step without `template`, and leave it out of this one with `exclude`"


def filling(variables: Mapping[str, str], packages: Mapping[str, PackageFacts]) -> Filler:
    """What fills in the templates of a step that sees these variables, and the packages of the
    plan."""
    known = {name: facts_of(one) for name, one in packages.items()}
    names: Variables = {**variables, PACKAGES_VARIABLE: known}
    return lambda data, file: rendered(data, file, names)


def rendered(data: bytes, file: str, names: Variables) -> bytes:
    """The bytes that a template becomes; `file` is its name in messages. Line ends stay what they
    are, and so does a byte order mark.

    Raises:
        RecipeError: it is no text in UTF-8, too large, or a template of it is wrong; the place is
            that in the file.
    """
    if len(data) > LARGEST_TEMPLATE:
        message = f"the file is larger than {LARGEST_TEMPLATE >> 10} KiB, too large for a template"
        raise RecipeError(message, place=file, hint=_HINT)
    start = Place(file, 1, 1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = Scalar(data[: error.start].decode("utf-8"), start, start)
        message = f"byte 0x{data[error.start]:02x} is not UTF-8, and a template is text"
        place = str(before.place_of(len(before.text)))
        raise RecipeError(message, place=place, hint=_HINT) from error
    if "\0" in text:
        message = f"{character_name(chr(0))} is not of a text, and a template is one"
        place = str(Scalar(text, start, start).place_of(text.index("\0")))
        raise RecipeError(message, place=place, hint=_HINT)
    # Jinja2 reads each of CR LF, CR and LF as LF (its lexer, `newline_re`).
    ends = "\r\n" if "\r\n" in text else "\n"
    plain = text.replace("\r\n", "\n")
    if "\r" in plain or (ends == "\r\n" and text.count("\n") != text.count("\r\n")):
        place = str(Scalar(text, start, start).place_of(text.index("\r")))
        message = "its lines end in several ways: CR LF here, elsewhere another one"
        raise RecipeError(
            message, place=place, hint="let all lines end in the same way, LF or CR LF"
        )
    made = render_scalar(Scalar(plain, start, start), names).text
    return (made if ends == "\n" else made.replace("\n", ends)).encode()
