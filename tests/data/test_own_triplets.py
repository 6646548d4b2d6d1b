"""Triplets that people gave: tables of ids and the reference's integer lists."""

import csv
import itertools
import json
import shutil
from collections import Counter

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
    """A table of ids i0, i1, ... with vectors and the given columns."""
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
    """n different triplets per condition among the items from low to high."""
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
    return [row for row in rows if len({split[name] for name in row[:3]}) == 1]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_triplets_take_the_split_of_their_items(tmp_path, suffix):
    """Exactly the triplets of the file are used, with their names, roles and conditions."""
    items(tmp_path, split=GIVEN)
    rows = of_given_split(judgements(1_000))
    dataset = load_dataset(config(tmp_path, write(tmp_path / f"t{suffix}", rows)))
    assert set.union(*named(dataset).values()) == {tuple(row) for row in rows}
    assert sum(len(triplets.anchor) for triplets in dataset.triplets.values()) == len(rows)
    for split, triplets in dataset.triplets.items():
        assert all((dataset.items.split[role] == split).all() for role in triplets[:3])
        assert all(column.dtype == np.int32 for column in triplets)
    assert [condition.name for condition in dataset.items.conditions] == list(dict.fromkeys(row[3] for row in rows))
    assert {condition.kind for condition in dataset.items.conditions} == {"triplets"}
    assert dataset.record.split_unit == "item"


def test_items_take_the_split_of_their_triplets(tmp_path):
    """Items without triplets go to training."""
    items(tmp_path)
    parts = {"train": (0, 12), "val": (12, 18), "test": (18, 26)}
    rows = [[*row, split] for split, (low, high) in parts.items() for row in judgements(40, ("heel",), low, high)]
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows, [*HEAD, "split"])))
    assert dataset.items.split.tolist() == ["train"] * 12 + ["validation"] * 6 + ["test"] * 8 + ["train"] * 4
    assert {split: len(triplets) for split, triplets in named(dataset).items()} == dict.fromkeys(SPLITS, 40)


def test_without_any_split_the_triplets_are_split(tmp_path, monkeypatch):
    """70 / 10 / 20 % per condition, seeded. Judgements on the same three items stay together. Items take part in every
    split whose triplets name them."""
    items(tmp_path)
    rows = judgements(400)
    rows += [[row[0], row[2], row[1], row[3]] for row in rows[:100]] + rows[100:150]  # contradicted, and repeated
    path = write(tmp_path / "t.csv", rows)
    dataset = load_dataset(config(tmp_path, path))
    assert dataset.record.split_unit == "triplet"
    by_name = named(dataset)
    assert set.union(*by_name.values()) == {tuple(row) for row in rows}
    homes = {}
    for split, triplets in by_name.items():
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
    monkeypatch.setattr(dataset_module, "split_rows", lambda *args: (split_rows(*args)[0], 3))
    assert "straddle" not in " ".join(load_dataset(config(tmp_path, path)).notes)


def test_conditions_can_be_chosen_and_ordered(tmp_path):
    items(tmp_path, split=GIVEN)
    rows = of_given_split(judgements(1_000))
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows), conditions=("toe", "heel")))
    assert [condition.name for condition in dataset.items.conditions] == ["toe", "heel"]
    assert set.union(*named(dataset).values()) == {tuple(row) for row in rows}
    alone = load_dataset(config(tmp_path, tmp_path / "t.csv", conditions=("toe",)))
    assert set.union(*named(alone).values()) == {tuple(row) for row in rows if row[3] == "toe"}
    with pytest.raises(UserError, match=r"'te' \(did you mean toe\?\); this source has"):
        load_dataset(config(tmp_path, tmp_path / "t.csv", conditions=("te",)))


