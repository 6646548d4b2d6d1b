"""Damage some of a table's images in ten ways: each is reported by its row and reason, and no good one is refused.

    python experiments/reliability/damaged_images.py --images=5000 --damaged=1000

The real command, `python -m csn_jax.train --check`, refuses them and then leaves out what is bad. Then bombs are read,
one by one: files of some kilobytes that would be gigabytes of pixels, or as much as is allowed. Ends with one line of
JSON; exits 1 when a row is missing or too many, or a bomb cost more than 300 MB.
"""

import argparse
import io
import itertools
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

MOST = 300 << 20  # bytes that reading a bomb may take
LIMIT = 7000  # a side: of a square of almost as many pixels as an image may have


def picture(rng: np.random.Generator, kind: str) -> bytes:
    """A small picture that resembles no other."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((60, 48), Image.Resampling.BICUBIC)
    coarse.save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that says it is so large, whatever its pixels are."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def damage(kind: int, rng: np.random.Generator) -> bytes | None:
    """A file's bytes; None where it is missing, and b"folder" where a folder is in its place."""
    whole_jpg, whole_png = picture(rng, "JPEG"), picture(rng, "PNG")
    picture_of_ppm = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(
        picture_of_ppm, ("PPM", "TGA", "PCX")[rng.integers(3)]
    )
    return [
        lambda: whole_jpg[: len(whole_jpg) * 2 // 3],
        lambda: whole_png[: len(whole_png) // 2],
        lambda: b"",
        lambda: b"no image, just text\n" * 20,
        lambda: flipped(whole_jpg, 1),
        lambda: flipped(whole_png, whole_png.index(b"IDAT") + 40),  # its checksum tells
        lambda: picture_of_ppm.getvalue(),
        lambda: png(9000, 9000, b"\0" * 1000),
        lambda: None,
        lambda: b"folder",
    ][kind]()


def check(table: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "csn_jax.train",
        "--config=configs/table.py",
        f"--config.data.path={table}",
        "--check",
    ]
    few = [f"--config.data.{split}_triplets=200" for split in ("train", "validation", "test")]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([*command, *few, *flags], cwd=root, env=os.environ, capture_output=True, text=True)


def contest(images: int, damaged: int, seed: int, folder: Path) -> dict:
    """Write, read and compare: the report."""
    os.environ["CSN_JAX_CACHE"] = str(folder / "cache")
    rng, faults, began = np.random.default_rng(seed), [], time.monotonic()
    bad = sorted(random.Random(seed).sample(range(images), damaged))
    lines = ["image,colour"]
    for row in range(images):
        name = f"{row:05}.{'png' if row % 2 else 'jpg'}"
        data = damage(bad.index(row) % 10, rng) if row in bad else picture(rng, "PNG" if row % 2 else "JPEG")
        if data == b"folder":
            (folder / name).mkdir()
        elif data is not None:
            (folder / name).write_bytes(data)
        lines.append(f"{name},{'red' if row % 3 else 'blue'}")
    (folder / "items.csv").write_text("\n".join(lines))
    refused, left_out = check(folder / "items.csv"), check(folder / "items.csv", "--config.data.skip_bad=True")
    if refused.returncode != 2 or left_out.returncode != 0:
        faults.append(f"ended {refused.returncode} and {left_out.returncode}: {left_out.stderr[-2000:]}")
    reasons: dict[str, int] = {}
    for text in (refused.stderr, left_out.stderr + left_out.stdout):
        told = dict(re.findall(r"items\.csv, row (\d+) \(line \d+\): image '[^']*' (.*)", text))
        rows = sorted(int(row) - 1 for row in told)
        if rows != bad:
            faults.append(
                f"not told: {sorted(set(bad) - set(rows))[:10]}; told and good: {sorted(set(rows) - set(bad))[:10]}"
            )
    for reason in told.values():
        reason = re.sub(r"\(.*\)", "", reason).strip()
        reasons[reason] = reasons.get(reason, 0) + 1
    report = {"images": images, "damaged": damaged, "reasons": reasons}
    return report | {"minutes": round((time.monotonic() - began) / 60, 1), "faults": faults}


def bombs() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of files that are small, and large when read; made when they are asked for."""
    yield "60,000 x 60,000", png(60_000, 60_000, b"\0" * 10_000_000, 1)
    yield "16,000 x 16,000", png(16_000, 16_000, bytes(16_000 * 2001), 1)
    yield "8,000 x 8,000", png(8_000, 8_000, bytes(8_000 * 8_001))
    side = LIMIT
    for name, colour, channels in (
        ("grey", 0, 1),
        ("colour", 2, 3),
        ("grey with alpha", 4, 2),
        ("colour with alpha", 6, 4),
    ):
        yield f"{side:,} x {side:,}, {name}", png(side, side, bytes(side * (channels * side + 1)), 8, colour)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for name, (mode, kind, size, options) in {
        "JPEG": ("RGB", "JPEG", side, {}),
        "JPEG, turned": ("RGB", "JPEG", side, {"exif": turned}),
        "JPEG for print": ("CMYK", "JPEG", side, {}),
        "WEBP": ("RGB", "WEBP", side, {}),
        "less, WEBP": ("RGB", "WEBP", 4000, {}),
        "less, with alpha": ("RGBA", "PNG", 4000, {}),
        "less, JPEG for print": ("CMYK", "JPEG", 4000, {}),
    }.items():
        Image.new(mode, (size, size), 1).save(buffer := io.BytesIO(), kind, **options)
        yield f"{size:,} x {size:,}, {name}", buffer.getvalue()


def cost(path: Path) -> tuple[int, str]:
    """The most memory that a fresh process needs to read one image, beyond what it needs to read a small one."""
    code = (
        "import sys, numpy; from csn_jax.data.images import decode_file\n"
        "def most():\n"
        "    return next(int(l.split()[1]) << 10 for l in open('/proc/self/status') if l.startswith('VmHWM'))\n"
        f"decode_file(({str(path.with_name('small.png'))!r}, 64, 3))\n"
        "before = most()\n"
        f"found = decode_file(({str(path)!r}, 64, 3))\n"
        "print(most() - before, found if isinstance(found, str) else 'read')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, _, outcome = done.stdout.partition(" ")
    return int(size), outcome.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--damaged", type=int, default=40)
    parser.add_argument("--bombs", type=int, help="read the first so many only")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="damaged_images_") as name:
        folder = Path(name)
        report = contest(args.images, args.damaged, args.seed, folder)
        (folder / "small.png").write_bytes(picture(np.random.default_rng(0), "PNG"))
        costs = {}
        for bomb, data in itertools.islice(bombs(), args.bombs):
            (folder / "bomb").write_bytes(data)
            size, outcome = cost(folder / "bomb")
            costs[bomb] = [len(data), size >> 20, outcome]
            if size > MOST:
                report["faults"].append(f"the bomb {bomb} took {size >> 20} MB")
    print(json.dumps(report | {"bombs_bytes_megabytes_outcome": costs}))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
