"""Source `fonts`: font files rendered to one grey image per character; conditions character and font."""

import hashlib
import string
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

from csn_jax.config import Config, DataConfig
from csn_jax.data.cache import Made, cached
from csn_jax.data.images import MAX_FILE, digest_or_error, resolve
from csn_jax.data.item_set import Rows
from csn_jax.data.sources.font_faces import Face, faces_in, freetype_version
from csn_jax.data.workers import read_in_workers
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition
from csn_jax.runtime.writer import say

CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits  # the paper's 62
SUFFIXES = (".ttf", ".otf", ".ttc", ".woff", ".woff2")
BORDER = 1 / 16  # of the side of an image, free on every side
MEASURE = 200  # point size at which the proportions of a face are measured
SHARED_GLYPHS = 4  # characters that may look like another one (I and l, O and 0)
ABSENT = "\U0010fffd"  # a private code point that no font has: drawn as the glyph for missing characters


def read(config: Config) -> Rows:
    """The characters of all fonts in a folder as items with the conditions character and font."""
    images, faces = read_fonts(config.data, config.preprocess.size)
    rows = glyph_rows(images, [*faces])
    families = np.array([face.family for face in faces.values()])
    shared = len(faces) - sum(times == 1 for times in Counter(families.tolist()).values())
    notes = ()
    if config.data.split_by == "font" and shared:
        notes = (
            f"{shared:,} of {len(faces):,} fonts have a sister in their family, such as its bold, which may be in "
            "another split; --config.data.split_by=family keeps sisters together",
        )
    return rows._replace(
        labels=rows.labels | {"family": np.repeat(families, len(CHARACTERS))},
        others=(Condition("family", "categorical"),),
        notes=notes,
    )


def glyph_rows(images: np.ndarray, faces: list[str]) -> Rows:
    """Images [faces, 62, S, S] as items with the conditions character and font. An id is `face/character`."""
    n_faces, n_characters, size, _ = images.shape
    labels = {
        "character": np.tile(np.array(list(CHARACTERS)), n_faces),
        "font": np.repeat(np.array(faces), n_characters),
    }
    return Rows(
        inputs=images.reshape(n_faces * n_characters, size, size, 1),
        ids=np.char.add(np.char.add(labels["font"], "/"), labels["character"]),
        labels=labels,
        conditions=tuple(Condition(name, "categorical") for name in labels),
        split=None,
        ink=True,
    )


