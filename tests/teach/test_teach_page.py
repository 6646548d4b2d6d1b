"""The page of csn_jax teach in a browser, by keys alone: both ways to ask, undo, what it keeps and saves."""

import csv

import numpy as np
import pytest
import showcase
from browsing import until
from showcase import HOSTILE

from csn_jax.pictures.page_data import Column
from csn_jax.pictures.page_sheets import Thumbnails
from csn_jax.runtime.whole import write_folder
from csn_jax.teach.folder import MARK, OURS, page_files
from csn_jax.teach.items import Asked

pytestmark = pytest.mark.browser

N = 90


@pytest.fixture(scope="module")
def shown():
    """N items in three groups that their vectors show, with hostile ids and labels."""
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (N, 8)).astype(np.float32)
    points[np.arange(N), np.arange(N) % 3] += 6
    labelled = showcase.items(N)
    columns = [Column(name, "categorical", labelled.labels[name]) for name in ("shape", HOSTILE)]
    pictures = rng.integers(0, 256, (N, 24, 24, 3), np.uint8)
    thumbnails = Thumbnails(lambda some, _: [None if i == 5 else pictures[i] for i in some], 24)
    return Asked(labelled.ids, points, columns, thumbnails, 2 * N, f"{HOSTILE}.parquet")


