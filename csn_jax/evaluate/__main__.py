from csn_jax import cli, evaluate

cli.run(evaluate.main)