def test_a_condition_keeps_the_labels_of_its_column(tmp_path):
    """They serve retrieval and pictures; the triplets are those of the file. Other columns stay attributes."""
    heights = [str(i % 5) for i in range(N)]
    items(tmp_path, heel=heights, colour=["red", "blue"] * (N // 2))
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", judgements())))
    assert dict(dataset.items.conditions) == {"heel": "ordinal", "toe": "triplets"}
    assert dataset.items.labels["heel"].tolist() == heights
    assert dict(dataset.items.attributes)["colour"] == "categorical"
    text = report(config(tmp_path, tmp_path / "t.csv"), dataset)
    assert text.count("200 given") == 2


def reference(folder):
    """(folder of the reference's lists, their rows). filenames.json has another order than the table;
    items 0-11 train, 12-20 validation, 21-29 test."""
    (folder / "tripletlists").mkdir(parents=True)
    (folder / "filenames.json").write_text("".join(f"i{i}\n" for i in reversed(range(N))))
    rng = np.random.default_rng(0)
    written = {}
    for condition in ("heel", "class_of_shoe"):
        for split, low, high in (("train", 0, 12), ("val", 12, 21), ("test", 21, N)):
            triples = [rng.choice(np.arange(low, high), 3, replace=False) for _ in range(20)]
            written[f"{condition}_tripletlist_{split}"] = [[N - 1 - i for i in triple] for triple in triples]
    for name, rows in written.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        (folder / "tripletlists" / f"{name}.txt").write_text(text)
    return folder, written


@pytest.mark.parametrize("nested", [True, False])
def test_the_lists_of_the_reference_are_read(tmp_path, nested):
    """`anchor far close` as line numbers of filenames.json, one file per condition and split."""
    items(tmp_path)
    folder, written = reference(tmp_path / "lists")
    if not nested:
        for path in (folder / "tripletlists").iterdir():
            path.rename(folder / path.name)
        (folder / "tripletlists").rmdir()
    dataset = load_dataset(config(tmp_path, folder))
    assert [condition.name for condition in dataset.items.conditions] == ["class_of_shoe", "heel"]
    by_name = named(dataset)
    for name, triples in written.items():
        condition, split = name.split("_tripletlist_")
        expected = {(f"i{N - 1 - a}", f"i{N - 1 - c}", f"i{N - 1 - f}", condition) for a, f, c in triples}
        assert expected == {row for row in by_name[split.replace("val", "validation")] if row[3] == condition}
    assert dataset.items.split.tolist() == ["train"] * 12 + ["validation"] * 9 + ["test"] * 9


def put(row, values):
    return lambda rows: rows.__setitem__(row, values)


def spoil(row, column, value):
    return lambda rows: rows[row].__setitem__(column, value)


def by_split():
    """Triplets with a split of their own, among items of one split each."""
    parts = (("train", 0), ("val", 10), ("test", 20))
    return [[*row, split] for split, low in parts for row in judgements(20, ("heel",), low, low + 10)]


SPLIT_HEAD = [*HEAD, "split"]
THIRDS = {"split": [split for split in SPLITS for _ in range(10)]}
SEPARATE = {"split": GIVEN}
# (columns of the items, column names of the triplets, change of the rows, words of the message)
MISTAKES = {
    "id": (SEPARATE, HEAD, spoil(4, 2, "i99"), ["row 5 (line 6)", "negative is 'i99'", "did you mean"]),
    "blank id": (SEPARATE, HEAD, spoil(4, 0, ""), ["row 5 (line 6)", "anchor is ''"]),
    "item twice": (SEPARATE, HEAD, put(4, ["i1", "i2", "i1", "heel"]), ["row 5 (line 6)", "twice"]),
    "blank condition": (SEPARATE, HEAD, spoil(4, 3, ""), ["row 5 (line 6)", "no condition"]),
    "across splits": (
        SEPARATE,
        HEAD,
        lambda rows: rows.__setitem__(slice(None), [["i0", "i3", "i4", "heel"]] * 7),
        ["'heel' in the train split, as 7 of 7 triplets name items of several splits", "remove the items' split"],
    ),
    "no line of names and an unknown id": ({}, ["i0", "i1", "x2", "heel"], lambda rows: None, ["line 1", "'x2'"]),
    "file name": (SEPARATE, HEAD, lambda rows: rows.append(["i0", "i3", "i6", "a/b"]), ["'a/b'", "cannot name a file"]),
    "a split without": (
        SEPARATE,
        HEAD,
        lambda rows: rows.append(["i0", "i3", "i6", "toe"]),
        ["'toe'", "validation split"],
    ),
    "nothing": (SEPARATE, HEAD, lambda rows: rows.clear(), ["no triplet"]),
    "unknown split": (
        {},
        SPLIT_HEAD,
        spoil(30, 4, "tset"),
        ["row 31 (line 32)", "split is 'tset' (did you mean test?)"],
    ),
    "item in two splits": (
        {},
        SPLIT_HEAD,
        spoil(30, 1, "i5"),
        ["row 31 (line 32)", "across splits", "it is of validation"],
    ),
    "another split than the items'": (
        THIRDS,
        SPLIT_HEAD,
        spoil(30, 4, "test"),
        ["row 31 (line 32)", "across splits", "it is of test and it names", "anchor i"],
    ),
}
for name in HEAD:
    MISTAKES[f"no {name}"] = (
        {},
        [f"{name}s" if column == name else column for column in HEAD],
        lambda rows: None,
        [f"no column '{name}' (did you mean {name}s?)"],
    )


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_triplet_file_is_named(name, tmp_path):
    columns, head, change, words = MISTAKES[name]
    items(tmp_path, **columns)
    rows = by_split() if head is SPLIT_HEAD else of_given_split(judgements(1_000, ("heel",)))
    change(rows)
    with pytest.raises(UserError) as error:
        load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows, head)))
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value))


