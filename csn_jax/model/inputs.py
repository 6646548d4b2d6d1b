"""What a model takes: arrays as its network needs them, and pictures as people have them, read piece by piece."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from csn_jax.config import PreprocessConfig
from csn_jax.data.arrays import to_array
from csn_jax.data.images import as_shown, decode_file, to_square
from csn_jax.data.table_pictures import URL
from csn_jax.data.workers import read_in_workers
from csn_jax.errors import UserError
from csn_jax.text import first_sentence

CHUNK = 512  # inputs embedded at a time
FEW = 8  # image files that are decoded in this process: workers take half a second to start


class PictureFiles:
    """Image files and PIL images that read like an array uint8 [N, size, size, ch]: rows are decoded as `embed` does,
    when they are asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, sources: Sequence[Any], form: tuple[int, int, str]):
        size, channels, _ = form
        self.sources, self.form, self.shape = sources, form, (len(sources), size, size, channels)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        different, places = np.unique(rows, return_inverse=True)
        return np.stack(self._decoded([self.sources[row] for row in different.tolist()]))[places]

    def _decoded(self, sources: list[Any]) -> list[np.ndarray]:
        files = [source for source in sources if not isinstance(source, Image.Image)]
        tasks = [(os.path.expanduser(file), *self.form) for file in files]
        read = map(_in_process, tasks) if len(tasks) <= FEW else read_in_workers(decode_file, tasks)
        images, faults = [], []
        for source in sources:
            image, fault = _of_pil(source, self.form) if isinstance(source, Image.Image) else next(read)
            images.append(image)
            faults += [f"{_name_of(source)} {fault}"] if fault else []
        if faults:
            more = f"; {len(faults) - 1:,} more cannot be read" if len(faults) > 1 else ""
            raise UserError(f"{faults[0]}{more}; give image files.")
        return images


def _in_process(task: tuple[Any, ...]) -> tuple[np.ndarray | None, str | None]:
    result = decode_file(task)
    return (None, result) if isinstance(result, str) else (result, None)


def _of_pil(image: Image.Image, form: tuple[int, int, str]) -> tuple[np.ndarray | None, str | None]:
    """(pixels, None) of a PIL image, or (None, what is wrong with it)."""
    if image.mode in ("I", "F"):
        return None, f"has 32 bits per pixel ({image.mode}); convert it to 8"
    try:
        return to_square(as_shown(image.copy()), *form), None
    except Exception as error:  # Pillow raises many types on a damaged file
        return None, f"cannot be read ({first_sentence(error)})"


def _name_of(source: Any) -> str:
    is_open = isinstance(source, Image.Image)
    return f"the {source.width} x {source.height} image" if is_open else f"the image {os.fspath(source)!r}"


def read_inputs(
    inputs: Any, shape: tuple[int, ...], any_size: bool, preprocess: PreprocessConfig
) -> tuple[np.ndarray | PictureFiles, bool]:
    """(inputs [B, ...], whether a single one was given), refused when network or preprocessing cannot take them.

    Args:
        inputs: as in `Model.embed`.
        shape: of one input.
        any_size: whether H and W may differ from it.
        preprocess: of the model.
    """
    images = len(shape) == 3
    if _is_picture(inputs):
        return _pictures([inputs], images, preprocess), True
    if isinstance(inputs, Iterator | range):
        inputs = list(inputs)
    if isinstance(inputs, list | tuple) and any(_is_picture(part) for part in inputs):
        return _pictures(inputs, images, preprocess), False
    channels = shape[-1]
    batch = f"[{', '.join(map(str, ('B', 'H', 'W', channels) if any_size else ('B', *shape)))}]"
    needed = f"pixels {batch}, image paths or PIL images" if images else f"feature vectors {batch} as floats"
    array = to_array(inputs, "the inputs are", needed)
    if array.dtype == object:  # a column of texts
        return _pictures(array.tolist(), images, preprocess), False
    if array.shape == (0,):  # an empty list
        return array, False
    single = array.ndim == len(shape)
    one = array.shape if single else array.shape[1:]
    if len(one) != len(shape) or not array.ndim or one != ((*one[:-1], channels) if any_size else shape):
        hint = ", or image paths or PIL images, which are resized" if images else ""
        raise UserError(f"the inputs have shape {[*array.shape]}; give {batch}{hint}.")
    if not jnp.issubdtype(array.dtype, jnp.floating) and not (images and array.dtype == np.uint8):
        fix = "pixels as uint8, or as floats that are normalised" if images else "feature vectors as floats"
        raise UserError(f"the inputs have type {array.dtype}; give {fix}.")
    array = array[None] if single else array
    if images and array.dtype != np.uint8:
        for start in range(0, len(array), CHUNK):
            _check_normalised(array[start : start + CHUNK], preprocess)
    return array, single


