"""Pictures of a run: its masks, and per condition a sheet of queries with their nearest neighbours."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from csn_jax.core.masks import use_of
from csn_jax.data.dataset import Dataset
from csn_jax.data.item_set import ItemSet
from csn_jax.data.thumbnails import pixels_of
from csn_jax.data.triplets import CLEARLY, scale_of
from csn_jax.runtime.record import GAPS
from csn_jax.runtime.workdir import write_atomically

if TYPE_CHECKING:
    from csn_jax.model.model import Model

QUERIES = 10
NEIGHBOURS = 12
ALIKE, OTHER = "#009e73", "#d55e00"  # green and vermilion, which colour-blind readers can distinguish
GREY = "#555555"
GAP, LEFT, TOP = 14, 170, 74  # pixels between pictures, left of them and above them


def draw_all(workdir: Path, model: "Model", embeddings: np.ndarray, dataset: Dataset) -> None:
    """Write masks.png into a workdir, and for items with pictures neighbours_<condition>.png. Of the embeddings [N, D],
    only rows of the test split are read."""
    items = dataset.items
    draw_masks(workdir / "masks.png", model.masks, model.conditions)
    queries = choose_queries(items, QUERIES) if items.inputs.ndim == 4 or items.pictures else []
    for row, condition in enumerate(model.conditions if len(queries) else ()):
        sheet = draw_neighbours(items, queries, embeddings * model.masks[row], condition)
        write_atomically(workdir / f"neighbours_{condition}.png", as_bytes(sheet.save, "PNG"))


def as_bytes(save: Callable[..., object], *args: Any, **options: Any) -> bytes:
    """What a picture or figure saves into a file."""
    buffer = io.BytesIO()
    save(buffer, *args, **options)
    return buffer.getvalue()


def order_dimensions(masks: np.ndarray) -> np.ndarray:
    """Dimensions [D] grouped by the condition that weighs them most, and sorted by the lead of its weight over the next
    condition's; dimensions without a weight come last."""
    owner = masks.argmax(axis=0)
    ranked = np.sort(masks, axis=0)
    lead = ranked[-1] - (ranked[-2] if len(masks) > 1 else 0)
    dead = ranked[-1] <= 0
    # The last group is reversed, so that dimensions that two conditions share lie between their private ones.
    lead = np.where(owner == len(masks) - 1, lead, -lead)
    return np.lexsort((lead, owner, dead))


