"""Search stored embeddings under any mixture of conditions, by an image, a folder of images or an item's id."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from csn_jax import cli
from csn_jax.config import did_you_mean
from csn_jax.errors import UserError
from csn_jax.text import table

if TYPE_CHECKING:
    import numpy as np

    from csn_jax.explain import Reasons
    from csn_jax.index import Index

WIDEST = 28  # characters of a cell
NAMED = 3  # dimensions of each explained hit, and items at each end of a dimension


@dataclass(frozen=True)
class Args:
    index: str
    """A file that csn_jax.embed wrote."""
    workdir: str = ""
    """The run whose model embedded it: embeds --image, and its masks are used, also those added since. Searching by
    --id needs none."""
    image: str = ""
    """Search by this image, or by each image of this folder."""
    id: str = ""
    """Search by this item of the index, which is then no hit itself."""
    condition: tuple[str, ...] = ()
    """NAME or NAME=WEIGHT, one or several: what shall be alike, and with a negative weight what shall not."""
    filter: tuple[str, ...] = ()
    """COLUMN=VALUE, one or several: find only items that have one of the values in each column named."""
    k: int = 10
    """How many items to find."""
    explain: bool = False
    """Tell for each hit what its distance is made of and under which conditions it is near."""
    json: bool = False
    """Print JSON: {"query", "hits": [{"id", "distance", ...}]}, for a folder of queries a list of these."""
    save: str = ""
    """Write the pictures of queries and hits to this .png file."""


class Query(NamedTuple):
    """name: id or path; vector: [D]; row: that of the item that it is, or -1; path: of its image, if it is one."""

    name: str
    vector: "np.ndarray"
    row: int
    path: Path | None


class Hit(NamedTuple):
    row: int
    distance: float


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, "python -m csn_jax.search")
    if bool(args.image) == bool(args.id):
        what = "--image and --id are both" if args.id else "no query is"
        raise UserError(f"{what} given; give one of --image=FILE.jpg, --image=FOLDER and --id=ID.")
    if args.image and not args.workdir:
        raise UserError("--image needs the model that embeds it; give the --workdir that the index was made with.")
    if args.k < 1:
        raise UserError(f"--k is {args.k}; give a whole number of at least 1.")
    if args.save and (not args.save.endswith(".png") or not Path(args.save).expanduser().absolute().parent.is_dir()):
        raise UserError(f"--save={args.save} is no place for a picture; give FILE.png in a folder that is there.")

    import numpy as np

    from csn_jax.index import Index

    index, model = Index.open(args.index), None
    if args.workdir:
        from csn_jax.model import load

        model = load(args.workdir)
        index = index.of_model(model.sha256, model.conditions, model.masks)
    weights = parse_weights(args.condition, index.conditions)
    filters = parse_filters(args.filter, index.columns)
    index.weight(weights)  # before anything is embedded
    if args.image:
        queries = _embedded(Path(args.image).expanduser(), Path(args.workdir), model, index)
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
    results = [
        [Hit(row, math.copysign(math.sqrt(abs(s)), s)) for row, s in zip(*pair, strict=True) if row >= 0]
        for pair in zip(rows.tolist(), squares.tolist(), strict=True)
    ]
    if args.save:
        _save(Path(args.save).expanduser().absolute(), index, queries, results, weights, filters)
    why = None
    if args.explain:
        from csn_jax.explain import explain

        why = [
            explain(index, query.vector, [hit.row for hit in hits], weights, query.row)
            for query, hits in zip(queries, results, strict=True)
        ]
    if args.json:
        found = _as_json(index, queries, results, weights, why)
        print(json.dumps(found if Path(args.image).is_dir() and args.image else found[0], indent=2, ensure_ascii=False))
    else:
        print(_as_text(index, queries, results, weights, filters, why))


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


def _embedded(path: Path, workdir: Path, model: Any, index: "Index") -> list[Query]:
    """The images of a file or folder as queries."""
    import numpy as np

    from csn_jax.data import to_embed
    from csn_jax.runtime.workdir import read_record
    from csn_jax.runtime.writer import say

    shape = read_record(workdir)["input_shape"]
    if len(shape) == 1:
        raise UserError(f"--image={path}: the model of {workdir} embeds vectors and no images; search by --id.")
    if path.is_dir():
        source = to_embed.from_folder(path, *shape[1:], flag="--image")
        names, chunks = source.ids.tolist(), source.chunks(0)
        files = [path / name for name in names]
    else:
        names, files, chunks = [str(path)], [path], to_embed.decoded([path], [None], *shape[1:], 0)
    queries: list[Query] = []
    told = []
    for images, faults in chunks:
        start = len(told)
        told += faults
        places = [start + i for i, fault in enumerate(faults) if not fault]
        for place, vector in zip(places, model.embed(images) if len(images) else (), strict=True):
            queries.append(Query(names[place], np.asarray(vector), _row_of(files[place], index), files[place]))
    if not queries:
        raise UserError(f"--image={files[0]} {told[0]}; give a JPEG, PNG or WebP image.")
    for name, fault in zip(names, told, strict=True):
        if fault:
            say(f"left out {name}, which {fault}")
    return queries


def _row_of(path: Path, index: "Index") -> int:
    """The row of the item whose image a file is, or -1."""
    import numpy as np

    where = index.items.pictures
    if where.get("kind") not in ("folder", "table"):
        return -1
    names = index.columns[where["image"]] if where.get("image") else index.ids
    root, path = Path(where["root"]), path.resolve()
    found = np.flatnonzero(names == path.relative_to(root).as_posix()) if path.is_relative_to(root) else ()
    return int(found[0]) if len(found) else -1


def _shown(index: "Index") -> dict[str, Any]:
    """The attribute columns for people: all but the images' paths."""
    return {name: column for name, column in index.columns.items() if name != index.items.pictures.get("image")}


