"""Train a linear probe on raw pixels, for comparison with the probes on embeddings of csn_jax.evaluate --full.

    python experiments/pixel_probe.py --workdir=RUN

Prints JSON: `off_task` as in results.json, for the run's data and test split, with pixels in place of embeddings.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from csn_jax.evaluate import off_task
from csn_jax.model.run import open_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    items = open_run(parser.parse_args().workdir).dataset().items
    pixels = items.inputs.reshape(len(items.ids), -1).astype(np.float32) / 255
    print(json.dumps({"off_task": off_task.results(pixels, items, "test")}, indent=2))


if __name__ == "__main__":
    main()
