"""Sources of items. Each yields its rows once."""
