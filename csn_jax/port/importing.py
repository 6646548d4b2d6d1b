"""Runs from released checkpoints and from exported folders."""

from collections.abc import Sequence
from pathlib import Path

from csn_jax.backbones.tensors import MASKS, plain_names
from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.data.item_set import SPLITS
from csn_jax.errors import UserError
from csn_jax.model.exported import exported_state, masks_of, state_of
from csn_jax.model.run import open_run
from csn_jax.model.weight_files import read_weights
from csn_jax.runtime.record import Condition, Record, check_name
from csn_jax.runtime.whole import write_run

# What a released checkpoint does not hold: the names of its masks, in the reference's order, and the preprocessing.
REFERENCE_CONDITIONS = ("class", "closure", "gender", "heel")
REFERENCE_PREPROCESS = PreprocessConfig(112, flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def import_released(path: str, workdir: Path, names: Sequence[str] = (), *, rectified: bool = True) -> Sequence[str]:
    """Make a workdir from a Tripletnet's state dict and return the conditions' names; a UserError when the file is not
    such a checkpoint, the names do not fit, or the workdir holds a model. `names`: for the masks, in order; empty: the
    reference's for four masks, else condition_0 and so on. `rectified`: whether the masks are applied behind the
    rectifier."""
    weights = read_weights(path, "CHECKPOINT")
    tensors = plain_names(weights.tensors, path)
    beta = masks_of(tensors.pop(MASKS, None), path)
    conditions = _conditions(names, len(beta), path)
    config = Config(
        backbone=BackboneConfig("resnet18_csn", embedding_dim=beta.shape[1]),
        data=DataConfig("imported", conditions=conditions),
        preprocess=REFERENCE_PREPROCESS,
    )
    none = dict.fromkeys(SPLITS, 0)
    record = Record(
        source="imported",
        checkpoint=Path(path).name,
        checkpoint_sha256=weights.sha256,
        conditions=tuple(Condition(name, "categorical") for name in conditions),
        input_shape=(config.preprocess.size, config.preprocess.size, 3),
        items=none,
        triplets=none,
        rectified=rectified,
    )
    write_run(workdir, config, record, state_of(config, record, tensors, beta, path))
    return conditions


def import_folder(folder: Path, workdir: Path) -> Sequence[str]:
    """Make a workdir from a folder that `export_folder` wrote and return the conditions' names; a UserError when it is
    not such a folder, a file in it was changed, or the workdir holds a model."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give a checkpoint file, or a folder that port export wrote.")
    exported = open_run(folder)
    runs = exported.specialists or (exported,)
    states = [exported_state(run) for run in runs]  # read all before writing anything
    if exported.specialists:
        write_run(workdir, exported.config, exported.record, None, exported.results)
    for run, state in zip(runs, states, strict=True):
        write_run(workdir / run.workdir.relative_to(exported.workdir), run.config, run.record, state, run.results)
    return exported.record.names


def _conditions(names: Sequence[str], n: int, path: str) -> tuple[str, ...]:
    """Names for n masks: the given ones, checked, or default ones."""
    if not names:
        return REFERENCE_CONDITIONS if n == len(REFERENCE_CONDITIONS) else tuple(f"condition_{i}" for i in range(n))
    if len(names) != n or len(set(names)) < n or "" in names:
        raise UserError(f"--conditions names {' '.join(names)}, but {path} has {n} masks; give {n} different names.")
    for name in names:
        check_name(name)
    return tuple(names)
