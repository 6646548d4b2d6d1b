"""A small shop: a table of products with pictures or vectors, as a user would bring it."""

import csv
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 30, 40), "green": (30, 160, 60), "blue": (40, 60, 210)}
SHAPES = ("boot", "shoe", "sandal")


def columns(n: int = 60) -> dict[str, list[Any]]:
    """n products: two names, a price, a scale of sizes, tags, blanks here and there, a product of two photos each."""
    rng = np.random.default_rng(0)
    return {
        "image": [f"images/{i:03}.{('png', 'jpg', 'webp')[i % 3]}" for i in range(n)],
        "category": [SHAPES[i] if i >= 0 else "" for i in rng.integers(-1, 3, n)],
        "colour": [list(COLOURS)[i] for i in rng.integers(0, 3, n)],
        "price": [f"{price:.2f}" for price in rng.uniform(5, 300, n)],
        "size": [str(size) for size in rng.integers(36, 44, n)],
        "tags": [";".join(rng.choice(list("abcdefg"), rng.integers(0, 3), replace=False)) for _ in range(n)],
        "product": [f"p{i // 2}" for i in range(n)],
        "title": [f"product number {i}" for i in range(n)],
    }


def draw(path: Path, row: int, shape: str, colour: str) -> None:
    """A picture of 24 x 20 pixels of a product, unlike every other."""
    rng = np.random.default_rng(row)
    pixels = np.full((20, 24, 3), 255, np.uint8)
    top = {"boot": 2, "shoe": 8, "sandal": 14}.get(shape, 10)
    pixels[top:18, 4:20] = COLOURS[colour]
    pixels[rng.integers(0, 20, 60), rng.integers(0, 24, 60)] = rng.integers(0, 256, (60, 3))
    Image.fromarray(pixels).save(path)


def vectors(table: dict[str, list[Any]], n_features: int = 12) -> np.ndarray:
    """float32 [N, F] that know category and colour, behind a louder nuisance."""
    rng = np.random.default_rng(1)
    n = len(table["colour"])
    known = np.zeros((n, n_features))
    for row in range(n):
        known[row, (*SHAPES, "").index(table["category"][row])] = 1
        known[row, 4 + list(COLOURS).index(table["colour"][row])] = 1
    return (known + rng.normal(0, 0.1, known.shape) + rng.normal(0, 2, (n, 1)) * np.eye(n_features)[-1]).astype("f4")


def write(path: Path, table: dict[str, list[Any]], *, pictures: bool = False, vector: np.ndarray | None = None) -> Path:
    """Write a table as CSV or Parquet by the path's suffix, with its pictures beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        extra = {} if vector is None else {"vector": list(vector)}
        pyarrow.parquet.write_table(pyarrow.table(table | extra), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])
    if pictures:
        (path.parent / "images").mkdir(exist_ok=True)
        for row, name in enumerate(table["image"]):
            draw(path.parent / name, row, table["category"][row], table["colour"][row])
    return path


def write_runs(folder: Path) -> None:
    """The shop as products.csv with pictures and as products.parquet with vectors, and untrained runs on both.

    The runs lie in `pictures` and `vectors`. Their conditions are category and colour, their embeddings have 6 numbers.
    """
    import tiny

    from csn_jax import cli, train

    table = columns()
    write(folder / "products.csv", table, pictures=True)
    write(folder / "products.parquet", table, vector=vectors(table))
    small = ("--config.backbone.embedding_dim=6", "--config.data.conditions", "category", "colour")
    for name, file, *flags in (
        ("pictures", "products.csv", "--config=table:tiny", "--config.preprocess.size=16"),
        ("vectors", "products.parquet", "--config=features:tiny", "--config.variant=learned"),
    ):
        argv = [*flags, f"--config.data.path={folder / file}", *small]
        tiny.untrained(folder / name, cli.parse(train.Args, argv).config)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that says it is as large as that."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [b"\x89PNG\r\n\x1a\n"]
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000)))):
        chunks.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(chunks)
