"""The folder of a report: its text, its tables, and the pictures of each section."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from csn_jax.data.thumbnails import pixels_of
from csn_jax.errors import UserError
from csn_jax.model.model import Model
from csn_jax.pictures import maps
from csn_jax.report.charts import draw_curves, draw_errors, draw_masks, draw_triplets, saved
from csn_jax.report.image_map import choose_items, draw_map
from csn_jax.report.runs import Finished, Section, arrange, summarise
from csn_jax.report.text import MARK, Picture, markdown, runs_csv, table_csv
from csn_jax.runtime.whole import write_folder
from csn_jax.runtime.writer import say

OURS = re.compile(
    r"(report\.md|(table|runs)\.csv|(errors|curves|masks|triplets)(_\d+)?\.(png|svg|pdf)|map(_\d+)?_.+\.png)"
)
MARKED = ("report.md", MARK.encode())


def write(
    out: Path, runs: Sequence[Finished], unfinished: Sequence[str], n_items: int, also: Sequence[str] = ()
) -> int:
    """Write the report of some runs, and return how many pictures it has. An image map has at most n_items items. The
    charts are PNG files and, beside these, files of the kinds `also`: svg, pdf."""
    notes = [f"{', '.join(unfinished)}: not finished, so left out."] if unfinished else []
    for note in notes:
        say(note)
    sections, pictures = arrange(runs), []
    for number, section in enumerate(sections, 1):
        drawn, missing = draw_section(section, f"_{number}" if len(sections) > 1 else "", n_items, also)
        notes += missing
        pictures.append(drawn)
    texts = {"report.md": markdown(sections, pictures, notes)}
    texts |= {"table.csv": table_csv(sections), "runs.csv": runs_csv(sections)}
    files = {picture.file: picture.png for drawn in pictures for picture in drawn}
    more = {name: data for drawn in pictures for picture in drawn for name, data in picture.more.items()}
    write_folder(out, files | more | {name: text.encode() for name, text in texts.items()}, OURS, MARKED)
    return len(files)


def draw_section(
    section: Section, mark: str, n_items: int, also: Sequence[str] = ()
) -> tuple[list[Picture], list[str]]:
    """The pictures of a section, with its mark in their names, and a note for what could not be drawn."""

    def chart(name: str, title: str, caption: str, figure: Figure) -> Picture:
        more = {f"{name}{mark}.{kind}": saved(figure, kind) for kind in also}
        return Picture(f"{name}{mark}.png", title, caption, saved(figure, "png"), more)

    pictures = [chart("errors", "Errors", "The triplet errors of the table.", draw_errors(section))]
    if curves := draw_curves(section):
        caption = "Validation error and training loss. Thin lines are single seeds; the bold line is their mean."
        pictures.append(chart("curves", "Learning curves", caption, curves))
    if triplets := draw_triplets(section):
        caption = "Overall triplet error against the number of training triplets of all conditions together."
        pictures.append(chart("triplets", "Error and training triplets", caption, triplets))
    say("reading the models")
    masked = {row.series: row for row in section.rows if not row.runs[0].run.specialists}
    models = {row.label: row.runs[0].run.model() for row in masked.values()}  # the last row has the most triplets
    if models:
        # By name: csn_jax adapt may have added a mask that the results do not have.
        panels = [(label, np.stack([*map(model.mask, section.conditions)])) for label, model in models.items()]
        caption = "The masks as applied, of the first seed. Specialists have one network per condition and no masks."
        pictures.append(chart("masks", "Masks", caption, draw_masks(panels, section.conditions)))
    one_embedding = list(masked.values()) or section.rows  # specialists have one embedding per map
    best = min(one_embedding, key=lambda row: summarise(row, "triplet_error", "overall").mean)
    finished = best.runs[0]
    model = models.get(best.label) or finished.run.model()
    try:
        pictures += draw_maps(finished, model, mark, n_items)
    except UserError as error:  # the data are missing or were changed: tables and curves do not need them
        return pictures, [f"no image maps, as {error}"]
    return pictures, []


def draw_maps(finished: Finished, model: Model, mark: str, n_items: int) -> list[Picture]:
    """One map per condition of a run; conditions that share a mask share a map. Raises UserError when the run's data
    are missing, were changed, or have no pictures."""
    no_pictures = UserError(f"the items of {finished.name} are vectors, which have no pictures.")
    if len(finished.record.input_shape) != 3 and finished.run.config.data.source != "table":
        raise no_pictures
    say(f"image maps of {finished.name}: reading its data")
    dataset = finished.run.dataset()
    items, split = dataset.items, finished.results.split
    if items.inputs.ndim == 2 and items.pictures is None:
        raise no_pictures
    total = dataset.rows(split)
    rows, choice = choose_items(items, total, n_items)
    if len(rows) < 2:
        raise UserError(f"{finished.name} has too few {split} items.")
    vectors = model.embed(items.inputs, rows)
    shared: dict[bytes, list[int]] = {}
    for row, mask in enumerate(model.masks):
        shared.setdefault(mask.tobytes(), []).append(row)
    firsts = [group[0] for group in shared.values()]
    places = maps.draw_maps(vectors, model.masks[firsts], [model.conditions[row] for row in firsts])
    chosen = f"all items of {choice[1]} of the {choice[2]} values of {choice[0]}" if choice else "drawn at random"
    count = f"{len(rows):,} of {len(total):,} {split} items" + ("" if len(rows) == len(total) else f", {chosen}")
    method = "t-SNE" if maps.has_tsne() else "the two main axes (openTSNE is not installed)"
    caption = (
        f"{finished.name}, the run with the lowest error: {count}, placed by {method} of the masked embeddings, then "
        "each moved to a cell of its own, as little as possible."
    )
    pictures, pixels = [], pixels_of(items, rows, 48)
    for place, group in zip(places, shared.values(), strict=True):
        names = " and ".join(model.conditions[row] for row in group)
        subtitle = f"{count}; neighbours are alike under the mask of {names}"
        png = draw_map(pixels, place, f"By {names}", subtitle, ink=items.ink)
        pictures.append(Picture(f"map{mark}_{model.conditions[group[0]]}.png", f"Map by {names}", caption, png))
    return pictures
