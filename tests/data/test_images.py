"""Image files: decoded as in the reference, and a bad file costs only itself."""

import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
import shop
from PIL import ExifTags, Image, PngImagePlugin

from csn_jax.data import images
from csn_jax.data.images import decode_file, decode_files, resize_and_crop, resolve


@pytest.fixture(autouse=True)
def unlimited():
    """decode_file sets the limits of Pillow for the process, here the process of the tests."""
    before = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = before


def noise(height=40, width=30, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, channels), dtype=np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "gif", "bmp", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_resize_and_crop(tmp_path, suffix, channels):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise()).save(path)
    with Image.open(path) as image:
        expected = resize_and_crop(image, 16, channels)
    result = decode_file((str(path), 16, channels))
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.uint8 and result.shape == (16, 16, channels)


def test_transparent_parts_are_white(tmp_path):
    """Also with a transparent palette colour. Hidden colours do not show."""
    pixels = noise(16, 16, 4)
    pixels[:8, :, 3], pixels[8:, :, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    result = decode_file((str(tmp_path / "rgba.png"), 16, 3))
    assert (result[:8] == 255).all()
    np.testing.assert_array_equal(result[8:], pixels[8:, :, :3])
    palette = Image.fromarray(np.tile(np.arange(2, dtype=np.uint8), (16, 8)), mode=None).convert("P")
    palette.putpalette([0, 0, 0, 250, 0, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    result = decode_file((str(tmp_path / "p.png"), 16, 3))
    assert (result[:, 0] == 255).all() and (result[:, 1] == (250, 0, 0)).all()


def test_photos_are_rotated_by_their_exif_orientation(tmp_path):
    """Orientation 6 is a quarter turn to the right."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # the upper half becomes the right half
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    result = decode_file((str(tmp_path / "a.png"), 16, 1))
    assert (result[:, 8:] == 255).all() and (result[:, :8] == 0).all()


def test_sixteen_bits_of_grey_keep_their_range(tmp_path):
    """The conversion of Pillow would clip them at 255 of 65,535."""
    deep = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_file((str(tmp_path / "a.png"), 16, 1))[..., 0], deep >> 8)


def png(depth, kind, pixels, transparent):
    """A PNG of 8 x 1 pixels of any depth, with a transparent colour."""
    chunks = [b"\x89PNG\r\n\x1a\n"]
    head = struct.pack(">IIBBBBB", 8, 1, depth, kind, 0, 0, 0)
    parts = {b"IHDR": head, b"tRNS": transparent, b"IDAT": zlib.compress(b"\0" + pixels), b"IEND": b""}
    for name, data in parts.items():
        chunks.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(chunks)


@pytest.mark.parametrize(
    "depth, kind, pixels, transparent, grey",
    [
        (16, 0, b"\x12\x34" * 4 + b"\x56\x78" * 4, b"\x12\x34", 0x56),
        (16, 0, b"\0\0" * 4 + b"\x12\x34" * 4, b"\0\0", 0x12),
        (16, 2, b"\x12\x34" * 12 + b"\x56\x78" * 12, b"\x12\x34" * 3, 0x56),
        (8, 0, b"\x12" * 4 + b"\x56" * 4, b"\0\x12", 0x56),
        (4, 0, b"\x33\x33\x55\x55", b"\0\x03", 0x55),
        (2, 0, b"\x55\xaa", b"\0\x01", 0xAA),
        (1, 0, b"\xf0", b"\0\x01", 0),
    ],
)
def test_a_transparent_colour_of_any_depth_is_white(tmp_path, depth, kind, pixels, transparent, grey):
    (tmp_path / "a.png").write_bytes(png(depth, kind, pixels, transparent))
    pixels = decode_file((str(tmp_path / "a.png"), 8, 3, "pad"))[3]
    assert (pixels[:4] == 255).all() and (pixels[4:] == grey).all()


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
def test_newer_formats_are_turned_as_cameras_say(tmp_path, kind):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # the upper half becomes the right half
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", kind, exif=exif)
    result = decode_file((str(tmp_path / "a.jpg"), 16, 1)).astype(int)
    assert (result[:, 9:] > 230).all() and (result[:, :7] < 25).all()


def test_of_an_animation_the_first_picture_counts(tmp_path):
    """Transparent parts of a GIF are white as well."""
    first, second = (Image.new("RGB", (9, 9), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert (decode_file((str(tmp_path / "a.gif"), 8, 3)) == (255, 0, 0)).all()
    Image.new("P", (9, 9)).save(tmp_path / "b.gif", transparency=0)
    assert (decode_file((str(tmp_path / "b.gif"), 8, 3)) == 255).all()


def test_long_texts_of_a_picture_do_not_matter(tmp_path):
    """Design tools write their history into PNGs; a text that unpacks to more than the limit is refused."""
    for n, read in ((3 << 20, True), (65 << 20, False)):
        text = PngImagePlugin.PngInfo()
        text.add_text("history", "x" * n, zip=True)
        Image.new("L", (9, 9), 7).save(tmp_path / "a.png", pnginfo=text)
        result = decode_file((str(tmp_path / "a.png"), 8, 1))
        assert (result == 7).all() if read else result.startswith("cannot be decoded (ValueError: Decompressed data")


def test_bytes_are_read_as_files_are():
    """Their content says what they are."""
    data = saved("WEBP", lossless=True)
    np.testing.assert_array_equal(decode_file((data, 16, 3)), resize_and_crop(Image.fromarray(noise(200, 200)), 16, 3))
    assert decode_file((b"", 16, 3)) == "is not a JPEG, PNG, WEBP, AVIF, GIF, BMP or TIFF image but empty"
    assert "zip archive" in decode_file((b"PK\x03\x04abc", 16, 3))
    assert decode_file((bytes((64 << 20) + 1), 16, 3)) == "is larger than 64 MB"


def saved(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(buffer, kind, **options)
    return buffer.getvalue()


def sparse(path):
    with open(path, "wb") as file:
        os.truncate(file.fileno(), (64 << 20) + 1)


FAULTS = {
    "missing": (lambda path: None, "is missing"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "is not a JPEG, PNG, WEBP, AVIF, GIF, BMP or TIFF image"),
    "text": (lambda path: path.write_text("<svg/>"), "is not a JPEG, PNG, WEBP, AVIF, GIF, BMP or TIFF image"),
    "HTML": (lambda path: path.write_text("\ufeff\n<!DOCTYPE html>"), ".* TIFF image but HTML, SVG or XML text"),
    "HEIC": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), ".* image but HEIC or a video"),
    "LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), ".* but a pointer of Git LFS"),
    "floats": (lambda path: Image.fromarray(np.ones((9, 9), "f4")).save(path, "TIFF"), "has 32 bits per pixel .F in T"),
    "deep": (lambda path: Image.fromarray(np.ones((9, 9), "i4")).save(path, "TIFF"), "has 32 bits per pixel .I in T"),
    "EPS": (lambda path: path.write_bytes(saved("EPS")), "is not a JPEG, PNG, WEBP, AVIF, GIF, BMP or TIFF image"),
    "half a JPEG": (lambda path: path.write_bytes(saved("JPEG")[:5000]), "is truncated or damaged"),
    "half a JPEG header": (lambda path: path.write_bytes(saved("JPEG")[:500]), "is truncated or damaged"),
    "half a PNG": (lambda path: path.write_bytes(saved("PNG")[:5000]), "is truncated or damaged"),
    "half a WebP": (lambda path: path.write_bytes(saved("WEBP")[:5000]), "is truncated|cannot be decoded|is no"),
    "bomb": (
        lambda path: path.write_bytes(shop.bomb(16_000, 16_000)),
        "is a decompression bomb of more than 50,000,000 pixels",
    ),
    "smaller bomb": (
        lambda path: path.write_bytes(shop.bomb(7_072, 7_072)),
        "is a decompression bomb of more than 50,000,000 pixels",
    ),
    "too long a side": (
        lambda path: path.write_bytes(shop.bomb(16_385, 1)),
        "is 16385 x 1 pixels; a side may have up to 16,384",
    ),
    "large file": (sparse, "is larger than 64 MB"),
    "pipe, which never ends": (os.mkfifo, "is not a file"),
    "loop of links": (lambda path: path.symlink_to(path), "cannot be decoded .OSError"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_file_has_a_reason(tmp_path, name):
    make, reason = FAULTS[name]
    make(tmp_path / "a.jpg")
    result = decode_file((str(tmp_path / "a.jpg"), 16, 3))
    assert isinstance(result, str) and re.match(reason, result), result
    assert "\n" not in result


def test_just_within_the_limits(tmp_path):
    """A side of 16,384 pixels is read."""
    Image.new("L", (16_384, 20), 7).save(tmp_path / "a.png")
    assert (decode_file((str(tmp_path / "a.png"), 16, 1)) == 7).all()


def die(task):
    """Stands for a crash in the C code of a decoder."""
    os._exit(9) if "007" in task[0] else None
    return decode_file(task)


def test_images_and_faults_come_in_order(tmp_path, monkeypatch):
    """A dead worker costs only its file."""
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "decode_file", die)
    paths = [tmp_path / f"{i:03}.png" for i in range(12)]
    for i, path in enumerate(paths):
        Image.fromarray(noise(seed=i)).save(path)
    paths[3].write_text("not an image")
    pictures, faults = decode_files(paths, 16, 3)
    assert [i for i, fault in enumerate(faults) if fault] == [3, 7]
    assert faults[3].startswith("is not a JPEG") and "exit status 9" in faults[7]
    good = [i for i in range(12) if i not in (3, 7)]
    for row, i in enumerate(good):
        np.testing.assert_array_equal(pictures[row], resize_and_crop(Image.open(paths[i]), 16, 3))


def test_the_cache_knows_files_by_their_content(tmp_path, monkeypatch):
    """Equal bytes under another name are not decoded again. Other bytes, another size and other channels are."""
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))
    times = []

    def once(function, tasks):
        times.append(tasks)
        for task in tasks:
            result = function(task)
            yield (None, result) if isinstance(result, str) else (result, None)

    monkeypatch.setattr(images, "read_in_workers", once)
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(noise()).save(a)
    b.write_bytes(a.read_bytes())
    first = decode_files([a], 16, 3)[0]
    assert isinstance(first, np.memmap) and not first.flags.writeable
    np.testing.assert_array_equal(decode_files([b], 16, 3)[0], first)
    assert len(times) == 1
    Image.fromarray(noise(seed=1)).save(b)
    assert (decode_files([b], 16, 3)[0] != first).any() and len(times) == 2
    decode_files([a], 8, 3)
    decode_files([a], 16, 1)
    assert len(times) == 4
    a.unlink()
    assert decode_files([a], 16, 3)[1] == ["is missing"] and len(times) == 5
    Image.fromarray(noise()).save(a)
    np.testing.assert_array_equal(decode_files([a], 16, 3)[0], first)


def test_a_name_resolves_only_inside_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").symlink_to("/")
    assert resolve(tmp_path, "in/a.png") == tmp_path / "in" / "a.png"
    assert resolve(tmp_path, "./in/../b.png") == tmp_path / "b.png"
    assert resolve(tmp_path, str(tmp_path / "c.png")) == tmp_path / "c.png"
    for name in ("../a.png", "/a.png", "out/a.png", f"../{tmp_path.name}x/a.png"):
        assert resolve(tmp_path, name) is None


def test_a_large_picture_is_halved_before_it_is_rotated(tmp_path, monkeypatch):
    """The result is almost the same, and the memory of a second copy is saved."""
    picture = Image.fromarray(np.arange(64 * 96 * 3, dtype=np.uint32).reshape(64, 96, 3).__rshift__(7).astype(np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "x.png", exif=exif)
    plain = decode_file((str(tmp_path / "x.png"), 16, 3))
    monkeypatch.setattr(images, "TURNED", 64 * 96 - 1)
    halved = decode_file((str(tmp_path / "x.png"), 16, 3))
    assert not np.array_equal(halved, plain)
    np.testing.assert_allclose(halved.astype(int), plain.astype(int), atol=6)
    assert np.abs(np.rot90(halved).astype(int) - plain.astype(int)).max() > 20


@pytest.mark.parametrize(
    "mode, kind", [("RGBA", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("I;16", "PNG")]
)
def test_modes_that_need_several_copies_may_have_fewer_pixels(mode, kind, tmp_path, monkeypatch):
    path = tmp_path / "x"
    Image.new(mode, (20, 30)).save(path, kind)
    assert isinstance(decode_file((str(path), 16, 3)), np.ndarray)
    monkeypatch.setattr(images, "COPIED", 20 * 30 - 1)
    assert decode_file((str(path), 16, 3)) == f"is 20 x 30 pixels; {mode} in {kind} may have up to 599"
