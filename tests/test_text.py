"""Tables that fit a terminal, durations, lists of names, and messages of other libraries."""

import pytest

from csn_jax.text import duration, first_sentence, listed, shortened, table


def test_a_table_is_aligned_with_a_rule_under_the_head():
    assert table([("name", "error"), ("a", "1.5%"), ("font", "12%")]) == (
        "name  error\n----  -----\na      1.5%\nfont    12%"
    )


def test_columns_that_do_not_fit_stand_below_behind_the_first_again():
    rows = [("id", *(f"column {i}" for i in range(12))), *((f"item {i}", *["x" * i] * 12) for i in range(1, 15))]
    text = table(rows)
    assert max(map(len, text.splitlines())) <= 80
    blocks = text.split("\n\n")
    assert len(blocks) > 1 and all(block.startswith("id") and "\nitem 14" in block for block in blocks)
    assert [name for name in rows[0][1:] if name not in text] == []
    assert all(len(block.splitlines()) == len(rows) + 1 for block in blocks)


@pytest.mark.parametrize("long", ["i" * 200, "images/of/the/whole/shop/" + "x" * 60 + "/042.png"])
def test_long_cells_are_shortened_in_the_middle(long):
    text = table([("id", "value"), (long, "1"), ("b", long)])
    assert max(map(len, text.splitlines())) <= 80 and "..." in text
    assert long[:12] in text and long[-12:] in text


def test_a_cell_that_fits_beside_the_first_column_stays_whole():
    identifier = "x" * 60
    assert identifier in table([("rank", "id"), ("1", identifier)])


def test_shortening_keeps_the_length():
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 10) == "abcd...ijk"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (40, "40 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations_have_the_unit_of_a_person(seconds, text):
    assert duration(seconds) == text


def test_long_lists_are_counted_and_show_three_names():
    assert listed([]) == "" and listed("abcdefgh") == "a, b, c, d, e, f, g, h"
    assert listed("abcdefghi") == "a, b, c and 6 more"


def test_messages_of_other_libraries_become_one_short_line():
    assert first_sentence(ValueError("bad\n  magic 1.5. Try again.")) == "bad magic 1.5"
    assert first_sentence(EOFError()) == "EOFError" and len(first_sentence("x" * 500)) == 200
