"""Small tables with images or vectors, for runs that take seconds. An image shows a disc, a square or a ring in one of
three colours."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image, ImageDraw
from plan import EMOJI, SHOES, VECTORS

ITEMS = 240


def write_tables(folder: Path) -> tuple[Path, Path, Path]:
    """Write the stand-ins for the tables footwear and emoji and for the folder of vectors, and return their paths."""
    for name, columns in VECTORS.items():
        _write_vectors(folder / "vectors" / f"{name}.parquet", columns)
    return _write(folder / "footwear.csv", SHOES), _write(folder / "emoji.csv", EMOJI), folder / "vectors"


def _write_vectors(path: Path, columns: tuple[str, ...]) -> None:
    """Each attribute of three values moves the vectors along a direction of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    kinds = rng.integers(3, size=(ITEMS, len(columns)))
    vectors = kinds @ rng.normal(size=(len(columns), 16)) + rng.normal(size=(ITEMS, 16))
    labels = {name: [f"{name} {kind}" for kind in kinds[:, i]] for i, name in enumerate(columns)}
    table = {"id": [f"item {i}" for i in range(ITEMS)], **labels, "vector": list(vectors.astype(np.float32))}
    pyarrow.parquet.write_table(pa.table(table), path)


def _write(path: Path, columns: tuple[str, ...]) -> Path:
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for i in range(ITEMS):
        image = Image.new("RGB", (32, 32), tuple(rng.integers(160, 256, 3)))
        kinds = [int(rng.integers(3)) for _ in columns]
        left, top = rng.integers(2, 12, 2)
        box = (left, top, left + 12 + 3 * kinds[1], top + 12 + 3 * kinds[1])
        colour = ("red", "green", "blue")[kinds[2]]
        draw = ImageDraw.Draw(image)
        if kinds[0] == 1:
            draw.rectangle(box, fill=colour)
        else:
            draw.ellipse(box, fill=colour if kinds[0] else None, outline=colour, width=2)
        image.save(path.with_name(f"{path.stem}_{i}.png"))
        rows.append([f"{path.stem}_{i}.png", *(f"{name} {kind}" for name, kind in zip(columns, kinds, strict=True))])
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["image", *columns], *rows])
    return path
