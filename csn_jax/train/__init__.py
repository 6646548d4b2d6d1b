"""Train one embedding with a mask for each condition.

    csn_jax train --workdir=runs/quickstart
    csn_jax train --config=table --config.data.path=products.csv --config.data.conditions category colour

Without flags it trains the quickstart, on the glyphs inside this package. Rerun the same command to resume.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from csn_jax import cli
from csn_jax.config import Config

# The settings that --help shows; --help-all shows the rest.
EVERYDAY = [
    f"config.{name}"
    for name in """variant seed batch_size steps learning_rate feed eval_every backbone.name backbone.init data.source
    data.path data.conditions data.triplets data.split_by loss.name loss.margin""".split()
]


@dataclass(frozen=True)
class Args:
    config: Config = field(default_factory=Config)
    workdir: str = ""
    """The folder of the run. The same command resumes there. Empty: runs/<source>-<variant>-<digest of the config>."""
    check: bool = False
    """Stop after the data report, which shows what there is to learn from and what is wrong with it."""
    write_triplets: str = ""
    """Write the triplets into this new folder as the reference's lists, with their seed and digests, and stop."""
    distributed: str = ""
    """Train on several hosts: run this command on each, with a shared workdir. auto: Slurm, a TPU pod or GKE numbers
    the processes; else HOST:PORT,N,ID: the address of process 0, the number of processes, and this one's number."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, everyday=EVERYDAY)
    config = args.config
    workdir = args.workdir or f"runs/{config.data.source}-{config.variant}-{config.digest()[:8]}"
    from csn_jax.runtime.writer import next_step, say

    if args.check or args.write_triplets:
        from csn_jax.data.dataset import load_dataset
        from csn_jax.data.own_triplets import write_lists
        from csn_jax.train.data_report import report

        dataset = load_dataset(config)
        print(report(config, dataset))
        if args.write_triplets:
            write_lists(Path(args.write_triplets).expanduser(), dataset.items, dataset.triplets, config.data.seed)
        drawn = [f"--config.data.triplets={args.write_triplets}"] if args.write_triplets else []
        next_step("train", *cli.without(argv, "check", "write_triplets"), *drawn)
        return

    from csn_jax.evaluate.table import results_table
    from csn_jax.runtime.hosts import is_first, joined
    from csn_jax.runtime.record import Results
    from csn_jax.train.loop import train_and_evaluate

    with joined(args.distributed):
        say(f"workdir {workdir}")
        results = train_and_evaluate(config, workdir)
        if is_first():
            print(results_table(Results.from_object(results)))
        say(f"pictures and records are in {workdir}: masks.png, neighbours_*.png if items have pictures, results.json")
        next_step("embed", f"--workdir={workdir}", "--split=all", f"--out={workdir}.parquet")
