"""Stored users: their interactions, their vectors and the jobs of the worker."""
