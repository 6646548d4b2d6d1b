"""From an image file to the uint8 pixels that are stored, by the reference's path, in Pillow."""

import numpy as np
from PIL import Image


def resize_and_crop(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Shorter side to `size`, bilinear and anti-aliased, then the central square: uint8 [size, size, channels].

    The arithmetic is the reference's (torchvision's Resize and CenterCrop on a PIL image): the long side is
    int(size * long / short), the crop's offset int(round(extra / 2)) with halves going to the even number, and pixels
    are rounded to uint8 before anything divides them. `jax.image.resize` gives other pixels.

    Args:
        image: any mode; converted to RGB for 3 channels and to grey for 1.
        size: pixels.
        channels: 1 or 3.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    image = image if image.mode == mode else image.convert(mode)  # which copies
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != size:
        stretched = int(size * long / short)
        new = (size, stretched) if width <= height else (stretched, size)
        image = image.resize(new, Image.Resampling.BILINEAR)
    left, top = (int(round((extent - size) / 2)) for extent in image.size)
    image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8).reshape(size, size, channels)
