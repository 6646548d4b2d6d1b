from csn_jax import benchmark, cli

cli.run(benchmark.main)
