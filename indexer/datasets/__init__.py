"""Convert published data sets to artifacts, with a module for each source format."""
