"""Model: an embedding with a mask per condition."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.config import STAGES, Config, PreprocessConfig
from csn_jax.core import losses
from csn_jax.core.masks import blocks, rectify
from csn_jax.core.steps import State, make_embed_step, make_features_step
from csn_jax.errors import UserError
from csn_jax.model.network import Network
from csn_jax.runtime.compiler import jit
from csn_jax.runtime.sharding import Shardings, fetch, place
from csn_jax.runtime.writer import Progress
from csn_jax.text import did_you_mean

CHUNK = 512  # inputs embedded at a time


@dataclass(frozen=True, eq=False)
class Model:
    """An embedding and a mask per condition.

    conditions: names, in the order of the masks' rows.
    masks: [C, D] float32, as applied: rectified, except for a model of `port import --unrectified`.
    step: the training step of this model.
    input_shape: of one training input: (H, W, ch) for images, (F,) for feature vectors.
    """

    conditions: tuple[str, ...]
    masks: np.ndarray
    step: int
    input_shape: tuple[int, ...]
    _any_size: bool  # whether H and W may differ from input_shape
    _embed: Callable[[np.ndarray], jax.Array]  # [B, ...] -> [B, D]
    _features: Callable[[np.ndarray], jax.Array]  # [B, ...] -> [B, F]
    _digest: Callable[[], str]
    _shardings: Shardings
    _preprocess: PreprocessConfig

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all that determines embeddings: weights, running statistics, and the config of network and
        preprocessing. Masks are left out: stored embeddings stay valid under other masks."""
        return self._digest()

    @property
    def form(self) -> tuple[int, int, str]:
        """The form of the pictures that it takes: (size, channels, `crop` or `pad`)."""
        return self._preprocess.form

    def embed(self, inputs: np.ndarray, rows: np.ndarray | None = None, *, progress: bool = False) -> np.ndarray:
        """Embed any number of inputs.

        Args:
            inputs: uint8 pixels [B, H, W, ch], preprocessed here as in training; normalised pixels as floats
                [B, H, W, ch]; or feature vectors as floats [B, F].
            rows: positions in inputs, to embed only these.
            progress: whether to show progress.

        Returns:
            float32 [B, D], or [rows, D], unmasked and not normalised.

        Raises:
            UserError: for a shape that the model does not take, for integers other than uint8, and for float pixels
                that are not normalised: outside the range of normalised pixels (such as 0 to 255), or divided by 255.
                Inputs are checked 512 at a time. They count as divided by 255 when all values are multiples of 1/255
                from 0 to 1, unless they are constant or are also values of normalised uint8 pixels. Pixels from 0 to 1
                that were resized as floats, or are bfloat16, can look normalised and are not refused.
        """
        inputs = self._checked(inputs)
        rows = np.arange(len(inputs)) if rows is None else rows
        if not len(rows):
            return np.zeros((0, self.masks.shape[1]), np.float32)
        return self._in_chunks(self._embed, inputs, rows, progress)

    def features(self, inputs: np.ndarray) -> np.ndarray:
        """The input of the last linear layer, for inputs as `embed` takes them: float32 [B, F].

        Those of specialists are concatenated.
        """
        inputs = self._checked(inputs)
        if not len(inputs):  # F is known only to the network
            return self._in_chunks(self._features, np.zeros((1, *self.input_shape), np.float32), np.arange(1))[:0]
        return self._in_chunks(self._features, inputs, np.arange(len(inputs)))

    def _checked(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs as an array [B, ...], refused when network or preprocessing cannot take them."""
        inputs, images = np.asarray(inputs), len(self.input_shape) == 3
        if inputs.shape == (0,):  # an empty list
            return inputs
        expected = (*inputs.shape[1:-1], self.input_shape[-1]) if self._any_size else self.input_shape
        if inputs.ndim != 1 + len(self.input_shape) or inputs.shape[1:] != expected:
            shape = ("B", "H", "W", self.input_shape[-1]) if self._any_size else ("B", *self.input_shape)
            raise UserError(f"the inputs have shape {[*inputs.shape]}; give [{', '.join(map(str, shape))}].")
        if not jnp.issubdtype(inputs.dtype, jnp.floating) and not (images and inputs.dtype == np.uint8):
            fix = "pixels as uint8, or as floats that are normalised" if images else "feature vectors as floats"
            raise UserError(f"the inputs have type {inputs.dtype}; give {fix}.")
        if images and inputs.dtype != np.uint8:
            for start in range(0, len(inputs), CHUNK):
                _check_normalised(inputs[start : start + CHUNK], self._preprocess)
        return inputs

    def _in_chunks(
        self, function: Callable[[jax.Array], jax.Array], inputs: np.ndarray, rows: np.ndarray, progress: bool = False
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
            parts.append(fetch(function(place(share, self._shardings.batch)), len(chunk)))
            if bar:
                bar.advance(len(chunk))
        if bar:
            bar.close()
        return np.concatenate([np.asarray(part) for part in parts])

    def embed_rows(self, inputs: np.ndarray, rows: np.ndarray, *, progress: bool = False) -> np.ndarray:
        """Embeddings [N, D] of inputs [N, ...], filled at the given rows and zero elsewhere."""
        embeddings = np.zeros((len(inputs), self.masks.shape[1]), np.float32)  # untouched pages cost no memory
        embeddings[rows] = self.embed(inputs, rows, progress=progress)
        return embeddings

    def with_masks(self, conditions: Sequence[str], masks: np.ndarray) -> "Model":
        """The same embedding under other masks [C, D]."""
        return replace(self, conditions=tuple(conditions), masks=masks)

    def mask(self, condition: str) -> np.ndarray:
        """The mask [D] of a condition by name.

        Raises:
            UserError: for a name that is not in `conditions`.
        """
        if condition not in self.conditions:
            near = did_you_mean(condition, self.conditions)
            raise UserError(f"unknown condition {condition!r}{near}; this model has {', '.join(self.conditions)}.")
        return self.masks[self.conditions.index(condition)]

    def distance(self, x: np.ndarray, y: np.ndarray, condition: str) -> np.ndarray:
        """Distance [...] of embeddings [..., D] under a condition."""
        x, y = np.asarray(x), np.asarray(y)
        mask = np.broadcast_to(self.mask(condition), np.broadcast_shapes(x.shape, y.shape))
        return np.asarray(losses.distance(np.broadcast_to(x, mask.shape), np.broadcast_to(y, mask.shape), mask))


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


class Programs(NamedTuple):
    """The jitted functions (params, statistics, inputs [B, ...]) of a network, shared by all models of a run."""

    embed: Callable[..., jax.Array]  # -> [B, D]
    features: Callable[..., jax.Array]  # -> [B, F]


def make_programs(network: Network) -> Programs:
    """Jitted, so that each is compiled at its first call."""
    return Programs(
        *(jit(make(network.backbone, network.preprocess)) for make in (make_embed_step, make_features_step))
    )


def make_model(
    config: Config,
    conditions: Sequence[str],
    input_shape: Sequence[int],
    state: State,
    programs: Programs,
    shardings: Shardings,
    *,
    rectified: bool = True,
) -> Model:
    """A model from a training state."""
    params, statistics = state.params, state.statistics
    return Model(
        conditions=tuple(conditions),
        masks=np.asarray(rectify(params["beta"]) if rectified else params["beta"]),
        step=int(state.step),
        input_shape=tuple(input_shape),
        _any_size=config.backbone.name in STAGES,
        _embed=lambda inputs: programs.embed(params, statistics, inputs),
        _features=lambda inputs: programs.features(params, statistics, inputs),
        _digest=lambda: _digest(config, params["backbone"], statistics),
        _shardings=shardings,
        _preprocess=config.preprocess,
    )


def _digest(config: Config, params: Any, statistics: Any) -> str:
    # Settings that only training reads are left out. The digest is stored in files of vectors: keep its form.
    network = replace(config.backbone, init="", freeze="", learning_rate_ratio=1.0)
    preprocess = repr(replace(config.preprocess, flip=False)).replace(" fit='crop',", "")  # newer than the form
    hasher = hashlib.sha256(f"({network!r}, {preprocess})".encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, statistics)):
        leaf = np.asarray(leaf)
        hasher.update(repr((jax.tree_util.keystr(path), leaf.shape, leaf.dtype.str)).encode())
        hasher.update(np.ascontiguousarray(leaf))
    return hasher.hexdigest()


def join(models: Sequence[Model]) -> Model:
    """Specialists as one model: concatenated embeddings [B, C * D], and a block mask per condition [C, C * D]."""
    width = sum(model.masks.shape[1] for model in models)
    concatenated = lambda parts: jnp.concatenate(list(parts), axis=1)  # noqa: E731
    return replace(
        models[0],
        conditions=tuple(name for model in models for name in model.conditions),
        masks=blocks(len(models), width),
        step=max(model.step for model in models),
        _embed=lambda inputs: concatenated(model._embed(inputs) for model in models),
        _features=lambda inputs: concatenated(model._features(inputs) for model in models),
        _digest=lambda: hashlib.sha256("".join(model.sha256 for model in models).encode()).hexdigest(),
    )


def restore_target(state: State, shardings: Shardings) -> State:
    """Shapes, dtypes and placement of a state, for a checkpoint to be restored into."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings.state),
        jax.eval_shape(lambda: state),
    )