def test_items_and_triplets_may_have_equal_splits(tmp_path):
    items(tmp_path, **THIRDS)
    assert load_dataset(config(tmp_path, write(tmp_path / "t.csv", by_split(), SPLIT_HEAD))).record.items["test"] == 10


@pytest.mark.parametrize("split_by", ["brand", "item", "id", ""])
def test_an_item_split_leaves_out_triplets_across_splits(tmp_path, split_by):
    """And counts them: with split_by, or a column of splits (here if it is empty)."""
    items(tmp_path, brand=[f"b{i // 3}" for i in range(N)], **({} if split_by else SEPARATE))
    rows = judgements(8_000, ("heel",))
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows), split_by=split_by))
    split = dict(zip(dataset.items.ids.tolist(), dataset.items.split.tolist(), strict=True))
    expected = {name: {tuple(row) for row in rows if {split[i] for i in row[:3]} == {name}} for name in SPLITS}
    assert named(dataset) == expected and all(expected.values())
    left_out = 8_000 - sum(map(len, expected.values()))
    assert f"triplets: {left_out:,} of 8,000 triplets name items of several splits and are left out" in dataset.notes
    assert dataset.record.split_unit == (split_by or "item")
    if split_by == "brand":
        assert all(split[f"i{i}"] == split[f"i{i // 3 * 3}"] for i in range(N))


def as_text(rows, separator=","):
    return "".join(separator.join(row) + "\n" for row in rows)


