from csn_jax import cli, port

cli.run(port.main)
