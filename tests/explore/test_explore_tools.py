"""The tools of the page of csn_jax.explore in a browser: search, filters, colours, selection, lists, address, link."""

import csv
import json

import numpy as np
import pytest
import showcase
from browsing import click, hits, seek, until
from showcase import HOSTILE

from csn_jax.explore import folder
from csn_jax.pictures.page_sheets import Thumbnails
from csn_jax.runtime.whole import write_folder

pytestmark = pytest.mark.browser

N = 81  # odd: the page reads integers of several bytes


@pytest.fixture(scope="module")
def shown():
    return showcase.items(N)


@pytest.fixture(scope="module")
def address(tmp_path_factory, shown):
    return showcase.write(tmp_path_factory.mktemp("tools") / "page", shown, "https://shop.example/?q={id}").as_uri()


def passing(page):
    return page.evaluate("[...ids.keys()].filter(passes)")


def open_facet(page, column):
    page.locator("#facets details").nth([*showcase_columns(page)].index(column)).locator("summary").click()


def showcase_columns(page):
    return page.evaluate("facets.map(({ name }) => name)")


def counts(page, column):
    """{value: count} of an open facet."""
    place = showcase_columns(page).index(column)
    labels = page.locator("#facets details").nth(place).locator(".facet label")
    pairs = labels.evaluate_all("all => all.map(e => [e.children[1].textContent, Number(e.children[2].textContent)])")
    return dict(pairs)


def rows_where(shown, **tests):
    keep = np.ones(N, bool)
    for name, test in tests.items():
        keep &= np.array([test(value) for value in shown.labels[name]])
    return np.flatnonzero(keep).tolist()


def select_shape(page, kind, corners):
    """Draw with a tool through points of the canvas, given as shares of its size."""
    page.locator(f"#tool-{kind}").click()
    box = page.locator("#map").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()
    until(page, "isSettled()")
    return page.evaluate("[...state.selected].sort((a, b) => a - b)")


def screens(page):
    """Where items are, as shares of the canvas."""
    return np.array(page.evaluate("ids.map((_, i) => itemMap.screen(i))")) / page.evaluate(
        "[itemMap.width, itemMap.height]"
    )


def saved(page, button):
    """The rows of a CSV file that a button saves, and its name."""
    with page.expect_download() as info:
        page.locator(button).click()
    with open(info.value.path(), newline="", encoding="utf-8") as file:
        return list(csv.reader(file)), info.value.suggested_filename


def test_search_finds_ids_and_values_as_one_types(visit, address, shown):
    page = visit(address)
    seek(page, "ITEM 1")
    expected = [i for i, name in enumerate(shown.ids) if "item 1" in name.lower()]
    assert page.locator("#found button").count() == min(8, len(expected))
    assert passing(page) == expected
    assert page.locator("#matches").text_content() == f"{len(expected)} of {N} items match"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#chosen-id").text_content() == shown.ids[expected[0]]
    seek(page, "roun")
    assert passing(page) == rows_where(shown, shape=lambda value: value == "round")
    page.locator("#found button", has_text="round").first.click()  # becomes a filter
    assert page.locator("#query").input_value() == ""
    assert passing(page) == rows_where(shown, shape=lambda value: value == "round")
    seek(page, "no such thing")
    assert passing(page) == [] and "Nothing matches" in page.locator("#found").text_content()
    page.locator("#query").press("Escape")
    assert passing(page) == list(range(N)) and page.locator("#matches").text_content() == f"{N} items"


def test_filters_go_together_and_count_what_each_would_leave(visit, address, shown):
    """The counts of a facet are those of items that pass all other filters."""
    page = visit(address)
    for name in ("shape", "__proto__", "price"):
        open_facet(page, name)
    box = page.get_by_label("round", exact=False).first
    box.check()
    assert passing(page) == rows_where(shown, shape=lambda value: value == "round")
    shapes = shown.labels["shape"].tolist()
    assert counts(page, "shape") == {"round": shapes.count("round"), "flat": shapes.count("flat"), "not known": 27}
    for value in ("p0", "p1"):
        wanted = rows_where(shown, shape=lambda text: text == "round", __proto__=lambda text, v=value: text == v)
        assert counts(page, "__proto__")[value] == len(wanted)
    page.locator("label", has_text="not known").first.locator("input").check()
    page.locator("label", has_text="p1").locator("input").check()
    page.get_by_label("price at least").fill("20")
    page.get_by_label("price at most").fill("60.5")
    tests = {"shape": lambda text: text != "flat", "__proto__": lambda text: text == "p1"}
    expected = rows_where(shown, price=lambda text: 20 <= float(text) <= 60.5, **tests)
    assert passing(page) == expected and 0 < len(expected) < 20
    assert counts(page, "shape")["flat"] == len(
        rows_where(shown, price=lambda text: 20 <= float(text) <= 60.5, **tests | {"shape": lambda t: t == "flat"})
    )
    click(page, expected[0])
    shown_hits = page.locator('#strips [data-condition="0"] .hit').evaluate_all("all => all.map(e => +e.dataset.item)")
    assert set(shown_hits) <= set(expected) and len(shown_hits) == min(10, len(expected) - 1)
    index = showcase.index(shown)
    _, distances = index.search(index.vectors[expected[:1]], {"shape": 1}, N, exclude=expected[:1])
    names, _ = index.search(index.vectors[expected[:1]], {"shape": 1}, N, exclude=expected[:1])
    ranked = [name for name in names[0] if name in set(shown.ids[expected])]
    assert hits(page, '#strips [data-condition="0"]')[0] == ranked[: len(shown_hits)]
    page.locator("#clear-filters").click()
    assert passing(page) == list(range(N)) and page.get_by_label("price at least").input_value() == ""


