"""Training: pre-train one knowledge adapter (`run_adapter.py`) on transformers' Trainer and Accelerate."""
