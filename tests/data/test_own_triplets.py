"""Triplets that people gave: tables of ids and the reference's integer lists."""

import csv
import itertools

import numpy as np
import pytest
import shop
import tiny

from csn_jax.config import BackboneConfig, Config, DataConfig, LossConfig
from csn_jax.data import dataset as dataset_module
from csn_jax.data.dataset import load_dataset
from csn_jax.data.item_set import SPLITS
from csn_jax.errors import UserError
from csn_jax.train.data_report import report

N = 30
HEAD = ["anchor", "positive", "negative", "condition"]


def items(folder, **columns):
    """A table of ids i0, i1, ... with vectors and nothing else but the given columns."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "v.npy", np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32))
    return shop.write(folder / "items.csv", {"id": [f"i{i}" for i in range(N)]} | columns)


def config(folder, triplets, loss="triplet", **data) -> Config:
    data = DataConfig(source="table", path=str(folder / "items.csv"), vectors="v.npy", triplets=str(triplets), **data)
    return Config(batch_size=4, data=data, backbone=BackboneConfig(name="projection"), loss=LossConfig(name=loss))


def write(path, rows, head=HEAD):
    if path.suffix == ".parquet":
        return shop.write(
            path, {name: list(column) for name, column in zip(head, zip(*rows, strict=True), strict=True)}
        )
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def judgements(n=200, conditions=("heel", "toe"), low=0, high=N):
    """n different triplets of a condition each, among the items from low to high."""
    rng = np.random.default_rng(1)
    rows = []
    for condition in conditions:
        triples = list(itertools.permutations(range(low, high), 3))
        for i in rng.choice(len(triples), n, replace=False):
            rows.append([*(f"i{item}" for item in triples[i]), condition])
    return [rows[i] for i in rng.permutation(len(rows))]


def named(dataset):
    """{split: {(anchor, positive, negative, condition) by name}}."""
    ids, conditions = dataset.items.ids, [condition.name for condition in dataset.items.conditions]
    return {
        split: {(*(str(ids[i]) for i in row[:3]), conditions[row[3]]) for row in zip(*triplets, strict=True)}
        for split, triplets in dataset.triplets.items()
    }


GIVEN = [SPLITS[i % 3] for i in range(N)]  # a split of the items


def of_given_split(rows):
    split = dict(zip((f"i{i}" for i in range(N)), GIVEN, strict=True))
    return [row for row in rows if len({split[one] for one in row[:3]}) == 1]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_items_that_have_a_split_give_it_to_their_triplets(tmp_path, suffix):
    """All triplets of the file are used, under their names, roles and conditions, and none besides."""
    items(tmp_path, split=GIVEN)
    rows = of_given_split(judgements(1_000))
    dataset = load_dataset(config(tmp_path, write(tmp_path / f"t{suffix}", rows)))
    found = named(dataset)
    assert set.union(*found.values()) == {tuple(row) for row in rows}
    assert sum(len(triplets.anchor) for triplets in dataset.triplets.values()) == len(rows)
    for split, triplets in dataset.triplets.items():
        assert all((dataset.items.split[role] == split).all() for role in triplets[:3])
        assert all(column.dtype == np.int32 for column in triplets)
    assert [condition.name for condition in dataset.items.conditions] == list(dict.fromkeys(row[3] for row in rows))
    assert {condition.kind for condition in dataset.items.conditions} == {"triplets"}
    assert dataset.record.split_unit == "item"


def test_triplets_that_have_a_split_give_it_to_their_items(tmp_path):
    """Items in no triplet go to training."""
    items(tmp_path)
    parts = {"train": (0, 12), "val": (12, 18), "test": (18, 26)}
    rows = [[*row, split] for split, (low, high) in parts.items() for row in judgements(40, ("heel",), low, high)]
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows, [*HEAD, "split"])))
    assert dataset.items.split.tolist() == ["train"] * 12 + ["validation"] * 6 + ["test"] * 8 + ["train"] * 4
    assert {split: len(found) for split, found in named(dataset).items()} == dict.fromkeys(SPLITS, 40)


def test_without_any_split_the_triplets_are_split(tmp_path, monkeypatch):
    """70 / 10 / 20 % of each condition's, seeded; judgements on the same three items stay together; items are shared,
    and take part wherever a triplet names them."""
    items(tmp_path)
    rows = judgements(400)
    rows += [[row[0], row[2], row[1], row[3]] for row in rows[:100]] + rows[100:150]  # contradicted, and repeated
    path = write(tmp_path / "t.csv", rows)
    dataset = load_dataset(config(tmp_path, path))
    assert dataset.record.split_unit == "triplet"
    found = named(dataset)
    assert set.union(*found.values()) == {tuple(row) for row in rows}
    homes = {}
    for split, triplets in found.items():
        for *three, condition in triplets:
            homes.setdefault((*sorted(three), condition), set()).add(split)
    assert all(len(home) == 1 for home in homes.values())
    for row in (0, 1):
        sizes = np.array([(triplets.condition == row).sum() for triplets in dataset.triplets.values()])
        np.testing.assert_allclose(sizes / sizes.sum(), [0.7, 0.1, 0.2], atol=0.04)
    for split, triplets in dataset.triplets.items():
        assert set(dataset.rows(split)) == set(np.concatenate(triplets[:3])) | set(
            np.flatnonzero(dataset.items.split == split)
        )
    again = load_dataset(config(tmp_path, path))
    assert again.record == dataset.record != load_dataset(config(tmp_path, path, seed=1)).record
    assert "are split, not the items" in report(config(tmp_path, path), dataset)
    split_rows = dataset_module.split_rows
    monkeypatch.setattr(dataset_module, "split_rows", lambda *of: (split_rows(*of)[0], 3))
    assert "straddle" not in " ".join(load_dataset(config(tmp_path, path)).notes)


def test_conditions_can_be_chosen_and_ordered(tmp_path):
    items(tmp_path, split=GIVEN)
    rows = of_given_split(judgements(1_000))
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows), conditions=("toe", "heel")))
    assert [condition.name for condition in dataset.items.conditions] == ["toe", "heel"]
    assert set.union(*named(dataset).values()) == {tuple(row) for row in rows}
    one = load_dataset(config(tmp_path, tmp_path / "t.csv", conditions=("toe",)))
    assert set.union(*named(one).values()) == {tuple(row) for row in rows if row[3] == "toe"}
    with pytest.raises(UserError, match=r"'te' \(did you mean toe\?\); this source has"):
        load_dataset(config(tmp_path, tmp_path / "t.csv", conditions=("te",)))


def test_labels_of_a_column_of_the_condition_s_name_are_kept(tmp_path):
    """For retrieval and pictures; the triplets stay those of the file. Other columns stay attributes."""
    heights = [str(i % 5) for i in range(N)]
    items(tmp_path, heel=heights, colour=["red", "blue"] * (N // 2))
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", judgements())))
    assert dict(dataset.items.conditions) == {"heel": "ordinal", "toe": "triplets"}
    assert dataset.items.labels["heel"].tolist() == heights
    assert dict(dataset.items.attributes)["colour"] == "categorical"
    text = report(config(tmp_path, tmp_path / "t.csv"), dataset)
    assert text.count("200 given") == 2


def lists(folder, rows_by_list, names):
    """The reference's form: anchor far close."""
    (folder / "tripletlists").mkdir(parents=True)
    (folder / "filenames.json").write_text("".join(f"{name}\n" for name in names))
    for name, rows in rows_by_list.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        (folder / "tripletlists" / f"{name}.txt").write_text(text)
    return folder


