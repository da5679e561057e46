"""From artifacts to an index: encode, write, verify, publish."""
