"""`p4r tune`: settings chosen on validation items, for `p4r publish` to record."""
