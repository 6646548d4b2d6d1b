from csn_jax import cli, teach

cli.run(teach.main)
