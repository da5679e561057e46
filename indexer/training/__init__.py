"""Training: alignments teach the encoder to place users near the persona they chose (Eq. 9)."""
