"""What a config builds and what a user loads."""
