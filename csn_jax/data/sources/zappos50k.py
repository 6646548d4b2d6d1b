"""Source `zappos50k`: UT-Zappos50K as its authors distribute it; conditions class, closure, gender and heel.

`data.path` is the folder that holds the two unpacked archives (vision.cs.utexas.edu/projects/finegrained/utzap50k):
`ut-zap50k-images/<Category>/<SubCategory>/<Brand>/<PID>.<CID>.jpg` and `ut-zap50k-data/meta-data.csv`. The table names
a shoe `<PID>-<CID>`. Some folders are called `Levi%27s%C2%AE%20Kids`: these escapes are the real names on disk.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.config import Config
from csn_jax.data.columns import Columns, read_columns
from csn_jax.data.duplicates import find_duplicates
from csn_jax.data.images import decode_files, resolve
from csn_jax.data.item_set import Condition, Pictures, Rows
from csn_jax.errors import UserError

IMAGES, TABLE = "ut-zap50k-images", "ut-zap50k-data/meta-data.csv"
HEELS = ("Flat", "Under 1in", "1in - 1 3/4in", "2in - 2 3/4in", "3in - 3 3/4in", "4in - 4 3/4in", "5in & over")
CONDITIONS = (  # the reference's, in its order and by its names
    Condition("class", "categorical"),
    Condition("closure", "set"),
    Condition("gender", "set"),
    Condition("heel", "ordinal"),
)
OTHERS = (  # conditions when named; brand is the paper's off-task label
    Condition("subcategory", "categorical"),
    Condition("insole", "set"),
    Condition("material", "set"),
    Condition("toe_style", "set"),
    Condition("brand", "categorical"),
    Condition("product", "categorical"),
)
COLUMNS = {  # label: column of the table
    "class": "Category",
    "closure": "Closure",
    "gender": "Gender",
    "heel": "HeelHeight",
    "subcategory": "SubCategory",
    "insole": "Insole",
    "material": "Material",
    "toe_style": "ToeStyle",
}


class Shoe(NamedTuple):
    """One picture.

    id: its path below ut-zap50k-images, as in the reference's filenames.json.
    labels: {name: value}; a set's members sorted, between `;`; the heel's level 0 to 6 as text; empty where unknown.
    """

    id: str
    path: Path
    labels: dict[str, str]


def read(config: Config) -> Rows:
    """The shoes as items, decoded and cached, in the order of meta-data.csv."""
    data = config.data
    folder = Path(data.path).expanduser()
    if not data.path:
        raise UserError(f"config.data.path is empty; give the folder that holds {IMAGES} and {TABLE}.")
    shoes, notes = read_catalogue(folder, data.skip_bad)
    inputs, faults = decode_files([shoe.path for shoe in shoes], config.preprocess.size, len(config.preprocess.mean))
    bad = [(shoe, fault) for shoe, fault in zip(shoes, faults, strict=True) if fault]
    if bad and not data.skip_bad:
        more = f"; {len(bad) - 1} more cannot be read" if len(bad) > 1 else ""
        raise UserError(
            f"{folder / IMAGES}: image {bad[0][0].id!r} {bad[0][1]}{more}; unpack the archive again, or train without "
            f"by --config.data.skip_bad=True."
        )
    notes += [f"left out image {shoe.id!r}: {fault}" for shoe, fault in bad]
    shoes = [shoe for shoe, fault in zip(shoes, faults, strict=True) if not fault]
    if not shoes:
        raise UserError(f"{folder / IMAGES}: none of the {len(bad)} images can be read; the first {bad[0][1]}.")
    named = tuple(condition for condition in OTHERS if condition.name in data.conditions)
    return Rows(
        inputs=inputs,
        ids=np.array([shoe.id for shoe in shoes]),
        labels={name: np.array([shoe.labels[name] for shoe in shoes]) for name, _ in (*CONDITIONS, *OTHERS)},
        conditions=(*CONDITIONS, *named),
        split=None,
        together=find_duplicates(inputs).group,
        notes=tuple(notes),
        others=tuple(condition for condition in OTHERS if condition not in named),
        pictures=Pictures({"kind": "folder", "root": str((folder / IMAGES).resolve())}),
    )


def read_catalogue(folder: Path, skip_bad: bool = False) -> tuple[list[Shoe], list[str]]:
    """(shoes, notes): the rows of meta-data.csv with their files and labels, and what was left out or unknown.

    Raises:
        UserError: when a part of the data set is not there, or, unless bad rows may be skipped, a row has no image.
    """
    for part, is_there in ((IMAGES, (folder / IMAGES).is_dir()), (TABLE, (folder / TABLE).is_file())):
        if not is_there:
            raise UserError(
                f"config.data.path={folder} holds no {part}; give the folder into which the two archives of "
                "UT-Zappos50K, images and data, are unpacked."
            )
    table = read_columns(folder / TABLE)
    names = table.column("CID", "source zappos50k")
    values = {label: table.column(column, "source zappos50k") for label, column in COLUMNS.items()}
    files = _files(folder / IMAGES)
    missing = [row for row, name in enumerate(names) if name not in files]
    if missing and (not skip_bad or len(missing) == len(names)):
        name = names[missing[0]]
        more = f", nor have {len(missing) - 1} more rows" if len(missing) > 1 else ""
        raise UserError(
            f"{table.where(missing[0])}: {name!r} has no image {name.replace('-', '.', 1)}.jpg in {folder / IMAGES}"
            f"{more}; unpack the archive of images again, or train without by --config.data.skip_bad=True."
        )
    _refuse_twice(table, names)
    unknown, shoes = Counter(), []
    for row, name in enumerate(names):
        if name in files:
            labels = {label: _members(column[row]) for label, column in values.items()}
            heel = labels["heel"]
            labels["heel"] = str(HEELS.index(heel)) if heel in HEELS else ""
            unknown[heel] += heel not in ("", *HEELS)
            path = files[name]
            labels |= {"brand": path.parent.name, "product": name.partition("-")[0]}
            shoes.append(Shoe(path.relative_to(folder / IMAGES).as_posix(), path, labels))
    notes = [f"left out {table.where(row)}: no image of {names[row]!r}" for row in missing]
    extra = len(files) - len(shoes)
    notes += [f"{extra} images have no row in {TABLE} and are left out"] if extra else []
    notes += [
        f"heel {value!r} of {n} shoes is no single height and counts as unknown" for value, n in (+unknown).items()
    ]
    return shoes, notes


def _files(folder: Path) -> dict[str, Path]:
    """Images by the name that the table has for them."""
    files, outside = {}, {}
    for path in sorted(folder.glob("*/*/*/*.jpg")):
        # Resolving 50,025 paths takes ten seconds, and a path leaves the folder only by a link.
        for one in (path, path.parent, path.parent.parent, path.parent.parent.parent):
            if one not in outside:
                outside[one] = one.is_symlink() and resolve(folder, one.relative_to(folder).as_posix()) is None
            if outside[one]:
                raise UserError(f"{one} is a link out of {folder}; unpack the archive of images again.")
        name = path.stem.replace(".", "-", 1)
        if files.setdefault(name, path) != path:
            raise UserError(f"{path} and {files[name]} are both images of {name!r}; remove one of them.")
    return files


def _refuse_twice(table: Columns, names: list[str]) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            raise UserError(f"{table.where(row)} has the same CID as row {first[name] + 1}, {name!r}; remove one.")


def _members(text: str) -> str:
    return ";".join(sorted({member.strip() for member in text.split(";")} - {""}))


def examples(folder: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """(id, {"image": path, label: value}) of every shoe, for a builder of TFDS; sets as lists."""
    kinds = dict((*CONDITIONS, *OTHERS))
    for shoe in read_catalogue(folder)[0]:
        labels = {
            name: [member for member in value.split(";") if member] if kinds[name] == "set" else value
            for name, value in shoe.labels.items()
        }
        yield shoe.id, {"image": str(shoe.path), **labels}
