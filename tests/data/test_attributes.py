"""Notations of cells: what is unknown, a number, a set or a code, and what the notes say about it."""

from pathlib import Path

import numpy as np
import pytest
import shop

from csn_jax.config import UNKNOWN, Config, DataConfig
from csn_jax.data.attributes import attribute_of
from csn_jax.data.columns import Columns
from csn_jax.data.sources.table import given_split, split_header
from csn_jax.data.triplets import by_gap, scale_of
from csn_jax.errors import UserError
from csn_jax.evaluate.retrieval import likeness

RNG = np.random.default_rng(0)


def attribute(values, name="new", kind=None, **data):
    columns = Columns(Path("t.csv"), {name: [str(value) for value in values]}, None, None)
    return attribute_of(columns, name, kind, DataConfig(**data))


@pytest.mark.parametrize("text", UNKNOWN)
def test_a_text_of_an_unknown_value_is_unknown(text):
    found = attribute(["red", "blue", text] * 4)
    assert found.values == ["red", "blue", ""] * 4
    assert (
        repr(text) in found.notes[0] and "in 4 rows is unknown" in found.notes[0] and "data.unknown" in found.notes[0]
    )
    assert attribute(["red", "blue", text] * 4, notations="plain").values == ["red", "blue", text] * 4


def test_what_is_unknown_can_be_said(tmp_path):
    """Namibia, and a word of one's own; numbers with blanks stay numbers."""
    assert attribute(["NA", "DE", "-"] * 3, unknown=("-",)).values == ["NA", "DE", ""] * 3
    assert attribute(["NA", "DE"] * 3, unknown=("",)).values == ["NA", "DE"] * 3
    found = attribute(["36", "37", "38", "tbd"] * 3, unknown=("tbd",))
    assert found.kind == "ordinal" and found.values == ["36", "37", "38", ""] * 3


