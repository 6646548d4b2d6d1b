"""Source `fonts`: a folder of font files rendered to one grey image a character; conditions character and font."""

import string
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.data.isolated import WorkerDied, isolated_map

CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits  # the paper's 62
SUFFIXES = (".ttf", ".otf", ".ttc", ".woff", ".woff2")
BORDER = 1 / 16  # of the image's side, left free on every side
MEASURE = 200  # point size at which a face's proportions are measured
SHARED_GLYPHS = (
    4  # characters that may look like another one (I and l, O and 0); more, and the letters are not told apart
)
MAX_FILE = 64 << 20  # bytes


class Face(NamedTuple):
    """One font file: its images [62, size, size] uint8 in the order of CHARACTERS, or the reason why it has none."""

    name: str
    images: np.ndarray | None
    fault: str | None


def font_files(folder: Path) -> list[Path]:
    """The font files below a folder, sorted, so that every machine sees the same order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def render_folder(folder: Path, size: int, workers: int) -> Iterator[tuple[int, Face]]:
    """Render every font file of a folder in parallel, yielding (position in font_files, Face) as they finish."""
    files = font_files(folder)
    tasks = [(str(path), path.relative_to(folder).with_suffix("").as_posix(), size) for path in files]
    for position, result in isolated_map(render_face, tasks, workers):
        yield position, Face(tasks[position][1], None, result.reason) if isinstance(result, WorkerDied) else result


def render_face(task: tuple[str, str, int]) -> Face:
    """Render the 62 characters of one font file, or say what is wrong with it.

    Args:
        task: (path, name, size): the file, the name for the face, the image's side in pixels.

    Returns:
        A Face. White on black, anti-aliased; each glyph centred by its ink. One point size for the whole face, so
        that `c` stays smaller than `C`; only glyphs far larger than the face's median are shrunk to fit on their own.
    """
    path, name, size = task
    try:
        return Face(name, _render(path, size), None)
    except _Fault as fault:
        return Face(name, None, str(fault))
    except Exception as error:  # FreeType and Pillow raise many kinds on a damaged file; each is this file's fault
        return Face(name, None, f"cannot be read ({type(error).__name__}: {error})")


class _Fault(Exception):
    pass


def _render(path: str, size: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    if Path(path).stat().st_size > MAX_FILE:
        raise _Fault(f"is larger than {MAX_FILE >> 20} MB")

    def font_at(points: float) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(path, points, layout_engine=ImageFont.Layout.BASIC)

    measure = font_at(MEASURE)
    boxes = np.array([measure.getbbox(character) for character in CHARACTERS])  # [62, 4] left, top, right, bottom
    extent = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])  # [62]
    shapes = [(mask.size, bytes(mask)) for mask in (measure.getmask(character) for character in CHARACTERS)]
    # The last code point of a private plane is in no font, so it draws what this font draws for a missing character.
    absent = measure.getmask("\U0010fffd")
    missing = [c for c, shape in zip(CHARACTERS, shapes, strict=True) if shape == (absent.size, bytes(absent))]
    if missing:
        raise _Fault(f"has no glyph for {len(missing)} of {len(CHARACTERS)} characters ({''.join(missing)})")
    blank = [c for c, (_, ink) in zip(CHARACTERS, shapes, strict=True) if not any(ink)]
    if blank:
        raise _Fault(f"draws nothing for {len(blank)} of {len(CHARACTERS)} characters ({''.join(blank)})")
    shared = len(CHARACTERS) - len(set(shapes))
    if shared > SHARED_GLYPHS:
        raise _Fault(f"draws only {len(CHARACTERS) - shared} different glyphs for {len(CHARACTERS)} characters")

    room = size - 2 * max(1, round(size * BORDER))
    usual = min(extent.max(), 1.5 * np.median(extent))
    fonts: dict[float, ImageFont.FreeTypeFont] = {}
    images = np.empty((len(CHARACTERS), size, size), np.uint8)
    for index, character in enumerate(CHARACTERS):
        points = MEASURE * room / max(usual, extent[index])
        if points not in fonts:
            fonts[points] = font_at(points)
        font = fonts[points]
        left, top, right, bottom = font.getbbox(character)
        image = Image.new("L", (size, size))
        corner = ((size - (right - left)) / 2 - left, (size - (bottom - top)) / 2 - top)
        ImageDraw.Draw(image).text(corner, character, fill=255, font=font)
        images[index] = np.asarray(image)
    if not images.any(axis=(1, 2)).all():
        raise _Fault(f"draws strokes too fine to see at {size} pixels")
    return images