def _is_picture(value: Any) -> bool:
    return isinstance(value, str | os.PathLike | Image.Image)


def _pictures(sources: Sequence[Any], images: bool, preprocess: PreprocessConfig) -> PictureFiles:
    if not images:
        raise UserError("the model embeds feature vectors, not images; give floats [B, F].")
    for place, source in enumerate(sources):
        if isinstance(source, str) and URL.match(source):
            raise UserError(f"the inputs hold the address {source}; download the picture and give its path.")
        if not _is_picture(source):
            kind = "None" if source is None else type(source).__name__
            raise UserError(f"the inputs hold {kind} at position {place} among images; give paths or PIL images.")
    return PictureFiles(sources, preprocess.form)


def _check_normalised(x: np.ndarray, preprocess: PreprocessConfig) -> None:
    """Refuse float images [B, H, W, ch] that are certainly not normalised; see `Model.embed`."""
    if not x.size:
        return
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)  # [ch], [ch]
    eps = float(jnp.finfo(x.dtype).eps)
    rows = x.reshape(-1, x.shape[2] * x.shape[3])  # long rows: NumPy reduces an axis of 3 channels slowly
    with np.errstate(invalid="ignore"):  # bfloat16 warns of NaN
        ends = rows.min(axis=0), rows.max(axis=0)
    lowest, highest = (end.astype(np.float64).reshape(-1, x.shape[3]) for end in ends)
    lowest, highest, low, high = np.broadcast_arrays(
        lowest.min(axis=0), highest.max(axis=0), -mean / std, (1 - mean) / std
    )  # [ch] each
    slack = 1e-3 * (high - low) + eps * np.maximum(abs(low), abs(high))
    wrong = np.flatnonzero(~((lowest >= low - slack) & (highest <= high + slack)))  # NaN is wrong too
    if len(wrong):
        ch = wrong[0]
        raise UserError(
            f"the inputs are floats from {lowest[ch]:.4g} to {highest[ch]:.4g} in channel {ch}, but normalised "
            f"pixels are from {low[ch]:.4g} to {high[ch]:.4g}; give pixels as uint8, which are normalised here."
        )
    constant, coarse = lowest.min() == highest.max(), 255 * eps > 0.25  # bfloat16 rounds all to multiples of 1/255
    if lowest.min() < 0 or highest.max() > 1 or constant or coarse:
        return
    wide = x.astype(np.result_type(x.dtype, np.float32), copy=False)
    divided = _whole(255 * wide, 1e-3 + 255 * eps)
    if divided and not _whole(255 * (wide * std + mean), 1e-3 + 255 * eps * std.max()):
        raise UserError(
            f"the inputs are pixels divided by 255, but normalised pixels are from {low.min():.4g} to "
            f"{high.max():.4g}; give pixels as uint8, which are normalised here."
        )


def _whole(values: np.ndarray, slack: float) -> bool:
    return bool((abs(values - np.rint(values)) <= slack).all())
