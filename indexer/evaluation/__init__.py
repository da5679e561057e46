"""Evaluation: candidate generators, metrics with intervals and tests, leak checks, experiments."""
