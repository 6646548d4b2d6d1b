"""Serve the alternative in one case of csn_jax.benchmark: python benchmarks/peers.py SUITE WORD ... [--tiny]."""

import importlib
import sys

from csn_jax.benchmark.suites import serve

if __name__ == "__main__":
    suite, *words = (word for word in sys.argv[1:] if word != "--tiny")
    serve(lambda tiny: importlib.import_module(suite).make(words, tiny), "--tiny" in sys.argv)
