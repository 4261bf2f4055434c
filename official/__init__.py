"""Read and convert checkpoints of the official code (microsoft/K-Adapter)."""
