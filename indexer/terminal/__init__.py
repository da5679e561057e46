"""What the p4r command prints: tables, rankings, progress."""
