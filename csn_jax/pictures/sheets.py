"""Pictures of a run: the masks, and for each condition a sheet of queries with their nearest neighbours."""

import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from csn_jax.core.masks import use_of
from csn_jax.data.dataset import Dataset
from csn_jax.data.item_set import ItemSet
from csn_jax.data.triplets import CLEARLY, scale_of
from csn_jax.runtime.workdir import write_atomically

if TYPE_CHECKING:
    from csn_jax.model.model import Model

QUERIES = 10
NEIGHBOURS = 12
ALIKE, OTHER = "#009e73", "#d55e00"  # green and vermilion that colour-blind readers can tell apart
GREY = "#555555"


def draw_all(workdir: Path, model: "Model", embeddings: np.ndarray, dataset: Dataset) -> None:
    """Write masks.png and, where the items are images, neighbours_<condition>.png into a workdir.

    Args:
        embeddings: [N, D], rows of the test split filled.
    """
    items = dataset.items
    draw_masks(workdir / "masks.png", model.masks, model.conditions)
    queries = choose_queries(items, QUERIES) if items.inputs.ndim == 4 else []
    for row, condition in enumerate(model.conditions if len(queries) else ()):
        sheet = draw_neighbours(items, queries, embeddings * model.masks[row], condition)
        _write(workdir / f"neighbours_{condition}.png", sheet)


def order_dimensions(masks: np.ndarray) -> np.ndarray:
    """Dimensions [D] grouped by the condition that weighs them most, private ones first, then shared, dead ones last.

    Within a condition, by how far its weight stands above the next condition's.
    """
    owner = masks.argmax(axis=0)
    ranked = np.sort(masks, axis=0)
    lead = ranked[-1] - (ranked[-2] if len(masks) > 1 else 0)
    dead = ranked[-1] <= 0
    # A mirrored order for the last owner puts what two conditions share between their private parts.
    lead = np.where(owner == len(masks) - 1, lead, -lead)
    return np.lexsort((lead, owner, dead))


def draw_masks(path: Path, masks: np.ndarray, conditions: tuple[str, ...]) -> None:
    """A heat map of the masks [C, D], dimensions ordered so that private and shared ones show."""
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
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130)
    write_atomically(path, buffer.getvalue())


def literal(text: str) -> str:
    """A user's text as Matplotlib draws it: what stands between two dollars would be a formula to it."""
    return text.replace("$", r"\$")


