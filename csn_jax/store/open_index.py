"""The index in a file of csn_jax embed, or in a folder of such parts; with a run, in any table with an id and a vector
column; or the vectors alone."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from csn_jax.config import DataConfig
from csn_jax.errors import UserError
from csn_jax.runtime.writer import say
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.foreign import read_foreign
from csn_jax.store.index import Index
from csn_jax.store.part_folder import open_parts
from csn_jax.store.vector_file import SUFFIXES, ForeignFile, read_embeddings

if TYPE_CHECKING:
    from csn_jax.model.model import Model
    from csn_jax.model.run import Run


def open_index(path: str, run: "Run | None", model: "Model | None") -> Index:
    """The index in a file or a folder; with a run and its model, under the model's masks or maps. Prints what was taken
    for what in a table of another program. A UserError for a file that is missing, damaged, or needs a run and has
    none."""
    place = Path(path).expanduser()
    if not model or place.suffix in SUFFIXES or not place.exists() or place.is_dir():
        try:
            index = Index.open(place)
            return index.of_model(model.sha256, model.conditions, model.masks, model.maps) if model else index
        except ForeignFile:
            if not model:
                raise
    data = run.config.data if run.config.data.source == "table" else DataConfig(vectors="vector")
    items, notes = read_foreign(place, model, data)
    for note in notes:
        say(note)
    return Index(items._replace(conditions=run.record.conditions), model.conditions, model.masks, path, model.maps)


def open_vectors(path: str) -> Embeddings:
    """The items in a file or a folder of csn_jax embed, or in any table with an id and a vector column, which has no
    conditions. A UserError for a file that is missing or damaged, or has no vectors."""
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"{path} is not a file; give one of csn_jax embed, or a table with an id and a vector column.")
    if place.suffix in SUFFIXES or place.is_dir():
        with suppress(ForeignFile):
            return open_parts(place) if place.is_dir() else read_embeddings(place)
    items, notes = read_foreign(place, None, DataConfig(vectors="vector"))
    for note in notes:
        say(note)
    return items
