"""Measure what the page of csn_jax teach learns from simulated people, who know the true values of a column.

    python experiments/teach.py --table=footwear.parquet --condition=usage --ask=values --answers=200 --runs=20

The people answer the questions of the page's own program, which Node runs. csn_jax adapt then learns the condition from
the file that the page would save. A fifth of the items is never asked about: its triplets give the errors. Prints JSON:
for chosen and for random questions, the error of each run by adapt and by the page; by adapt from the first half of the
random questions; of raw vectors; and how often the page's interval holds the true error.
"""

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.adapt import people
from csn_jax.adapt.labels import from_table
from csn_jax.adapt.lesson import Items
from csn_jax.adapt.report import learn
from csn_jax.adapt.start import NewRun, start_with
from csn_jax.core.maps import pieces, principal_axes, rotated
from csn_jax.data.columns import Columns
from csn_jax.data.triplets import Triplets, by_value
from csn_jax.evaluate.baselines import wrong_by
from csn_jax.evaluate.triplet_error import wrong_triplets
from csn_jax.store.open_index import open_vectors
from csn_jax.teach.folder import worker_source
from csn_jax.teach.items import AXES

TESTED = 20_000  # triplets
NATURAL = 2_000  # anchors of the page's own error
PROGRAM = Path(__file__).with_suffix(".js")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", required=True, help="a table with ids, vectors and the column --condition")
    parser.add_argument("--condition", required=True)
    parser.add_argument("--ask", choices=("values", "grid"), default="values")
    parser.add_argument("--answers", type=int, default=200, help="items or screens")
    parser.add_argument("--wrong", type=float, default=0.0, help="the share of wrong answers")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--page-only", action="store_true", help="leave out adapt, which takes seconds per run")
    args = parser.parse_args()
    node = shutil.which("node")
    if node is None:
        from playwright._impl._driver import compute_driver_executable

        node = str(compute_driver_executable()[0])
    print(json.dumps(measure(args, node), indent=2))
    return 0


def measure(args: argparse.Namespace, node: str) -> dict[str, Any]:
    items = open_vectors(args.table)
    values, n = items.columns[args.condition].astype(str), len(items.ids)
    order = np.random.default_rng(0).permutation(n)
    test, pool = np.sort(order[: n // 5]), np.sort(order[n // 5 :])
    axes = principal_axes(items.vectors[pool], np.arange(len(pool)), min(AXES, items.vectors.shape[1]), unit=True)
    points, test_points = (rotated(axes, items.vectors[rows], True) for rows in (pool, test))
    raw = np.concatenate([x for _, x in pieces(items.vectors[test], True, np.float32)])
    known = np.flatnonzero(values[test] != "")
    roles = by_value(values[test][known], TESTED, np.random.default_rng(1))
    triplets = Triplets(*(known[role].astype(np.int32) for role in roles), np.zeros(TESTED, np.int32))
    report: dict[str, Any] = {
        "answers": args.answers,
        "raw": float(wrong_by(raw, triplets).mean()),
        "raw_natural": natural(raw, values[test]),
    }
    run = start_with(Path(args.table), items._replace(ids=items.ids[pool], vectors=items.vectors[pool]))
    for questions in ("chosen", "random"):
        request = {
            "points": base64.b64encode(points.astype("<f4").tobytes()).decode(),
            "n": len(pool), "k": points.shape[1], "ask": args.ask, "values": values[pool].tolist(),
            "total": args.answers, "wrong": args.wrong, "runs": list(range(args.runs)),
            "choosing": questions == "chosen",
        }  # fmt: skip
        found: dict[str, list[Any]] = {name: [] for name in ("adapt", "half", "page", "form", "estimate", "truth")}
        for simulated in simulate(node, request):
            weights = np.array(simulated["learned"]["weights"])
            view = test_points * np.sqrt(weights).astype(np.float32)
            found["page"].append(float(wrong_by(view, triplets).mean()))
            found["truth"].append(natural(view, values[test]))
            error = simulated["learned"]["error"]
            found["estimate"].append(error and [error["error"], error["half"]])
            if args.page_only:
                continue
            answers, parts = simulated["answers"], (args, run, items.ids[pool])
            error, form = by_adapt(*parts, answers, items.vectors[test], triplets)
            found["adapt"].append(error)
            found["form"].append(form)
            if questions == "random":  # with the whole, how much an answer more helps
                found["half"].append(by_adapt(*parts, answers[: args.answers // 2], items.vectors[test], triplets)[0])
        pairs = [(e, t) for e, t in zip(found["estimate"], found["truth"], strict=True) if e]
        found["covered"] = [abs(error - truth) <= half for (error, half), truth in pairs]
        report[questions] = found
    return report


def simulate(node: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of people, and what the page makes of them."""
    with tempfile.TemporaryDirectory() as folder:
        program, asked = Path(folder, "page.js"), Path(folder, "request.json")
        program.write_text(worker_source() + PROGRAM.read_text())
        asked.write_text(json.dumps(request))
        done = subprocess.run([node, program, asked], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)["runs"]


def natural(view: np.ndarray, values: np.ndarray) -> float:
    """The error as the page means it: of two items of one value and one of another, at random."""
    rng = np.random.default_rng(2)
    known = np.flatnonzero(values != "")
    errors = []
    for anchor in rng.choice(known, min(NATURAL, len(known)), replace=False).tolist():
        others = known[known != anchor]
        alike = others[values[others] == values[anchor]]
        unlike = others[values[others] != values[anchor]]
        if len(alike) and len(unlike):
            near, far = (np.linalg.norm(view[part] - view[anchor], axis=1) for part in (alike, unlike))
            errors.append(np.searchsorted(np.sort(far), near, "right").mean() / len(far))
    return float(np.mean(errors))


def by_adapt(
    args: argparse.Namespace,
    run: NewRun,
    ids: np.ndarray,
    answers: list[dict[str, Any]],
    vectors: np.ndarray,
    triplets: Triplets,
) -> tuple[float, str]:
    """(the error on triplets of unseen vectors of what csn_jax adapt learns from answers, its form)."""
    items, name = Items(ids, None, "the table", run.items.vectors), args.condition
    if args.ask == "values":
        known = [answer for answer in answers if answer["value"] is not None]
        columns = {"id": [ids[answer["item"]] for answer in known], name: [answer["value"] for answer in known]}
        table = Columns(Path("labels.csv"), columns, None, None)
        lesson = from_table(table, columns["id"], name, "categorical", items, run.config.data, True)
    else:
        rows = [
            (ids[anchor], ids[positive], ids[negative], ids[answer["item"]])
            for answer in answers
            for anchor, positive in permutations([answer["item"], *(answer["alike"] or ())], 2)
            for negative in answer["shown"]
            if negative not in answer["alike"]
        ]
        names = ("anchor", "positive", "negative", "screen")
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        lesson = people.from_triplets(Columns(Path("triplets.csv"), columns, None, None), name, items, None)
    learned = learn(lesson, run, run.model())
    model = learned.wider.model
    wrong = wrong_triplets(model.view(vectors), model.masks[-1:], triplets)
    return float(wrong.mean()), learned.report["form"]


if __name__ == "__main__":
    sys.exit(main())
