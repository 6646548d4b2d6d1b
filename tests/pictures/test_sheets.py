"""Pictures of a run."""

import dataclasses
import time

import numpy as np
import pytest
from PIL import Image

from csn_jax.data.dataset import Dataset
from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.model.model import Model
from csn_jax.pictures import sheets as pictures
from csn_jax.pictures.sheets import choose_queries, draw_all, draw_masks, draw_neighbours, nearest, order_dimensions
from csn_jax.report import charts


def make_items(n: int = 400, side: int = 32, channels: int = 1) -> ItemSet:
    """Items with labels shape and colour, whose picture is a uniform grey by shape."""
    rng = np.random.default_rng(0)
    shape, colour = rng.integers(20, size=n), rng.integers(15, size=n)
    inputs = np.broadcast_to((shape * 12)[:, None, None, None], (n, side, side, channels)).astype(np.uint8)
    labels = {"shape": np.char.add("s", shape.astype(str)), "colour": np.char.add("c", colour.astype(str))}
    conditions = tuple(Condition(name, "categorical") for name in labels)
    split = rng.choice(["train", "test"], size=n)
    return ItemSet(inputs, np.arange(n).astype(str), labels, split, conditions)


def separated(items: ItemSet) -> np.ndarray:
    """Embeddings [N, 4] with shapes in the first two dimensions and colours in the others."""
    rng = np.random.default_rng(1)
    parts = []
    for column in items.labels.values():
        _, value = np.unique(column, return_inverse=True)
        parts.append(rng.normal(size=(value.max() + 1, 2))[value] + rng.normal(0, 1e-3, size=(len(column), 2)))
    return np.concatenate(parts, axis=1).astype(np.float32)


MASKS = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.float32)


def draw(folder, items) -> dict[str, bytes]:
    folder.mkdir()
    model = Model(("shape", "colour"), MASKS, 1, items.inputs.shape[1:], None, MASKS.shape[1], False, *[None] * 7)
    draw_all(folder, model, separated(items), Dataset(items, {}, {}))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("side, channels", [(32, 1), (64, 1), (112, 3)])
def test_pictures_are_written_the_same_each_time(side, channels, tmp_path):
    """A heat map, and a sheet per condition, of a readable size, in grey and in colour."""
    items = make_items(side=side, channels=channels)
    first = draw(tmp_path / "a", items)
    assert set(first) == {"masks.png", "neighbours_shape.png", "neighbours_colour.png"}
    assert draw(tmp_path / "b", items) == first
    for name in first:
        with Image.open(tmp_path / "a" / name) as picture:
            width, height = picture.size
        assert 800 < width < 2500 and 200 < height < 2000
    assert first["neighbours_shape.png"] != first["neighbours_colour.png"]


def test_drawing_is_quick(tmp_path):
    """All pictures of a run with 4,000 test items."""
    items = make_items(8000)
    began = time.process_time()
    draw(tmp_path / "a", items)
    assert time.process_time() - began < 8


def frames(sheet: Image.Image) -> dict[str, int]:
    """How many neighbours are framed as alike and as other. All frames have the same number of pixels."""
    colours = np.asarray(sheet.convert("RGB"))[70:].reshape(-1, 3)  # below the legend
    side = 64
    pixels = (side + 8) ** 2 - side**2
    counts = {}
    for name, colour in (("alike", pictures.ALIKE), ("other", pictures.OTHER)):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        counts[name] = int((colours == rgb).all(axis=1).sum()) / pixels
    return counts


def test_frames_show_which_items_share_the_value():
    """Under the condition's own mask all neighbours are alike, under the other condition's mask they are not."""
    items = make_items(4000)
    queries, embeddings = choose_queries(items, 10), separated(items)
    for row, name in enumerate(("shape", "colour")):
        assert frames(draw_neighbours(items, queries, embeddings * MASKS[row], name)) == {"alike": 120, "other": 0}
        swapped = frames(draw_neighbours(items, queries, embeddings * MASKS[1 - row], name))
        assert swapped["alike"] + swapped["other"] == 120 and swapped["other"] > 80


def test_nearest_is_a_naive_sort():
    """The k nearest of the gallery by masked distance, in order, without the query."""
    rng = np.random.default_rng(0)
    masked = rng.normal(size=(90, 5))
    gallery, queries = rng.permutation(90)[:50], np.array([3, 4, 5, 6])
    found = nearest(masked, queries, gallery, 12)
    for query, row in zip(queries, found, strict=True):
        others = [i for i in gallery if i != query]
        assert row.tolist() == sorted(others, key=lambda i: np.linalg.norm(masked[i] - masked[query]))[:12]  # noqa: B023
    # Other items at distance 0 stay.
    same = np.zeros((5, 2))
    assert nearest(same, np.array([2]), np.arange(5), 4).tolist() == [[0, 1, 3, 4]]


def test_queries_are_test_items_of_different_values():
    """Ten queries have ten shapes and ten colours. Of three values, each occurs at most four times. Missing values do
    not occur. The choice is always the same."""
    items = make_items()
    queries = choose_queries(items, 10)
    assert len(set(queries)) == 10 and set(items.split[queries]) == {"test"}
    assert all(len(set(column[queries])) == 10 for column in items.labels.values())
    np.testing.assert_array_equal(queries, choose_queries(items, 10))

    heel = np.random.default_rng(2).choice(["", "flat", "high", "mid"], size=400)
    three = dataclasses.replace(items, labels=items.labels | {"shape": heel})
    queries = choose_queries(three, 10)
    values, times = np.unique(heel[queries], return_counts=True)
    assert len(queries) == 10 and "" not in values and times.max() <= 4