def _mixture(weights: Mapping[str, float]) -> str:
    return ", ".join(name if weight == 1 else f"{name} x {weight:g}" for name, weight in weights.items())


def _among(index: "Index", filters: Mapping[str, Sequence[str]]) -> str:
    of = "".join(f", {name} {' or '.join(values)}" for name, values in filters.items())
    return f"among {len(index.ids):,} items{of}"


def _as_json(
    index: "Index",
    queries: Sequence[Query],
    results: Sequence[Sequence[Hit]],
    weights: Mapping[str, float],
    why: Sequence["Reasons"] | None,
) -> list[dict[str, Any]]:
    columns, found = _shown(index), []
    for i, (query, hits) in enumerate(zip(queries, results, strict=True)):
        answer: dict[str, Any] = {"query": query.name, "conditions": dict(weights), "hits": []}
        for h, hit in enumerate(hits):
            told = {"id": index.ids[hit.row], "distance": hit.distance}
            told["columns"] = {name: column[hit.row] for name, column in columns.items()}
            if why:
                by_condition, by_dimension, places = (part[h] for part in why[i])
                told["explain"] = {
                    "by_condition": dict(zip(weights, by_condition.tolist(), strict=True)),
                    "by_dimension": by_dimension.tolist(),
                    "place_by_condition": dict(zip(index.conditions, places.tolist(), strict=True)),
                    "closest_on": index.conditions[int(places.argmin())],
                    "furthest_on": index.conditions[int(places.argmax())],
                }
            answer["hits"].append(told)
        if why:
            answer["dimensions"] = {
                str(dimension): {"condition": name, "low": _ids(index, low), "high": _ids(index, high)}
                for dimension, name, low, high in _ends(index, why[i])
            }
        found.append(answer)
    return found


def _as_text(
    index: "Index",
    queries: Sequence[Query],
    results: Sequence[Sequence[Hit]],
    weights: Mapping[str, float],
    filters: Mapping[str, Sequence[str]],
    why: Sequence["Reasons"] | None,
) -> str:
    columns, parts = _shown(index), []
    for i, (query, hits) in enumerate(zip(queries, results, strict=True)):
        head = f"{query.name}: nearest by {_mixture(weights)} {_among(index, filters)}"
        rows = [("rank", "id", "distance", *map(_cut, columns))]
        for rank, hit in enumerate(hits, 1):
            cells = [_cut(column[hit.row]) for column in columns.values()]
            rows.append((str(rank), str(index.ids[hit.row]), f"{hit.distance:.4f}", *cells))
        parts.append(f"{head}\n{table(rows)}" if hits else f"{head}\nno item is left to find")
        if why and hits:
            parts.append(_why(index, hits, weights, why[i]))
    return "\n\n".join(parts)