def reference(folder, change=None):
    """Lists over the items in another order than the table's; items 0-11 train, 12-20 validation, 21-29 test."""
    names = [f"i{i}" for i in range(N)][::-1]
    rng = np.random.default_rng(0)
    written = {}
    for condition in ("heel", "class_of_shoe"):
        for split, low, high in (("train", 0, 12), ("val", 12, 21), ("test", 21, N)):
            triples = [rng.choice(np.arange(low, high), 3, replace=False) for _ in range(20)]
            written[f"{condition}_tripletlist_{split}"] = [[N - 1 - i for i in triple] for triple in triples]
    if change:
        change(written)
    return lists(folder, written, names), written


@pytest.mark.parametrize("nested", [True, False])
def test_the_reference_s_lists(tmp_path, nested):
    """`anchor far close` by lines of filenames.json, one file a condition and split, in tripletlists/ or beside it."""
    items(tmp_path)
    folder, written = reference(tmp_path / "lists")
    if not nested:
        for path in (folder / "tripletlists").iterdir():
            path.rename(folder / path.name)
        (folder / "tripletlists").rmdir()
    dataset = load_dataset(config(tmp_path, folder))
    assert [condition.name for condition in dataset.items.conditions] == ["class_of_shoe", "heel"]
    found = named(dataset)
    for name, triples in written.items():
        condition, split = name.split("_tripletlist_")
        expected = {(f"i{N - 1 - a}", f"i{N - 1 - c}", f"i{N - 1 - f}", condition) for a, f, c in triples}
        assert expected == {row for row in found[split.replace("val", "validation")] if row[3] == condition}
    assert dataset.items.split.tolist() == ["train"] * 12 + ["validation"] * 9 + ["test"] * 9