ROWS = judgements(120)
TRIPLES = [row[:3] for row in ROWS[:150]]
QUOTED = "".join(f'"{a}";"{n}";"{p}";"{c}"\r\n' for a, p, n, c in ROWS)
# text of a file: (its rows, words of a note)
TABLES = {
    "no names": (as_text(ROWS), ROWS, "line 1 is data, and the columns are read as anchor, positive, negative, cond"),
    "no names, tabs": (as_text(ROWS, "\t"), ROWS, "line 1 is data"),
    "no names, semicolon and space": (as_text(TRIPLES, "; "), TRIPLES, "line 1 is data"),
    "no names, spaces": (as_text(TRIPLES, " "), TRIPLES, "cells are separated by spaces"),
    "names and spaces": (as_text([HEAD[:3], *TRIPLES], " ") , TRIPLES, "cells are separated by spaces"),
    "no condition": (as_text([HEAD[:3], *TRIPLES]), TRIPLES, "all triplets are of one condition, similarity"),
    "head": (as_text([["head", "winner", "loser"], *TRIPLES]), TRIPLES, "head is read as anchor, winner is read as"),
    "other order": (
        as_text([["Loser", "Query", "Similar", "condition"], *([n, a, p, c] for a, p, n, c in ROWS)]), ROWS,
        "Loser is read as negative",
    ),
    "quotes": ('"reference";"far";"closer";"condition"\r\n' + QUOTED, ROWS, "far is read as negative"),
    "JSON lines": (
        "".join(json.dumps(dict(zip(HEAD, row, strict=True))) + "\n" for row in ROWS), ROWS, "",
    ),
    "other columns": (
        as_text([[*HEAD, "time", "country"], *([*row, "3.5", "de"] for row in ROWS)]), ROWS,
        "not read: country, time",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_crowds_give_them(name, tmp_path):
    """Every row is a triplet with its roles. What was inferred is a note."""
    text, rows, note = TABLES[name]
    items(tmp_path)
    (tmp_path / "t.csv").write_text(text)
    dataset = load_dataset(config(tmp_path, tmp_path / "t.csv"))
    expected = {(*row, *([] if len(row) > 3 else ["similarity"])) for row in rows}
    assert set.union(*named(dataset).values()) == expected
    assert sum(len(triplets.anchor) for triplets in dataset.triplets.values()) == len(rows)
    assert any(line.startswith("triplets: ") and note in line for line in dataset.notes)


def test_a_table_without_names_may_have_a_split_and_a_condition(tmp_path):
    items(tmp_path)
    rows = [[*row[:3], row[4], row[3], "w1"] for row in by_split()]
    (tmp_path / "t.csv").write_text(as_text(rows))
    dataset = load_dataset(config(tmp_path, tmp_path / "t.csv"))
    assert {split: len(triplets) for split, triplets in named(dataset).items()} == dict.fromkeys(SPLITS, 20)
    assert [condition.name for condition in dataset.items.conditions] == ["heel"]
    notes = "\n".join(dataset.notes)
    assert "anchor, positive, negative, split, condition, column 6" in notes and "not read: column 6" in notes


def test_one_condition_may_be_named_and_overall_is_renamed(tmp_path):
    items(tmp_path)
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", TRIPLES, HEAD[:3]), conditions=("taste",)))
    assert [condition.name for condition in dataset.items.conditions] == ["taste"]
    path = write(tmp_path / "t.csv", judgements(100, ("overall", "toe")))
    dataset = load_dataset(config(tmp_path, path))
    assert {condition.name for condition in dataset.items.conditions} == {"overall_similarity", "toe"}
    assert "condition overall is called overall_similarity" in "\n".join(dataset.notes)
    alone = load_dataset(config(tmp_path, path, conditions=("overall",)))
    assert [condition.name for condition in alone.items.conditions] == ["overall_similarity"]


def test_repeats_contradictions_and_raters_are_counted(tmp_path):
    """By a count over the rows."""
    items(tmp_path)
    rows = [[*row, f"w{i % 3}"] for i, row in enumerate(judgements(200, ("heel",)))]
    rows += [[a, n, p, c, "w1" if i < 4 else w] for i, (a, p, n, c, w) in enumerate(rows[:10])]  # 0 and 3 are of w0
    rows += [[*row[:4], "w7"] for row in rows[5:25]]
    dataset = load_dataset(config(tmp_path, write(tmp_path / "t.csv", rows, [*HEAD, "Worker ID"])))
    three = Counter(tuple(row[:4]) for row in rows)
    sides = {key: three[key[0], key[2], key[1], key[3]] for key in three}
    both = [key for key in three if sides[key] and key[1] < key[2]]
    floor = sum(min(three[key], sides[key]) for key in both) / len(rows)
    by_rater = {tuple(row) for row in rows}
    themselves = sum((a, n, p, c, w) in by_rater for a, p, n, c, w in by_rater) // 2
    assert themselves >= 6
    notes = "\n".join(dataset.notes)
    assert f"{len(rows) - len(three):,} of {len(rows):,} triplets repeat an earlier one" in notes
    assert f"{len(both)} questions were answered both ways" in notes and f"any model has {floor:.1%} of all" in notes
    times = Counter(row[4] for row in rows).values()
    raters = f"{len(times)} raters gave {min(times)} to {max(times)} triplets each"
    assert f"{raters} and contradicted themselves in {themselves} questions" in notes


def listed(name, line, text):
    def change(folder):
        path = folder / "tripletlists" / f"heel_tripletlist_{name}.txt"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[: line - 1], text, *lines[line:]]) + "\n")

    return change


