"""The data report: counts, conditions that are nearly the same, and duplicates across splits."""

import dataclasses
import math
import re
from collections import Counter

import numpy as np
import pytest
import shop

from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.data.dataset import load_dataset
from csn_jax.data.item_set import SPLITS, Rows, split_rows
from csn_jax.data.sources import table
from csn_jax.errors import UserError
from csn_jax.train.data_report import normalised_mutual_information, report

TRIPLETS = {"train_triplets": 60, "validation_triplets": 20, "test_triplets": 20}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))


def config(path, **data) -> Config:
    data = DataConfig(source="table", path=str(path), **(TRIPLETS | data))
    backbone = BackboneConfig(name="projection" if data.vectors else "small")
    preprocess = PreprocessConfig(size=16, mean=(0.5,) * 3, std=(0.3,) * 3)
    return Config(batch_size=16, data=data, backbone=backbone, preprocess=preprocess)


def by_vectors(folder, columns, **data):
    path = shop.write(folder / "products.csv", columns)
    np.save(folder / "v.npy", np.random.default_rng(0).normal(size=(len(columns["colour"]), 4)).astype(np.float32))
    settings = config(path, vectors="v.npy", **data)
    return settings, load_dataset(settings)


def lines_of(settings, dataset):
    """(head, {name: cells} of the table, notes). The columns of the table may be in several blocks."""
    head, *rest = report(settings, dataset).splitlines()
    notes = [line for line in rest if line.startswith("- ")]
    columns, rows = [], {}
    for block in "\n".join(line for line in rest if not line.startswith("- ")).split("\n\n"):
        names, rule, *lines = block.splitlines()
        ends = np.cumsum([len(part) + 2 for part in rule.split("  ")])
        cut = lambda line: [line[a:b].strip() for a, b in zip([0, *ends[:-1]], ends, strict=True)]  # noqa: B023, E731
        columns += cut(names)[1:]
        for name, *cells in map(cut, lines):
            rows.setdefault(name, []).extend(cells)
    assert columns == ["kind", "values", "known", "possible triplets", "rarest values"]
    return head, rows, notes


@pytest.mark.parametrize("name", ["id", "vector", "vec_colour"])
def test_a_column_that_embed_refuses_is_refused_before_training(name, tmp_path):
    columns = shop.columns() | {name: shop.columns()["category"]}
    settings, dataset = by_vectors(tmp_path, columns, conditions=("colour",), id="title")
    with pytest.raises(UserError, match=f"column '{name}' has a name that the file of vectors reserves; rename it"):
        report(settings, dataset)


def test_the_row_of_a_condition(tmp_path):
    """Kind, values, share known, rarest values, possible triplets, all counted in loops."""
    columns = shop.columns(200)
    columns["rare"] = ["common"] * 160 + [""] * 36 + ["a", "a", "b", "b"]
    settings, dataset = by_vectors(tmp_path, columns, conditions=("rare", "price", "size", "tags"))
    head, rows, notes = lines_of(settings, dataset)
    items = dataset.items
    train, validation, test = ((items.split == name).sum() for name in ("train", "validation", "test"))
    assert head.endswith(f"products.csv, 200 items ({train} train, {validation} validation, {test} test)")
    kind, values, known, possible, rarest = rows["rare"]
    assert (kind, values, known, rarest) == ("categorical", "3", "82.0%", "2 seen once or twice: a 2, b 2")
    total = 0
    for split in ("train", "validation", "test"):
        label = items.labels["rare"][items.split == split]
        label = label[label != ""]
        total += sum(
            a != b and label[a] == label[b] != label[c]
            for a in range(len(label))
            for b in range(len(label))
            for c in range(len(label))
        )
    assert possible == f"{total:,}"
    prices = [float(price) for price in columns["price"]]
    assert rows["price"][:3] == ["numeric", f"{len(set(prices))} ({min(prices):g} to {max(prices):g})", "100.0%"]
    assert rows["price"][4] == "-" and "million" in rows["price"][3]
    assert rows["size"][0] == "ordinal" and rows["tags"][:2] == ["set", "7"]
    blank = sum(not tags for tags in columns["tags"])
    assert rows["tags"][2] == f"{math.floor((200 - blank) / 2 * 10) / 10:.1f}%"


def test_100_percent_means_every_item(tmp_path):
    columns = shop.columns(2_000)
    columns["colour"][5] = ""
    settings, dataset = by_vectors(tmp_path, columns, conditions=("colour",))
    assert lines_of(settings, dataset)[1]["colour"][2] == "99.9%"


def test_conditions_that_are_nearly_the_same_are_named(tmp_path):
    """A column that repeats another with other names and a few differences, but not a different column."""
    columns = shop.columns(200)
    columns["farbe"] = [{"red": "rot", "green": "grün", "blue": "blau"}[name] for name in columns["colour"]]
    columns["farbe"][3] = "rot"
    settings, dataset = by_vectors(tmp_path, columns, conditions=("category", "colour", "farbe"))
    notes = [note for note in lines_of(settings, dataset)[2] if "nearly the same condition" in note]
    assert len(notes) == 1 and "colour and farbe" in notes[0]


