"""Embeddings on disk and in Qdrant, and the search in them. Imports no JAX."""