def font_files(folder: Path) -> dict[str, Path]:
    """{name: path} of the font files below a folder, sorted, so that every machine has the same order.

    A name is the path below the folder without its suffix; with it if two files would share the name. Links to files
    outside the folder are left out with a message.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    root = folder.resolve()
    outside = {path for path in paths if path.is_symlink() and resolve(root, str(path.relative_to(folder))) is None}
    for path in sorted(outside):
        say_left_out(path.relative_to(folder).as_posix(), "is a link to outside the folder", None)
    paths = [path for path in paths if path not in outside]
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    times = Counter(names)
    return {
        name if times[name] == 1 else path.relative_to(folder).as_posix(): path
        for name, path in zip(names, paths, strict=True)
    }


def render_faces(
    faces: dict[str, Face], size: int, workers: int | None = None
) -> Iterator[tuple[str, np.ndarray | None, str | None]]:
    """Render faces in parallel: (name, images [62, size, size] or None, fault or None) of each, in order."""
    rendered = read_in_workers(render_face, [(face, size) for face in faces.values()], workers)
    for name, (images, fault) in zip(faces, rendered, strict=True):
        yield name, images, fault


def render_face(task: tuple[Face, int]) -> np.ndarray | str:
    """Render the characters of one face, or say what is wrong with it. For a worker process.

    Args:
        task: (face, side of an image in pixels).

    Returns:
        uint8 [62, size, size] in the order of CHARACTERS: white on black, anti-aliased, each glyph whole and centred
        by its ink. A face has one point size, so that `c` stays smaller than `C`; only a glyph far larger than the
        median is shrunk to fit.
    """
    try:
        return _render(*task)
    except _Fault as fault:
        return str(fault)
    except Exception as error:  # FreeType and Pillow raise many types on a damaged file
        return f"cannot be read ({type(error).__name__}: {error})"


class _Fault(Exception):
    pass


def _render(face: Face, size: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    if Path(face.path).stat().st_size > MAX_FILE:
        raise _Fault(f"is larger than {MAX_FILE >> 20} MB")

    @cache
    def font_at(points: float) -> ImageFont.FreeTypeFont:
        font = ImageFont.truetype(face.path, points, face.index, layout_engine=ImageFont.Layout.BASIC)
        if face.instance:
            font.set_variation_by_name(face.instance.encode("latin-1"))
        return font

    def draw(character: str, points: float) -> Image.Image:
        """White on black, cut to the ink. FreeType's own box includes side bearings and is off by some pixels."""
        left, top, right, bottom = font_at(points).getbbox(character)
        image = Image.new("L", (right - left + 4, bottom - top + 4))
        ImageDraw.Draw(image).text((2 - left, 2 - top), character, fill=255, font=font_at(points))
        return image.crop(image.getbbox() or (0, 0, 0, 0))

    inks = [draw(character, MEASURE) for character in CHARACTERS]
    absent, space = draw(ABSENT, MEASURE), font_at(MEASURE).getlength
    missing = [
        ink == absent and space(character) == space(ABSENT) for ink, character in zip(inks, CHARACTERS, strict=True)
    ]
    _refuse("has no glyph for", missing)
    _refuse("draws nothing for", [ink.size == (0, 0) for ink in inks])
    different = len({(ink.size, ink.tobytes()) for ink in inks})
    if different < len(CHARACTERS) - SHARED_GLYPHS:
        raise _Fault(f"draws the same for several characters: only {different} different glyphs for {len(CHARACTERS)}")
    if all(_is_bars(np.asarray(ink)) for ink in inks):
        raise _Fault("draws barcodes")

    room = size - 2 * max(1, round(size * BORDER))
    extent = np.array([max(ink.size) for ink in inks])  # [62]
    usual = min(extent.max(), 1.5 * np.median(extent))
    images = np.empty((len(CHARACTERS), size, size), np.uint8)
    for index, character in enumerate(CHARACTERS):
        points = MEASURE * room / max(usual, extent[index])
        ink = draw(character, points)
        while max(ink.size) > room:  # rounding to whole pixels can exceed it
            points *= 0.98
            ink = draw(character, points)
        image = Image.new("L", (size, size))
        image.paste(ink, ((size - ink.width) // 2, (size - ink.height) // 2))
        images[index] = np.asarray(image)
    _refuse(f"draws strokes too fine to see at {size} pixels for", (~images.any(axis=(1, 2))).tolist())
    return images


def _refuse(problem: str, has_problem: list[bool]) -> None:
    """Raise a fault that names the characters with a problem, if there are any."""
    named = [character for character, bad in zip(CHARACTERS, has_problem, strict=True) if bad]
    if named:
        raise _Fault(f"{problem} {len(named)} of {len(CHARACTERS)} characters ({''.join(named)})")


def _is_bars(ink: np.ndarray) -> bool:
    """Whether more than half of the rows of ink [H, W] are equal, as in I and l, but not in a whole face."""
    rows = Counter(row.tobytes() for row in ink if row.any())
    return 2 * rows.most_common(1)[0][1] > len(ink)


def read_fonts(data: DataConfig, size: int) -> tuple[np.ndarray, dict[str, Face]]:
    """Render a folder of fonts, or open the cache of an earlier rendering: (images [faces, 62, S, S], faces by name).

    Unusable fonts are left out with a message.
    """
    folder = Path(data.path).expanduser()
    if not data.path or not folder.is_dir():
        raise UserError(f"config.data.path is {data.path!r}, which is not a folder; give a folder of font files.")
    files = font_files(folder)
    if not files:
        raise UserError(f"config.data.path={folder} holds no font file; give a folder of .ttf, .otf, .woff or .woff2.")
    faces = faces_in(files)
    if len(faces) > len(files):
        many = f"{len(files):,} font files hold {len(faces):,} fonts"
        say(f"{many}: each face of a collection and each named instance of a variable font is one")
    digests = {str(path): digest_or_error(path) for path in files.values()}
    # Another version of FreeType may draw other pixels.
    key = [["fonts-2", freetype_version()], [[name, digests[face.path]] for name, face in faces.items()]]
    shape, work = (len(faces), len(CHARACTERS), size, size), ("rendering fonts", "font")
    images, notes = cached(key, shape, partial(render_all, faces, size), work)
    faults = {name: fault for name, fault, _ in notes if fault}
    twins = {name: twin for name, _, twin in notes if twin}
    for name, fault, twin in sorted(notes, key=lambda note: not note[1]):  # the faults first
        say_left_out(name, fault, twin)
    say(
        f"{len(faces) - len(faults)} of {len(faces)} fonts in {folder} are usable; {len(twins)} of these draw the same "
        f"pixels as another, which leaves {len(images)} different faces"
    )
    if len(images) < 2:
        kinds = Counter(fault.split(" (")[0] for fault in faults.values())
        reasons = "; ".join(f"{count} {'font' if count == 1 else 'fonts'}: {kind}" for kind, count in kinds.items())
        raise UserError(
            f"config.data.path={folder} has {len(images)} different usable faces in {len(faces)} fonts and training "
            f"needs 2{f' ({reasons})' if reasons else ''}; give other fonts."
        )
    return images, {name: faces[name] for name, fault, twin in notes if not (fault or twin)}


def say_left_out(name: str, fault: str | None, twin: str | None) -> None:
    """Print why a font is left out, if it is."""
    if fault or twin:
        say(f"left out font {name}: {fault or f'draws the same pixels as {twin}'}")


def render_all(
    faces: dict[str, Face], size: int, made: Made = ()
) -> Iterator[tuple[np.ndarray | None, list[str | None]]]:
    """(images or None, [name, fault, twin]) of each font after those already made. A twin is an earlier font that draws
    the same pixels, such as a copy of the file. Only one of the two is used: no network could separate their labels."""
    first = {digest: name for digest, (name, _, _) in made if digest}
    faces = dict(list(faces.items())[len(made) :])
    for name, images, fault in render_faces(faces, size):
        twin = None
        if images is not None:
            earlier = first.setdefault(hashlib.sha256(images).hexdigest(), name)
            images, twin = (images, None) if earlier == name else (None, earlier)
        yield images, [name, fault, twin]
