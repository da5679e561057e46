"""Changes that arrive over time: new items and reviews, erasure, the worker."""
