"""Add a condition to a trained model: one new mask, all else frozen.

    csn_jax adapt --workdir=runs/products --condition=heel --table=products.csv
    csn_jax adapt --workdir=runs/products --condition=style --table=triplets.csv --index=products.parquet

The condition is learned in seconds from labels, a column of a table, or from some hundred triplets that people gave.
The new workdir embeds exactly as the old one does, so stored vectors stay valid, and the old masks keep their bits.

The error of the new condition is measured on triplets that took no part in the fit. For labels these are the triplets
of the test split. Triplets from people are cross-validated: each fold is measured by a fit to the other folds, and
triplets with the same anchor, or of the same three items, share a fold. The mask that is written is fitted to all of
them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from csn_jax import cli
from csn_jax.errors import UserError
from csn_jax.text import table

if TYPE_CHECKING:
    import numpy as np

    from csn_jax.adapt.lesson import Found, Lesson
    from csn_jax.model.model import Model
    from csn_jax.model.run import Run


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax train, or of an imported or adapted model. It is only read."""
    condition: str
    """The new condition: the name of a column of labels, or any name for triplets."""
    table: str = ""
    """A CSV or Parquet table. Labels: one column has the name of the condition, and each row has an item: its image or
    vector, or the id of an item of --index or of the run. Triplets: columns anchor, positive and negative, with ids of
    such items or with paths of images relative to the table; optional columns are condition and split. Empty: the
    run's own labels, or those in --index."""
    out: str = ""
    """The new workdir. Empty: WORKDIR_CONDITION."""
    index: str = ""
    """A file that csn_jax embed wrote with this model: the items, already embedded."""
    kind: Literal["inferred", "categorical", "numeric", "ordinal", "set"] = "inferred"
    """The kind of the labels, as in --config.data.kinds."""
    image: str = ""
    """The table's column of image paths, relative to its folder. Empty: as in the run's own table, or image."""
    id: str = ""
    """The table's column of ids. Empty: as in the run's own table, or id if there is one, else the image paths."""
    vectors: str = ""
    """The table's column of vectors, or a file beside it. Empty: as in the run's own table."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)

    from csn_jax.model.run import open_run
    from csn_jax.runtime.record import check_name
    from csn_jax.runtime.whole import check_free
    from csn_jax.runtime.writer import next_step, say

    run = open_run(args.workdir)
    workdir = run.workdir
    if run.specialists:
        raise UserError(
            f"{workdir} holds specialists, a network for each condition and no masks to add one to; train a specialist "
            f"for {args.condition!r}, or adapt a run of another variant."
        )
    if not args.condition:
        raise UserError("--condition is empty; give the name of the new condition.")
    check_name(args.condition)
    if args.condition in run.record.names:
        raise UserError(f"{workdir} has a condition {args.condition!r} already; give the new one another name.")
    out = Path(args.out or f"{workdir}_{args.condition}").expanduser().absolute()
    if out == workdir:
        raise UserError(f"--out={out} is the workdir itself, which stays the run that it is; give a new folder.")
    check_free(out, "--out")
    model = run.model()
    found = _find(args, run, model)
    if found.lesson.note:
        say(found.lesson.note)
    mask, report = _learn(model, found.lesson)
    report = {"condition": args.condition, "kind": found.lesson.kind, "own_data": found.dataset is not None} | report
    _write(out, run, model, found, mask, report)
    print(told(report))
    print(f"{out} holds the model, with conditions {', '.join((*model.conditions, args.condition))}")
    place = args.out or f"{args.workdir.rstrip('/')}_{args.condition}"
    if run.record.checkpoint is None:
        next_step("embed", f"--workdir={place}", "--split=all", f"--out={place}.parquet")
    else:  # an imported model, which has no items of its own
        next_step("port", "export", f"--workdir={place}", f"--out={place}_exported")


def _find(args: Args, run: "Run", model: "Model") -> "Found":
    """What to learn from, by what is given: labels or triplets; of the run's own items, of a table's or of an index."""
    from csn_jax.adapt import known_items as new_items
    from csn_jax.adapt import lesson as new_notion
    from csn_jax.data.columns import Columns, read_columns
    from csn_jax.data.item_set import SPLITS
    from csn_jax.data.sources.table import SPLIT
    from csn_jax.data.to_embed import overridden
    from csn_jax.store.index import Index

    path, name, config, shape = Path(args.table).expanduser(), args.condition, run.config, run.record.input_shape
    if args.table and not path.is_file():
        raise UserError(f"--table={args.table} is no file; give a CSV or Parquet table.")
    columns, ids, known = read_columns(path) if args.table else None, None, None
    if columns is not None and len(columns) == 0:
        raise UserError(f"{path} has no row; give a row for each item or triplet.")
    kind = None if args.kind == "inferred" else args.kind
    data = overridden(config.data, args.image, args.id, args.vectors)
    if args.index:
        index = Index.open(args.index).of_model(model.sha256, model.conditions, model.masks)
        split = index.columns.get(SPLIT)
        split = split if split is not None and set(split.tolist()) == set(SPLITS) else None
        known = new_items.Known(index.ids, index.vectors, True, split, args.index)
        if columns is None:
            text = {column: values.tolist() for column, values in index.columns.items()}
            columns, ids = Columns(Path(args.index), text, None, None), index.ids.tolist()
    if columns is not None and new_notion.is_of_triplets(columns, name):
        known = known or new_items.of_run(run, required=False)
        may_be_files = len(shape) == 3 and not args.index
        return new_notion.Found(new_notion.from_triplets(columns, name, known, shape, may_be_files), None, config)
    if columns is not None:
        columns.column(name, "--condition")  # before anything slow
    if known is None:
        own = columns is None or (config.data.source == "table" and path.resolve() == new_items.table_of(config))
        extended = new_notion.of_run(run, name, kind) if own else None
        if extended:
            return extended
        if columns is None:
            raise UserError(
                f"{run.workdir} has no labels of its own to learn {name!r} from (it was imported, trained on "
                "triplets that people gave, or adapted by other data since); give --table."
            )
        columns, ids, known = new_items.of_table(columns, run, data, model.embed)
    ids = ids or new_items.ids_of(columns, data)
    return new_notion.Found(new_notion.from_labels(columns, ids, name, kind, known, config.data), None, config)


def _learn(model: "Model", lesson: "Lesson") -> tuple["np.ndarray", dict[str, Any]]:
    """(the mask [D], how it was found and how good it is)."""
    import numpy as np

    from csn_jax.adapt import fit as new_mask
    from csn_jax.data.triplets import Triplets
    from csn_jax.evaluate.bootstrap import intervals
    from csn_jax.evaluate.triplet_error import interval, wrong_triplets

    rows = np.unique(np.concatenate([role for columns in lesson.triplets.values() for role in columns[:3]]))
    vectors = lesson.inputs
    if not lesson.embedded:
        vectors = np.zeros((len(lesson.inputs), model.masks.shape[1]), np.float32)
        vectors[rows] = model.embed(lesson.inputs, rows, progress=True)
    train, together = lesson.triplets["train"], lesson.together["train"]
    gain, validation = new_mask.gains(vectors, *train[:3]), lesson.triplets.get("validation")
    others = new_mask.gains(vectors, *validation[:3]) if validation else None
    weights, strength = new_mask.learn(gain, together, others)
    mask = new_mask.to_mask(weights, model.masks, vectors[rows].astype(np.float64).var(axis=0))
    if "test" in lesson.triplets:
        test, together = lesson.triplets["test"], lesson.together["test"]
        wrong, plain = (
            wrong_triplets(vectors, one[None], Triplets(*test[:3], np.zeros(len(together), np.int32)))
            for one in (mask, np.ones_like(mask))
        )
    else:
        wrong, plain = new_mask.held_out(gain, together), new_mask.wrong(np.ones(len(mask)), gain)
    _, group = np.unique(together, return_inverse=True)
    better = np.bincount(group, plain.astype(float) - wrong)
    report = {
        "learned_from": lesson.told,
        "strength": strength,
        "triplet_error": float(wrong.mean()),
        "ci95": list(interval(wrong, together)),
        "unmasked": {"triplet_error": float(plain.mean()), "ci95": list(interval(plain, together))},
        "better_than_unmasked": {
            "by": float(plain.mean() - wrong.mean()),
            "ci95": intervals(better[None], np.bincount(group))[0].tolist(),
        },
        "n_triplets": len(wrong),
        "cross_validated": "test" not in lesson.triplets,
    }
    return mask, report


def _write(out: Path, run: "Run", model: "Model", found: "Found", mask: "np.ndarray", report: dict[str, Any]) -> None:
    """The new workdir. On the run's own data it is evaluated anew; else it has the run's results, which still hold."""
    import numpy as np

    from csn_jax.core.steps import initial_state
    from csn_jax.evaluate.measure import measure
    from csn_jax.model.network import build_network, examples
    from csn_jax.pictures import sheets as pictures
    from csn_jax.runtime.record import Condition
    from csn_jax.runtime.whole import write_run

    _, state = run.restore()
    record = found.dataset.record if found.dataset else run.record
    record = dataclasses.replace(
        record,
        conditions=(*run.record.conditions, Condition(report["condition"], report["kind"])),
        init_sha256=run.record.init_sha256,
        adapted=(*run.record.adapted, report),
    )
    network = build_network(found.config, record.input_shape, len(record.conditions), examples(found.config, record))
    beta = np.concatenate([np.asarray(state.params["beta"]), mask[None]])
    state = initial_state(state.params["backbone"], state.statistics, beta, network.optimizer)._replace(step=state.step)
    names, masks = (*model.conditions, report["condition"]), np.concatenate([model.masks, mask[None]])
    wider = model.with_masks(names, masks)
    results = run.results
    if found.dataset:
        results, embeddings = measure(wider, found.dataset, "test", found.config.variant)
    if results:
        results = dataclasses.replace(results, adapted=record.adapted)
    write_run(out, found.config, record, state, results, "--out")
    if found.dataset:
        pictures.draw_all(out, wider, embeddings, found.dataset)
    else:
        pictures.draw_masks(out / "masks.png", masks, names)


def told(report: dict[str, Any]) -> str:
    """How good a condition is, as a table and a sentence."""
    name, n, plain, better = (report[part] for part in ("condition", "n_triplets", "unmasked", "better_than_unmasked"))
    rows = [("distance", "triplet error", "95 % interval")]
    for which, part in ((f"under {name}", report), ("unmasked", plain)):
        low, high = part["ci95"]
        rows.append((which, f"{part['triplet_error']:.2%}", f"{low:.2%} to {high:.2%}"))
    rows.append(("by chance", "50.00%", ""))
    held_out = f"{n:,} held-out triplets" + (", each by a fit without its fold" if report["cross_validated"] else "")
    more = "give more triplets, or train" if report["kind"] == "triplets" else "train"
    (low, high), points = better["ci95"], f"{better['by'] * 100:.2f} points"
    if report["ci95"][1] >= 0.5:
        verdict = (
            f"the dimensions of this embedding do not carry {name}, as far as these triplets tell: its error is not "
            f"clearly below chance; {more} with {name} as a condition."
        )
    elif low <= 0:
        verdict = (
            f"no mask over these dimensions is clearly better for {name} than none, as far as these triplets tell (by "
            f"{points}, 95 % interval {low * 100:.2f} to {high * 100:.2f}); {more} with {name} as a condition."
        )
    else:
        verdict = (
            f"its error is {points} below that of the unmasked distance (95 % interval {low * 100:.2f} to "
            f"{high * 100:.2f})."
        )
    return f"{name}, learned from {report['learned_from']}; {held_out}\n{table(rows)}\n{verdict}"
