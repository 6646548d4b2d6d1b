"""The preprocessing that pretrained weights were made for, as the files beside them state it."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from csn_jax.config import PreprocessConfig

MOST = 1 << 20  # bytes of such a file
FILES = ("preprocessor_config.json", "config.json", "open_clip_config.json")  # of transformers, timm and open_clip
NESTS = ("pretrained_cfg", "preprocess_cfg")


class Stated(NamedTuple):
    """What a file states: three means and standard deviations, on the scale 0 to 1; height and width in pixels, or 0 if
    it states none."""

    mean: list[float]
    std: list[float]
    size: int


def advice(config: PreprocessConfig, weights: Path) -> str:
    """The end of a sentence that gives the flags for the mean and standard deviation stated beside a weight file or in
    its folder; empty if none are stated, or the config has these."""
    name, stated = stated_beside(weights)
    if stated is None or all(
        math.isclose(ours, theirs, abs_tol=2e-3)
        for field, values in zip((config.mean, config.std), stated[:2], strict=True)
        for ours, theirs in zip(field, values, strict=False)
    ):
        return ""
    flags = (
        f"--config.preprocess.{field} {' '.join(f'{value:.6g}' for value in values)}"
        for field, values in zip(("mean", "std"), stated[:2], strict=True)
    )
    return f"; its {name} states another preprocessing: {' '.join(flags)}"


def stated_beside(weights: Path) -> tuple[str, Stated | None]:
    """The first file beside a weight file, or in its folder, that states a preprocessing: its name, and what it states;
    ("", None) if none does."""
    folder = weights if weights.is_dir() else weights.parent
    for name in FILES:
        path = folder / name
        try:
            found = json.loads(path.read_bytes()) if path.stat().st_size <= MOST else {}
        except (OSError, ValueError, RecursionError):
            continue
        if stated := stated_in(found):
            return name, stated
    return "", None


def stated_in(found: Any) -> Stated | None:
    """What parsed JSON of one of FILES states; None if it has no mean and standard deviation."""
    nests = [found, *(found.get(nest) for nest in NESTS)] if isinstance(found, dict) else []
    for nest in nests:
        for names in (("mean", "std"), ("image_mean", "image_std")):
            values = [nest.get(name) for name in names] if isinstance(nest, dict) else []
            if values and all(_is_triple(value) for value in values):
                return Stated(*values, _size(nest))
    return None


def _size(nest: dict[str, Any]) -> int:
    """The side of the square that a network sees; of several numbers under a name the last. 0 if none is stated."""
    for name in ("crop_size", "size", "input_size", "image_size"):
        value = nest.get(name)
        value = list(value.values()) if isinstance(value, dict) else value
        values = value if isinstance(value, list) else [value]
        if values and all(type(number) is int and number > 0 for number in values):
            return values[-1]
    return 0


def _is_triple(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 3
    return numbers and all(isinstance(number, int | float) and math.isfinite(number) for number in value)
