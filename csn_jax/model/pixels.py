"""A check that float images are normalised pixels."""

import jax.numpy as jnp
import numpy as np

from csn_jax.config import PreprocessConfig
from csn_jax.errors import UserError


def check_normalised(x: np.ndarray, preprocess: PreprocessConfig) -> None:
    """Refuse, by a UserError, float images [B, H, W, ch] that are certainly not normalised; see `Model.embed`."""
    if not x.size:
        return
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)  # [ch], [ch]
    eps = float(jnp.finfo(x.dtype).eps)
    lowest, highest = _range(x)
    lowest, highest, low, high = np.broadcast_arrays(lowest, highest, -mean / std, (1 - mean) / std)  # [ch] each
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


def _range(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value per channel, float64 [ch] each."""
    rows = x.reshape(-1, x.shape[2] * x.shape[3])  # long rows: NumPy reduces an axis of 3 channels slowly
    with np.errstate(invalid="ignore"):  # bfloat16 warns of NaN
        ends = rows.min(axis=0), rows.max(axis=0)
    least, greatest = (end.astype(np.float64).reshape(-1, x.shape[3]) for end in ends)
    return least.min(axis=0), greatest.max(axis=0)


def _whole(values: np.ndarray, slack: float) -> bool:
    return bool((abs(values - np.rint(values)) <= slack).all())
