"""The charts of a report: learning curves, masks side by side, errors, error against training triplets. `saved` makes
files of them."""

import textwrap
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from csn_jax.core.masks import use_of
from csn_jax.pictures.sheets import as_bytes, literal, order_dimensions
from csn_jax.report.runs import Row, Section, curve, summarise

# By Okabe and Ito: colour-blind readers can tell them apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 1, 1, 1, 1, 1)))
MARKERS = "osD^vP*"
DPI = 130
POINTS = 120  # of a loss curve at most; each is the mean of several steps


def styles(rows: Sequence[Row]) -> dict[str, dict]:
    """Colour, dash and marker per label: the colour by series, dash and marker by row."""
    looks = {}
    for i, members in enumerate(_by_series(rows).values()):
        for j, row in enumerate(members):
            again = j + i // len(COLOURS)
            looks[row.label] = {
                "color": COLOURS[i % len(COLOURS)],
                "linestyle": DASHES[again % len(DASHES)],
                "marker": MARKERS[(i + again) % len(MARKERS)],
            }
    return looks


def _by_series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by series; those of a series stand together."""
    return {series: list(members) for series, members in groupby(rows, key=attrgetter("series"))}


def draw_curves(section: Section) -> Figure | None:
    """Validation error and training loss over steps, one colour per row: single seeds thin, their mean bold; a curve
    of one point is its marker. None if no run has a log."""
    curves = {
        metric: [[curve(run, metric) for run in row.runs] for row in section.rows]
        for metric in ("validation/triplet_error/overall", "train/loss")
    }
    if not any(steps for rows in curves.values() for runs in rows for steps, _ in runs):
        return None
    figure_, panels = _figure(11, 4.2, columns=2)
    looks, markers = styles(section.rows), False
    shown = (("triplet error on validation, %", 100), ("training loss", 1))
    for axes, rows, (title, scale) in zip(panels, curves.values(), shown, strict=True):
        for row, runs in zip(section.rows, rows, strict=True):
            drawn = [(np.array(steps), scale * np.array(values)) for steps, values in runs if steps]
            one_point = all(len(steps) == 1 for steps, _ in drawn)  # of which a line would show nothing
            look = looks[row.label] | ({"ms": 5, "clip_on": False} if one_point else {"marker": "none"})
            markers |= one_point and bool(drawn)
            for steps, values in drawn:
                axes.plot(*_thinned(steps, values), **look, lw=0.8 if len(drawn) > 1 else 1.8, zorder=2)
            if len(drawn) > 1:
                steps = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in drawn)))
                mean = np.mean([values[np.isin(steps_, steps)] for steps_, values in drawn], axis=0)
                axes.plot(*_thinned(np.array(steps), mean), **look, lw=2.4, zorder=3)
        axes.set(xlabel="step", xlim=(0, None), ylim=(0, None))
        axes.set_title(title, size=10)
    return _with_legend(figure_, looks, markers=markers)


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most POINTS points, each the mean of its neighbours."""
    group = -(-len(steps) // POINTS)
    starts = np.arange(0, len(steps), group)
    counts = np.diff([*starts, len(steps)])
    return tuple(np.add.reduceat(part, starts) / counts for part in (steps, values))


def draw_masks(masks: Sequence[tuple[str, np.ndarray]], conditions: Sequence[str]) -> Figure:
    """Heat maps of masks (label, [C, D]) side by side on one colour scale; each orders its own dimensions."""
    columns = 2 if len(masks) == 4 else min(3, len(masks))
    lines = -(-len(masks) // columns)
    height = lines * (1.0 + 0.36 * len(conditions)) + 0.4
    figure_, grid = _figure(1.5 + 3.6 * columns, height, lines, columns, sharey=True)
    panels = np.ravel(grid)
    highest = max(float(mask.max()) for _, mask in masks) or 1
    for axes, (label, mask) in zip(panels, masks, strict=False):
        ordered = mask[:, order_dimensions(mask)]
        image = axes.imshow(ordered, aspect="auto", cmap="viridis", vmin=0, vmax=highest, interpolation="nearest")
        used, shared = use_of(mask)
        title = f"{literal(textwrap.fill(label, 44))}\n{used} of {mask.shape[1]} dimensions in use, {shared} shared"
        axes.set_title(title, size=9)
        axes.grid(False)
        for edge in range(1, len(conditions)):
            axes.axhline(edge - 0.5, color="white", lw=2)
        axes.set_yticks(range(len(conditions)), map(_short, conditions))
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes in panels[len(masks) :]:
        axes.set_axis_off()
    figure_.supxlabel("embedding dimensions, grouped by the condition that weighs them most, unused ones last", size=9)
    figure_.colorbar(image, ax=panels.tolist(), label="mask weight", pad=0.01)
    return figure_


def draw_triplets(section: Section) -> Figure | None:
    """Error against the number of training triplets, one line per series: with the 95 % interval of a single seed, or
    the deviation of several. None if all rows have the same number."""
    series = _by_series(section.rows)
    if max(len({row.triplets for row in rows}) for rows in series.values()) < 2:
        return None
    figure_, axes = _figure(7.5, 4.4)
    looks = styles([rows[0] for rows in series.values()])
    for rows in series.values():
        means, reach = [], []
        for row in rows:
            error = summarise(row, "triplet_error", "overall")
            low, high = error.interval or (error.mean - error.deviation, error.mean + error.deviation)
            means.append(100 * error.mean)
            reach.append((100 * (error.mean - low), 100 * (high - error.mean)))
        reach = np.maximum(np.transpose(reach), 0)
        axes.errorbar([row.triplets for row in rows], means, reach, **looks[rows[0].label], capsize=3, ms=5)
    axes.set_xscale("log")
    axes.set(xlabel="training triplets, of all conditions together", ylim=(0, None))
    axes.set_title(_error_title(section), size=10)
    ticks = sorted({row.triplets for row in section.rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30 if len(ticks) > 5 else 0)
    axes.minorticks_off()
    return _with_legend(figure_, {name: looks[rows[0].label] for name, rows in series.items()}, markers=True)


def draw_errors(section: Section) -> Figure:
    """Error per condition and overall, one mark per row: with the 95 % interval of a single seed; of several, single
    seeds small and their mean large."""
    names = [*section.conditions, "overall"]
    figure_, axes = _figure(min(14, max(6, 1 + len(names) * (0.6 + 0.2 * len(section.rows)))), 4.2)
    looks = styles(section.rows)
    for i, row in enumerate(section.rows):
        at = np.arange(len(names)) + 0.7 * ((i + 0.5) / len(section.rows) - 0.5)
        look = looks[row.label] | {"linestyle": "none"}
        errors = [summarise(row, "triplet_error", name) for name in names]
        means = np.array([100 * error.mean for error in errors])
        if len(row.runs) == 1:
            ends = 100 * np.array([error.interval for error in errors]).T
            axes.errorbar(at, means, np.maximum([means - ends[0], ends[1] - means], 0), **look, capsize=3, ms=6)
        else:
            for run in row.runs:
                axes.plot(at, [100 * run.results.figure(name).value for name in names], **look, ms=3, alpha=0.6)
            axes.plot(at, means, **look, ms=8)
    axes.set_xticks(range(len(names)), map(_short, names))
    for edge in range(1, len(names)):
        axes.axvline(edge - 0.5, color="#dddddd", lw=1)
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, None))
    axes.set_title(_error_title(section), size=10)
    return _with_legend(figure_, looks, markers=True, lines=False)


def _short(name: str) -> str:
    return literal(textwrap.shorten(name, 24, placeholder="…"))


def _error_title(section: Section) -> str:
    return f"triplet error on {section.rows[0].runs[0].results.split}, %"


def _figure(width: float, height: float, lines: int = 1, columns: int = 1, **options) -> tuple[Figure, Any]:
    figure_ = Figure(figsize=(width, height), layout="constrained")
    axes = figure_.subplots(lines, columns, **options)
    for panel in np.ravel(axes):
        panel.grid(True, axis="y", color="#e5e5e5", lw=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure_, axes


def _with_legend(figure_: Figure, looks: dict[str, dict], *, markers: bool = False, lines: bool = True) -> Figure:
    """The figure with a legend below the panels, where it covers nothing."""
    hidden = ({} if markers else {"marker": "none"}) | ({} if lines else {"linestyle": "none"})
    shown = [Line2D([], [], **(look | hidden), lw=2, ms=6) for look in looks.values()]
    columns = max(1, min(len(looks), int(figure_.get_figwidth() * 11 // (max(map(len, looks)) + 6))))
    texts = [literal(textwrap.fill(label, 90)) for label in looks]
    figure_.legend(shown, texts, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=2.6)
    return figure_


def saved(figure_: Figure, kind: str) -> bytes:
    """A figure as a file of a kind, png, svg or pdf. The same figure gives the same bytes."""
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "csn_jax"}):  # the names of an SVG's parts would be random
        return as_bytes(figure_.savefig, format=kind, dpi=DPI, metadata=dates.get(kind))
