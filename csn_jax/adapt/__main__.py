from csn_jax import adapt, cli

cli.run(adapt.main)