def test_filtered_items_cannot_be_clicked(visit, address, shown):
    page = visit(address)
    page.evaluate("toggleValue(columnOf.get('shape'), columnOf.get('shape').values.indexOf('round'))")
    until(page, "isSettled()")
    left = set(passing(page))
    assert set(page.evaluate("itemMap.thumbs")) <= left
    found = page.evaluate("ids.map((_, i) => itemMap.hit(...itemMap.screen(i), 3))")
    chosen = page.evaluate("state.item")  # stays on the map
    assert set(found) <= left | {-1, chosen} and len(set(found)) > len(left) // 2


def test_colours_follow_the_condition_until_one_is_chosen(visit, address):
    page = visit(address)
    entries = page.locator("#legend .entries")
    assert entries.locator("button").all_text_contents() == ["flat", "round", "not known"]
    page.locator("#by-2").check()
    assert entries.locator(".ramp").count() == 1  # of the price
    page.locator("#colouring").select_option(label="__proto__")
    assert sorted(entries.locator("button").all_text_contents()) == ["p0", "p1"]
    page.locator("#by-0").check()
    assert sorted(entries.locator("button").all_text_contents()) == ["p0", "p1"]
    page.locator("#colouring").select_option(label="nothing")
    assert entries.locator("button").count() == 0 and not page.evaluate("itemMap.framed")
    page.locator("#colouring").select_option(label="the condition")
    assert entries.locator("button").count() == 3


@pytest.mark.parametrize("kind", ["box", "lasso"])
def test_a_shape_selects_what_is_inside(visit, address, shown, kind):
    page = visit(address)
    at = screens(page)
    if kind == "box":
        found = select_shape(page, kind, [(0.7, 0.7), (0.4, 0.2)])
        inside = (at > [0.4, 0.2]).all(axis=1) & (at < [0.7, 0.7]).all(axis=1)
    else:  # a triangle
        found = select_shape(page, kind, [(0.2, 0.2), (0.8, 0.2), (0.2, 0.8)])
        inside = (at > 0.2).all(axis=1) & (at.sum(axis=1) < 1)
    assert found == np.flatnonzero(inside).tolist() and 3 < len(found) < N - 3
    assert page.locator("#selection-title").text_content() == f"{len(found)} items selected"
    assert page.evaluate("itemMap.view") == {"x": 0.5, "y": 0.5, "zoom": 1}  # it does not move the map
    rows, name = saved(page, "#selection-csv")
    assert name == "selection.csv" and rows[0] == ["id", *page.evaluate("columns.map(({ name }) => name)")]
    assert sorted(row[0] for row in rows[1:]) == sorted(shown.ids[found])
    for row in rows[1:]:
        i = shown.ids.tolist().index(row[0])
        assert row[1:] == [shown.labels[name][i] for name in rows[0][1:]]
    page.locator(f"#tool-{kind}").click()
    page.locator("#clear-selection").click()
    assert page.locator("#selection").is_hidden()


def test_a_selection_by_keyboard(visit, address, shown):
    page = visit(address)
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    item = page.evaluate("itemMap.focus")
    page.keyboard.press("x")
    assert page.evaluate("[...state.selected]") == [item]
    assert "is selected" in page.locator("#said").text_content()
    page.keyboard.press("x")
    assert page.evaluate("[...state.selected]") == []
    for _ in range(4):
        page.keyboard.press("+")
    until(page, "!itemMap.waiting")
    page.keyboard.press("Shift+ArrowRight")
    until(page, "!itemMap.waiting")
    page.keyboard.press("v")
    at = screens(page)
    inside = ((at > 0) & (at < 1)).all(axis=1)
    assert page.evaluate("[...state.selected]") == np.flatnonzero(inside).tolist() and 0 < inside.sum() < N