def _why(index: "Index", hits: Sequence[Hit], weights: Mapping[str, float], why: "Reasons") -> str:
    """Two lines a hit, then what the dimensions named in them tell apart."""
    n = len(index.ids)
    lines = [f"why (places are among all {n:,} items, by that condition alone)"]
    for rank, (hit, by_condition, by_dimension, places) in enumerate(zip(hits, *why, strict=True), 1):
        near, far = (int(which) for which in (places.argmin(), places.argmax()))
        text = f"closest on {index.conditions[near]} (place {places[near]:,})"
        if len(places) > 1:
            text += f", furthest on {index.conditions[far]} (place {places[far]:,})"
        lines.append(f"{rank:4}  {index.ids[hit.row]}: {text}")
        shares = [f"{name} {share:.0%}" for name, share in zip(weights, by_condition, strict=True)]
        named = [f"{dimension} ({by_dimension[dimension]:.0%})" for dimension in _most(by_dimension)]
        whole = ", ".join(shares) + "; " if len(shares) > 1 else ""
        lines.append(f"      its distance: {whole}dimensions {', '.join(named)}" if named else "      at no distance")
    rows = [("dimension", "most for", "from", "to")]
    for dimension, name, *ends in _ends(index, why):
        told = []
        for end in ends:
            values = index.columns.get(name)
            told.append(
                ", ".join(f"{index.ids[row]} {_cut(values[row]) if values is not None else ''}".strip() for row in end)
            )
        rows.append((str(dimension), name, *told))
    return "\n".join([*lines, "", "the items at the ends of these dimensions", _left(rows)])


def _most(by_dimension: "np.ndarray") -> list[int]:
    """The dimensions of the largest shares, largest first."""
    import numpy as np

    order = np.argsort(-np.abs(by_dimension), kind="stable")[:NAMED]
    return [int(dimension) for dimension in order if by_dimension[dimension]]


def _ends(index: "Index", why: "Reasons") -> list[tuple[int, str, "np.ndarray", "np.ndarray"]]:
    """(dimension, condition that weighs it most, rows at its low end, rows at its high end) for those named."""
    from csn_jax.explain import exemplars, owner

    named = dict.fromkeys(dimension for shares in why.by_dimension for dimension in _most(shares))
    return [(one, owner(index, one), *exemplars(index, one, NAMED)) for one in named]


def _ids(index: "Index", rows: "np.ndarray") -> list[str]:
    return index.ids[rows].tolist()


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _left(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _save(
    path: Path,
    index: "Index",
    queries: Sequence[Query],
    results: Sequence[Sequence[Hit]],
    weights: Mapping[str, float],
    filters: Mapping[str, Sequence[str]],
) -> None:
    """The sheet of pictures; what a hit has in common with a query that is an item itself is green."""
    import io

    from csn_jax.data.thumbnails import read_pictures, shrink_files
    from csn_jax.runtime.workdir import write_atomically
    from csn_jax.sheet import SIDE, Tile, draw_hits

    kinds = dict(index.items.conditions)
    named = [name for name in weights if name in index.columns]

    def lines(row: int, query: int, distance: str) -> list[tuple[str, bool | None]]:
        told: list[tuple[str, bool | None]] = [(str(index.ids[row]), None), (distance, None)]
        for name in named:
            value, wanted = (str(index.columns[name][one]) if one >= 0 else "" for one in (row, query))
            plain = kinds.get(name) != "numeric" and value and wanted and row != query
            alike = not set(value.split(";")).isdisjoint(wanted.split(";")) if plain else None
            told.append((value or "-", alike))
        return told

    rows = [hit.row for hits in results for hit in hits]
    pictures = iter(read_pictures(index.items, rows, SIDE))
    files = iter(shrink_files([query.path for query in queries if query.path], SIDE))
    own = iter(read_pictures(index.items, [query.row for query in queries if not query.path], SIDE))
    drawn = []
    for query, hits in zip(queries, results, strict=True):
        told = lines(query.row, query.row, "") if query.row >= 0 else [(Path(query.name).name, None)]
        tiles = [Tile(next(pictures), lines(hit.row, query.row, f"{hit.distance:.4f}")) for hit in hits]
        drawn.append((Tile(next(files) if query.path else next(own), told), tiles))
    sheet = draw_hits(
        f"Nearest by {_mixture(weights)}", f"{_among(index, filters)}; below each hit its distance", drawn
    )
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


if __name__ == "__main__":
    cli.run(main)
