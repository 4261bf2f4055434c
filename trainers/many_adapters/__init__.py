"""Several adapters trained in one process, each as if it were alone."""