def draw_masks(path: Path, masks: np.ndarray, conditions: tuple[str, ...]) -> None:
    """Write a heat map of the masks [C, D], with dimensions in the order of `order_dimensions`."""
    from matplotlib.figure import Figure

    n, width = masks.shape
    ordered = masks[:, order_dimensions(masks)]
    figure = Figure(figsize=(9, 1.3 + 0.45 * n), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(ordered, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    axes.set_yticks(range(n), map(literal, conditions))
    axes.set_xlabel(f"{width} embedding dimensions, grouped by the condition that weighs them most, unused ones last")
    used, shared = use_of(masks)
    axes.set_title(f"{used} of {width} dimensions in use, {shared} of them by several conditions", fontsize=10)
    figure.colorbar(image, ax=axes, label="mask weight", pad=0.01)
    write_atomically(path, as_bytes(figure.savefig, dpi=130))


def literal(text: str) -> str:
    """A text without formulas for Matplotlib, which reads one between two dollars."""
    return text.replace("$", r"\$")


def choose_queries(items: ItemSet, n: int) -> np.ndarray:
    """Positions [Q] of up to n test items, with as many different values per condition as possible; the same for all
    conditions, so that the sheets differ only by the mask."""
    gallery = np.random.default_rng(0).permutation(np.flatnonzero(items.split == "test"))
    columns = [items.labels[name][gallery] for name, _ in items.conditions if name in items.labels]
    most = [-(-n // max(1, len(np.unique(column[column != ""])))) for column in columns]  # queries per value
    taken = [Counter() for _ in columns]
    chosen: list[int] = []
    # Items with all their values first.
    n_missing = sum(((column == "").astype(int) for column in columns), np.zeros(len(gallery), int))
    for i in np.argsort(n_missing, kind="stable"):
        values = [column[i] for column in columns]
        if len(chosen) < n and all(v == "" or counts[v] < m for v, counts, m in zip(values, taken, most, strict=True)):
            chosen.append(gallery[i])
            for value, counts in zip(values, taken, strict=True):
                counts[value] += 1
    return np.array(chosen, int)


def nearest(masked: np.ndarray, queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Positions [Q, k] of the items in the gallery nearest to each query, without the query. masked: [N, D], embeddings
    times the condition's mask; queries, gallery: positions [Q], [G], more than k of them in the gallery."""
    squares = np.einsum("nd,nd->n", masked[gallery], masked[gallery])
    gaps = squares - 2 * masked[queries] @ masked[gallery].T  # [Q, G]; the query's square does not change the order
    gaps[queries[:, None] == gallery] = np.inf
    return gallery[np.argsort(gaps, axis=1, kind="stable")[:, :k]]


def draw_neighbours(items: ItemSet, queries: np.ndarray, masked: np.ndarray, condition: str) -> Image.Image:
    """A sheet with a row per query: its value, its picture, its nearest items and how many of them are alike.

    Frames show which items are alike, if there are labels. For categories and levels, neighbours come from the test
    items with one of the queries' values: those of 300 other fonts would crowd out the few of the query's own.
    queries and masked as in `nearest`.
    """
    kind, labelled = dict(items.conditions)[condition], condition in items.labels
    labels = items.labels.get(condition, np.full(len(items.ids), ""))
    gallery = items.split == "test"
    if labelled:
        queries = queries[labels[queries] != ""]
        gallery = gallery & (labels != "")
    among = ""
    if labelled and kind in ("categorical", "ordinal"):
        gallery = gallery & np.isin(labels, labels[queries])
        among = f" of these {len(np.unique(labels[queries]))} values"
    gallery = np.flatnonzero(gallery)
    k = max(0, min(NEIGHBOURS, len(gallery) - 1))
    found = nearest(masked, queries, gallery, k)
    shown = np.unique(np.concatenate([queries, found.ravel()]))
    pictures = dict(zip(shown.tolist(), pixels_of(items, shown, 64), strict=True))
    side = items.inputs.shape[1] if items.inputs.ndim == 4 else 64
    side *= max(1, 64 // side)  # a multiple, so that pixels stay squares
    step, end = side + GAP, LEFT + (k + 1) * (side + GAP)
    sheet = Image.new("RGB", (end + 120, TOP + len(queries) * step + 6), "white")
    draw, font, large = ImageDraw.Draw(sheet), font_of(15), font_of(20)
    title, summary = f"Nearest by {condition}", f"{k} nearest of the {len(gallery)} test items{among}, nearest first"
    draw.text((GAP, 10), title, fill="black", font=large)
    draw.text((max(LEFT + step, 2 * GAP + large.getlength(title)), 14), summary, fill=GREY, font=font)
    draw.text((LEFT, 46), "query", fill="black", font=font)
    if labelled:
        _draw_legend(draw, condition, kind, LEFT + step + GAP)
        draw.text((end + GAP + 8, 46), "found", fill="black", font=font)
    for line, (query, hits) in enumerate(zip(queries, found, strict=True)):
        y = TOP + line * step
        middle = y + side // 2
        alike = _alike(labels, kind, query)
        draw.text((GAP, middle), fit(labels[query], font, LEFT - 2 * GAP), fill="black", font=font, anchor="lm")
        for column, item in enumerate((query, *hits)):
            x = LEFT + column * step + (GAP if column else 0)  # the query stands apart
            picture = Image.fromarray(pictures[int(item)].squeeze())
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
            if column and labelled:
                frame = (x - 4, y - 4, x + side + 3, y + side + 3)
                draw.rectangle(frame, outline=ALIKE if alike[item] else OTHER, width=4)
        if labelled:
            count = f"{alike[hits].sum()} of {min(k, alike[gallery].sum() - 1)}"
            draw.text((end + GAP + 8, middle), count, fill="black", font=font, anchor="lm")
    return sheet


def _draw_legend(draw: ImageDraw.ImageDraw, condition: str, kind: str, x: int) -> None:
    font = font_of(15)
    words = {"set": ("shares a", "shares no"), **dict.fromkeys(GAPS, ("near in", "further in"))}.get(
        kind, ("same", "another")
    )
    for colour, word in zip((ALIKE, OTHER), words, strict=True):
        text = f"{word} {condition}"
        draw.rectangle((x - 4, 47, x + 10, 61), outline=colour, width=4)
        draw.text((x + 18, 46), text, fill="black", font=font)
        x += 3 * GAP + int(font.getlength(text))


def _alike(labels: np.ndarray, kind: str, query: int) -> np.ndarray:
    """Which items [N] are like the query. Unknown ones are only like each other."""
    if kind == "set":
        wanted = set(labels[query].split(";"))
        return np.array([not wanted.isdisjoint(label.split(";")) for label in labels.tolist()])
    if kind in GAPS:
        scale = scale_of(labels, kind)
        return np.abs(scale.values - scale.values[query]) < CLEARLY * np.ptp(scale.values[labels != ""]) * (1 - 1e-9)
    return labels == labels[query]


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures."""
    import matplotlib  # ships a font with the letters of many scripts

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Text on one line, cut with an ellipsis to a width in pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
