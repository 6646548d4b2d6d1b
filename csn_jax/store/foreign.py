"""Tables that other programs wrote, as stored items: an id and a vector per row, under a model's masks or none."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.config import DataConfig
from csn_jax.data.attributes import LONGEST
from csn_jax.data.columns import Columns, read_columns
from csn_jax.data.sources.table import item_ids
from csn_jax.data.sources.vector_cells import vector_columns
from csn_jax.data.sources.vectors import read_vectors
from csn_jax.data.table_pictures import pictures_beside
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.int8 import scale_of
from csn_jax.store.vector_file import KEY
from csn_jax.text import listed

if TYPE_CHECKING:
    from csn_jax.model.model import Model

NAMED = 20  # rows without a vector that are named one by one
FLAG = "the search"  # what needs the columns, for messages


def read_foreign(path: Path, model: "Model | None", data: DataConfig) -> tuple[Embeddings, list[str]]:
    """`embeddings_of` the table in a file."""
    return embeddings_of(read_columns(path), model, data)


def table_of(table: Any) -> Columns:
    """A table of pandas, Polars, Arrow or DuckDB as columns; none of them but Arrow is imported."""
    import pyarrow

    from csn_jax.data.arrow_tables import as_text, in_memory

    try:
        arrow = pyarrow.table(table)
    except (TypeError, ValueError, pyarrow.ArrowException):
        kind = type(table).__name__
        raise UserError(f"the table is a {kind}; give a table of pandas, Polars, Arrow or DuckDB.") from None
    texts = {name: as_text(arrow[name]) for name in arrow.column_names}
    known = {name: cells for name, cells in texts.items() if cells is not None}
    return Columns(Path("the table"), known, None, in_memory(arrow))


def embeddings_of(columns: Columns, model: "Model | None", data: DataConfig) -> tuple[Embeddings, list[str]]:
    """(the rows of a table with a usable vector, what was taken for what, one line each).

    Without a model, vectors stay as they are, and there are no conditions. Else vectors as wide as the model's
    embeddings are embeddings; those as wide as its inputs are embedded. If both are equally wide, embeddings are those
    of a table with the metadata of csn_jax embed. The columns: `data.id` or else `id` or the paths of the pictures,
    `data.vectors` or else `vector`; all others but long texts are attributes.

    Raises:
        UserError: for a table without these columns, or vectors that are neither.
    """
    place, notes = columns.path, [*columns.notes]
    if not len(columns):
        raise UserError(f"{place} has no row; give one row per item.")
    known = vector_columns(columns, data.vectors)
    data = DataConfig(
        id=data.id if data.id in columns.text else DataConfig.id,
        image=data.image,
        vectors=data.vectors if known else "vector",
    )
    taken = known or vector_columns(columns, data.vectors)
    pictures = pictures_beside(columns, data.image)
    names = pictures.ids(of_vectors=True) if pictures else None
    if names is None:
        columns.column(data.id, FLAG)  # as row numbers mean nothing to a search
    ids, id_column = item_ids(columns, names, data, FLAG)
    values, faults, more = read_vectors(columns, data, ids, FLAG)
    notes += more
    kept = np.array([fault is None for fault in faults])
    bad = [f"left out {name}, which {fault}" for name, fault in zip(ids, faults, strict=True) if fault]
    notes += bad[:NAMED] + ([f"left out {len(bad) - NAMED:,} more"] if len(bad) > NAMED else [])
    if not kept.any():
        raise UserError(f"{place} has no usable vector ({bad[0]}); give one vector per item.")
    vectors, note = values, f"{values.shape[1]} numbers per vector"
    if model:
        vectors, note = _embedded(columns, taken, values, model)
    if not (model and model.maps):
        vectors = vectors.astype(np.float32, copy=False)  # what a search under masks multiplies
    excluded = {id_column, data.image, *taken}
    attributes = {
        name: np.array(cells, object)[kept]
        for name, cells in columns.text.items()
        if name not in excluded and max(map(len, cells)) <= LONGEST
    }
    where = {}
    if pictures and pictures.exist():
        where, names = pictures.kept(np.flatnonzero(kept), id_column)
        if names is not None:
            attributes[where["image"]] = names
    elif not pictures:
        where = _noted_pictures(columns, attributes)
    embeddings = Embeddings(
        ids=np.array(ids, object)[kept],
        vectors=vectors,
        columns=attributes,
        conditions=tuple(Condition(name, "categorical") for name in model.conditions) if model else (),
        masks=model.masks if model else np.zeros((0, vectors.shape[1]), np.float32),
        model_sha256=model.sha256 if model else "",
        pictures=where,
        maps=model and model.maps,
    )
    return embeddings, [*notes, f"{place}: {note}"]


def _embedded(columns: Columns, names: tuple[str, ...], values: np.ndarray, model: "Model") -> tuple[np.ndarray, str]:
    """(embeddings [K, D] of vectors [K, width], what these were taken for)."""
    width, dim = values.shape[1], model.width
    takes = model.input_shape[0] if len(model.input_shape) == 1 else None
    stored, scale, features = _metadata(columns)
    if features == model.sha256:  # they may be as wide as the model's inputs
        raise UserError(
            f"{columns.path} holds features of this run's network, which no mask applies to; embed the items again "
            "without --features, or give the file to csn_jax adapt --index for a condition over them."
        )
    if stored and stored != model.sha256:
        raise UserError(
            f"{columns.path} was made by another model ({stored[:12]}) than the workdir's ({model.sha256[:12]}); give "
            "the workdir of the first, or embed the items again."
        )
    if width == dim and (stored or takes != width or model.maps):
        integers = _of_integers(columns, names)
        if integers and np.shape(scale) != (dim,):
            raise UserError(
                f"{columns.path} holds vectors of whole numbers, as embed --dtype=int8 writes them, without their "
                "scale; search the file that embed wrote, or embed the items again."
            )
        return values * scale if integers else values, f"{width} numbers per vector, taken as embeddings"
    if width == takes:
        doubt = "; if they are embeddings, keep the metadata of the file that embed wrote" if width == dim else ""
        return model.embed(values), f"{width} numbers per vector, taken as inputs of the model and embedded{doubt}"
    inputs = f"takes {takes} and " if takes else ""
    raise UserError(
        f"{columns.path} holds vectors of {width} numbers in {listed(names)}, but the model {inputs}gives {dim}; give "
        "vectors that fit, or another workdir."
    )


def _metadata(columns: Columns) -> tuple[str, np.ndarray | None, str]:
    """(the digest of the model by which embed made a table, the scale of its int8, the digest of the model that made
    features); ("", None, "") for other tables."""
    try:
        head = json.loads(columns.arrow.schema.metadata[KEY])
        sha256 = str(head["model_sha256"])
        return (sha256, scale_of(head), "") if head["conditions"] else ("", None, sha256)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # none, or damaged
        return "", None, ""


def _noted_pictures(columns: Columns, attributes: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Where embed noted that the pictures of a table's items are; {} for other tables."""
    try:
        where = json.loads(columns.arrow.schema.metadata[KEY])["pictures"]
        return where if where.get("image", "") in ("", *attributes) else {}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # none, or damaged
        return {}


def _of_integers(columns: Columns, names: tuple[str, ...]) -> bool:
    from pyarrow import types

    if columns.arrow is None or len(names) != 1:
        return False
    kind = columns.arrow.schema.field(names[0]).type
    return types.is_integer(getattr(kind, "value_type", kind))
