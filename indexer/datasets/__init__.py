"""One module for each source format, all of them into our artifacts."""
