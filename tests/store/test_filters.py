"""Filters: ranges of numbers and dates as tables write them, values, and what is refused."""

import numpy as np
import pytest
import tiny

from csn_jax.errors import UserError
from csn_jax.store.filters import Rule, parse_rules, passing, rules_of

COLUMNS = {
    "price": ["19.90", "50", "", "7", "1e3"],
    "euro": ["19,90", "1.299,00", "50,00", "", "7,50"],
    "dollar": ["$19.90", "$1,299.00", "$50", "", "$7.50"],
    "date": ["2011-05-01", "2012-01-31", "2012-02-01 10:00:00", "", "2010-12-31"],
    "sizes": ["38;39", "40", "", "41;42", "37"],
    "colour": ["red", "blue", "", "red", "green"],
    "materials": ['["wool","silk"]', '["cotton"]', '["silk"]', "[]", '["wool"]'],
    "band": ["<50", "50-100", ">100", "<50", ""],
    "a<b": ["1", "2", "3", "4", "5"],
}
COLUMNS = {name: np.array(values, object) for name, values in COLUMNS.items()}
PASSING = {
    "less": (["price<50"], [0, 3]),
    "at most": (["price<=50"], [0, 1, 3]),
    "between": (["price > 7", "price < 1000"], [0, 1]),
    "equal numbers": (["price=19.9"], [0]),
    "twice the sign": (["price==50"], [1]),
    "decimal commas": (["euro<50"], [0, 4]),
    "a bound with a decimal comma": (["euro>=49,90"], [1, 2]),
    "money": (["dollar>=50"], [1, 2]),
    "a bound of money": (["dollar<$20"], [0, 4]),
    "a year of dates": (["date>=2012"], [1, 2]),
    "a month": (["date<=2012-01"], [0, 1, 4]),
    "a day": (["date>2011-05-01", "date<=2012-02-01"], [1, 2]),
    "members of sets": (["sizes>=39", "sizes<42"], [0, 1, 3]),
    "one of two": (["colour=red", "colour=blue"], [0, 1, 3]),
    "neither of two": (["colour!=red", "colour!=blue"], [2, 4]),
    "blank": (["colour="], [2]),
    "known": (["colour!="], [0, 1, 3, 4]),
    "a member of a JSON list": (["materials=silk"], [0, 2]),
    "a name with a sign": (["a<b<3"], [0, 1]),
    "a value with a sign": (["band=<50"], [0, 3]),
    "mapping": ({"price": {"<": 50, ">=": 7.5}}, [0]),
    "mapping of text": ({"price": "<50"}, [0, 3]),
    "mapping of a number": ({"price": 19.9}, [0]),
    "mapping of an array": ({"price": np.array([7, 50])}, [1, 3]),
    "mapping of unequal": ({"colour": {"!=": ["red", ""]}}, [1, 4]),
}


@pytest.mark.parametrize("name", PASSING)
def test_the_items_that_pass(name):
    filters, rows = PASSING[name]
    assert np.flatnonzero(passing(COLUMNS, filters, "the index")).tolist() == rows


REFUSED = {
    "no sign": (["price"], ["the filter price has no value", "'price<50'"]),
    "unknown column": (["prize<50"], ["'prize' (did you mean price?)"]),
    "words": (["colour<5"], ["'colour'", "no numbers or dates", "'blue'", "colour=VALUE"]),
    "a word as bound": (["price<cheap"], ["price<cheap", "a number", "'cheap'"]),
    "a word as date": (["date<spring"], ["date<spring", "2024-12-31"]),
    "two bounds": ({"price": {"<": [1, 2]}}, ["'price'", "2 bounds behind <"]),
    "unknown value": (["colour=reed"], ["'reed' (did you mean red?)", "blue, green, red"]),
    "unknown member": (["materials=wol"], ["'wol' (did you mean wool?)", "cotton, silk, wool"]),
    "another type": (5, ["filters are 5"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes(name):
    filters, words = REFUSED[name]
    with pytest.raises(UserError) as error:
        passing(COLUMNS, filters, "the index")
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value).removesuffix("."))


def test_names_may_contain_an_equals_sign():
    rules = parse_rules(["a=b=c", "d=e=f", "a=b="], {"a=b", "d"})
    assert rules == [Rule("a=b", "=", ("c", "")), Rule("d", "=", ("e=f",))]
    assert rules_of(rules, ()) == rules and rules_of({}, ()) == rules_of(None, ()) == []
    with pytest.raises(UserError, match="--filter=colour has no value; give COLUMN=VALUE"):
        parse_rules(["colour"], {"colour"})
