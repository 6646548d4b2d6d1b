from csn_jax import cli, explore

cli.run(explore.main)
