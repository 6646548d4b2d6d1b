"""Find the nearest items under one condition or a weighted mix of them.

    csn_jax search --index=glyphs.parquet --id=nunito/x --condition character
    csn_jax search --index=products.parquet --workdir=runs/products --image=shoe.jpg --condition category colour=0.5

A query is an item of the index, an image, or a folder of images. A negative weight pushes results away.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csn_jax import cli
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from csn_jax.model.model import Model
    from csn_jax.model.run import Run
    from csn_jax.search.answers import Answers, Hit


@dataclass(frozen=True)
class Args:
    index: str = ""
    """A file that csn_jax embed wrote."""
    qdrant: str = ""
    """Instead of --index: the folder or http(s) URL that csn_jax embed --to_qdrant wrote to. The key of a server is
    read from the environment variable QDRANT_API_KEY."""
    collection: str = ""
    """The Qdrant collection. Empty: the only one."""
    candidates: int = 200
    """For a mix of conditions in Qdrant: how many items of each condition to look at. More is slower and finds more."""
    workdir: str = ""
    """The run whose model embedded the index. It embeds --image, and its masks are used, also those added since. A
    search by --id does not need it."""
    image: str = ""
    """Search by this image, or by each image of this folder."""
    id: str = ""
    """Search by this item of the index. It is not a hit itself."""
    condition: tuple[str, ...] = ()
    """NAME or NAME=WEIGHT, one or several: under what to measure distances. A negative weight pushes results away."""
    filter: tuple[str, ...] = ()
    """COLUMN=VALUE, one or several: find only items with one of the values given for each column."""
    k: int = 10
    """How many items to find."""
    explain: bool = False
    """Show per hit what its distance is made of, and under which conditions it is near."""
    json: bool = False
    """Print JSON: {"query", "hits": [{"id", "distance", ...}]}; for a folder of queries, a list of these."""
    save: str = ""
    """Write the images of queries and hits to this .png file."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    _check(args)

    from csn_jax.runtime.writer import next_step
    from csn_jax.search.answers import as_json, as_text, save_sheet

    model, run = None, None
    if args.workdir:
        from csn_jax.model.run import open_run

        run = open_run(args.workdir)
        model = run.model()
    answers = _in_qdrant(args, run, model) if args.qdrant else _in_index(args, run, model)
    if args.save:
        save_sheet(Path(args.save).expanduser().absolute(), answers)
    if args.json:
        found = as_json(answers)
        one = not args.image or not Path(args.image).expanduser().is_dir()
        print(json.dumps(found[0] if one else found, indent=2, ensure_ascii=False))
    else:
        print(as_text(answers))
    if args.explain or args.qdrant:
        next_step("search", *cli.without(argv, "k"), f"--k={2 * args.k}")
    else:
        next_step("search", *argv, "--explain")


