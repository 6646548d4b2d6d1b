"""A shop's table as it comes, through every command: what is stored and shown is the source's own text."""

import io
import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from csn_jax.__main__ import main

N = 90
FIRST = 9_007_199_254_740_993  # the first whole number that a float cannot hold
SHAPES, COLOURS = ("Boot", "Sandal", "Pump"), ("red", "green", "blue")


def cells() -> dict[str, list[str]]:
    """The text of every column, row by row: what must come out again."""
    rows = range(N)
    return {
        "id": [str(1_000_000_000_000_000_000 + FIRST + i) for i in rows],
        "shape": [SHAPES[i % 3] for i in rows],
        "colour": [COLOURS[i // 3 % 3] if i % 11 else "NA" for i in rows],
        "price": [f"{20 + i},{i % 10}0" for i in rows],
        "tags": [f'["{"ab"[i % 2]}","{"cd"[i // 2 % 2]}"]' for i in rows],
        "sku": [f"{i // 2:05}" for i in rows],
        "Split": ["valid" if i // 4 % 10 == 8 else "TEST" if i // 4 % 10 == 9 else "train" for i in rows],
    }


def picture(i: int) -> bytes:
    """A square on white: its colour and size are the item's."""
    image = Image.new("RGB", (40, 30), "white")
    image.paste(COLOURS[i // 3 % 3], (4, 4, 12 + 8 * (i % 3), 24))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_csv(folder) -> str:
    columns = cells() | {"image": [f"img/{i}.png" for i in range(N)]}
    (folder / "img").mkdir()
    for i in range(N):
        (folder / "img" / f"{i}.png").write_bytes(picture(i))
    quoted = {
        name: [f'"{v.replace(chr(34), chr(34) * 2)}"' if '"' in v else v for v in column]
        for name, column in columns.items()
    }
    lines = [";".join(quoted), *(";".join(row) for row in zip(*quoted.values(), strict=True))]
    path = folder / "shop.csv"
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")
    return str(path)


@pytest.mark.slow
def test_a_messy_shop_goes_through_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))
    table, expected = write_csv(tmp_path), cells()
    flags = ("--config=table:tiny", f"--config.data.path={table}", "--config.preprocess.size=16")
    flags += ("--config.data.conditions", "shape", "colour", "price", "tags")

    def run(*words: str) -> tuple[str, str]:
        main(list(words))
        return capsys.readouterr()

    report = "".join(run("train", *flags, "--check"))
    words = [line.split() for line in report.split("rarest values")[0].splitlines()]
    rows = {line[0]: line[1] for line in words if line and line[0] in expected}
    assert rows == {"shape": "categorical", "colour": "categorical", "price": "numeric", "tags": "set"}
    assert "90 items (74 train, 8 validation, 8 test)" in report and "NA" in report
    run("train", *flags, "--workdir=run")
    run("embed", "--workdir=run", f"--table={table}", "--out=all.parquet")
    stored = pq.read_table("all.parquet")
    assert stored["id"].to_pylist() == expected["id"]
    for name in set(expected) - {"id"}:
        assert stored[name].to_pylist() == expected[name], name

    asked = ("search", "--index=all.parquet", f"--id={expected['id'][0]}", "--condition", "colour")
    out, _ = run(*asked, "shape=0.5", "--explain", "--k=3")
    assert "colour" in out and "shape" in out
    found = json.loads(run(*asked, "--filter", "shape=Boot", "price<50", "--k=30", "--json")[0])
    boots = [expected["id"][i] for i in range(3, 30, 3)]  # without the query
    assert sorted(hit["id"] for hit in found["hits"]) == sorted(boots)

    run("adapt", "--workdir=run", f"--table={table}", "--condition=sku", "--out=adapted")
    assert json.loads((tmp_path / "adapted/data.json").read_text())["adapted"][0]["condition"] == "sku"
    run("explore", "--workdir=run", "--out=page")
    page = "".join(path.read_text(errors="ignore") for path in (tmp_path / "page").rglob("*") if path.suffix != ".png")
    assert all(expected["id"][i] in page for i in range(N) if expected["Split"][i] == "TEST")
