from csn_jax import cli, search

cli.run(search.main)