def _check(args: Args) -> None:
    """Raises UserError for flags that do not go together."""
    if bool(args.index) == bool(args.qdrant):
        what = "--index and --qdrant are both" if args.index else "nothing to search in is"
        raise UserError(f"{what} given; give one of --index=FILE and --qdrant=FOLDER_OR_URL.")
    if args.collection and not args.qdrant:
        raise UserError("--collection is given without --qdrant; add that, or leave it out.")
    if args.explain and args.qdrant:
        raise UserError("--explain compares hits with all items, which are not fetched from Qdrant; give --index=FILE.")
    if bool(args.image) == bool(args.id):
        what = "--image and --id are both" if args.id else "no query is"
        raise UserError(f"{what} given; give one of --image=FILE.jpg, --image=FOLDER and --id=ID.")
    if args.image and not args.workdir:
        raise UserError("--image needs the model that embeds it; give the --workdir that the index was made with.")
    for name in ("k", "candidates"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give a whole number of at least 1.")
    if args.save and (not args.save.endswith(".png") or not Path(args.save).expanduser().absolute().parent.is_dir()):
        raise UserError(f"--save={args.save} is no place for a picture; give FILE.png in a folder that is there.")


def _in_index(args: Args, run: "Run | None", model: "Model | None") -> "Answers":
    import numpy as np

    from csn_jax.search.answers import Answers, Query
    from csn_jax.search.explain import explain
    from csn_jax.store.index import Index

    index = Index.open(args.index)
    if model:
        index = index.of_model(model.sha256, model.conditions, model.masks)
    weights = parse_weights(args.condition, index.conditions)
    filters = parse_filters(args.filter, index.columns)
    index.weight(weights)  # before anything is embedded
    if model and args.image:
        names = index.ids if not index.items.pictures.get("image") else index.columns[index.items.pictures["image"]]
        row_of = _rows_by_picture(names.tolist(), index.items.pictures)
        queries = [
            Query(name, vector, row_of(path), path)
            for name, vector, path in _embedded(Path(args.image).expanduser(), run, model)
        ]
    else:
        row = index.row(args.id)
        queries = [Query(args.id, index.vectors[row], row, None)]
    rows, squares = index.nearest(
        np.stack([query.vector for query in queries]),
        weights,
        args.k,
        filters=filters,
        exclude=[query.row for query in queries],
    )
    results = _hits(rows, squares)
    why = None
    if args.explain:
        why = [
            explain(index, query.vector, [hit.row for hit in hits], weights, query.row)
            for query, hits in zip(queries, results, strict=True)
        ]
    return Answers(index, len(index.ids), weights, filters, queries, results, why)


def _in_qdrant(args: Args, run: "Run | None", model: "Model | None") -> "Answers":
    import numpy as np

    from csn_jax.search.answers import Answers, Query
    from csn_jax.search.qdrant_search import Collection
    from csn_jax.store.qdrant import connected

    with connected(args.qdrant, "--qdrant") as client:
        collection = Collection.open(client, args.collection, f"--qdrant={args.qdrant}")
        if model:
            collection.check_model(model.sha256, model.conditions, model.masks)
        weights = parse_weights(args.condition, collection.empty.conditions)
        filters = parse_filters(args.filter, collection.empty.columns)
        collection.check(weights, filters)  # before anything is embedded
        if model and args.image:
            embedded = _embedded(Path(args.image).expanduser(), run, model)
            pictures = collection.empty.items.pictures
            own = [
                next(filter(None, map(collection.item_of, _spellings(path, pictures))), "") for _, _, path in embedded
            ]
        else:
            embedded, own = [(args.id, collection.vector(args.id), None)], [args.id]
        found = collection.search(
            np.stack([vector for _, vector, _ in embedded]),
            own,
            weights,
            args.k,
            filters=filters,
            candidates=args.candidates,
        )
        n_items = collection.count()
    queries = [Query(name, vector, row, path) for (name, vector, path), row in zip(embedded, found.own, strict=True)]
    return Answers(found.index, n_items, weights, filters, queries, _hits(found.rows, found.squares), None)


def _hits(rows: "np.ndarray", squares: "np.ndarray") -> list[list["Hit"]]:
    from csn_jax.search.answers import Hit

    return [
        [Hit(row, math.copysign(math.sqrt(abs(s)), s)) for row, s in zip(*pair, strict=True) if row >= 0]
        for pair in zip(rows.tolist(), squares.tolist(), strict=True)
    ]


def parse_weights(words: Sequence[str], conditions: Sequence[str]) -> dict[str, float]:
    """{condition: weight} of NAME and NAME=WEIGHT.

    Raises:
        UserError: for an unknown name, one that comes twice, a weight that is no number, or no word at all.
    """
    weights: dict[str, float] = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        if word in conditions or not equals:
            name, text = word, "1"
        if name not in conditions:
            near = did_you_mean(name, conditions)
            raise UserError(f"unknown condition {name!r}{near}; the index has {', '.join(conditions)}.")
        if name in weights:
            raise UserError(f"--condition names {name} twice; give it one weight.")
        try:
            weights[name] = float(text)
        except ValueError:
            raise UserError(f"--condition {word}: {text!r} is no number; give a weight as in {name}=0.5.") from None
    if not weights:
        raise UserError(f"no --condition is given; choose from {', '.join(conditions)}.")
    return weights


def parse_filters(words: Sequence[str], columns: Mapping[str, Any]) -> dict[str, list[str]]:
    """{column: values} of COLUMN=VALUE.

    Raises:
        UserError: for a word without `=`, and an unknown column.
    """
    filters: dict[str, list[str]] = {}
    for word in words:
        if "=" not in word:
            raise UserError(f"--filter {word} has no value; give COLUMN=VALUE.")
        parts = word.split("=")
        cuts = [i for i in range(1, len(parts)) if "=".join(parts[:i]) in columns]  # a name may hold = itself
        cut = cuts[-1] if cuts else 1
        filters.setdefault("=".join(parts[:cut]), []).append("=".join(parts[cut:]))
    return filters


def _embedded(path: Path, run: "Run", model: "Model") -> list[tuple[str, "np.ndarray", Path]]:
    """(name, vector, path) of the images of a file or folder."""
    import numpy as np

    from csn_jax.data import to_embed
    from csn_jax.runtime.writer import say

    shape = run.record.input_shape
    if len(shape) == 1:
        raise UserError(f"--image={path}: the model of {run.workdir} embeds vectors and no images; search by --id.")
    if path.is_dir():
        source = to_embed.from_folder(path, *shape[1:], flag="--image")
        names, chunks = source.ids.tolist(), source.chunks(0)
        files = [path / name for name in names]
    else:
        names, files, chunks = [str(path)], [path], to_embed.decoded([path], [None], *shape[1:], 0)
    queries: list[tuple[str, np.ndarray, Path]] = []
    told = []
    for images, faults in chunks:
        start = len(told)
        told += faults
        places = [start + i for i, fault in enumerate(faults) if not fault]
        for place, vector in zip(places, model.embed(images) if len(images) else (), strict=True):
            queries.append((names[place], np.asarray(vector), files[place]))
    if not queries:
        raise UserError(f"--image={files[0]} {told[0]}; give a JPEG, PNG or WebP image.")
    for name, fault in zip(names, told, strict=True):
        if fault:
            say(f"left out {name}, which {fault}")
    return queries


def _rows_by_picture(names: Sequence[str], pictures: Mapping[str, str]) -> Callable[[Path], int]:
    """The first row whose picture is an image file, or -1, however the items' table or folder spells its path."""
    rows: dict[str, list[int]] = {}  # by the last part, since a million whole paths take seconds
    for row, name in enumerate(names):
        rows.setdefault(name.rpartition("/")[2], []).append(row)

    def row_of(path: Path) -> int:
        for place in _places(path, pictures):
            for row in rows.get(place.name, ()):
                if os.path.normpath(os.path.join(pictures["root"], names[row])) == str(place):
                    return row
        return -1

    return row_of


def _spellings(path: Path, pictures: Mapping[str, str]) -> list[str]:
    """How a table or folder of items usually names this image file: from the folder that their pictures are in, without
    `./` before it and with it, or from the root of the file system."""
    names = [(place.relative_to(pictures["root"]).as_posix(), str(place)) for place in _places(path, pictures)]
    return [spelt for name, whole in names for spelt in (name, f"./{name}", whole)]


def _places(path: Path, pictures: Mapping[str, str]) -> list[Path]:
    """An image file as it is and by what it links to, where these are below the folder of the items' pictures."""
    if pictures.get("kind") not in ("folder", "table"):
        return []
    places = dict.fromkeys((path.parent.resolve() / path.name, path.resolve()))
    return [place for place in places if place.is_relative_to(pictures["root"])]
