"""Image files: decoded in worker processes that may die, by the arithmetic of the reference, and cached."""

import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError, features

from csn_jax.data.cache import Made, cached, file_digest
from csn_jax.data.decode import resize_and_crop
from csn_jax.data.workers import read_in_workers, usable_cores
from csn_jax.runtime.writer import Progress
from csn_jax.text import first_sentence

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_FILE = 64 << 20  # bytes
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
    """Decode image files in parallel, or open the cache of an earlier decoding.

    Args:
        paths: N files.
        size: height and width in pixels.
        channels: 3 for colour, 1 for grey.

    Returns:
        (images, faults): uint8 [K, size, size, channels], memory-mapped, of the K readable files, and for each of the N
        files what is wrong with it, or None.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        digests = list(pool.map(_digest_or_error, paths))
    # Another version of a decoder may give other pixels.
    versions = ["images-2", Image.__version__, *(features.version(name) for name in ("jpg", "zlib", "webp"))]
    key = [versions, size, channels, digests]
    return cached(key, (len(paths), size, size, channels), partial(_decode_all, paths, size, channels))


def _decode_all(
    paths: Sequence[Path], size: int, channels: int, made: Made
) -> Iterator[tuple[np.ndarray | None, str | None]]:
    progress = Progress("reading images", len(paths), len(made), unit="image")
    tasks = [(str(path), size, channels) for path in paths[len(made) :]]
    for picture, fault in read_in_workers(decode_file, tasks):
        progress.advance(1)
        yield picture, fault
    progress.close()


def decode_file(task: tuple[str, int, int]) -> np.ndarray | str:
    """uint8 [size, size, channels] of one image file, or what is wrong with it. For a worker process.

    Args:
        task: (path, size, channels).
    """
    path, size, channels = task
    return _open(path, lambda image: resize_and_crop(image, size, channels))


def shrink_file(task: tuple[str, int]) -> np.ndarray | str:
    """uint8 [height, width, 3] of one whole image, no side longer than a size, or what is wrong with its file. For a
    worker process.

    Args:
        task: (path, size).
    """
    path, size = task

    def shrunk(image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        image.thumbnail((size, size))
        return np.asarray(image)

    return _open(path, shrunk)


def _open(path: str, use: Callable[[Image.Image], np.ndarray]) -> np.ndarray | str:
    """Apply `use` to an image file, or return what is wrong with it. The image is as viewers show it: rotated by its
    EXIF orientation, with transparent parts white."""
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


def _digest_or_error(path: Path) -> str:
    try:
        return file_digest(path) if path.is_file() and path.stat().st_size <= MAX_FILE else "no file to read"
    except OSError as error:  # decoding reports the error; once the file can be read, the key is another
        return str(error)
