"""Train one embedding with a mask for every notion of similarity.

Without flags: the quickstart on the embedded glyphs. --config=FILE.py[:FUNCTION] takes a preset, and
--config.field=value overrides any field of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from csn_jax import cli
from csn_jax.config import Config


@dataclass(frozen=True)
class Args:
    config: Config = field(default_factory=Config)
    workdir: str = ""
    """Where the run lives; the same command goes on there. Empty: runs/<source>-<variant>-<digest of the config>."""
    check: bool = False
    """Stop after the data report, which tells what there is to learn from and what is wrong with it."""
    write_triplets: str = ""
    """Write the triplets into this new folder as the reference's lists, with their seed and digests, and stop."""
    distributed: str = ""
    """Be one of several processes on as many hosts, each with this command, on a shared folder: auto where Slurm, a TPU
    pod or GKE says who is who, else HOST:PORT,N,ID with the address of process 0, their number and this one's."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, "python -m csn_jax.train")
    config = args.config
    workdir = args.workdir or f"runs/{config.data.source}-{config.variant}-{config.digest()[:8]}"
    if args.check or args.write_triplets:
        from csn_jax.data.dataset import load_dataset
        from csn_jax.data.own_triplets import write_lists
        from csn_jax.train.data_report import report

        dataset = load_dataset(config)
        print(report(config, dataset))
        if args.write_triplets:
            write_lists(Path(args.write_triplets).expanduser(), dataset.items, dataset.triplets, config.data.seed)
        return

    from csn_jax.evaluate.table import results_table
    from csn_jax.runtime.hosts import is_first, joined
    from csn_jax.runtime.record import Results
    from csn_jax.runtime.writer import say
    from csn_jax.train.loop import train_and_evaluate

    with joined(args.distributed):
        say(f"workdir {workdir}")
        results = train_and_evaluate(config, workdir)
        if is_first():
            print(results_table(Results.from_object(results)))
        say(f"pictures and records are in {workdir}: masks.png, neighbours_*.png for images, results.json")
