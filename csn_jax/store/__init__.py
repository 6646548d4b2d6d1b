"""Embeddings on disk and the search in them. Imports no JAX."""