def spoil(row, column, value):
    def change(rows):
        rows[row][column] = value

    return change


MISTAKES = {
    "id": (spoil(4, 2, "i99"), ["row 5 (line 6)", "negative is 'i99'", "did you mean"]),
    "blank id": (spoil(4, 0, ""), ["row 5 (line 6)", "anchor is ''"]),
    "item twice": (lambda rows: rows.__setitem__(4, ["i1", "i2", "i1", "heel"]), ["row 5 (line 6)", "twice"]),
    "blank condition": (spoil(4, 3, ""), ["row 5 (line 6)", "no condition"]),
    "across splits": (
        lambda rows: rows.__setitem__(4, ["i0", "i3", "i4", "heel"]),
        ["row 5 (line 6)", "across splits", "anchor i0 of train", "positive i3 of train", "negative i4 of validation"],
    ),
    "file name": (lambda rows: rows.append(["i0", "i3", "i6", "a/b"]), ["'a/b'", "cannot name a file"]),
    "a split without": (lambda rows: rows.append(["i0", "i3", "i6", "toe"]), ["'toe'", "validation split"]),
    "nothing": (lambda rows: rows.clear(), ["no triplet"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_triplet_file_is_one_sentence(name, tmp_path):
    items(tmp_path, split=GIVEN)
    change, parts = MISTAKES[name]
    rows = of_given_split(judgements(1_000, ("heel",)))
    change(rows)
    with pytest.raises(UserError) as error:
        load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows)))
    for part in parts:
        assert part in str(error.value)
    assert tiny.is_one_sentence(str(error.value))


@pytest.mark.parametrize("column", HEAD)
def test_a_missing_column_of_a_triplet_file_is_told(column, tmp_path):
    items(tmp_path)
    head = [name if name != column else f"{name}s" for name in HEAD]
    with pytest.raises(UserError, match=rf"no column '{column}' \(did you mean {column}s\?\)"):
        load_dataset(config(tmp_path, write(tmp_path / "t.csv", judgements(5), head)))


def test_splits_that_do_not_fit(tmp_path):
    """An unknown one, one that is not the items' own, and an item in two."""
    items(tmp_path)
    head = [*HEAD, "split"]
    rows = [[*row, "train"] for row in judgements(20, ("heel",), 0, 10)]
    rows += [
        [*row, split] for split, low in (("val", 10), ("test", 20)) for row in judgements(20, ("heel",), low, low + 10)
    ]
    good = [list(row) for row in rows]
    rows[30][4] = "tset"
    with pytest.raises(UserError, match=r"row 31 \(line 32\): split is 'tset' \(did you mean test\?\)"):
        load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows, head)))
    rows = [list(row) for row in good]
    rows[30][1] = "i5"
    with pytest.raises(UserError, match=r"row 31 \(line 32\) is a triplet across splits: it is of validation"):
        load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows, head)))
    items(tmp_path, split=["train"] * 10 + ["validation"] * 10 + ["test"] * 10)
    load_dataset(config(tmp_path, write(tmp_path / "t.csv", good, head)))
    good[30][4] = "test"
    with pytest.raises(UserError, match=r"row 31 \(line 32\) is a triplet across splits: it is of test and it names"):
        load_dataset(config(tmp_path, write(tmp_path / "t.csv", good, head)))


