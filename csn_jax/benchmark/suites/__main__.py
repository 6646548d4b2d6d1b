"""Our side of one case: python -m csn_jax.benchmark.suites SUITE CASE [--tiny]."""

import importlib
import sys

from csn_jax.benchmark.suites import serve

suite, number = sys.argv[1:3]
serve(importlib.import_module(f"csn_jax.benchmark.suites.{suite}").CASES[int(number)].make, "--tiny" in sys.argv)
