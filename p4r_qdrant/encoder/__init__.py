"""Texts to vectors (Eq. 6-8), and what identifies an encoder."""