def test_hits_of_a_mixture_are_marked_and_saved(visit, address, shown):
    page = visit(address)
    click(page, 9)
    names = [name for name, _ in showcase.CONDITIONS]
    page.locator("#sliders input").nth(2).fill("-0.3")
    page.locator("#hits").select_option("30")
    index = showcase.index(shown)
    weights = {names[0]: 1, names[1]: 1, names[2]: -0.3}
    ids, distances = index.search(index.vectors[9:10], weights, 30, exclude=[9])
    by_condition = page.evaluate("itemMap.marks.map((i) => ids[i])")
    page.locator("#mark-mixture").click()
    assert page.evaluate("itemMap.marks.map((i) => ids[i])") == ids[0].tolist() != by_condition
    rows, name = saved(page, "#hits-csv")
    assert name == "hits.csv" and rows[0][:3] == ["rank", "distance", "id"]
    assert [row[2] for row in rows[1:]] == ids[0].tolist() and [row[0] for row in rows[1:3]] == ["1", "2"]
    assert [float(row[1]) for row in rows[1:]] == pytest.approx(distances[0].tolist(), rel=1e-5, abs=1e-5)
    page.locator("#mark-mixture").click()
    assert page.evaluate("itemMap.marks.map((i) => ids[i])") == by_condition


STATE = """() => JSON.stringify([state.condition, ids[state.item], state.weights, state.hits, state.marking,
  state.colouring.name ?? state.colouring, state.query,
  [...state.filters].map(([column, filter]) => [column.name, filter instanceof Set ? [...filter] : filter]),
  [...state.selected].sort(), Object.values(itemMap.view).map((n) => n.toFixed(3)), [...ids.keys()].filter(passes),
  itemMap.marks])"""


def test_the_address_restores_the_whole_state(visit, address, shown):
    page = visit(address)
    fresh = page.evaluate(STATE)
    page.locator("#by-1").check()
    page.evaluate("choose(2)")
    page.locator("#sliders input").nth(0).fill("-0.35")
    page.locator("#hits").select_option("30")
    page.locator("#mark-mixture").click()
    page.locator("#colouring").select_option(label="__proto__")
    open_facet(page, HOSTILE)
    page.locator(".facet label", has_text=HOSTILE).locator("input").check()
    open_facet(page, "price")
    page.get_by_label("price at most").fill("80")
    seek(page, "E")
    page.evaluate("select([0, 2, 4])")
    page.evaluate("itemMap.look({ x: 0.4, y: 0.6, zoom: 2.5 }, false)")
    until(page, "isSettled() && saving === 0")
    state, link = page.evaluate(STATE), page.evaluate("location.href")
    assert state != fresh
    other = visit(link)
    assert other.evaluate(STATE) == state
    assert other.locator("#query").input_value() == "E" and other.locator("#by-1").is_checked()
    assert other.locator("#sliders output").first.text_content() == "−0.35"
    other.reload()
    until(other, "isSettled()")
    assert other.evaluate(STATE) == state
    other.evaluate("location.hash = ''")
    until(other, "isSettled() && state.query === ''")
    assert json.loads(other.evaluate(STATE))[6:9] == ["", [], []]


def test_a_broken_address_shows_the_page(visit, address):
    words = '#by=nothing&item=none&weights=9,x&view=a,b,c&filter=%5B1&filter=null&filter=["shape",{"low":1}]&selected=3'
    page = visit(address + words + "&colour==none&hits=7&mark=1")
    assert passing(page) == list(range(N)) and page.evaluate("state.weights") == [1, 1, 0]
    assert page.locator("#strips .hit").count() == 30


def test_a_link_is_opened_by_a_click_only(visit, address, shown):
    """The address has the id as one part of it, also if that is markup."""
    page = visit(address)
    for item in (0, 1, 3, 30):
        page.evaluate("(item) => choose(item)", item)
        link = page.locator("#link")
        target = page.evaluate("(item) => new URL(document.getElementById('link').href).searchParams.get('q')", item)
        assert target == shown.ids[item]
        assert link.get_attribute("target") == "_blank" and "noreferrer" in link.get_attribute("rel")


def test_the_tools_show_labels_as_text(visit, address):
    page = visit(address)
    for name in page.evaluate("facets.map(({ name }) => name)"):
        open_facet(page, name)
    seek(page, "<")
    page.evaluate("select([0, 1, 2, 3])")
    page.locator("#colouring").select_option(label=HOSTILE)
    assert HOSTILE in page.locator("#facets").text_content() and "<!--" in page.locator("#found").text_content()
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert page.evaluate("document.querySelectorAll('img, main script, header script').length") == 0


