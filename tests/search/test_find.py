"""Weights and filters as the command line words them, and how items spell the paths of pictures."""

import pytest
import tiny

from csn_jax.errors import UserError
from csn_jax.search.find import parse_weights, rows_by_picture, spellings


def test_names_may_contain_an_equals_sign():
    assert parse_weights(["a=b", "a"], ("a=b", "a")) == {"a=b": 1.0, "a": 1.0}
    assert parse_weights(["a=b=2"], ("a=b", "a")) == {"a=b": 2.0}


MISTAKES = {
    "none": (lambda: parse_weights([], ("colour", "size")), ["no --condition", "colour, size"]),
    "twice": (lambda: parse_weights(["colour", "colour=2"], ("colour",)), ["--condition", "colour twice"]),
    "text": (lambda: parse_weights(["colour=much"], ("colour",)), ["--condition", "'much'", "colour=0.5"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    parse, words = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        parse()
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value).removesuffix("."))


def test_the_row_of_a_picture_however_the_table_spells_its_path(tmp_path):
    """With `./`, as a link to another picture, as an absolute path, with a detour. The first of equal rows counts."""
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "4.jpg", "7.jpg", "10.jpg", "13.jpg"):
        (tmp_path / "images" / name).touch()
    (tmp_path / "images/link.jpg").symlink_to("13.jpg")
    names = ["./images/13.jpg", "images/link.jpg", "images/1.jpg", f"{tmp_path}/images/4.jpg"]
    names += ["images//10.jpg", "images/../images/7.jpg", "elsewhere/1.jpg", "images/1.jpg"]
    row_of = rows_by_picture(names, {"kind": "table", "root": str(tmp_path)})
    assert [row_of(tmp_path / name) for name in names] == [0, 1, 2, 3, 4, 5, 6, 2]
    assert row_of(tmp_path / "images/2.jpg") == row_of(tmp_path / "1.jpg") == -1
    for pictures in ({"kind": "table", "root": str(tmp_path / "images/below")}, {"kind": "split"}):
        assert rows_by_picture(names, pictures)(tmp_path / "images/1.jpg") == -1


def test_a_store_is_asked_for_the_usual_spellings(tmp_path):
    """A store finds items by the exact text of the path."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.jpg").touch()
    pictures, path = {"kind": "table", "root": str(tmp_path)}, tmp_path / "a" / ".." / "a" / "x.jpg"
    assert spellings(path, pictures) == ["a/x.jpg", "./a/x.jpg", f"{tmp_path}/a/x.jpg"]
    assert spellings(path, pictures | {"root": str(tmp_path / "b")}) == spellings(path, {"kind": "split"}) == []
