"""The faces of font files: of a collection each, of a variable font each named instance; and their families."""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from csn_jax.data.cache import Made, cached
from csn_jax.data.images import digest_or_error
from csn_jax.data.workers import read_in_workers
from csn_jax.runtime.writer import say

MOST_FACES = 200  # of one file
# At the end of a family's name. Many web fonts call each cut a family: `Mitr ExtraLight` is of the family Mitr.
CUT = re.compile(
    r"(([\s_-]+|(?<=[a-z\d])(?=[A-Z]))(?i:(extra|ultra|semi|demi)?[\s_-]?(thin|light|bold|black|condensed|expanded)"
    r"|hairline|normal|regular|book|medium|heavy|extra|ultra|semi|demi|compressed|narrow|italic|oblique|latin"
    r"|\d+pt|[1-9]\d\d))+$"
)


class Face(NamedTuple):
    """One face of a font file."""

    path: str
    family: str = ""
    index: int = 0  # in a collection
    instance: str = ""  # its name in a variable font: bytes as Latin-1


def faces_in(files: dict[str, Path]) -> dict[str, Face]:
    """{name: face} of font files {name: path}, in order.

    The only face of a file has the file's name. Otherwise `#` and the number in the collection, or the name of the
    instance, are added. A file that cannot be read has one face, whose rendering gives the reason.
    """
    key = ["font faces-1", freetype_version(), [digest_or_error(path) for path in files.values()]]
    listing, shape = partial(_list_all, list(files.values())), (len(files), 1)
    _, notes = cached(key, shape, listing, ("looking into fonts", "font"))
    faces: dict[str, Face] = {}
    for (name, path), found in zip(files.items(), notes, strict=True):
        listed, left_out = found or ([[0, "", ""]], 0)
        if left_out:
            say(f"left out the last {left_out:,} faces of font {name}: {len(listed):,} of a file are read")
        many = len({index for index, *_ in listed}) > 1
        for index, instance, family in listed:
            part = (f"#{index}" if many else "") + (f"#{_printable(instance)}" if instance and len(listed) > 1 else "")
            while name + part in faces:  # names that differ in control characters only
                part += "'"
            faces[name + part] = Face(str(path), _family(family, path), index, instance)
    return faces


def freetype_version() -> str | None:
    """The version of the library that reads and draws fonts."""
    from PIL import features

    return features.version("freetype2")


def _list_all(paths: list[Path], made: Made) -> Iterator[tuple[None, Any]]:
    """(None, what `list_faces` finds or None) of each file after those already made."""
    for found, _ in read_in_workers(list_faces, map(str, paths[len(made) :])):
        yield None, found


def list_faces(path: str) -> list:
    """[[[index, instance, family] of each face], number of faces left out] of a font file. For a worker process.

    Rendering gives the reason why a face cannot be read. Those behind such a face are left out.
    """
    from PIL import ImageFont

    faces, rest = [], 1
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(12)
        rest = int.from_bytes(head[8:], "big") if head.startswith(b"ttcf") else 1
    for index in range(min(rest, MOST_FACES)):
        rest -= 1
        try:
            font = ImageFont.truetype(path, 20, index, layout_engine=ImageFont.Layout.BASIC)
            family = font.getname()[0] or ""
        except Exception:  # FreeType and Pillow raise many types on a damaged file
            faces.append([index, "", ""])
            break
        try:
            instances = list(dict.fromkeys(name.decode("latin-1") for name in font.get_variation_names()))
        except (OSError, NotImplementedError):  # not a variable font; a FreeType that reads none
            instances = []
        faces += [[index, instance, family] for instance in instances or [""]]
    return [faces[:MOST_FACES] or [[0, "", ""]], rest + max(0, len(faces) - MOST_FACES)]


def _family(name: str, path: Path) -> str:
    """A family without words for its cut. Where a font does not name it in Latin letters, the name of its file."""
    name = " ".join(_printable(name).split())
    if not re.search(r"\w", name):  # FreeType writes ? for other letters
        name = _printable(path.stem) or "?"
    return CUT.sub("", name[:100])


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())