def test_wide_texts_are_not_stored_at_a_fixed_width(tmp_path, monkeypatch):
    """A long text among many does not widen all others, and changes neither digests nor the report."""
    columns = shop.columns(200)
    settings, narrow = by_vectors(tmp_path, columns, conditions=("category", "colour"), split_by="tags")
    monkeypatch.setattr(table, "WIDE", 3)
    monkeypatch.setattr(table, "LARGE", 300)
    _, wide = by_vectors(tmp_path, columns, conditions=("category", "colour"), split_by="tags")
    assert wide.items.labels["colour"].dtype == object and narrow.items.labels["colour"].dtype.kind == "U"
    assert wide.record == narrow.record and report(settings, wide) == report(settings, narrow)


def test_conditions_of_more_values_than_dimensions_hold_are_named(tmp_path):
    """With the dimensions to set: 16 values per dimension, never more of them than the vectors have; of a fixed mask
    only its block counts. Maps choose for themselves."""
    columns = shop.columns(200)
    columns["sku"] = [f"s{i // 2}" for i in range(200)]  # 100 values
    columns["parts"] = [f"p{i // 4};q{i // 4}" for i in range(200)]  # as many members
    settings, dataset = by_vectors(tmp_path, columns, conditions=("sku", "parts", "colour", "price"))

    def lines(dim, variant="learned", inputs=4):
        wide = dataset.items.inputs[:, np.arange(inputs) % 4]
        changed = dataset._replace(items=dataclasses.replace(dataset.items, inputs=wide))
        backbone = dataclasses.replace(settings.backbone, embedding_dim=dim)
        made = dataclasses.replace(settings, backbone=backbone, variant=variant)
        return [note for note in lines_of(made, changed)[2] if "dimensions hold apart" in note]

    line = "- {} has 100 values, more than {} dimensions hold apart; set --config.variant=maps, which chooses by the "
    line += "number of values, or --config.backbone.embedding_dim={}"
    assert all(note == (line.format(name, 2, 4)) for name, note in zip(("sku", "parts"), lines(2), strict=True))
    assert all(
        note == (line.format(name, 6, 8)) for name, note in zip(("sku", "parts"), lines(6, inputs=64), strict=True)
    )
    assert lines(6, inputs=6) == [] == lines(8, inputs=64) == lines(2, "maps")
    fixed = lines(16, "fixed", 64)  # four conditions: four dimensions each
    assert all(note == (line.format(name, 4, 32)) for name, note in zip(("sku", "parts"), fixed, strict=True))