def choose_queries(items: ItemSet, n: int) -> np.ndarray:
    """Up to n test items whose values differ under every condition as far as there are values: positions [Q].

    The same ones for every condition, so that the sheets differ by the mask alone.
    """
    gallery = np.random.default_rng(0).permutation(np.flatnonzero(items.split == "test"))
    columns = [items.labels[name][gallery] for name, _ in items.conditions if name in items.labels]
    most = [-(-n // max(1, len(np.unique(column[column != ""])))) for column in columns]  # times for each value
    shown = [Counter() for _ in columns]
    chosen: list[int] = []
    # Items with all their values first.
    n_missing = sum(((column == "").astype(int) for column in columns), np.zeros(len(gallery), int))
    for i in np.argsort(n_missing, kind="stable"):
        values = [column[i] for column in columns]
        if len(chosen) < n and all(v == "" or times[v] < m for v, times, m in zip(values, shown, most, strict=True)):
            chosen.append(gallery[i])
            for value, times in zip(values, shown, strict=True):
                times[value] += 1
    return np.array(chosen, int)


def nearest(masked: np.ndarray, queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Positions [Q, k] of the gallery's items nearest to each query, the query itself left out.

    Args:
        masked: [N, D] embeddings times the condition's mask.
        queries: [Q] positions.
        gallery: [G] positions, more than k.
    """
    squares = np.einsum("nd,nd->n", masked[gallery], masked[gallery])
    gaps = squares - 2 * masked[queries] @ masked[gallery].T  # [Q, G]; the query's own square changes no order
    gaps[queries[:, None] == gallery] = np.inf
    return gallery[np.argsort(gaps, axis=1, kind="stable")[:, :k]]


def draw_neighbours(items: ItemSet, queries: np.ndarray, masked: np.ndarray, condition: str) -> Image.Image:
    """A sheet with a row for each query: its value, its picture, its nearest items framed by whether they are like it
    (share its value or a member, or are near as numbers), and how many are. Without labels, pictures alone.

    Where values are the same or different, the neighbours come from the test items that have one of the queries'
    values. Among all test items those of three hundred other fonts would crowd out the few of the query's own, also
    where the order is nearly right.

    Args:
        queries: [Q] positions.
        masked: [N, D] embeddings times the condition's mask.
    """
    kind, labelled = dict(items.conditions)[condition], condition in items.labels
    labels = items.labels.get(condition, np.full(len(items.ids), ""))
    if labelled:
        queries = queries[labels[queries] != ""]
    of_these = labelled and kind in ("categorical", "ordinal")
    gallery = np.flatnonzero((items.split == "test") & (np.isin(labels, labels[queries]) if of_these else True))
    gallery = gallery[labels[gallery] != ""] if labelled else gallery
    k = max(0, min(NEIGHBOURS, len(gallery) - 1))
    rows = nearest(masked, queries, gallery, k)
    side = items.inputs.shape[1]
    side *= max(1, 64 // side)
    gap, step, wide, top = 14, side + 14, 170, 74
    sheet = Image.new("RGB", (wide + (k + 1) * step + 120, top + len(queries) * step + 6), "white")
    draw, font = ImageDraw.Draw(sheet), font_of(15)
    title = f"Nearest by {condition}"
    draw.text((gap, 10), title, fill="black", font=font_of(20))
    among = f" of these {len(np.unique(labels[queries]))} values" if of_these else ""
    told = f"{k} nearest of the {len(gallery)} test items{among}, nearest first"
    draw.text((max(wide + step, 2 * gap + font_of(20).getlength(title)), 14), told, fill=GREY, font=font)
    draw.text((wide, 46), "query", fill="black", font=font)
    x = wide + step + gap
    words = {"set": ("shares a", "shares no"), "numeric": ("near in", "further in")}.get(kind, ("same", "another"))
    for colour, word in zip((ALIKE, OTHER), words, strict=True) if labelled else ():
        text = f"{word} {condition}"
        draw.rectangle((x - 4, 47, x + 10, 61), outline=colour, width=4)
        draw.text((x + 18, 46), text, fill="black", font=font)
        x += 3 * gap + int(font.getlength(text))
    if labelled:
        draw.text((wide + (k + 1) * step + gap + 8, 46), "found", fill="black", font=font)
    for line, (query, found) in enumerate(zip(queries, rows, strict=True)):
        y = top + line * step
        middle = y + side // 2
        alike = _alike(labels, kind, query)
        draw.text((gap, middle), fit(labels[query], font, wide - 2 * gap), fill="black", font=font, anchor="lm")
        for place, item in enumerate((query, *found)):
            x = wide + place * step + (gap if place else 0)  # the query stands apart
            sheet.paste(_picture(items.inputs[item], side), (x, y))
            if place and labelled:
                colour = ALIKE if alike[item] else OTHER
                draw.rectangle((x - 4, y - 4, x + side + 3, y + side + 3), outline=colour, width=4)
        if labelled:
            told = f"{alike[found].sum()} of {min(k, alike[gallery].sum() - 1)}"
            draw.text((wide + (k + 1) * step + gap + 8, middle), told, fill="black", font=font, anchor="lm")
    return sheet


def _alike(labels: np.ndarray, kind: str, query: int) -> np.ndarray:
    """Which items [N] are like one of them, the unknown ones being like none but each other."""
    if kind == "set":
        wanted = set(labels[query].split(";"))
        return np.array([not wanted.isdisjoint(label.split(";")) for label in labels.tolist()])
    if kind == "numeric":
        scale = scale_of(labels, kind)
        return np.abs(scale.values - scale.values[query]) < CLEARLY * np.ptp(scale.values[labels != ""]) * (1 - 1e-9)
    return labels == labels[query]


def _picture(pixels: np.ndarray, side: int) -> Image.Image:
    """uint8 [S, S, 1 or 3] as a picture of a whole multiple of its size."""
    return Image.fromarray(pixels.squeeze()).resize((side, side), Image.Resampling.NEAREST)


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures."""
    import matplotlib  # ships a font that has the letters of many scripts

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Text on one line, cut with dots to a width in pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _write(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
