"""From a Pillow image to the stored uint8 pixels, by the arithmetic of the reference."""

import numpy as np
from PIL import Image


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
