"""Training knowledge adapters and putting them to work, on transformers' Trainer and Accelerate."""
