"""The p4r command against an index."""
