"""Fine-tuning on a downstream task: choosing adapters, training heads, recording runs."""
