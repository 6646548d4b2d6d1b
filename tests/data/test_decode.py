"""Resize and crop: the same bytes as the reference."""

import jax
import numpy as np
import pytest
from oracles import crop_box, resample
from PIL import Image

from csn_jax.data.images import resize_and_crop, resize_and_pad


def photo(width, height, mode="RGB", seed=0):
    """A picture with large and small structures, so that filter, size and offset change its bytes."""
    rng = np.random.default_rng(seed)
    y, x = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    wave = 127 + 100 * np.sin(x / 7 + np.array([0, 1, 2])) * np.cos(y / 5)
    return Image.fromarray(np.clip(wave + rng.normal(0, 20, wave.shape), 0, 255).astype(np.uint8)).convert(mode)


def reference(image, size, resample=Image.Resampling.BILINEAR, shift=0):
    """Resize and crop by the box of an oracle."""
    new, (left, top) = crop_box(*image.size, size)
    if new != image.size:
        image = image.resize(new, resample)
    return np.asarray(image)[top : top + size, left + shift : left + shift + size]


@pytest.mark.parametrize(
    "width, height, new, corner",
    [
        (136, 102, (149, 112), (18, 0)),  # 37 / 2 = 18.5 goes to the even 18
        (102, 136, (112, 149), (0, 18)),
        (102, 137, (112, 150), (0, 19)),
        (100, 144, (112, 161), (0, 24)),  # 49 / 2 = 24.5 goes to the even 24
        (100, 146, (112, 163), (0, 26)),  # 51 / 2 = 25.5 goes to the even 26
        (112, 112, (112, 112), (0, 0)),
        (112, 115, (112, 115), (0, 2)),  # 3 / 2 goes to the even 2, and nothing is resized
        (113, 112, (113, 112), (0, 0)),  # 1 / 2 goes to the even 0
        (64, 640, (112, 1120), (0, 504)),
        (33, 31, (119, 112), (4, 0)),  # 7 / 2 goes to the even 4
        (1000, 999, (112, 112), (0, 0)),
    ],
)
def test_bytes_are_those_of_the_reference(width, height, new, corner):
    """Long side int(112 * long / short), crop offset int(round(extra / 2)), bilinear with anti-aliasing, uint8."""
    assert crop_box(width, height, 112) == (new, corner)
    image = photo(width, height)
    pixels = resize_and_crop(image, 112, 3)
    assert pixels.dtype == np.uint8 and pixels.shape == (112, 112, 3)
    assert np.array_equal(pixels, reference(image, 112))


def test_every_size_agrees():
    """A hundred sizes to several targets, in both orientations."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        width, height = (int(n) for n in rng.integers(5, 180, 2))
        size = int(rng.choice([8, 17, 32, 64]))
        image = photo(width, height)
        assert np.array_equal(resize_and_crop(image, size, 3), reference(image, size)), (width, height, size)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("channels, target", [(3, "RGB"), (1, "L")])
def test_any_mode_is_converted_before_it_is_resized(mode, channels, target):
    """Indices of a palette cannot be averaged."""
    image = photo(40, 30, mode)
    expected = reference(image.convert(target), 16).reshape(16, 16, channels)
    assert np.array_equal(resize_and_crop(image, 16, channels), expected)


@pytest.mark.parametrize("width, height", [(136, 102), (102, 137), (331, 200), (60, 90)])
def test_bytes_follow_from_the_formula_of_the_filter(width, height):
    """Without Pillow: a triangle widened by the reduction, in fixed point."""
    image = photo(width, height)
    (new_width, new_height), (left, top) = crop_box(width, height, 112)
    across = resample(np.asarray(image).transpose(1, 0, 2), new_width).transpose(1, 0, 2)
    expected = resample(across, new_height)[top : top + 112, left : left + 112]
    assert np.array_equal(resize_and_crop(image, 112, 3), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"resample": Image.Resampling.NEAREST},
        {"resample": Image.Resampling.BICUBIC},
        {"resample": Image.Resampling.BOX},
        {"shift": 1},
    ],
    ids=str,
)
def test_a_wrong_step_gives_other_bytes(wrong):
    """Another filter, or a half that is rounded up (left 19)."""
    image = photo(136, 102)
    assert not np.array_equal(resize_and_crop(image, 112, 3), reference(image, 112, **wrong))


@pytest.mark.parametrize(
    "width, height, inner, corner",
    [
        (60, 20, (32, 11), (0, 10)),  # 32 * 20 / 60 = 10.7; of the other 21 rows, 10 are above
        (20, 60, (11, 32), (10, 0)),
        (16, 12, (32, 24), (0, 4)),
        (32, 32, (32, 32), (0, 0)),
        (400, 2, (32, 1), (0, 15)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_padding_keeps_the_whole_picture_on_white(width, height, inner, corner, channels):
    """The pixels are those of the filter's formula, and all others are white."""
    image = photo(width, height, {1: "L", 3: "RGB"}[channels])
    pixels = resize_and_pad(image, 32, channels)
    assert pixels.dtype == np.uint8 and pixels.shape == (32, 32, channels)
    whole = np.asarray(image).reshape(height, width, channels)
    across = lambda pixels: resample(pixels.transpose(1, 0, 2), inner[0]).transpose(1, 0, 2)  # noqa: E731
    orders = resample(across(whole), inner[1]), across(resample(whole, inner[1]))  # Pillow takes the cheaper one
    left, top = corner
    square = np.full((2, 32, 32, channels), 255)
    square[:, top : top + inner[1], left : left + inner[0]] = orders
    assert any(np.array_equal(pixels, expected) for expected in square)


def test_another_resizer_gives_other_bytes():
    """jax.image.resize, also bilinear and anti-aliased."""
    image = photo(136, 102)
    scaled = jax.image.resize(np.asarray(image, np.float32), (112, 149, 3), "bilinear", antialias=True)
    other = np.rint(np.asarray(scaled)).astype(np.uint8)[:, 18 : 18 + 112]
    assert not np.array_equal(resize_and_crop(image, 112, 3), other)
