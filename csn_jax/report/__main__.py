from csn_jax import cli, report

cli.run(report.main)
