"""Source `zappos50k`: UT-Zappos50K as its authors distribute it; conditions class, closure, gender and heel.

`data.path` is the folder with the two unpacked archives of vision.cs.utexas.edu/projects/finegrained/utzap50k:
`ut-zap50k-images/<Category>/<SubCategory>/<Brand>/<PID>.<CID>.jpg` and `ut-zap50k-data/meta-data.csv`. The table names
a shoe `<PID>-<CID>`. Escapes such as in `Levi%27s%C2%AE%20Kids` are part of the folders' names on disk.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.config import Config
from csn_jax.data.columns import read_columns
from csn_jax.data.duplicates import find_duplicates
from csn_jax.data.images import decode_usable, resolve
from csn_jax.data.item_set import Pictures, Rows
from csn_jax.data.notations import set_text
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition

IMAGES, TABLE = "ut-zap50k-images", "ut-zap50k-data/meta-data.csv"
HEELS = ("Flat", "Under 1in", "1in - 1 3/4in", "2in - 2 3/4in", "3in - 3 3/4in", "4in - 4 3/4in", "5in & over")
CONDITIONS = (  # with the names and the order of the reference
    Condition("class", "categorical"),
    Condition("closure", "set"),
    Condition("gender", "set"),
    Condition("heel", "ordinal"),
)
OTHERS = (  # conditions only if named; the paper probes brand
    Condition("subcategory", "categorical"),
    Condition("insole", "set"),
    Condition("material", "set"),
    Condition("toe_style", "set"),
    Condition("brand", "categorical"),
    Condition("product", "categorical"),
)
LABELS = ("class", "closure", "gender", "heel", "subcategory", "insole", "material", "toe_style")
COLUMNS = ("Category", "Closure", "Gender", "HeelHeight", "SubCategory", "Insole", "Material", "ToeStyle")


class Shoe(NamedTuple):
    """One picture."""

    id: str  # the path below ut-zap50k-images, as in filenames.json of the reference
    path: Path
    labels: dict[str, str]  # {name: value}; sets as in set_text, the heel as a level 0 to 6; unknown is empty


def read(config: Config) -> Rows:
    """The shoes as items, decoded and cached, in the order of meta-data.csv."""
    data = config.data
    folder = Path(data.path).expanduser()
    if not data.path:
        raise UserError(f"config.data.path is empty; give the folder that holds {IMAGES} and {TABLE}.")
    shoes, notes = read_catalogue(folder, data.skip_bad)
    paths, names, place = [shoe.path for shoe in shoes], [shoe.id for shoe in shoes], str(folder / IMAGES)
    sources, remedy = [(path, None) for path in paths], "unpack the archive again"
    inputs, kept, bad_notes = decode_usable(sources, names, lambda _: place, config, remedy)
    shoes = [shoes[row] for row in kept]
    named = tuple(condition for condition in OTHERS if condition.name in data.conditions)
    return Rows(
        inputs=inputs,
        ids=np.array([shoe.id for shoe in shoes]),
        labels={name: np.array([shoe.labels[name] for shoe in shoes]) for name, _ in (*CONDITIONS, *OTHERS)},
        conditions=(*CONDITIONS, *named),
        split=None,
        together=find_duplicates(inputs).group,
        notes=(*notes, *bad_notes),
        others=tuple(condition for condition in OTHERS if condition not in named),
        pictures=Pictures({"kind": "folder", "root": str((folder / IMAGES).resolve())}),
    )


def read_catalogue(folder: Path, skip_bad: bool = False) -> tuple[list[Shoe], list[str]]:
    """(shoes of meta-data.csv with their files and labels, notes on what was left out or is unknown). UserError if a
    part of the data set is missing, or a row has no image unless skip_bad."""
    for part, exists in ((IMAGES, (folder / IMAGES).is_dir()), (TABLE, (folder / TABLE).is_file())):
        if not exists:
            raise UserError(
                f"config.data.path={folder} holds no {part}; give the folder with the two unpacked archives of "
                "UT-Zappos50K, images and data."
            )
    table = read_columns(folder / TABLE)
    names = table.column("CID", "source zappos50k")
    values = {label: table.column(column, "source zappos50k") for label, column in zip(LABELS, COLUMNS, strict=True)}
    files = _files(folder / IMAGES)
    missing = [row for row, name in enumerate(names) if name not in files]
    if missing and (not skip_bad or len(missing) == len(names)):
        name = names[missing[0]]
        more = f", and {len(missing) - 1} more rows have none" if len(missing) > 1 else ""
        raise UserError(
            f"{table.where(missing[0])}: {name!r} has no image {name.replace('-', '.', 1)}.jpg in {folder / IMAGES}"
            f"{more}; unpack the archive of images again, or pass --config.data.skip_bad=True to train without."
        )
    unknown, shoes, first = Counter(), [], {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            raise UserError(f"{table.where(row)} has the same CID as row {first[name] + 1}, {name!r}; remove one.")
        if name in files:
            labels = {label: set_text(column[row].split(";")) for label, column in values.items()}
            heel = labels["heel"]
            labels["heel"] = str(HEELS.index(heel)) if heel in HEELS else ""
            unknown[heel] += heel not in ("", *HEELS)
            path = files[name]
            labels |= {"brand": path.parent.name, "product": name.partition("-")[0]}
            shoes.append(Shoe(path.relative_to(folder / IMAGES).as_posix(), path, labels))
    notes = [f"left out {table.where(row)}: no image of {names[row]!r}" for row in missing]
    extra = len(files) - len(shoes)
    notes += [f"{extra} images have no row in {TABLE} and are left out"] if extra else []
    notes += [f"heel {value!r} of {n} shoes is not a single height: unknown" for value, n in (+unknown).items()]
    return shoes, notes


def _files(folder: Path) -> dict[str, Path]:
    """{name in the table: path} of all images."""
    files, outside = {}, {}
    for path in sorted(folder.glob("*/*/*/*.jpg")):
        # Resolving 50,025 paths takes ten seconds, and only a link can leave the folder.
        for part in (path, *path.parents[:3]):
            if part not in outside:
                outside[part] = part.is_symlink() and resolve(folder, part.relative_to(folder).as_posix()) is None
            if outside[part]:
                raise UserError(f"{part} is a link to outside {folder}; unpack the archive of images again.")
        name = path.stem.replace(".", "-", 1)
        if files.setdefault(name, path) != path:
            raise UserError(f"{path} and {files[name]} are both images of {name!r}; remove one of them.")
    return files
