"""From uint8 pixels to what a backbone sees, on the device and inside the compiled step."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.config import PreprocessConfig

Preprocess = Callable[..., jax.Array]


@lru_cache(maxsize=16)  # equal configs share compiled programs
def make_preprocess(config: PreprocessConfig) -> Preprocess:
    """Build preprocess(x, key=None): uint8 [B, H, W, ch] -> float32 [B, H, W, ch], normalised by channel.

    With a key, as in training, and with `config.flip`, each image is flipped left to right with probability one half.
    Floats keep their values: the caller has normalised them. float16, in which vectors may be stored, becomes float32.
    """
    mean, std = np.asarray(config.mean, np.float32), np.asarray(config.std, np.float32)  # [ch], [ch]

    def preprocess(x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        if x.dtype != jnp.uint8:
            return x.astype(jnp.float32) if x.dtype == jnp.float16 else x
        if config.flip and key is not None:
            flipped = jax.random.bernoulli(key, shape=(x.shape[0],))  # [B]
            x = jnp.where(flipped[:, None, None, None], x[:, :, ::-1], x)
        return (x.astype(jnp.float32) / 255 - mean[None, None, None]) / std[None, None, None]

    return preprocess