CONTRASTS = """() => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    const [r, g, b, alpha = 1] = parts(getComputedStyle(e).backgroundColor);
    return alpha > 0.9 || !e.parentElement ? [r, g, b] : behind(e.parentElement);
  };
  const texts = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() &&
    [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return texts.map((e) => {
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), `${e.tagName} ${e.className} ${e.textContent.slice(0, 20)}`];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(visit, address, scheme):
    """Of at least 4.5 to what is behind them, also when tools are in use."""
    page = visit(address, color_scheme=scheme)
    open_facet(page, "shape")
    page.locator(".facet input").first.check()
    seek(page, "item")
    page.evaluate("select([10, 12])")
    page.locator("#tool-box").click()
    page.wait_for_timeout(250)  # colours of buttons fade
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert [text for ratio, text in contrasts if ratio < 4.5] == []


def test_items_without_a_picture_are_labelled_dots(visit, tmp_path, shown):
    """Among others that have one."""
    inputs = shown.inputs
    thumbnails = Thumbnails(lambda some, _: [None if item % 9 == 0 else inputs[item] for item in some], 24)
    files = folder.page_files(showcase.shown_of(shown)._replace(thumbnails=thumbnails))
    write_folder(tmp_path / "page", files, folder.OURS, folder.MARK)
    page = visit((tmp_path / "page/index.html").as_uri())
    click(page, 9)
    assert page.locator("#chosen canvas").count() == 0 and page.locator("#chosen-id").text_content() == shown.ids[9]
    click(page, 10)
    assert page.locator("#chosen canvas").count() == 1
    assert page.evaluate("[hasPicture(9), hasPicture(10), sheets.size]") == [False, True, 1]


def test_rounded_vectors_are_searched_exactly(visit, tmp_path, shown, monkeypatch):
    monkeypatch.setattr(folder, "EXACT", 100)
    page = visit(showcase.write(tmp_path / "page", shown).as_uri())
    made, vectors = showcase.model(N)
    scale = np.abs(vectors).max(axis=0) / 127
    index = showcase.index(shown)
    rounded = (np.rint(vectors / scale) * scale).astype(np.float32)
    index = type(index)(index.items._replace(vectors=rounded), index.conditions, index.masks)
    names, distances = index.search(rounded[5:6], {"shape": 1}, 10, exclude=[5])
    click(page, 5)
    found, far = hits(page, '#strips [data-condition="0"]')
    assert far == pytest.approx(distances[0].tolist(), rel=1e-4) and set(found) == set(names[0])
    assert "rounded to 8 bits" in page.locator("#about").text_content()


def test_webgl_draws_the_dots_that_pixels_draw(browser, address):
    """Where it is drawn in software, WebGL is not used; here it is, for comparison."""
    page = browser.new_page()
    page.goto(address)
    until(page, "isSettled()")
    differ = page.evaluate("""() => {
      const made = () => el("canvas", { width: 200, height: 100 });
      const options = { x: Float32Array.of(0.1, 0.5, 0.9), y: Float32Array.of(0.2, 0.5, 0.8),
        moved: true, painted: true, paint: Uint32Array.of(0xff0000ff, 0, 0xff00ff00),
        left: 10, top: 5, scale: 90, radius: 4 };
      const [a, b] = [made(), made()];
      const gl = b.getContext("webgl", { preserveDrawingBuffer: true });
      if (!gl) return "no WebGL";
      new PixelDots(a).draw(options);
      new GlDots(b, gl).draw(options);
      const pixels = new Uint8Array(200 * 100 * 4);
      gl.readPixels(0, 0, 200, 100, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
      const ours = a.getContext("2d").getImageData(0, 0, 200, 100).data;
      let [wrong, drawn] = [0, 0];
      for (let y = 0; y < 100; y++) for (let x = 0; x < 200; x++) {
        const [p, q] = [(y * 200 + x) * 4, ((99 - y) * 200 + x) * 4];
        if (ours[p + 3]) drawn++;
        if (Math.abs(ours[p + 3] - pixels[q + 3]) > 200 || (ours[p + 3] === 255 && ours[p] !== pixels[q])) wrong++;
      }
      return { wrong, drawn };
    }""")
    page.close()
    if differ == "no WebGL":
        pytest.skip("this browser has no WebGL")
    assert differ["drawn"] > 100 and differ["wrong"] <= differ["drawn"] // 10