# Texts of one column, their numbers.
WRITTEN = {
    "dollars": (["$1,299.00", "$5", "$12.50", "-$3.25"], [1299, 5, 12.5, -3.25]),
    "euros": (["1.299,00 €", "5 €", "12,5 €", "0,99 €"], [1299, 5, 12.5, 0.99]),
    "rupees": (["₹1,29,999", "₹999", "₹12,000.50"], [129999, 999, 12000.5]),
    "codes of money": (["EUR 10.5", "EUR 9", "EUR 1200"], [10.5, 9, 1200]),
    "kronor": (["1 299,50 kr", "99 kr", "5 kr"], [1299.5, 99, 5]),
    "percent": (["50 %", "12.5%", "-3 %"], [50, 12.5, -3]),
    "decimal commas": (["1,5", "0,125", "12"], [1.5, 0.125, 12]),
    "decimal commas of three digits": (["1,250", "0,750", "2,125"], [1.25, 0.75, 2.125]),
    "thousands": (["1,299,000", "12,000", "999"], [1299000, 12000, 999]),
    "thousands by dots": (["1.299.000", "12.000", "999"], [1299000, 12000, 999]),
    "thousands of Switzerland": (["1'299.50", "12’000", "7"], [1299.5, 12000, 7]),
    "narrow spaces": (["1\u202f299", "12\u00a0000,5", "7"], [1299, 12000.5, 7]),
    "accounts": (["(1,200.50)", "30", "4"], [-1200.5, 30, 4]),
    "exponents beside thousands": (["4E3", "1,200", "7"], [4000, 1200, 7]),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_numbers_are_read_as_people_write_them(name):
    texts, numbers = WRITTEN[name]
    found = attribute(texts * 3)
    assert found.kind == "ordinal" and [float(value) for value in found.values] == numbers * 3
    assert any("is read as" in note and "'" in note for note in found.notes)
    forced = attribute(texts * 3, kind="numeric")
    assert forced.values == found.values


NAMES = {
    "two currencies": (["$1", "€2", "$3.5"], "mix $ and €"),
    "percent and not": (["1 %", "2", "3 %"], "some values have a %"),
    "dates": (["01.02.2020", "02.02.2020", "03.02.2020"], ""),
    "versions": (["1.2.3", "1.2.4", "2.0.0"], ""),
    "sizes": (["10 cm", "12 cm", "8 cm"], ""),
    "codes with zeros": (["007", "042", "100"], ""),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_number_stays_a_name(name):
    texts, words = NAMES[name]
    found = attribute(texts * 3)
    assert found.kind == "categorical" and found.values == texts * 3
    assert any(words in note for note in found.notes) if words else not found.notes


SETS = {
    "semicolons": (["b;a", "a", "c; a"], "a ;"),
    "JSON": (['["b", "a"]', '["a"]', '["c","a"]'], "lists"),
    "Python": (["['b', 'a']", "['a']", "('c', 'a')"], "lists"),
    "sets of Python": (["{'b', 'a'}", "{'a'}", "{'c', 'a'}"], "lists"),
    "NumPy": (["['b' 'a']", "['a']", "['c' 'a']"], "lists"),
    "PostgreSQL": (["{b,a}", "{a}", '{c,"a"}'], "lists"),
    "pipes": (["b|a", "a", "c|a"], "a |"),
    "spaced pipes": (["b | a", "a", "a | c"], "a |"),
    "commas": (["b, a", "a", "c, a"], "a ,"),
}


@pytest.mark.parametrize("name", SETS)
def test_sets_are_recognised(name):
    texts, words = SETS[name]
    found = attribute([*texts, "NA"] * 3)
    assert found.kind == "set" and found.values == ["a;b", "a", "a;c", ""] * 3
    assert any("are sets" in note and words in note for note in found.notes)
    assert attribute(texts * 3, kind="categorical").values == texts * 3


@pytest.mark.parametrize(
    "texts",
    [
        ["Paris, France", "Lyon, France", "Rome, Italy"],
        [f"Shoe {i} | red" for i in range(9)],
        ["[0.5, 1.5]", "[1.0, 2.0]", "[0.1, 0.2]"],
        ["10,5 cm", "12,5 cm", "9,5 cm"],
        ["[new] a", "[old]", "[x] b"],
    ],
)
def test_texts_with_commas_are_not_sets(texts):
    assert attribute(texts * 2).kind == "categorical"


def test_a_column_can_be_forced_to_be_of_sets():
    """By the first mark that it has."""
    assert attribute(["Paris, France", "Rome, Italy"] * 2, kind="set").values == ["France;Paris", "Italy;Rome"] * 2
    assert attribute(["x | y, z", "x"] * 2, kind="set").values == ["x;y, z", "x"] * 2


CODES = {
    "by name": ("brand_id", [i % 30 for i in range(60)], "by the name"),
    "by a name in camels": ("colourGroupCode", [i % 5 for i in range(60)], "by the name"),
    "by length": ("new", [10_007 + 13 * (i // 2) for i in range(60)], "5 digits"),
    "19 digits": ("new", [1234567890123456789 + i // 2 for i in range(60)], "too long"),
}


@pytest.mark.parametrize("name", CODES)
def test_codes_are_categorical_unless_asked(name):
    column, values, words = CODES[name]
    found = attribute(values, column)
    assert found.kind == "categorical" and found.by_default and found.values == [str(value) for value in values]
    assert any("codes" in note and words in note and f"kinds {column}=numeric" in note for note in found.notes)
    assert attribute(values, column, "numeric").kind == "numeric"


@pytest.mark.parametrize(
    "values, kind",
    [
        ([1980 + i % 40 for i in range(80)], "numeric"),  # years
        ([12_000 + 500 * (i % 30) for i in range(60)], "numeric"),  # prices of cars
        ([1 + i % 5 for i in range(60)], "ordinal"),
    ],
)
def test_amounts_in_whole_numbers_are_not_codes(values, kind):
    found = attribute(values)
    assert found.kind == kind and any("different numbers" in note for note in found.notes)


HEAVY = {
    "lognormal": np.round(RNG.lognormal(3, 1.5, 400), 2),
    "pareto": np.round(RNG.pareto(1.1, 400), 3),
    "counts of sales": [int(n) for n in 10 ** RNG.uniform(0, 6, 400)],
    "one huge value": [*np.round(RNG.normal(50, 9, 399), 1), 999_999],
}


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_tails_are_compared_by_rank(name):
    """By gaps most pairs would be alike; by rank about a fifth is."""
    values = np.array(HEAVY[name], float)
    found = attribute(HEAVY[name])
    share = (np.abs(values[:, None] - values) < 0.1 * np.ptp(values))[np.triu_indices(len(values), 1)].mean()
    assert found.kind == "rank" and share > 0.5
    assert any(f"{share:.0%} of all pairs" in note and "=numeric" in note for note in found.notes)
    labels = np.array(found.values)
    codes = likeness(labels, "rank")
    alike = (codes.code[:, 0][:, None] >= codes.low[:, 0]) & (codes.code[:, 0][:, None] < codes.high[:, 0])
    assert 0.15 < alike.mean() < 0.25
    assert attribute(HEAVY[name], kind="numeric").kind == "numeric"


@pytest.mark.parametrize("values", [RNG.uniform(0, 1, 400), RNG.normal(0, 1, 400), RNG.gamma(9, 1, 400)])
def test_light_tails_are_compared_by_gaps(values):
    assert attribute(values).kind == "numeric"


def test_ranks_are_shares_of_the_items():
    """Equal numbers have their middle rank; the unknown has none. Triplets follow ranks, not gaps."""
    labels = np.array(["1", "1000000", "", "1", "5", "7"])
    scale = scale_of(labels, "rank")
    np.testing.assert_allclose(scale.values, [0.2, 0.9, np.nan, 0.2, 0.5, 0.7])
    assert scale.step == pytest.approx(0.07)
    numbers = np.sort(10 ** np.random.default_rng(0).uniform(0, 6, 100))
    scale = scale_of(numbers.astype(str), "rank")
    anchor, positive, negative = by_gap(scale.values, scale.step, scale.bins, 500, np.random.default_rng(1))
    assert (np.abs(negative - anchor) - np.abs(positive - anchor)).min() >= 9  # positions are ranks


def test_values_that_differ_only_in_case_are_noted():
    (note,) = attribute(["Red", "red", "BLUE", "blue", "x"] * 2).notes
    assert "'Red' and 'red' and 1 more differ only in case" in note
    assert "'A' and 'a' differ" in attribute(["A;b", "a"] * 3).notes[-1]


def test_values_that_look_alike_are_noted():
    """Accents of a Mac and of Windows, spaces of web pages, characters without width."""
    for one, other in (
        ("caf\u00e9", "cafe\u0301"),
        ("blue shoe", "blue\u00a0shoe"),
        ("shoe", "shoe\u200b"),
        ("a b", "a  b"),
    ):
        (note,) = attribute([one, other, "x"] * 2).notes
        assert note == f"new: {one!a} and {other!a} look alike and count as different values"
    assert attribute(["cafe", "caf\u00e9", "caf\u00e8"] * 2).notes == ()
    assert len(attribute(["Caf\u00e9", "cafe\u0301", "Cafe\u0301"] * 2).notes) == 2


@pytest.mark.parametrize("text", ["?", "n.a.", "#NUM!", "--"])
def test_other_texts_of_an_unknown_value(text):
    """As the UCI data sets, people and spreadsheets write it."""
    assert attribute(["red", text, "blue"] * 2).values == ["red", "", "blue"] * 2


SPLITS = {
    "Split": ["Train", "Valid", "TEST"],
    "SPLIT": ["training", "dev", "testing"],
    "split": ["train", "valid", "test"],
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_column_of_splits_is_recognised(name):
    columns = Columns(Path("t.csv"), {name: SPLITS[name]}, None, None)
    assert split_header(columns) == name and given_split(columns).tolist() == ["train", "validation", "test"]


def test_a_column_that_is_only_called_split_is_an_attribute():
    columns = Columns(Path("t.csv"), {"Split": ["banana", "cedar"]}, None, None)
    assert given_split(columns) is None
    columns = Columns(Path("t.csv"), {"Split": ["train", "test", "val"]}, None, None)
    assert given_split(columns, DataConfig(notations="plain")) is None


def test_a_run_from_before_notations_keeps_its_reading():
    """Its config.json has no such field, and its columns keep their kinds."""
    old = Config.from_json('{"data": {"source": "table", "path": "x.csv"}}')
    assert old.data.notations == "plain" and Config().data.notations == "common"
    assert Config.from_json(Config().to_json()).data.notations == "common"
    for values, kind in (
        ([10_007 + i // 2 for i in range(60)], "numeric"),
        (["['a']", "['b']"] * 3, "categorical"),
        (["$1", "$2", "$3"] * 3, "categorical"),
        (HEAVY["lognormal"], "numeric"),
        (["a|b", "b"] * 3, "categorical"),
        (["b;a", "a"] * 3, "set"),
    ):
        assert attribute(values, notations="plain").kind == kind


def test_a_forced_kind_that_needs_numbers_names_the_row():
    with pytest.raises(UserError, match=r"t.csv, row 2: new is '\$x', which is not a number, and kind rank needs"):
        attribute(["$1", "$x", "$2"], kind="rank")


def test_the_shop_is_read_as_before():
    """Plain notations give the same labels as common ones, where both can read."""
    columns = Columns(Path("t.csv"), shop.columns(), None, None)
    for name in ("category", "colour", "price", "size", "tags", "product"):
        common, plain = (attribute_of(columns, name, None, DataConfig(notations=way)) for way in ("common", "plain"))
        assert common[:3] == plain[:3]
