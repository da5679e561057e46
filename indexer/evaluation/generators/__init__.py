"""First-stage candidate generators: one module a model, each with its small grid of settings."""
