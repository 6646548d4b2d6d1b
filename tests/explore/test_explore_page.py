"""The page of csn_jax.explore in a browser: the map, the neighbours, the mixture."""

import re

import pytest
import showcase
from browsing import click, hits, until

pytestmark = pytest.mark.browser

K = 10


def expected(shown, item, weights):
    """The same from Index.search, without the query."""
    index = showcase.index(shown)
    ids, distances = index.search(index.vectors[item : item + 1], weights, K, exclude=[item])
    return ids[0].tolist(), pytest.approx(distances[0].tolist(), rel=1e-6, abs=1e-6)


def strip(c):
    return f'#strips [data-condition="{c}"]'


def test_a_page_opens_from_disk_in_light_and_dark(visit, address):
    light = visit(address)
    assert light.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"
    dark = visit(address, color_scheme="dark")
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 22)"
    assert light.evaluate("document.querySelectorAll('#strips .hit').length") == 3 * K


def test_a_click_shows_the_neighbours_that_search_finds(visit, address, shown):
    page = visit(address)
    for item in (5, 44, 0):
        click(page, item)
        assert page.locator("#chosen-id").text_content() == shown.ids[item]
        for c, (name, _) in enumerate(showcase.CONDITIONS):
            assert hits(page, strip(c)) == expected(shown, item, {name: 1})
    page.locator(f"{strip(0)} .hit").first.click()  # a neighbour is chosen by a click as well
    assert page.locator("#chosen-id").text_content() == expected(shown, 0, {"shape": 1})[0][0]


def test_sliders_mix_as_search(visit, address, shown):
    page = visit(address)
    click(page, 9)
    names = [name for name, _ in showcase.CONDITIONS]
    assert hits(page, "#mixed") == expected(shown, 9, {names[0]: 1, names[1]: 1})
    sliders = page.locator("#sliders input")
    sliders.nth(1).focus()
    for _ in range(30):  # by keyboard, from 1 to -0.5
        page.keyboard.press("ArrowLeft")
    sliders.nth(2).fill("0.35")
    assert page.locator("#sliders output").all_text_contents() == ["1.00", "−0.50", "0.35"]
    assert hits(page, "#mixed") == expected(shown, 9, {names[0]: 1, names[1]: -0.5, names[2]: 0.35})
    sliders.nth(0).fill("-1")
    sliders.nth(2).fill("-0.2")
    found = hits(page, "#mixed")
    assert found == expected(shown, 9, {names[0]: -1, names[1]: -0.5, names[2]: -0.2})
    assert found[1][0] < found[1][-1] < 0  # the most distant first
    for i in range(3):
        sliders.nth(i).fill("0")
    assert "All weights are zero" in page.locator("#mixed").text_content()


def test_labels_stay_text(visit, address, shown):
    page = visit(address)
    for item in range(4):
        click(page, item)
        assert page.locator("#chosen-id").text_content() == shown.ids[item]
        page.mouse.move(5, 5)
    page.locator("#legend select").select_option(label=showcase.HOSTILE)
    assert showcase.HOSTILE[:10] in page.locator("#legend .entries").text_content()
    page.locator("label", has_text=showcase.HOSTILE).first.click()
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert page.evaluate("document.querySelectorAll('img, main script, header script').length") == 0
    assert showcase.HOSTILE in page.locator("#errors-rows").text_content()
    assert page.locator("dl dt").all_text_contents()[-1] == "__proto__"
    assert page.evaluate("Object.getPrototypeOf(CSN_DATA) === Object.prototype")


def test_items_glide_to_the_other_map(visit, address):
    page = visit(address)
    gap = "c => Math.max(...[0, 1].flatMap(a => [...places[c][a]].map((v, i) => Math.abs(v - itemMap['xy'[a]][i]))))"
    assert page.evaluate(gap, 0) == 0
    frames = "window.seen = []; const look = () => {seen.push([gap(0), gap(2)]); requestAnimationFrame(look)}; look()"
    page.evaluate(f"() => {{const gap = {gap}; {frames}}}")  # a slow machine shows few frames, at times of its own
    page.locator("#by-2").check()
    until(page, "itemMap.waiting || seen.at(-1)[1] === 0")
    until(page, "!itemMap.waiting")
    assert any(min(frame) > 0.01 for frame in page.evaluate("seen"))  # on their way
    assert page.evaluate(gap, 2) == 0
    assert "price" in page.locator("#map").get_attribute("aria-label")
    calm = visit(address, reduced_motion="reduce")
    calm.locator("#by-2").check()
    assert calm.evaluate(gap, 2) == 0


