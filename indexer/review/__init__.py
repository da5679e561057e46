"""What people decide about personas, and what follows from it for publishing."""