def test_normalised_mutual_information():
    """Against the definition in loops. 1 for renamed values, 0 for independent ones; unknown values do not count."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(-1, 4, 300), rng.integers(-1, 3, 300)
    y = np.where(rng.random(300) < 0.5, np.minimum(x, 2), y)
    pairs = [(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True) if a >= 0 and b >= 0]
    n = len(pairs)
    share = lambda test: sum(map(test, pairs)) / n  # noqa: E731
    information = h_x = h_y = 0.0
    for a in range(4):
        p_a = share(lambda pair, a=a: pair[0] == a)
        h_x -= p_a * math.log(p_a)
    for b in range(3):
        p_b = share(lambda pair, b=b: pair[1] == b)
        h_y -= p_b * math.log(p_b)
        for a in range(4):
            p_a = share(lambda pair, a=a: pair[0] == a)
            p = share(lambda pair, a=a, b=b: pair == (a, b))
            information += p * math.log(p / p_a / p_b) if p else 0
    assert normalised_mutual_information(x, y) == pytest.approx(2 * information / (h_x + h_y), abs=1e-12)
    assert normalised_mutual_information(x, (x + 7) % 4 * (x >= 0) - (x < 0)) == pytest.approx(1)
    assert normalised_mutual_information(np.repeat([0, 1], 4), np.tile([0, 1], 4)) == pytest.approx(0, abs=1e-12)
    assert normalised_mutual_information(np.array([0, -1]), np.array([-1, 1])) == 0
    assert normalised_mutual_information(np.zeros(3, int), np.zeros(3, int)) == 0


def with_copies(folder, **changes):
    """The shop with photo 2k + 1 a copy of photo 2k for the first twenty."""
    columns = shop.columns() | changes
    columns["image"] = [name.split(".")[0] + ".png" for name in columns["image"]]
    path = shop.write(folder / "products.csv", columns, pictures=True)
    for i in range(0, 20, 2):
        (folder / columns["image"][i + 1]).write_bytes((folder / columns["image"][i]).read_bytes())
    return path


def straddling(split):
    return sum(split[i] != split[i + 1] for i in range(0, 20, 2))


def test_copies_in_several_splits_are_moved_together(tmp_path):
    """Their number is reported, and no other item moves."""
    settings = config(with_copies(tmp_path / "a"), conditions=("colour", "size"))
    split = load_dataset(settings).items.split
    assert straddling(split) == 0 and len(set(split)) == 3
    path = shop.write(tmp_path / "b" / "products.csv", shop.columns(), pictures=True)
    apart = load_dataset(config(path, conditions=("colour", "size"))).items.split
    moved = 2 * straddling(apart)
    assert moved and (split[20:] == apart[20:]).all()
    notes = lines_of(settings, load_dataset(settings))[2]
    copies = ("repeat an earlier one exactly: 10", "images/000.png and images/001.png")
    assert any(all(words in note for words in copies) for note in notes)
    assert any(f"{moved} equal or nearly equal items" in note and "moved together" in note for note in notes)


def test_copies_move_to_the_split_of_most():
    """Of three copies, to the split of two; of two, to the training split."""
    n = 200
    together = np.arange(n)
    together[:60] = np.arange(60) // 3 * 3
    together[60:100] = np.arange(60, 100) // 2 * 2
    labels = {"colour": np.tile(["red", "blue"], n // 2)}
    rows = Rows(np.zeros((n, 2), np.float32), np.arange(n).astype(str), labels, (), None, together)
    before, unmoved = split_rows(rows._replace(together=None), DataConfig())
    after, straddling = split_rows(rows, DataConfig())
    assert unmoved == 0 and straddling > 30 and (before[100:] == after[100:]).all()
    for start in range(0, 60, 3):
        most, times = Counter(before[start : start + 3].tolist()).most_common(1)[0]
        assert set(after[start : start + 3]) == {most if times > 1 else "train"}
    for start in range(60, 100, 2):
        pair = set(before[start : start + 2].tolist())
        assert set(after[start : start + 2]) == ({"train"} if "train" in pair else {min(pair, key=SPLITS.index)})


def test_copies_move_whole_products(tmp_path):
    """With split_by, products that share a copy stay together."""
    columns = shop.columns()
    product = [f"p{(i + 1) // 2}" for i in range(60)]  # 1 and 2, 3 and 4, ...: chained with the copies up to 20
    settings = config(with_copies(tmp_path, product=product), conditions=("colour",), split_by="product")
    split = load_dataset(settings).items.split
    assert straddling(split) == 0 and all(split[i] == split[i + 1] for i in range(1, 59, 2))
    assert len(set(split[:21])) == 1 and columns["product"] != product


def test_a_given_split_stays_and_its_copies_are_reported(tmp_path):
    given = [("train", "test", "validation")[i % 3] for i in range(60)]
    settings = config(with_copies(tmp_path, split=given), conditions=("colour",))
    dataset = load_dataset(settings)
    assert dataset.items.split.tolist() == given
    notes = lines_of(settings, dataset)[2]
    assert any("20 equal or nearly equal items" in note and "stay so" in note for note in notes)


def test_hostile_names_do_not_reach_the_terminal(tmp_path):
    """Control characters, line breaks and very long values are replaced."""
    columns = shop.columns()
    columns["colour"][0] = columns["colour"][1] = "\x1b[2J\x07" + "long " * 30
    columns["colour"][2] = columns["colour"][3] = "two\nlines"
    settings, dataset = by_vectors(tmp_path, columns, conditions=("colour",))
    text = report(settings, dataset)
    assert "\x1b" not in text and "\x07" not in text and "?[2J?" in text and "two?lines" in text
    assert all(len(line) < 250 for line in text.splitlines())


def test_skipped_images_are_in_the_report(tmp_path):
    path = shop.write(tmp_path / "products.csv", shop.columns(), pictures=True)
    (tmp_path / "images" / "004.jpg").write_text("no image")
    settings = config(path, conditions=("colour",), skip_bad=True)
    notes = lines_of(settings, load_dataset(settings))[2]
    assert any("row 5 (line 6): image 'images/004.jpg' is not a JPEG" in note for note in notes)


@pytest.mark.slow
@pytest.mark.shared_data
def test_real_products(monkeypatch):
    """Flaws of a real catalogue: blanks, rare values, near-duplicates, a column of numbers."""
    from pathlib import Path

    path = Path(__file__).parents[3] / "shared" / "data" / "footwear" / "products.csv"
    if not path.exists():
        pytest.skip("the real photos of ../shared/data are not here")
    settings = dataclasses.replace(
        config(path, conditions=("category", "gender", "colour", "season")),
        preprocess=PreprocessConfig(size=64, mean=(0.5,) * 3, std=(0.3,) * 3),
    )
    _, rows, notes = lines_of(settings, load_dataset(settings))
    assert rows["season"][2] == "99.7%" and "seen once or twice: Nude 1" in rows["colour"][4]
    text = "\n".join(notes)
    assert "year: 11 different numbers" in text and "moved together" in text
    near = int(re.search(r"nearly the same as another: (\d+)", text)[1])
    assert 90 <= near <= 110, "a processor that rounds sums in another order finds one more or less"
