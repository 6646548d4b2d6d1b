"""Write tables and figures that compare finished runs.

    csn_jax report runs/quickstart runs/standard
    csn_jax report runs/seed_0 runs/seed_1 runs/seed_2 --out=report/seeds

The folder has report.md, PNG and CSV files: the tables and figures of the paper, with means over seeds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csn_jax import cli
from csn_jax.errors import UserError

if TYPE_CHECKING:
    from csn_jax.model.model import Model
    from csn_jax.report.runs import Finished, Section

OURS = re.compile(r"(report\.md|(table|runs)\.csv|((errors|curves|masks|triplets)(_\d+)?|map(_\d+)?_.+)\.png)")
MARK = ("report.md", b"<!-- written by csn_jax.report -->")
MOST = 2_500  # items on a map: to give each its cell takes 20 s then, and grows with the third power


@dataclass(frozen=True)
class Args:
    workdirs: tuple[str, ...]
    """Folders of runs of csn_jax train; they are only read. Runs that differ only in their seed become one row."""
    out: str = "report"
    """The folder to write. A report that this command wrote before is replaced."""
    items: int = 900
    """The most items that an image map shows."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, positional=True)
    out = Path(args.out).expanduser().absolute()
    if not 10 <= args.items <= MOST:
        raise UserError(f"--items is {args.items}; give a number from 10 to {MOST:,}.")

    from csn_jax.report.runs import arrange, read_run
    from csn_jax.report.text import markdown, runs_csv, table_csv
    from csn_jax.runtime.whole import check_folder, write_folder
    from csn_jax.runtime.writer import next_step, say

    check_folder(out, OURS, MARK)
    found = {name: read_run(name) for name in dict.fromkeys(args.workdirs)}
    unfinished = [name for name, run in found.items() if run is None]
    notes = [f"{', '.join(unfinished)}: not finished, so left out."] if unfinished else []
    if len(unfinished) == len(found):
        raise UserError(f"none of these runs is finished ({', '.join(unfinished)}); train them to the end first.")
    for note in notes:
        say(note)
    sections = arrange([run for run in found.values() if run])
    files: dict[str, bytes] = {}
    shown: list[list[tuple[str, str, str]]] = []
    for number, section in enumerate(sections, 1):
        mark = f"_{number}" if len(sections) > 1 else ""
        pictures, told = draw(section, args.items)
        notes += told
        shown.append([(place(name, mark), title, text) for name, _, title, text in pictures])
        files |= {place(name, mark): content for name, content, _, _ in pictures}
    texts = {"report.md": markdown(sections, shown, notes)}
    texts |= {"table.csv": table_csv(sections), "runs.csv": runs_csv(sections)}
    write_folder(out, files | {name: text.encode() for name, text in texts.items()}, OURS, MARK)
    n = sum(len(row.runs) for section in sections for row in section.rows)
    print(f"{out / 'report.md'} tells of {n} run{'s' if n > 1 else ''}, with {len(files)} pictures beside it")
    next_step("explore", next(name for name, run in found.items() if run), "--out=page")


def place(name: str, mark: str) -> str:
    """The file of a picture: map_1_font.png for map_font of the first section of several."""
    kind, _, rest = name.partition("_")
    return f"{kind}{mark}{'_' * bool(rest)}{rest}.png"


def draw(section: "Section", n_items: int) -> tuple[list[tuple[str, bytes, str, str]], list[str]]:
    """The pictures of a section: ([(name, PNG, title, what it shows)], what could not be drawn and why)."""
    import numpy as np

    from csn_jax.report.charts import draw_curves, draw_errors, draw_masks, draw_triplets
    from csn_jax.report.runs import summarise
    from csn_jax.runtime.writer import say

    pictures = [("errors", draw_errors(section), "Errors", "The triplet errors of the table.")]
    if curves := draw_curves(section):
        told = "Validation error and training loss. Several seeds are thin lines, their mean the bold one."
        pictures.append(("curves", curves, "Learning curves", told))
    if triplets := draw_triplets(section):
        told = "Overall triplet error against the number of training triplets of all conditions together."
        pictures.append(("triplets", triplets, "Error and training triplets", told))
    say("reading the models")
    masked = {row.series: row for row in section.rows if not row.runs[0].run.specialists}
    models = {row.label: row.runs[0].run.model() for row in masked.values()}  # of most training triplets, sorted last
    if models:
        # By name, as csn_jax.adapt may have added a mask that the results know nothing of.
        panels = [(label, np.stack([*map(model.mask, section.conditions)])) for label, model in models.items()]
        told = "The masks as applied, of the first seed. Specialists have networks of their own and no masks."
        pictures.append(("masks", draw_masks(panels, section.conditions), "Masks", told))
    one_embedding = list(masked.values()) or section.rows  # before specialists, of whose networks each has its own map
    best = min(one_embedding, key=lambda row: summarise(row, "triplet_error", "overall").mean)
    finished = best.runs[0]
    model = models.get(best.label) or finished.run.model()
    try:
        pictures += draw_maps(finished, model, n_items)
    except UserError as error:  # the data are elsewhere, or changed: tables and curves need them not
        return pictures, [f"no image maps, as {error}"]
    return pictures, []


def draw_maps(finished: "Finished", model: "Model", n_items: int) -> list[tuple[str, bytes, str, str]]:
    """A map for every condition of one run; one map for conditions that share their mask.

    Raises:
        UserError: when the run's data are not there, are others now, or are no pictures.
    """
    from csn_jax.pictures import maps as layout
    from csn_jax.report.image_map import choose_items, draw_map
    from csn_jax.runtime.writer import say

    if len(finished.run.record.input_shape) != 3:
        raise UserError(f"the items of {finished.name} are vectors, which have no pictures.")
    say(f"image maps of {finished.name}: reading its data")
    dataset = finished.run.dataset()
    items, split = dataset.items, finished.results.split
    total = dataset.rows(split)
    rows, few = choose_items(items, total, n_items)
    if len(rows) < 2:
        raise UserError(f"{finished.name} has too few {split} items.")
    vectors = model.embed(items.inputs, rows)
    shared: dict[bytes, list[int]] = {}
    for i, mask in enumerate(model.masks):
        shared.setdefault(mask.tobytes(), []).append(i)
    firsts = [those[0] for those in shared.values()]
    maps = layout.draw_maps(vectors, model.masks[firsts], [model.conditions[i] for i in firsts])
    chosen = f"all items of {few[1]} of the {few[2]} values of {few[0]}" if few else "drawn at random"
    among = f"{len(rows):,} of {len(total):,} {split} items" + ("" if len(rows) == len(total) else f", {chosen}")
    how = "t-SNE" if layout.has_tsne() else "the two main axes (openTSNE is not installed)"
    drawn = []
    for places, those in zip(maps, shared.values(), strict=True):
        names = " and ".join(model.conditions[i] for i in those)
        picture = draw_map(
            items.inputs[rows],
            places,
            f"By {names}",
            f"{among}; neighbours are alike under the mask of {names}",
            ink=items.ink,
        )
        told = (
            f"Of {finished.name}, of lowest error: {among}, placed by {how} of the masked embeddings, then "
            "each moved to a cell of its own, with as little moving as possible."
        )
        drawn.append((f"map_{model.conditions[those[0]]}", picture, f"Map by {names}", told))
    return drawn
