"""The page's program against csn_jax adapt and naive loops: fit, triplets, errors, choices."""

import itertools

import numpy as np
import pytest

from csn_jax.adapt import fit, forms
from csn_jax.data.triplets import Triplets


def drawn(n=60, k=20, n_triplets=150, seed=0):
    """Points [n, k], and triplets by weights of which half are 0."""
    rng = np.random.default_rng(seed)
    points = rng.normal(0, rng.uniform(0.2, 2, k), (n, k)).astype(np.float32)
    weights = rng.uniform(0, 3, k) * (rng.random(k) < 0.5)
    three = np.array([rng.choice(n, 3, replace=False) for _ in range(n_triplets)])
    square = [np.square(points[three[:, 0]] - points[three[:, role]]) @ weights for role in (1, 2)]
    swap = (square[0] > square[1]) ^ (rng.random(n_triplets) < 0.05)
    three[swap] = three[swap][:, [0, 2, 1]]
    return points, three


@pytest.mark.parametrize("seed", [0, 1])
def test_the_fit_is_that_of_adapt(node, seed):
    points, three = drawn(seed=seed)
    code = "return path(gainsOf(points, 20, three), 20).map((w) => [...w])"
    found = np.array(node(code, points=points.ravel().tolist(), three=three.tolist()))
    np.testing.assert_allclose(found, fit.path(fit.gains(points, *three.T)), rtol=1e-6, atol=1e-6)
    diagonals = forms.diagonals(points, Triplets(*three.T, np.zeros(len(three), int)))
    np.testing.assert_allclose(np.sqrt(found), np.diagonal(diagonals, axis1=1, axis2=2), rtol=1e-5, atol=1e-4)


def test_three_hundred_answers_are_fitted_in_a_moment(node):
    """A fit of 128 weights to 300 triplets takes less than 100 ms of CPU time, once it is compiled."""
    points, three = drawn(300, 128, 300)
    code = """
    const gain = gainsOf(points, 128, three);
    const times = [];
    for (let i = 0; i < 7; i++) {
      const began = process.cpuUsage();
      fit(gain, 128, 1);
      times.push(process.cpuUsage(began).user / 1000);
    }
    return times.sort((a, b) => a - b)[1]"""
    assert node(code, points=points.ravel().tolist(), three=three.tolist()) < 100


def test_triplets_of_values_are_balanced_and_right(node):
    values = ["a"] * 50 + ["b"] * 5 + ["c"] * 2 + ["d"]
    answers = [{"item": 7 * i, "value": value} for i, value in enumerate(values)]
    triplets = node("return tripletsOfValues(answers, randomOf(0))", answers=answers)
    value_of = {answer["item"]: answer["value"] for answer in answers}
    assert len(triplets) == 1000
    count = {}
    for anchor, positive, negative in triplets:
        assert anchor != positive and value_of[anchor] == value_of[positive] != value_of[negative]
        count[value_of[anchor]] = count.get(value_of[anchor], 0) + 1
    assert set(count) == {"a", "b", "c"} and min(count.values()) > 270
    assert node("return tripletsOfValues(answers, randomOf(0))", answers=answers[:50]) == []


def test_what_is_selected_on_a_screen_is_alike_among_itself(node):
    answer = {"item": 1, "shown": [2, 3, 4, 5], "alike": [3, 5]}
    triplets = node("return tripletsOfScreens([answer], randomOf(0))", answer=answer)
    assert sorted(triplets) == sorted([a, b, n] for a in (1, 3, 5) for b in (1, 3, 5) for n in (2, 4) if a != b)
    assert node("return tripletsOfScreens([{ ...answer, alike: [] }], randomOf(0))", answer=answer) == []


def naive_error(points, w, items, values):
    parts = []
    for i in range(len(items)):
        wrong = []
        for p, q in itertools.permutations(range(len(items)), 2):
            if i not in (p, q) and values[p] == values[i] != values[q]:
                near, far = (np.square(points[items[i]] - points[items[j]]) @ w for j in (p, q))
                wrong.append(far <= near)
        if wrong:
            parts.append(np.mean(wrong))
    return np.mean(parts)


def test_the_error_is_that_of_a_naive_loop_and_its_interval_a_jackknife(node):
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (40, 3))
    w, items = np.array([1.0, 0.5, 0.0]), rng.permutation(40)[:14]
    values = ["ab"[int(points[i, 0] > 0)] if i % 5 else "c" for i in items]
    answers = [{"item": int(i), "value": value} for i, value in zip(items, values, strict=True)]
    found = node(
        "return errorOfValues(points, 3, w, answers)", points=points.ravel().tolist(), w=w.tolist(), answers=answers
    )
    assert found["error"] == pytest.approx(naive_error(points, w, items, values), abs=1e-12)
    without = [
        naive_error(points, w, np.delete(items, l), [value for j, value in enumerate(values) if j != l])
        for l in range(14)  # noqa: E741
    ]
    deviation = np.sqrt(13 / 14 * np.square(np.array(without) - np.mean(without)).sum())
    assert found["half"] == pytest.approx(2.16 * deviation, rel=0.01)


