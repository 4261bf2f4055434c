"""Train knowledge adapters and use them on downstream tasks, with transformers' Trainer and Accelerate."""
