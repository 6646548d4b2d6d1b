"""Embed a table on many machines, into parts of one index.

    csn_jax beam --workdir=runs/products --table=products.csv --out=parts
    csn_jax beam --workdir=runs/products --table=products.csv --out=parts \\
        --beam_pipeline_options=direct_running_mode=multi_processing,direct_num_workers=8

Apache Beam runs it (extra `beam`): here, or on Dataflow, Flink and Spark. The vectors have the bits of csn_jax embed.
csn_jax search --index takes the folder. Rerun the same command to resume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from csn_jax import cli


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax train, or of an imported model. All workers read it: a path that each of them has,
    or a URL such as gs://BUCKET/run."""
    table: str
    """Embed the rows of this CSV or Parquet table: its images, or its vectors for a model of vectors. A path or a URL;
    paths of images begin where it lies."""
    out: str
    """The folder of the parts: a path or a URL. csn_jax search --index takes it."""
    image: str = ""
    """The table's column of images, as for --config.data.image. Empty: as in the run's own table, or image."""
    id: str = ""
    """The table's column of ids. Empty: as in the run's own table, or id if there is one, else the image paths."""
    vectors: str = ""
    """The table's column of vectors. Empty: as in the run's own table."""
    dtype: Literal["float32", "float16", "int8"] = "float32"
    """The type of the stored vectors. int8 stores whole numbers, and one scale per dimension and part."""
    beam_pipeline_options: str = ""
    """Options of Beam, separated by commas, as in runner=DataflowRunner,project=PROJECT,region=REGION."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)

    from csn_jax.beam.pipeline import run_pipeline  # reports at once if Beam is missing
    from csn_jax.beam.plan import planned
    from csn_jax.runtime.writer import next_step, say

    with planned(args) as plan:
        for note in plan.notes:
            say(note)
        if len(plan.names) < len(plan.all_names):
            say(f"{len(plan.all_names) - len(plan.names):,} of {len(plan.all_names):,} parts are finished")
        if plan.names:
            run_pipeline(plan.job, plan.names, args.beam_pipeline_options)
        result = plan.finish()
    for line in result.lines:
        say(line)
    print(f"{args.out} holds {result.n_items:,} vectors in {len(plan.all_names):,} parts{result.unread}")
    if "://" in args.out:
        print(f"copy {args.out} to a disk to search it")
    next_step(
        "search", f"--index={args.out}", f"--id={result.first_id}", f"--condition={plan.job.empty.conditions[0].name}"
    )
