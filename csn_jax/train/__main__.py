from csn_jax import cli, train

cli.run(train.main)