def test_split_by_makes_the_items_split_count(tmp_path):
    items(tmp_path, brand=[f"b{i // 3}" for i in range(N)])
    with pytest.raises(UserError, match="across splits.*data.split_by"):
        load_dataset(config(tmp_path, write(tmp_path / "t.csv", judgements()), split_by="brand"))


LISTS = {
    "no integer": ("heel_tripletlist_val", 4, "3 x 5", ["heel_tripletlist_val.txt, line 5", "'3 x 5'"]),
    "two numbers": ("heel_tripletlist_val", 4, "3 5", ["heel_tripletlist_val.txt, line 5", "three whole numbers"]),
    "negative": ("heel_tripletlist_val", 4, "3 -5 6", ["heel_tripletlist_val.txt, line 5"]),
    "no such line": (
        "heel_tripletlist_test",
        0,
        "3 30 5",
        ["heel_tripletlist_test.txt, line 1", "item 30", "30 lines"],
    ),
    "twice": ("heel_tripletlist_train", 19, "29 28 29", ["heel_tripletlist_train.txt, line 20", "twice"]),
    "across": ("heel_tripletlist_val", 4, "29 10 11", ["heel_tripletlist_val.txt, line 5", "across splits"]),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_mistake_in_a_list_is_told_by_file_and_line(name, tmp_path):
    items(tmp_path)
    which, line, text, parts = LISTS[name]
    folder, _ = reference(tmp_path / "lists", lambda written: written[which].__setitem__(line, text.split()))
    with pytest.raises(UserError) as error:
        load_dataset(config(tmp_path, folder))
    for part in parts:
        assert part in str(error.value)
    assert tiny.is_one_sentence(str(error.value))


def test_folders_that_are_no_lists(tmp_path):
    items(tmp_path)
    folder, _ = reference(tmp_path / "lists")
    (folder / "filenames.json").write_text("\n".join([f"i{i}" for i in range(N)][::-1]).replace("i7\n", "x7\n"))
    with pytest.raises(UserError, match="'x7' in filenames.json, which is the id of no item"):
        load_dataset(config(tmp_path, folder))
    (folder / "tripletlists" / "heel_tripletlist_dev.txt").write_text("0 1 2\n")
    with pytest.raises(UserError, match="heel_tripletlist_dev.txt: split is 'dev'"):
        load_dataset(config(tmp_path, folder))
    (folder / "filenames.json").unlink()
    with pytest.raises(UserError, match="filenames.json cannot be read"):
        load_dataset(config(tmp_path, folder))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "filenames.json").write_text("i0\n")
    with pytest.raises(UserError, match="has no list of triplets"):
        load_dataset(config(tmp_path, tmp_path / "none"))
    with pytest.raises(UserError, match="'absent', which is not there"):
        load_dataset(config(tmp_path, "absent"))


def test_a_loss_that_learns_from_labels_is_refused(tmp_path):
    with pytest.raises(UserError, match="batch_all, which learns from labels.*loss.name=triplet"):
        config(tmp_path, "t.csv", loss="batch_all").validate()


def test_any_source_takes_own_triplets(tmp_path):
    """Glyphs are named face/character."""
    from csn_jax.data.sources import glyphs

    face = glyphs.read_pack()[0][0]
    rows = [[f"{face}/{a}", f"{face}/{p}", f"{face}/{n}", "roundness"] for a, p, n in itertools.permutations("OCQX", 3)]
    data = DataConfig(triplets=str(write(tmp_path / "t.csv", rows)))
    dataset = load_dataset(Config(batch_size=4, data=data))
    assert set.union(*named(dataset).values()) == {tuple(row) for row in rows}