def renamed(folder):
    path = folder / "filenames.json"
    path.write_text(path.read_text().replace("i7\n", "x7\n"))


# (change of the folder, words of the message)
LISTS = {
    "not an integer": (listed("val", 5, "3 x 5"), ["heel_tripletlist_val.txt, line 5", "'3 x 5'"]),
    "two numbers": (listed("val", 5, "3 5"), ["heel_tripletlist_val.txt, line 5", "three whole numbers"]),
    "negative": (listed("val", 5, "3 -5 6"), ["heel_tripletlist_val.txt, line 5"]),
    "no such line": (listed("test", 1, "3 30 5"), ["heel_tripletlist_test.txt, line 1", "item 30", "30 lines"]),
    "item twice": (listed("train", 20, "29 28 29"), ["heel_tripletlist_train.txt, line 20", "twice"]),
    "across splits": (listed("val", 5, "29 10 11"), ["heel_tripletlist_val.txt, line 5", "across splits"]),
    "unknown id": (renamed, ["'x7' in filenames.json", "not the id of an item"]),
    "unknown split": (
        lambda folder: (folder / "tripletlists" / "heel_tripletlist_eval.txt").write_text("0 1 2\n"),
        ["heel_tripletlist_eval.txt", "split is 'eval'"],
    ),
    "no filenames": (lambda folder: (folder / "filenames.json").unlink(), ["filenames.json cannot be read"]),
    "no lists": (lambda folder: shutil.rmtree(folder / "tripletlists"), ["no list of triplets"]),
    "no folder": (shutil.rmtree, ["does not exist"]),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_mistake_in_a_list_is_named_by_file_and_line(name, tmp_path):
    items(tmp_path)
    change, words = LISTS[name]
    folder, _ = reference(tmp_path / "lists")
    change(folder)
    with pytest.raises(UserError) as error:
        load_dataset(config(tmp_path, folder))
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value))


def test_a_loss_that_learns_from_labels_is_refused(tmp_path):
    with pytest.raises(UserError, match="batch_all, which learns from labels.*loss.name=triplet"):
        config(tmp_path, "t.csv", loss="batch_all").validate()


def test_own_triplets_may_name_glyphs(tmp_path):
    """By face/character."""
    from csn_jax.data.sources import glyphs

    face = glyphs.read_pack()[0][0]
    rows = [[f"{face}/{a}", f"{face}/{p}", f"{face}/{n}", "roundness"] for a, p, n in itertools.permutations("OCQX", 3)]
    data = DataConfig(triplets=str(write(tmp_path / "t.csv", rows)))
    dataset = load_dataset(Config(batch_size=4, data=data))
    assert set.union(*named(dataset).values()) == {tuple(row) for row in rows}
