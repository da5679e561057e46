"""Adapters for frameworks, each with an extra of its own: `langchain`, `llamaindex`."""