def test_items_without_a_value_are_left_out(tmp_path):
    """If no item has all its values, there are still queries. A sheet shows those with a value of its condition."""
    items = make_items()
    labels = {name: column.copy() for name, column in items.labels.items()}
    labels["shape"][::2] = ""
    labels["colour"][1::2] = ""
    half = dataclasses.replace(items, labels=labels)
    queries = choose_queries(half, 10)
    assert len(queries) == 10
    sheet = draw_neighbours(half, queries, separated(items) * MASKS[0], "shape")
    shown = sum(labels["shape"][queries] != "")
    assert 0 < shown < 10 and sum(frames(sheet).values()) == 12 * shown
    labels["shape"][:] = ""
    assert len(draw(tmp_path / "none", half)) == 3


def of_kind(kind: str, column: list[str]) -> tuple[ItemSet, np.ndarray]:
    """Test items along a line, with values of one condition, and their embeddings [N, 2]."""
    items = dataclasses.replace(
        make_items(len(column)),
        labels={"condition": np.array(column)} if kind != "triplets" else {},
        split=np.full(len(column), "test"),
        conditions=(Condition("condition", kind),),
    )
    return items, np.stack([np.arange(len(column)), np.zeros(len(column))], axis=1).astype(np.float32)


def test_alike_depends_on_the_kind_of_the_condition():
    """Numbers closer than a tenth of the range, sets that share a member, among all labelled test items."""
    query = np.array([50])
    items, line = of_kind("numeric", [str(i) for i in range(101)])
    assert frames(draw_neighbours(items, query, line, "condition")) == {"alike": 12, "other": 0}
    items, line = of_kind("numeric", [str(i * i) for i in range(101)])  # 45 to 54 are near 50, of 44 to 56
    near = sum(abs(i * i - 2500) < 1000 for i in (*range(44, 50), *range(51, 57)))
    assert frames(draw_neighbours(items, query, line, "condition")) == {"alike": near, "other": 12 - near}
    items, line = of_kind("set", ["a;b" if i % 3 else "c" for i in range(50)] + ["b;d"] + ["", "b"] * 25)
    assert frames(draw_neighbours(items, query, line, "condition")) == {"alike": 9, "other": 3}  # 48, 45 and 42


def test_conditions_without_labels_have_sheets_without_frames():
    """As from triplets of people."""
    items, line = of_kind("triplets", [""] * 40)
    queries = choose_queries(items, 10)
    assert len(queries) == 10
    sheet = draw_neighbours(items, queries, line, "condition")
    assert frames(sheet) == {"alike": 0, "other": 0} and sheet.height > 10 * 64


def test_vectors_have_no_sheets(tmp_path):
    items = make_items()
    vectors = dataclasses.replace(items, inputs=np.zeros((400, 5), np.float32))
    assert set(draw(tmp_path / "a", vectors)) == {"masks.png"}


def test_few_test_items_still_make_a_sheet(tmp_path):
    """Fewer test items than the sheet has room for."""
    items = make_items(400)
    split = np.full(400, "train")
    split[:5] = "test"
    assert len(draw(tmp_path / "few", dataclasses.replace(items, split=split))) == 3


def test_values_of_any_length_and_script_are_cut_to_fit():
    items = make_items()
    odd = np.char.add(items.labels["shape"].astype("<U90"), " ü\n漢字 " * 12)
    items = dataclasses.replace(items, labels=items.labels | {"shape": odd})
    queries = choose_queries(items, 10)
    sheet = draw_neighbours(items, queries, separated(items) * MASKS[0], "shape")
    assert (np.asarray(sheet)[80:, 160:168] == 255).all()  # the space between value and picture


def test_dimensions_are_grouped_by_their_strongest_condition():
    """Private ones of the first, shared ones, private ones of the last, then those that no mask uses."""
    masks = np.array(
        [
            [0.0, 0.9, 0.5, 0.0, 2.0, 0.0, 0.7],
            [1.0, 0.0, 0.6, 0.0, 0.0, 0.0, 0.5],
        ]
    )
    assert order_dimensions(masks).tolist() == [4, 1, 6, 2, 0, 3, 5]
    rng = np.random.default_rng(0)
    masks = np.maximum(rng.normal(0, 1, size=(4, 64)), 0)
    masks[:, 60:] = 0
    order = order_dimensions(masks)
    assert sorted(order) == list(range(64))
    dead = (masks == 0).all(axis=0)
    assert dead[order].tolist() == sorted(dead)
    owners = masks.argmax(axis=0)[order][: (~dead).sum()]
    assert owners.tolist() == sorted(owners)
    assert order_dimensions(np.ones((1, 3))).tolist() == [0, 1, 2]


def test_masks_of_any_number_of_conditions(tmp_path):
    """One condition, many, and all-zero masks draw without a warning."""
    for n in (1, 2, 12):
        draw_masks(tmp_path / f"{n}.png", np.eye(n, 16, dtype=np.float32), tuple(f"condition {i}" for i in range(n)))
    draw_masks(tmp_path / "0.png", np.zeros((2, 16), np.float32), ("a", "b"))
    assert len(list(tmp_path.iterdir())) == 4


def test_names_with_dollars_are_not_formulas(tmp_path):
    """Matplotlib reads a formula between two dollars, and fails if it is not one."""
    names = ("US$ % $", "$^$")
    pictures.draw_masks(tmp_path / "a.png", MASKS, names)
    pictures.draw_masks(tmp_path / "b.png", MASKS, ("US$ % $", "a"))
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    charts.draw_masks([("learned, backbone.init $^$", MASKS)], names)
