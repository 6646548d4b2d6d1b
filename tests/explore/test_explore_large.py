"""The page of csn_jax.explore with 100,000 items: its size, and how fast it answers without a graphics card."""

import numpy as np
import pytest
from browsing import until

from csn_jax.explore import folder
from csn_jax.explore.items import Shown
from csn_jax.pictures.page_data import Column
from csn_jax.pictures.page_sheets import Thumbnails
from csn_jax.runtime.record import Condition
from csn_jax.runtime.whole import write_folder

pytestmark = [pytest.mark.browser, pytest.mark.slow]

N = 100_000
NAMES = ("category", "colour", "gender", "brand")
MEDIAN = """() => { const sorted = [...itemMap.frames].sort((a, b) => a - b); return sorted[sorted.length >> 1]; }"""


@pytest.fixture(scope="module")
def files():
    """Of random items in groups, whose maps are their first two numbers."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [8, 12, 3, 300], (N, 4))
    vectors = rng.normal(0, 1, (N, 64)).astype(np.float32)
    masks = np.repeat(np.eye(4, dtype=np.float32), 16, axis=1) + 0.1
    columns = []
    for j, name in enumerate(NAMES):
        vectors[:, 16 * j : 16 * j + 16] += 2 * rng.normal(0, 1, (300, 16))[codes[:, j]]
        columns.append(Column(name, "categorical", np.array([f"{name} {code}" for code in codes[:, j]])))
    squares = rng.integers(0, 256, (50, 48, 48, 3), np.uint8)
    thumbnails = Thumbnails(lambda some, _: [squares[item % 50] if item % 20 else None for item in some])
    conditions = tuple(Condition(name, "categorical") for name in NAMES)
    about = {"run": "large.parquet", "total": N, "seed": 0}
    ids = np.array([f"item-{i:06d}" for i in range(N)])
    shown = Shown(ids, vectors, conditions, masks, columns, thumbnails, None, about)
    maps = np.stack([vectors[:, 16 * j : 16 * j + 2] for j in range(4)])
    maps -= maps.min(axis=1, keepdims=True)
    maps /= maps.max(axis=(1, 2), keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "draw_maps", lambda *_: maps)
        return folder.page_files(shown)


def test_the_folder_is_small(files):
    """At most 20 MB without pictures. These pictures, of noise, are larger than any photo."""
    assert sum(len(data) for name, data in files.items() if not name.startswith("pictures")) < 20e6


def test_it_answers_at_once(files, visit, tmp_path):
    """Ready in at most 4 s; a frame of panning in 25 ms, at the median; a click in 150 ms. The best of up to four
    visits counts, as other tests take the processor at times."""
    write_folder(tmp_path / "page", files, folder.OURS, folder.MARK)
    best = np.full(3, np.inf)
    for _ in range(4):
        page = visit((tmp_path / "page/index.html").as_uri())
        ready = page.evaluate("performance.getEntriesByName('ready')[0].startTime")  # milliseconds
        assert page.evaluate("sheets.size") <= 48  # of some 230
        best = np.minimum(best, [ready, max(frame_of_panning(page, zoom) for zoom in (1, 6)), slowest_click(page)])
        if (best <= [4000, 25, 150]).all():
            return
    raise AssertionError(best)


def frame_of_panning(page, zoom):
    """The median of 40 frames, in milliseconds."""
    page.evaluate("(zoom) => itemMap.look({ x: 0.5, y: 0.5, zoom }, false)", zoom)
    until(page, "isSettled()")
    page.evaluate("""() => {
      itemMap.frames.length = 0;
      const pan = () => {
        itemMap.pan(itemMap.frames.length % 2 ? 9 : -7, 3);
        if (itemMap.frames.length < 40) requestAnimationFrame(pan);
      };
      pan();
    }""")
    until(page, "itemMap.frames.length >= 40")
    return page.evaluate(MEDIAN)


def slowest_click(page):
    return page.evaluate("""() => Math.max(...[5, 777, 50_000, 99_999].map((item) => {
      const began = performance.now();
      choose(item);
      return performance.now() - began;
    }))""")
