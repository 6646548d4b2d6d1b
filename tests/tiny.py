"""A training of a few seconds that many tests share, and helpers around it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

STEPS = 24
LINES = 12 + 3  # of metrics.jsonl: a training line every 2 steps, a validation line every 8; on vectors, one at step 0
MAPS = ("--config.variant=maps", "--config.learning_rate=2e-2")  # behind the flags of a run on vectors
ARGUMENTS = (
    f"--config.steps={STEPS}",
    "--config.batch_size=16",
    "--config.log_every=2",
    "--config.eval_every=8",
    "--config.checkpoint_every=5",
    "--config.data.train_triplets=100",  # 13 steps an epoch, the last of them short
    "--config.data.validation_triplets=60",
    "--config.data.test_triplets=60",
    "--config.backbone.embedding_dim=8",
)


def config(*flags: str):
    """The tiny Config, on the device feed unless a flag says otherwise."""
    from csn_jax import cli, train

    return cli.parse(train.Args, [*ARGUMENTS, "--config.feed=device", *flags], "train").config


def on_vectors(folder: Path) -> tuple[str, ...]:
    """Flags for the tiny run on vectors, which takes a third of the time: same steps, another network and other items.

    The table is written into `folder` unless it is there.
    """
    import shop

    table = folder / "products.parquet"
    if not table.exists():
        columns = shop.columns(120)
        shop.write(table, columns, vector=shop.vectors(columns))
    return (
        "--config.backbone.name=projection",
        "--config.backbone.embedding_dim=1024",  # a checkpoint larger than 100 kB, which a full disk cannot take
        "--config.data.source=table",
        f"--config.data.path={table}",
        "--config.data.vectors=vector",
        "--config.data.conditions",
        "category",
        "colour",
    )


def vision_transformer() -> tuple[str, ...]:
    """Flags for the tiny run with a vision transformer of two blocks, which takes the place of a named size in this
    process and its forks."""
    from csn_jax.config import VITS, VitShape

    VITS["vit_tiny_16"] = VitShape("vit", patch=8, width=16, depth=2, heads=2, hidden=24)
    return ("--config.backbone.name=vit_tiny_16",)


def train(workdir: Path, *flags: str, pictures: bool = False) -> dict[str, Any]:
    """Train the tiny config in this process. Pictures, of one neighbour, take a fifth of the time and are left out."""
    from csn_jax import train_and_evaluate
    from csn_jax.pictures import sheets

    changes = {"QUERIES": 1, "NEIGHBOURS": 1} if pictures else {"draw_all": lambda *_: None}
    with mock.patch.multiple(sheets, **changes):
        return train_and_evaluate(config(*flags), workdir)


def untrained(workdir: Path, config: Any) -> Any:
    """A workdir of a config as training would leave it before its first step; its Model."""
    from contextlib import closing

    from csn_jax import load
    from csn_jax.data.dataset import load_dataset
    from csn_jax.model.network import build_network
    from csn_jax.runtime.checkpoint import Checkpoints
    from csn_jax.runtime.workdir import claim, open_workdir

    dataset = load_dataset(config)
    open_workdir(workdir)
    claim(workdir, config, dataset.record)
    n = len(dataset.items.conditions)
    with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        checkpoints.save(build_network(config, dataset.items.inputs.shape[1:], n, 1).state)
    return load(workdir)


def command(verb: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`python -m csn_jax.<verb>` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"csn_jax.{verb}", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def fingerprint(workdir: Path, steps: int = STEPS) -> dict[str, str]:
    """Digests of all that must not depend on how often a run was killed.

    The record of a checkpoint holds the SHA-256 of each of its arrays; restoring checks them against the arrays.
    """
    last = f"checkpoints/{steps}/meta/metadata"
    best = json.loads((workdir / last).read_text())["record"]["best"]["step"]
    names = ("config.json", "data.json", "metrics.jsonl", "results.json", last, f"checkpoints/{best}/meta/metadata")
    return {name: hashlib.sha256((workdir / name).read_bytes()).hexdigest() for name in names}


def contents(workdir: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file below a folder."""
    return {
        path.relative_to(workdir).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in workdir.rglob("*")
        if path.is_file()
    }


def is_one_sentence(text: str) -> bool:
    """Whether an error message is a single sentence on a single line, without a traceback."""
    return bool(text) and "\n" not in text and "Traceback" not in text and ". " not in text.replace("...", "")
