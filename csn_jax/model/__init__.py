"""Networks, models, runs and weight files."""
