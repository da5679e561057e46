"""What users did, and what is still to be done about it: one store, two engines."""
