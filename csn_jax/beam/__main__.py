from csn_jax import beam, cli

cli.run(beam.main)
