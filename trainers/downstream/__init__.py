"""Fine-tuning on a downstream task: adapters chosen, heads trained, runs recorded."""
