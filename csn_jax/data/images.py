"""Image files: decoded in worker processes that may die, by the arithmetic of the reference, and cached."""

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import (
    AvifImagePlugin,
    ExifTags,
    Image,
    ImageFile,
    ImageOps,
    PngImagePlugin,
    UnidentifiedImageError,
    features,
)

from csn_jax.config import Config
from csn_jax.data.cache import cached, file_digest
from csn_jax.data.item_set import leave_out
from csn_jax.data.workers import read_in_workers, usable_cores
from csn_jax.errors import UserError
from csn_jax.text import first_sentence

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # found by content, whatever the file's name
# What else a file called .jpg may hold, by its first bytes.
OTHERS = {
    b"<": "HTML, SVG or XML text",
    b"%PDF": "a PDF file",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"version https://git-lfs": "a pointer of Git LFS (run git lfs pull)",
    b"8BPS": "a Photoshop file",
}
MAX_FILE = 64 << 20  # bytes
MAX_SIDE = 16_384
MAX_PIXELS = 50_000_000
MAX_TEXT = MAX_FILE  # bytes of the texts of a PNG; design tools store whole histories there
# Reading an image may take 300 MB. RGB takes 4 bytes per pixel, WEBP and transparency several times that.
TURNED = 25_000_000  # pixels up to which a rotated image is read whole
COPIED = 16_000_000  # pixels that an image of several copies may have

UNNAMED = "has no image"  # the fault of a row that names none
Source: TypeAlias = Any  # the Path of an image file, or a pyarrow.BinaryScalar with its bytes


def resolve(folder: Path, name: str) -> Path | None:
    """The path of a named file; None when it leaves the resolved folder, also through links, or is a loop of links."""
    try:
        path = (folder / name).resolve()
    except (RuntimeError, OSError):  # a loop of links; the error depends on Python's version
        return None
    return path if path.is_relative_to(folder) else None


def decode_files(
    sources: Sequence[Source], size: int, channels: int, fit: str = "crop"
) -> tuple[np.ndarray, list[str | None]]:
    """Decode N images in parallel, or open the cache of an earlier decoding.

    Returns:
        (images, faults): uint8 [K, size, size, channels], memory-mapped, of the K readable images, and for each of the
        N what is wrong with it, or None.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        digests = list(pool.map(digest_or_error, sources))
    decoders = ("jpg", "zlib", "webp", "avif", "libtiff")  # another version may give other pixels
    versions = ["images-3", Image.__version__, *map(features.version, decoders)]
    return cached(
        [versions, size, channels, fit, digests],
        (len(sources), size, size, channels),
        lambda made: read_in_workers(decode_file, tasks_of(sources[len(made) :], size, channels, fit)),
    )


def tasks_of(sources: Iterable[Source], *form: Any) -> Iterator[tuple[Any, ...]]:
    """The tasks of `decode_file` or `shrink_file`, made one by one: bytes of a column are copied when a worker is
    free."""
    return ((str(source) if isinstance(source, Path) else source.as_py(), *form) for source in sources)


def decode_usable(
    sources: Sequence[tuple[Source, str | None]],
    names: Sequence[str],
    where: Callable[[int], str],
    config: Config,
    remedy: str,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(images [K, H, W, ch] of the readable files, their positions [K], a note per unreadable file).

    Args:
        sources: N images, each with what is wrong with it before it is opened, or None.
        names: [N] of the images.
        where: from a position to its place, for messages.
        config: says whether unreadable files may be left out, and the form of the images.
        remedy: what to do about unreadable files.

    Raises:
        UserError: for unreadable files unless data.skip_bad, or when no file is readable.
    """
    images, found = decode_files([source for source, fault in sources if not fault], *config.preprocess.form)
    found = iter(found)
    faults = [fault or next(found) for _, fault in sources]
    bad = []
    for row, (name, fault) in enumerate(zip(names, faults, strict=True)):
        image = f"image {name!r}" if name else "its image"
        if fault:
            bad.append(f"{where(row)}: {'no image is named' if fault == UNNAMED else f'{image} {fault}'}")
    notes = leave_out(bad, len(sources), "images", config.data.skip_bad, remedy)
    return images, np.array([row for row, fault in enumerate(faults) if fault is None], int), notes


def decode_file(task: tuple[Any, ...]) -> np.ndarray | str:
    """uint8 [size, size, channels] of a task (path or bytes, size, channels, fit), or what is wrong with the file. fit
    is `crop` unless given."""
    source, size, channels, fit = (*task, "crop")[:4]
    return _open(source, lambda image: to_square(image, size, channels, fit))


def preprocess(picture: Any, size: int, channels: int = 3, fit: str = "crop") -> np.ndarray:
    """The pixels uint8 [size, size, channels] of a picture, as an exported model takes them; without JAX.

    They are those that training and `csn_jax embed` read: turned as its EXIF says, on white where it is transparent,
    then resized and cropped or padded. Batches are `np.stack` of these.

    Args:
        picture: the path of an image file, its bytes, or a PIL image.
        size, channels: as in the model's input [batch, size, size, channels]; 1 channel is grey.
        fit: `crop` or `pad`, as the run's preprocess.fit.

    Raises:
        UserError: for a file that is missing, damaged, of another format or too large, and another fit or number of
            channels.
    """
    if fit not in ("crop", "pad") or channels not in (1, 3) or size < 1:
        raise UserError(f"size {size}, channels {channels}, fit {fit!r}: give a size, 1 or 3 channels, crop or pad.")
    if not isinstance(picture, Image.Image | bytes | bytearray | memoryview | str | os.PathLike):
        raise UserError(f"the picture is a {type(picture).__name__}; give a path, the bytes of a file or a PIL image.")
    if isinstance(picture, Image.Image):
        return to_square(as_shown(picture.copy()), size, channels, fit)
    source = bytes(picture) if isinstance(picture, bytes | bytearray | memoryview) else os.fspath(picture)
    pixels = decode_file((source, size, channels, fit))
    if isinstance(pixels, str):
        name = "the picture" if isinstance(source, bytes) else str(source)
        raise UserError(f"{name} {pixels}; give an image file.")
    return pixels


