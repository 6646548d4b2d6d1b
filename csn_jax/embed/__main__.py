from csn_jax import cli, embed

cli.run(embed.main)
