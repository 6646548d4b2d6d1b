"""Pictures of a run: the masks, and for each condition a sheet of queries with their nearest neighbours."""

from pathlib import Path

import numpy as np

from csn_jax.data.dataset import Dataset
from csn_jax.model import Model

QUERIES = 10
NEIGHBOURS = 12


def draw_all(workdir: Path, model: Model, embeddings: np.ndarray, dataset: Dataset) -> None:
    """Write masks.png and neighbours_<condition>.png into a workdir.

    Args:
        embeddings: [N, D], rows of the test split filled.
    """
    draw_masks(workdir / "masks.png", model.masks, model.conditions)
    for row, condition in enumerate(model.conditions):
        draw_neighbours(workdir / f"neighbours_{condition}.png", row, model, embeddings, dataset)


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
    axes.set_yticks(range(n), conditions)
    axes.set_xlabel(f"{width} embedding dimensions, grouped by the condition that weighs them most")
    alive, shared = int((masks > 0).any(0).sum()), int(((masks > 0).sum(0) > 1).sum())
    axes.set_title(f"{alive} of {width} dimensions in use, {shared} shared by conditions", fontsize=10)
    figure.colorbar(image, ax=axes, label="mask weight", pad=0.01)
    figure.savefig(path, dpi=130)


def draw_neighbours(path: Path, row: int, model: Model, embeddings: np.ndarray, dataset: Dataset) -> None:
    """A sheet of test queries (left column) and their nearest test items under one condition; a green bar marks hits
    of the query's own value, a red one the others."""
    from matplotlib.figure import Figure

    items, condition = dataset.items, model.conditions[row]
    gallery = np.flatnonzero(items.split == "test")
    labels = items.labels[condition]
    masked = embeddings[gallery] * model.masks[row][None]
    squares = np.einsum("nd,nd->n", masked, masked)
    chosen = np.random.default_rng(0).choice(len(gallery), size=min(QUERIES, len(gallery)), replace=False)
    columns = min(NEIGHBOURS, len(gallery) - 1)
    figure = Figure(figsize=((columns + 1.6) * 0.62, len(chosen) * 0.72 + 0.6), layout="constrained")
    figure.suptitle(f"nearest test items by {condition}; the query is on the left", fontsize=10)
    axes = figure.subplots(len(chosen), columns + 1, squeeze=False)
    for line, query in zip(axes, chosen, strict=True):
        gaps = squares - 2 * masked @ masked[query]
        gaps[query] = -np.inf  # first in its own row
        for place, axis in zip(np.argsort(gaps, kind="stable")[: columns + 1], line, strict=True):
            item = gallery[place]
            axis.imshow(items.inputs[item].squeeze(), cmap="gray", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            alike = labels[item] == labels[gallery[query]]
            colour = "black" if place == query else "tab:green" if alike else "tab:red"
            for side in axis.spines.values():
                side.set(color=colour, linewidth=2.2)
    figure.savefig(path, dpi=110)