def shrink_file(task: tuple[str | bytes, int]) -> np.ndarray | str:
    """uint8 [height, width, 3] within size of the image of a task (path or bytes, size), or what is wrong with it."""
    source, size = task

    def shrunk(image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        image.thumbnail((size, size))
        return np.asarray(image)

    return _open(source, shrunk)


def _open(source: str | bytes, use: Callable[[Image.Image], np.ndarray]) -> np.ndarray | str:
    """Apply `use` to the image of a file as viewers show it, or return what is wrong with the file."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow warns above this number and raises above twice as many
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one worker runs per core
    file: Any = source
    try:
        if isinstance(source, bytes):
            file, size = io.BytesIO(source), len(source)
        else:
            status = os.stat(source)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
                return "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a file"
        if size > MAX_FILE:
            return f"is larger than {MAX_FILE >> 20} MB"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                if max(image.size) > MAX_SIDE:
                    return f"is {image.width} x {image.height} pixels; a side may have up to {MAX_SIDE:,}"
                copied = image.mode not in ("1", "L", "P", "RGB") or image.has_transparency_data
                if (copied or image.format in ("WEBP", "AVIF")) and image.width * image.height > COPIED:
                    kind = f"{image.mode} in {image.format}"
                    return f"is {image.width} x {image.height} pixels; {kind} may have up to {COPIED:,}"
                if image.mode in ("I", "F"):  # the white of such pixels is not known
                    return f"has 32 bits per pixel ({image.mode} in {image.format}); save it with 8 or 16"
                _scale_transparency(image)
                image.load()
                return use(as_shown(image))
    except FileNotFoundError:
        return "is missing"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"is a decompression bomb of more than {MAX_PIXELS:,} pixels"
    except UnidentifiedImageError:
        return f"is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image{_kind_of(source)}"
    except MemoryError:
        return "needs too much memory"
    except Exception as error:  # Pillow raises many types on a damaged file
        reason = first_sentence(error)
        if "truncated" in reason.lower() or "broken data stream" in reason:
            return f"is truncated or damaged ({reason})"
        return f"cannot be decoded ({type(error).__name__}: {reason})"


def _kind_of(source: str | bytes) -> str:
    """What bytes that are not an image are, for messages."""
    head = source[:64] if isinstance(source, bytes) else b""
    if isinstance(source, str):
        with suppress(OSError), open(source, "rb") as file:
            head = file.read(64)
    if head[4:8] == b"ftyp":
        return " but HEIC or a video"
    names = [name for start, name in OTHERS.items() if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start)]
    return f" but {names[0]}" if names else "" if head else " but empty"


def _scale_transparency(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG of 2, 4 or 3 x 16 bits to the 8 bits that Pillow gives its pixels."""
    colour = image.info.get("transparency")
    if image.format == "PNG" and colour is not None and image.tile:
        scale = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}.get(image.tile[0].args, 1)
        if scale != 1:
            scaled = [int(value * scale) for value in (colour if isinstance(colour, tuple) else (colour,))]
            image.info["transparency"] = tuple(scaled) if isinstance(colour, tuple) else scaled[0]


def as_shown(image: Image.Image) -> Image.Image:
    """An image as viewers show it: rotated by its EXIF orientation, with transparent parts white."""
    if image.width * image.height > TURNED and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = image.reduce(2)  # rotating the whole image would hold it twice
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits of grey: convert() would clip them
        deep = np.asarray(image)
        return Image.fromarray(np.where(deep == image.info.get("transparency", -1), 255, deep >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def to_square(image: Image.Image, size: int, channels: int, fit: str) -> np.ndarray:
    """uint8 [size, size, channels] of an image of any mode, by `preprocess.fit`."""
    return {"crop": resize_and_crop, "pad": resize_and_pad}[fit](image, size, channels)


def resize_and_pad(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Resize the longer side to `size`, bilinear and anti-aliased, on a white square: uint8 [size, size, channels].

    The short side is max(1, round(size * short / long)); of an odd rest, the smaller half is left or above.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    image = image.convert(mode)
    long = max(image.size)
    image = image.resize([max(1, round(size * side / long)) for side in image.size], Image.Resampling.BILINEAR)
    square = Image.new(mode, (size, size), "white")
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(square, np.uint8).reshape(size, size, channels)


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


def digest_or_error(path: Source) -> str:
    """The part of a cache's key for a file, or for bytes of a column."""
    if not isinstance(path, Path):
        return hashlib.sha256(path.as_buffer()).hexdigest()
    try:
        about = path.stat()
        return file_digest(path) if stat.S_ISREG(about.st_mode) and about.st_size <= MAX_FILE else "no file to read"
    except OSError as error:  # decoding reports the error; once the file can be read, the key is another
        return str(error)
