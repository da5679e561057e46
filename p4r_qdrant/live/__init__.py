"""Follow the published version and replace it while calls are running."""