def test_the_error_of_screens_counts_each_alike(node):
    points = [0.0, 1.0, 2.0, 3.0, 4.0]
    screens = [
        {"item": 0, "shown": [1, 2, 3], "alike": [1]},  # right
        {"item": 0, "shown": [1, 2, 3], "alike": [3]},  # wrong
        {"item": 2, "shown": [1, 3, 4], "alike": [4]},  # wrong
        {"item": 0, "shown": [1, 4], "alike": [1]},  # right
        {"item": 0, "shown": [1, 4], "alike": []},  # says nothing
    ]
    found = node("return errorOfScreens(points, 1, [1], screens)", points=points, screens=screens)
    assert found["error"] == 0.5 and found["half"] == pytest.approx(3.19 * np.sqrt(1 / 3) / 2, rel=0.01)


TEACH = """
const flat = Float32Array.from(points.flat());
const teacher = new Teacher({ points: flat, n: points.length, k: points[0].length, ask, choosing });
const answers = [];
for (let i = 0; i < total; i++) {
  const question = teacher.next(answers);
  const value = values[question.item];
  const alike = question.shown?.filter((other) => values[other] === value);
  answers.push({ ...question, ...(ask === "grid" ? { alike } : { value }) });
  if (i % 10 === 9) teacher.learn(answers);
}
return { answers, learned: teacher.learn(answers), held: teacher.held };"""


@pytest.fixture(scope="module")
def world():
    """Points whose first axis alone has the values, one of them rare; and more axes of noise."""
    rng = np.random.default_rng(0)
    values = rng.choice(list("aaaaaabbbc"), 400)
    points = rng.normal(0, 1, (400, 12))
    points[:, 0] = [{"a": 0, "b": 2, "c": 4}[value] for value in values] + rng.normal(0, 0.4, 400)
    return points.astype(np.float32).tolist(), values.tolist()


@pytest.mark.parametrize("ask", ["values", "grid"])
def test_a_page_learns_from_answers(node, world, ask):
    points, values = world
    found = node(TEACH, points=points, values=values, ask=ask, choosing=True, total=60 if ask == "values" else 30)
    learned = found["learned"]
    assert np.argmax(learned["weights"]) == 0 and learned["error"]["error"] < learned["raw"]["error"] - 0.1
    assert learned["held"] == len(found["answers"]) / 5 == sum(one["random"] for one in found["answers"])
    held = set(found["held"])
    for one in found["answers"]:  # what measures is never chosen, what is chosen never measures
        assert {one["item"], *one.get("shown", ())} <= held if one["random"] else not {one["item"]} & held
        assert len(set(one.get("shown", range(12)))) == 12 and one["item"] not in one.get("shown", ())


def test_random_questions_are_the_same_for_everybody(node, world):
    points, values = world
    asked = []
    for other in (values, ["x" if value == "a" else "y" for value in values]):
        for ask in ("values", "grid"):
            found = node(TEACH, points=points, values=other, ask=ask, choosing=True, total=30)
            asked.append([(one["item"], one.get("shown")) for one in found["answers"] if one["random"]])
    assert asked[0] == asked[2] and asked[1] == asked[3] and asked[0] != asked[1]


def test_rare_values_are_asked_for(node, world):
    points, values = world
    found = {}
    for choosing in (True, False):
        answers = node(TEACH, points=points, values=values, ask="values", choosing=choosing, total=60)["answers"]
        found[choosing] = sum(one["value"] == "c" for one in answers if not one["random"])
    assert found[True] > 1.5 * found[False]


def test_screens_show_what_earlier_ones_were_about(node, world):
    points, values = world
    answers = node(TEACH, points=points, values=values, ask="grid", choosing=True, total=30)["answers"]
    before = set()
    for one in [one for one in answers if not one["random"]]:
        shown = one["shown"]
        assert len({one["item"], *shown}) == 13 and len(before.intersection(shown)) >= min(5, len(before))
        before |= {one["item"]} if one["alike"] else set()
    assert len(before) > 10


def test_contradictions_are_named(node, world):
    points, values = world
    told = [{"item": i, "value": values[i], "random": False} for i in range(120)]
    wrong = next(i for i in range(120) if values[i] == "a")
    told[wrong]["value"] = "c"
    code = """
    const teacher = new Teacher({ points: Float32Array.from(points.flat()), n: points.length, k: 12, ask: "values" });
    return teacher.learn(told).doubts"""
    assert any((one["item"], one["like"]) == (wrong, "a") for one in node(code, points=points, told=told))
    screens = [
        {"item": 1, "shown": [2, 3, 4], "alike": [2], "random": False},
        {"item": 2, "shown": [1, 5, 6], "alike": [5], "random": False},
        {"item": 7, "shown": [1, 2, 3], "alike": [3], "random": False},
    ]
    code = code.replace('"values"', '"grid"')
    pairs = node(code, points=points, told=screens)
    assert [{one["item"], one["other"]} for one in pairs] == [{1, 2}]
