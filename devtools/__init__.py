"""Servers that tests and benchmarks start: a Qdrant of their own, and a scripted LLM."""
