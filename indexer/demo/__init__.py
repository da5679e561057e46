"""The demonstrations: the bookshop, raw reviews, a local LLM."""
