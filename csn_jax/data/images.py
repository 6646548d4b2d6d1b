"""Image files: decoded in worker processes that may die, by the arithmetic of the reference, and cached."""

import os
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError, features

from csn_jax.config import Config
from csn_jax.data.cache import cached, file_digest
from csn_jax.data.workers import read_in_workers, usable_cores
from csn_jax.errors import UserError
from csn_jax.runtime.writer import say
from csn_jax.text import first_sentence

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_FILE = 64 << 20  # bytes
NAMED = 1_000  # unreadable images that are named one by one
MAX_SIDE = 16_384
MAX_PIXELS = 50_000_000
# Reading an image may take 300 MB. RGB takes 4 bytes per pixel, WEBP and transparency several times that.
TURNED = 25_000_000  # pixels up to which a rotated image is read whole
COPIED = 16_000_000  # pixels that an image of several copies may have


def resolve(folder: Path, name: str) -> Path | None:
    """The path of a named file; None when it leaves the resolved folder, also through links, or is a loop of links."""
    try:
        path = (folder / name).resolve()
    except (RuntimeError, OSError):  # a loop of links; the error depends on Python's version
        return None
    return path if path.is_relative_to(folder) else None


def decode_files(paths: Sequence[Path], size: int, channels: int) -> tuple[np.ndarray, list[str | None]]:
    """Decode N image files in parallel, or open the cache of an earlier decoding.

    Returns:
        (images, faults): uint8 [K, size, size, channels], memory-mapped, of the K readable files, and for each of the N
        files what is wrong with it, or None.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        digests = list(pool.map(digest_or_error, paths))
    # Another version of a decoder may give other pixels.
    versions = ["images-2", Image.__version__, *(features.version(name) for name in ("jpg", "zlib", "webp"))]
    tasks = [(str(path), size, channels) for path in paths]
    return cached(
        [versions, size, channels, digests],
        (len(paths), size, size, channels),
        lambda made: read_in_workers(decode_file, tasks[len(made) :]),
    )


def decode_usable(
    paths: Sequence[Path], names: Sequence[str], where: Callable[[int], str], config: Config, remedy: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(images [K, H, W, ch] of the readable files, their positions [K], a note per unreadable file).

    Args:
        paths, names: of N files; an empty name means that there is none.
        where: from a position to its place, for messages.
        config: says whether unreadable files may be left out, and the form of the images.
        remedy: what to do about unreadable files.

    Raises:
        UserError: for unreadable files unless data.skip_bad, or when no file is readable.
    """
    images, faults = decode_files(paths, config.preprocess.size, len(config.preprocess.mean))
    bad = [
        f"{where(row)}: {f'image {name!r} {fault}' if name else 'no image is named'}"
        for row, (name, fault) in enumerate(zip(names, faults, strict=True))
        if fault
    ]
    if bad and not config.data.skip_bad:
        for line in bad[:NAMED] if len(bad) > 1 else ():
            say(line)
        more = f"; {len(bad) - 1} more cannot be read" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}; {remedy}, or pass --config.data.skip_bad=True to train without.")
    if len(bad) == len(paths):
        first = f"; the first: {bad[0]}" if bad else ""
        raise UserError(f"none of the {len(paths)} images can be read{first}; {remedy}.")
    notes = [f"left out {line}" for line in bad[:NAMED]]
    notes += [f"left out {len(bad) - NAMED:,} more"] if len(bad) > NAMED else []
    return images, np.array([row for row, fault in enumerate(faults) if fault is None], int), tuple(notes)


def decode_file(task: tuple[str, int, int]) -> np.ndarray | str:
    """uint8 [size, size, channels] of the image of a task (path, size, channels), or what is wrong with its file."""
    path, size, channels = task
    return _open(path, lambda image: resize_and_crop(image, size, channels))


def shrink_file(task: tuple[str, int]) -> np.ndarray | str:
    """uint8 [height, width, 3] within size of the image of a task (path, size), or what is wrong with its file."""
    path, size = task

    def shrunk(image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        image.thumbnail((size, size))
        return np.asarray(image)

    return _open(path, shrunk)


def _open(path: str, use: Callable[[Image.Image], np.ndarray]) -> np.ndarray | str:
    """Apply `use` to the image of a file as viewers show it, or return what is wrong with the file."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow warns above this number and raises above twice as many
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            return "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a file"
        if status.st_size > MAX_FILE:
            return f"is larger than {MAX_FILE >> 20} MB"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if max(image.size) > MAX_SIDE:
                    return f"is {image.width} x {image.height} pixels; a side may have up to {MAX_SIDE:,}"
                copied = image.mode not in ("1", "L", "P", "RGB") or image.has_transparency_data
                if (copied or image.format == "WEBP") and image.width * image.height > COPIED:
                    kind = f"{image.mode} in {image.format}"
                    return f"is {image.width} x {image.height} pixels; {kind} may have up to {COPIED:,}"
                image.load()
                return use(as_shown(image))
    except FileNotFoundError:
        return "is missing"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"is a decompression bomb of more than {MAX_PIXELS:,} pixels"
    except UnidentifiedImageError:
        return f"is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    except MemoryError:
        return "needs too much memory"
    except Exception as error:  # Pillow raises many types on a damaged file
        reason = first_sentence(error)
        if "truncated" in reason.lower() or "broken data stream" in reason:
            return f"is truncated or damaged ({reason})"
        return f"cannot be decoded ({type(error).__name__}: {reason})"


def as_shown(image: Image.Image) -> Image.Image:
    """An image as viewers show it: rotated by its EXIF orientation, with transparent parts white."""
    if image.width * image.height > TURNED and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = image.reduce(2)  # rotating the whole image would hold it twice
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits of grey: convert() would clip them
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def resize_and_crop(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Resize the shorter side to `size`, bilinear and anti-aliased, then crop the centre: uint8 [size, size, channels].

    The arithmetic is that of torchvision's Resize and CenterCrop on a PIL image: the long side is
    int(size * long / short), the offset of the crop is int(round(extra / 2)), where halves round to even, and pixels
    are rounded to uint8 before any division. `jax.image.resize` gives other pixels. First an image of any mode becomes
    RGB for 3 channels and grey for 1.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    image = image if image.mode == mode else image.convert(mode)  # convert always copies
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != size:
        stretched = int(size * long / short)
        new = (size, stretched) if width <= height else (stretched, size)
        image = image.resize(new, Image.Resampling.BILINEAR)
    left, top = (int(round((extent - size) / 2)) for extent in image.size)
    image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8).reshape(size, size, channels)


def digest_or_error(path: Path) -> str:
    """The part of a cache's key for a file."""
    try:
        return file_digest(path) if path.is_file() and path.stat().st_size <= MAX_FILE else "no file to read"
    except OSError as error:  # decoding reports the error; once the file can be read, the key is another
        return str(error)
