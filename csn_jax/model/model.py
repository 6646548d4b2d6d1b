"""Model: an embedding with a mask per condition."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.backbones import Backbone, build
from csn_jax.config import STAGES, Config, PreprocessConfig
from csn_jax.core import losses
from csn_jax.core.masks import blocks, rectify
from csn_jax.core.mixtures import Mixture, as_weights, signed_roots, weight_of_dimensions
from csn_jax.core.preprocess import Preprocess, make_preprocess
from csn_jax.core.steps import State, make_embed_step, make_features_step
from csn_jax.errors import UserError
from csn_jax.model.inputs import CHUNK, PictureFiles, read_inputs
from csn_jax.model.network import Network
from csn_jax.runtime.compiler import jit
from csn_jax.runtime.sharding import Shardings, fetch, make_shardings, place
from csn_jax.runtime.writer import Progress
from csn_jax.text import did_you_mean, listed


@dataclass(frozen=True, eq=False, repr=False)
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
    _origin: Callable[[], "Origin | list[Origin]"]  # what a pickle stores beside conditions and masks

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all that determines embeddings: weights, running statistics, and the config of network and
        preprocessing. Masks are left out: stored embeddings stay valid under other masks."""
        return self._digest()

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
            return np.zeros((0, self.masks.shape[1]), np.float32)
        embeddings = self._in_chunks(self._embed, inputs, rows, progress)
        return embeddings[0] if single else embeddings

    def embed_files(self, paths: Iterable[str | os.PathLike], *, progress: bool = False) -> np.ndarray:
        """Embed image files: float32 [N, D]; a UserError names the first that cannot be read."""
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        return self.embed(paths, progress=progress)

    def features(self, inputs: Any) -> np.ndarray:
        """The input of the last linear layer, for inputs as `embed` takes them: float32 [B, F], or [F] for one.

        Those of specialists are concatenated.
        """
        inputs, single = read_inputs(inputs, self.input_shape, self._any_size, self._preprocess)
        if not len(inputs):  # F is known only to the network
            return self._in_chunks(self._features, np.zeros((1, *self.input_shape), np.float32), np.arange(1))[:0]
        features = self._in_chunks(self._features, inputs, np.arange(len(inputs)))
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

    def distance(self, x: np.ndarray, y: np.ndarray, condition: Mixture) -> np.ndarray:
        """Distance [...] of embeddings [..., D] under a condition, as in training; or under {condition: weight} or
        several conditions, as in `Index.search`, which adds no 1e-6."""
        x, y = np.asarray(x), np.asarray(y)
        if not isinstance(condition, str):
            w = self._weight_of_dimensions(condition)
            return signed_roots(np.sum(w * np.square(x.astype(np.float64) - y.astype(np.float64)), axis=-1))
        mask = np.broadcast_to(self.mask(condition), np.broadcast_shapes(x.shape, y.shape))
        return np.asarray(losses.distance(np.broadcast_to(x, mask.shape), np.broadcast_to(y, mask.shape), mask))

    def similarity(self, x: np.ndarray, y: np.ndarray, condition: Mixture) -> np.ndarray:
        """Minus the distance of every x [N, D] to every y [M, D] under a condition or a mixture: float32 [N, M]. The
        most similar pair has the largest value; distances are as in `Index.search`."""
        w = self._weight_of_dimensions(condition)
        x, y = (np.atleast_2d(np.asarray(part, np.float64)) for part in (x, y))
        return -signed_roots(np.stack([np.square(row - y) @ w for row in x]) if len(x) else np.zeros((0, len(y))))

    def _weight_of_dimensions(self, mixture: Mixture) -> np.ndarray:
        return weight_of_dimensions(as_weights(mixture), self.conditions, self.masks, "this model")

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._origin(), self.conditions, self.masks)

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.input_shape))
        return f"Model([{shape}] -> [{self.masks.shape[1]}], conditions {listed(self.conditions)}, step {self.step:,})"


class Programs(NamedTuple):
    """The jitted functions (params, statistics, inputs [B, ...]) of a network, shared by all models of a run."""

    embed: Callable[..., jax.Array]  # -> [B, D]
    features: Callable[..., jax.Array]  # -> [B, F]


def make_programs(network: Network) -> Programs:
    """Jitted, so that each is compiled at its first call."""
    return _programs(network.backbone, network.preprocess)


def _programs(backbone: Backbone, preprocess: Preprocess) -> Programs:
    return Programs(*(jit(make(backbone, preprocess)) for make in (make_embed_step, make_features_step)))


class Origin(NamedTuple):
    """What makes a network's part of a model. params and statistics: as in State."""

    config: Config
    input_shape: tuple[int, ...]
    params: Any
    statistics: Any
    step: int


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
    masks = np.asarray(rectify(state.params["beta"]) if rectified else state.params["beta"])
    origin = Origin(config, tuple(input_shape), state.params, state.statistics, int(state.step))
    return _from_origin(origin, tuple(conditions), masks, programs, shardings)


def _from_origin(
    origin: Origin, conditions: tuple[str, ...], masks: np.ndarray, programs: Programs, shardings: Shardings
) -> Model:
    config, input_shape, params, statistics, step = origin
    return Model(
        conditions=conditions,
        masks=masks,
        step=step,
        input_shape=input_shape,
        _any_size=config.backbone.name in STAGES,
        _embed=lambda inputs: programs.embed(params, statistics, inputs),
        _features=lambda inputs: programs.features(params, statistics, inputs),
        _digest=lambda: _digest(config, params["backbone"], statistics),
        _shardings=shardings,
        _preprocess=config.preprocess,
        _origin=lambda: Origin(config, input_shape, *jax.tree.map(np.asarray, (params, statistics)), step),
    )


def _unpickled(origin: Origin | list[Origin], conditions: tuple[str, ...], masks: np.ndarray) -> Model:
    """A model of one network, or of several joined ones."""
    if isinstance(origin, list):
        return join([_unpickled(part, (), masks[:, :0]) for part in origin]).with_masks(conditions, masks)
    shardings, config = make_shardings(), origin.config
    params, statistics = place((origin.params, origin.statistics), shardings.state)
    programs = _programs(build(config.backbone), make_preprocess(config.preprocess))
    return _from_origin(origin._replace(params=params, statistics=statistics), conditions, masks, programs, shardings)


def _digest(config: Config, params: Any, statistics: Any) -> str:
    # Settings that only training reads are left out. The digest is stored in files of vectors: keep its form.
    network = replace(config.backbone, init="", freeze="", learning_rate_ratio=1.0)
    preprocess = repr(replace(config.preprocess, flip=False)).replace(", fit='crop'", "")  # newer than the form
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
        _origin=lambda: [model._origin() for model in models],
    )


def restore_target(state: State, shardings: Shardings) -> State:
    """Shapes, dtypes and placement of a state, for a checkpoint to be restored into."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings.state),
        jax.eval_shape(lambda: state),
    )