@pytest.fixture(scope="module")
def addresses(shown, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("teach") / "a page # of 100%", {}
    for ask, values in (("values", [HOSTILE]), ("grid", [])):
        files = page_files(shown, HOSTILE, ask, values, f"csn_jax adapt --condition={HOSTILE}")
        write_folder(folder / ask, files, OURS, MARK)
        found[ask] = (folder / ask / "index.html").as_uri()
    return found


def press(page, *keys):
    for key in keys:
        until(page, "question !== null")
        page.keyboard.press(key)


def answers(page):
    return page.evaluate("state.answers")


def saved(page):
    with page.expect_download() as download:
        page.locator("#save").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        return download.value.suggested_filename, list(csv.reader(file))


def test_values_by_keys_alone(visit, addresses, shown):
    page = visit(addresses["values"])
    assert page.locator("#question").inner_text() == f"Which {HOSTILE}?" and page.evaluate("window.hacked") is None
    first = page.evaluate("question.item")
    page.keyboard.type("round")
    assert page.locator("#typed-hint").inner_text() == "Enter: the new value “round”"
    page.keyboard.press("Enter")
    press(page, "1", "2")  # the value from the start, and the new one
    until(page, "question !== null")
    page.keyboard.type("ro")
    assert page.locator("#typed-hint").inner_text() == "Enter: round; Shift+Enter: the new value “ro”"
    page.keyboard.press("Shift+Enter")
    until(page, "question !== null")
    page.keyboard.type("r")
    assert page.locator("#typed-hint").inner_text() == "round, ro begin so: type more; Shift+Enter: the new value “r”"
    page.keyboard.press("Enter")
    assert len(answers(page)) == 4  # neither of both, and no third
    page.keyboard.press("Escape")
    press(page, "0", "3")
    assert [one["value"] for one in answers(page)] == ["round", HOSTILE, "round", "ro", None, "ro"]
    assert [one["random"] for one in answers(page)] == [True, False, False, False, False, True]
    last = answers(page)[-1]["item"]
    press(page, "Backspace")
    assert len(answers(page)) == 5 and page.evaluate("question.item") == last
    name, rows = saved(page)
    assert "Saved 4 answers as labels.csv" in page.locator("#saved").inner_text()
    assert name == "labels.csv" and rows[0] == ["id", HOSTILE, "rater"] and rows[1] == [shown.ids[first], "round", ""]
    assert len(rows) == 5  # without the one that nobody can say
    page.locator("#rater").fill("anna 1")
    assert saved(page)[1][1][2] == "anna 1" and len(answers(page)) == 5
    before = answers(page)
    page.reload()
    until(page, "isSettled()")
    assert answers(page) == before and page.evaluate("state.values") == [HOSTILE, "round", "ro"]
    assert page.evaluate("question.item") not in [one["item"] for one in before]
    assert page.locator("#rater").input_value() == "anna 1"


def test_a_person_teaches_by_values(visit, addresses, shown):
    """The page learns the groups, says how well, and asks again where an answer stands apart."""
    page = visit(addresses["values"])
    for i in range(60):
        until(page, "question !== null")
        item = page.evaluate("question.item")
        value = "abc"[item % 3]
        if i == 31:
            value, odd = "abc"[(item + 1) % 3], item
        if i < 12:
            page.keyboard.type(value)
            page.keyboard.press("Enter")
        else:
            page.keyboard.press(str(1 + page.evaluate("state.values").index(value)))
    until(page, "isSettled() && learned.answers === 60")
    weights = page.evaluate("learned.weights")
    assert set(np.argsort(weights)[-2:].tolist()) < {0, 1, 2} and page.locator("#errors .error").count() == 2
    assert "60 items answered." in page.locator("#progress").inner_text()
    assert "random answers that it did not learn from" in page.locator("#advice").inner_text()
    doubts = page.evaluate("learned.doubts")
    assert odd in [one["item"] for one in doubts]
    page.locator("#doubts button").nth([one["item"] for one in doubts].index(odd)).click()
    assert page.evaluate("question.item") == odd and page.locator("#why").inner_text() == "Asked again."
    page.keyboard.press(str(1 + page.evaluate("state.values").index("abc"[odd % 3])))
    until(page, f"isSettled() && !learned.doubts.some((one) => one.item === {odd})")
    assert len(answers(page)) == 60


def test_values_are_renamed_and_merged(visit, addresses):
    page = visit(addresses["values"])
    for text in ("round", "rond", "flat", "rond"):
        until(page, "question !== null")
        page.keyboard.type(text)
        page.keyboard.press("Shift+Enter")
    said = iter(["ron", "round", "nothing", "flat", HOSTILE + "2"])
    page.on("dialog", lambda dialog: dialog.accept(next(said)))
    page.locator("#rename").click()
    assert [one["value"] for one in answers(page)] == ["round", "round", "flat", "round"]
    assert page.evaluate("state.values") == [HOSTILE, "round", "flat"]
    page.locator("#rename").click()  # there is no value that begins so
    page.locator("#rename").click()
    page.reload()
    until(page, "isSettled()")
    assert [one["value"] for one in answers(page)] == ["round", "round", HOSTILE + "2", "round"]
    assert page.evaluate("window.hacked") is None


def test_a_list_that_goes_on_below_fades_out(visit, addresses):
    page = visit(addresses["values"], width=390, height=700)
    until(page, "question !== null")
    choices = page.locator("#choices")
    assert choices.get_attribute("class") == "choices"
    page.evaluate("state.values.push(...Array.from({ length: 60 }, (_, i) => `value ${i}`)); showChoices()")
    assert choices.get_attribute("class") == "choices cut"
    page.evaluate("document.getElementById('choices').scrollTop = 1e6")
    until(page, "!document.getElementById('choices').classList.contains('cut')")


def test_how_many_more_is_round(visit, addresses):
    counts = visit(addresses["values"]).evaluate("[1, 7, 37, 52, 137, 260].map(rounded)")
    assert counts == [1, 7, 40, 55, 150, 300]


def test_a_grid_by_keys_alone(visit, addresses, shown):
    page = visit(addresses["grid"])
    until(page, "question !== null")
    cells = page.locator(".cell")
    assert cells.count() == 12 and "none is alike" in page.locator("#done").inner_text()
    first = page.evaluate("question")
    page.keyboard.press("q")
    page.keyboard.press("ArrowRight")  # to the first cell
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert cells.nth(0).get_attribute("aria-pressed") == cells.nth(1).get_attribute("aria-pressed") == "true"
    page.keyboard.press("h")
    page.keyboard.press("h")
    page.keyboard.press("Enter")
    press(page, "Enter", "0")
    given = answers(page)
    assert [one["alike"] for one in given] == [first["shown"][:2], [], None]
    until(page, "question !== null")
    name, rows = saved(page)
    assert name == "triplets.csv" and rows[0] == ["anchor", "positive", "negative", "condition", "rater", "screen"]
    ids, same = shown.ids, [first["item"], *first["shown"][:2]]
    triplets = [(a, b, n) for a in same for b in same if a != b for n in first["shown"][2:]]
    assert [row[:3] for row in rows[1:]] == [[ids[item] for item in triplet] for triplet in triplets]
    assert {(row[3], row[5]) for row in rows[1:]} == {(HOSTILE, ids[first["item"]])}
    press(page, "Backspace")
    assert len(answers(page)) == 2 and page.evaluate("window.hacked") is None
    page.reload()
    until(page, "isSettled()")
    assert answers(page) == given[:2]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("ask", ["values", "grid"])
@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
def test_a_page_fits_and_is_legible(visit, addresses, ask, width, colour_scheme):
    page = visit(addresses[ask], width=width, height=844, color_scheme=colour_scheme)
    until(page, "question !== null")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratios = page.evaluate(CONTRASTS)
    assert ratios and min(ratio for ratio, _ in ratios) >= 4.5, min(ratios)
    if width == 1280:  # a question is on one screen
        assert page.locator("#skip").bounding_box()["y"] < 844 - 40


CONTRASTS = """(() => {
  const numbers = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((v) => (v < 10.1 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((numbers(colour)[3] ?? 1) > 0) return colour;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.offsetParent || element.closest("noscript, .unseen, script")) continue;
    const [a, b] = [getComputedStyle(element).color, behind(element)].map(light).sort((x, y) => y - x);
    const name = `${element.tagName}.${element.className} ${element.textContent.slice(0, 20)}`;
    found.push([(a + 0.05) / (b + 0.05), name]);
  }
  return found;
})()"""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_grid_without_pictures_is_legible(visit, shown, tmp_path, width):
    """Keys cover no name, and values are as wide as their cells."""
    files = page_files(shown._replace(thumbnails=None), "mood", "grid", [], "csn_jax adapt")
    write_folder(tmp_path / "page", files, OURS, MARK)
    page = visit((tmp_path / "page/index.html").as_uri(), width=width)
    until(page, "question !== null")
    rectangles = """() => [...document.querySelectorAll(".cell")].map((cell) =>
      ["kbd", "strong", "dd"].map((part) => cell.querySelector(part).getBoundingClientRect().toJSON())
        .concat(cell.getBoundingClientRect().toJSON()))"""
    cells = page.evaluate(rectangles)
    assert len(cells) == 12
    for key, name, value, cell in cells:
        assert key["bottom"] <= name["top"] and value["width"] > 0.6 * cell["width"]