def test_thumbnails_do_not_overlap_and_stay(visit, address):
    """At every magnification no two thumbnails overlap. Each appears at some magnification and stays."""
    page = visit(address)
    assert (
        page.evaluate("""() => {
      const [xs, ys] = places[0];
      const at = appearances(xs, ys);
      for (let i = 0; i < xs.length; i++) for (let j = 0; j < i; j++) {
        const cells = Math.max(at[i], at[j]);
        if (Math.abs(xs[i] - xs[j]) * cells < 1 && Math.abs(ys[i] - ys[j]) * cells < 1) return `${i} over ${j}`;
      }
      return Math.max(...at) <= 1024 ? "fine" : "never shown";
    }""")
        == "fine"
    )


def test_every_part_can_be_reached_by_keyboard(visit, address, shown):
    page = visit(address)
    seen = []
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if seen[-1] == "heat":
            break
    names = [name for i, name in enumerate(seen) if name and name != seen[i - 1]]
    order = ["map", "by-0", "colouring", "zoom-in", "zoom-out", "zoom-all", "weight-0", "weight-1", "weight-2", "heat"]
    assert [name for name in names if name in order] == order
    assert seen.count("hit alike") + seen.count("hit unlike") + seen.count("hit") == 4 * K
    page.keyboard.press("ArrowRight")
    assert re.match(r"dimension \d+: shape \d", page.locator(".read").text_content())
    page.locator("#map").focus()
    outline = page.evaluate("getComputedStyle(document.getElementById('map')).outlineStyle")
    assert outline == "solid"
    before = page.locator("#chosen-id").text_content()
    page.keyboard.press("ArrowRight")
    said = page.locator("#said").text_content()
    page.keyboard.press("Enter")
    now = page.locator("#chosen-id").text_content()
    assert now != before and said.startswith(now)
    page.keyboard.press("+")
    until(page, "!itemMap.waiting && itemMap.view.zoom > 1.4")
    page.keyboard.press("0")
    until(page, "!itemMap.waiting && itemMap.view.zoom === 1")


def test_every_control_has_a_name_for_screen_readers(visit, address):
    page = visit(address)
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, select, canvas[tabindex]")]
      .filter(e => !/\\w\\w/.test([e.ariaLabel, e.textContent, e.labels?.[0]?.textContent].join()))
      .map(e => e.outerHTML)""")
    assert nameless == []


@pytest.mark.parametrize("width", [390, 320])
def test_a_page_fits_a_phone(visit, address, shown, width):
    page = visit(address, width=width, height=844, has_touch=True, is_mobile=True)
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate("""() => [...document.querySelectorAll("main *, header *, .stage")]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.className || e.tagName)""")
    assert wide == []
    item, x, y = page.evaluate("""() => [...itemMap.order].reverse().map(i => [i, ...itemMap.screen(i)])
      .find(([i, x, y]) => i !== state.item && itemMap.hit(x, y) === i)""")
    box = page.locator("#map").bounding_box()
    page.touchscreen.tap(box["x"] + x, box["y"] + y)
    assert page.locator("#chosen-id").text_content() == shown.ids[item]


def test_items_without_pictures_show_names(visit, tmp_path):
    shown = showcase.items(40)
    shown = type(shown)(shown.inputs[:, 0, 0, :].astype("f4"), *list(vars(shown).values())[1:])
    page = visit(showcase.write(tmp_path / "page", shown).as_uri())
    click(page, 7)
    assert page.locator("#chosen-id").text_content() == "item 3"
    assert hits(page, strip(0)) == expected(shown, 7, {"shape": 1})
    assert page.locator(f"{strip(0)} .hit").first.text_content() == hits(page, strip(0))[0][0]


def test_the_table_of_errors_shows_the_results(visit, address):
    page = visit(address)
    rows = page.locator("#errors-rows tr").evaluate_all("all => all.map(r => [...r.children].map(c => c.textContent))")
    assert rows[0] == ["shape", "12.5 %", "10.0 to 60.0", "1,000"]
    assert rows[-1] == ["overall", "25.0 %", "20.0 to 30.0", "3,000"]
