"""Offline reasoning: an LLM turns metadata and reviews into artifacts (Eq. 1-5)."""
