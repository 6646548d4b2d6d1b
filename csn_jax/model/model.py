"""Model: an embedding with a mask per condition."""

import contextlib
import functools
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from csn_jax.config import PreprocessConfig
from csn_jax.core import losses
from csn_jax.core.maps import SPAN, Maps
from csn_jax.core.mixtures import Mixture, as_weights, signed_roots, weight_of_dimensions
from csn_jax.errors import UserError
from csn_jax.model.inputs import CHUNK, PictureFiles, read_inputs
from csn_jax.runtime.sharding import Shardings, fetch, place
from csn_jax.runtime.writer import Progress
from csn_jax.text import did_you_mean, listed


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """An embedding and a mask per condition.

    conditions: names, in the order of the masks' rows.
    masks: [C, D] float32, as applied: rectified, except for a model of `port import --unrectified`. Under maps [C, V],
        with ones at the condition's views.
    step: the training step of this model.
    input_shape: of one training input: (H, W, ch) for images, (F,) for feature vectors.
    """

    conditions: tuple[str, ...]
    masks: np.ndarray
    step: int
    input_shape: tuple[int, ...]
    maps: Maps | None  # of the variant maps: the views [V] of an embedding [D]; else the embedding is its own view
    _width: int  # D
    _any_size: bool  # whether H and W may differ from input_shape
    _embed: Callable[[np.ndarray], jax.Array]  # [B, ...] -> [B, D]
    _features: Callable[[np.ndarray], jax.Array]  # [B, ...] -> [B, F]
    _digest: Callable[[], str]
    _shardings: Shardings
    _preprocess: PreprocessConfig
    _origin: Callable[[], Any]  # what a pickle stores beside conditions, masks and maps
    _unpickled: Callable[..., "Model"]  # makes a model of these

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all that determines embeddings: weights, running statistics, and the config of network and
        preprocessing. Masks are left out: stored embeddings stay valid under other masks."""
        return self._digest()

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding, D."""
        return self._width

    @property
    def form(self) -> tuple[int, int, str]:
        """The form of the pictures that it takes: (size, channels, `crop` or `pad`)."""
        return self._preprocess.form

    def embed(self, inputs: Any, rows: np.ndarray | None = None, *, progress: bool = False) -> np.ndarray:
        """Embed any number of inputs.

        Args:
            inputs: paths of image files or PIL images, which are read as `csn_jax embed` reads them; uint8 pixels
                [B, H, W, ch], preprocessed here as in training; normalised pixels as floats [B, H, W, ch]; or feature
                vectors as floats [B, F]. Also a column of pandas, Polars or Arrow, or a single one of these.
            rows: positions in inputs, to embed only these.
            progress: whether to show progress.

        Returns:
            float32 [B, D], or [rows, D], unmasked and not normalised; [D] for a single input.

        Raises:
            UserError: for files that cannot be read, a shape that the model does not take, integers other than uint8,
                and float pixels that are not normalised: outside the range of normalised pixels (such as 0 to 255), or
                divided by 255. Inputs are checked 512 at a time. They count as divided by 255 when all values are
                multiples of 1/255 from 0 to 1, unless they are constant or are also values of normalised uint8 pixels.
                Pixels from 0 to 1 that were resized as floats, or are bfloat16, can look normalised and are not
                refused.
        """
        inputs, single = read_inputs(inputs, self.input_shape, self._any_size, self._preprocess)
        rows = np.arange(len(inputs)) if rows is None else np.asarray(rows)
        if not len(rows):
            return np.zeros((0, self._width), np.float32)
        embeddings = self._in_chunks(self._embed, inputs, rows, progress)
        return embeddings[0] if single else embeddings

    def embed_files(self, paths: Iterable[str | os.PathLike], *, progress: bool = False) -> np.ndarray:
        """Embed image files: float32 [N, D]; a UserError names the first that cannot be read."""
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        return self.embed(paths, progress=progress)

    def features(self, inputs: Any, rows: np.ndarray | None = None, *, progress: bool = False) -> np.ndarray:
        """The input of the last linear layer, for arguments as `embed` takes them: float32 [B, F], or [F] for one.

        Those of specialists are concatenated.
        """
        inputs, single = read_inputs(inputs, self.input_shape, self._any_size, self._preprocess)
        if not len(inputs):  # F is known only to the network
            return self._in_chunks(self._features, np.zeros((1, *self.input_shape), np.float32), np.arange(1))[:0]
        rows = np.arange(len(inputs)) if rows is None else np.asarray(rows)
        features = self._in_chunks(self._features, inputs, rows, progress)
        return features[0] if single else features

    def _in_chunks(
        self,
        function: Callable[[jax.Array], jax.Array],
        inputs: np.ndarray | PictureFiles,
        rows: np.ndarray,
        progress: bool = False,
    ) -> np.ndarray:
        """A function of rows of the inputs. Each process reads and computes its share of every chunk; all return the
        whole."""
        unit = "image" if len(self.input_shape) == 3 else "vector"
        bar, parts = Progress("embedding", len(rows), unit=unit) if progress else None, []
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            # Sizes are powers of two up to CHUNK, so that a few compiled programs serve all numbers of inputs.
            size = self._shardings.padded(min(CHUNK, 1 << (len(chunk) - 1).bit_length()))
            padded = np.concatenate([chunk, np.repeat(chunk[:1], size - len(chunk))])
            share = np.asarray(inputs[padded[self._shardings.share(size)]])
            share = share.astype(np.float32) if share.dtype == np.float16 else share  # squares overflow in 16 bits
            parts.append((fetch(function(place(share, self._shardings.batch))), len(chunk)))
            if len(parts) > 1:  # one chunk computes while the next is read; more in flight would take their memory
                jax.block_until_ready(parts[-2][0])
                if bar:
                    bar.advance(parts[-2][1])
        found = np.concatenate([np.asarray(part)[:n] for part, n in parts])
        if bar:
            bar.advance(parts[-1][1])
            bar.close()
        return found

    def view(self, embeddings: np.ndarray, dtype: type = np.float32) -> np.ndarray:
        """What masks apply to: the views [N, V] of embeddings [N, D] under maps, else the embeddings."""
        return self.maps.views(np.atleast_2d(embeddings), dtype=dtype) if self.maps else embeddings

    def view_rows(self, inputs: np.ndarray, rows: np.ndarray, *, progress: bool = False) -> np.ndarray:
        """What masks apply to, [N, V], of inputs [N, ...], filled at the given rows and zero elsewhere."""
        views = _sparse((len(inputs), self.masks.shape[1]))
        span = len(rows) if self.maps is None else SPAN  # under maps, an embedding is wider than what is kept of it
        for start in range(0, len(rows), max(1, span)):
            some = rows[start : start + span]
            views[some] = self.view(self.embed(inputs, some, progress=progress))
        return views

    def with_masks(self, conditions: Sequence[str], masks: np.ndarray, maps: Maps | None = None) -> "Model":
        """The same embedding under other masks [C, D], or other maps and their masks [C, V]."""
        return replace(self, conditions=tuple(conditions), masks=masks, maps=maps or self.maps)

    def mask(self, condition: str) -> np.ndarray:
        """The mask [D] of a condition by name.

        Raises:
            UserError: for a name that is not in `conditions`.
        """
        if condition not in self.conditions:
            near = did_you_mean(condition, self.conditions)
            raise UserError(f"unknown condition {condition!r}{near}; this model has {', '.join(self.conditions)}.")
        return self.masks[self.conditions.index(condition)]

    def distance(self, x: np.ndarray, y: np.ndarray, condition: Mixture) -> np.ndarray:
        """Distance [...] of embeddings [..., D] under a condition, as in training; or under {condition: weight} or
        several conditions, as in `Index.search`, which adds no 1e-6."""
        x, y = (np.asarray(part) for part in (x, y))
        if self.maps:
            x, y = (self.view(part, np.float64).reshape(*part.shape[:-1], -1) for part in (x, y))
        if not isinstance(condition, str):
            w = self._weight_of_dimensions(condition)
            return signed_roots(np.sum(w * np.square(x.astype(np.float64) - y.astype(np.float64)), axis=-1))
        mask = np.broadcast_to(self.mask(condition), np.broadcast_shapes(x.shape, y.shape))
        return np.asarray(losses.distance(np.broadcast_to(x, mask.shape), np.broadcast_to(y, mask.shape), mask))

    def similarity(self, x: np.ndarray, y: np.ndarray, condition: Mixture) -> np.ndarray:
        """Minus the distance of every x [N, D] to every y [M, D] under a condition or a mixture: float32 [N, M]. The
        most similar pair has the largest value; distances are as in `Index.search`."""
        w = self._weight_of_dimensions(condition)
        x, y = (self.view(np.atleast_2d(np.asarray(part, np.float64)), np.float64) for part in (x, y))
        return -signed_roots(np.stack([np.square(row - y) @ w for row in x]) if len(x) else np.zeros((0, len(y))))

    def _weight_of_dimensions(self, mixture: Mixture) -> np.ndarray:
        return weight_of_dimensions(as_weights(mixture), self.conditions, self.masks, "this model")

    def __reduce__(self) -> tuple[Any, ...]:
        return self._unpickled, (self._origin(), self.conditions, self.masks, self.maps)

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.input_shape))
        return f"Model([{shape}] -> [{self._width}], conditions {listed(self.conditions)}, step {self.step:,})"


def _sparse(shape: tuple[int, int]) -> np.ndarray:
    """Zeros float32 whose untouched pages cost no memory. NumPy asks for huge pages, which rows far apart fill soon."""
    size = 4 * max(1, shape[0] * shape[1])
    room = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # of a kernel that has none
            room.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(room, np.float32, shape[0] * shape[1]).reshape(shape)
