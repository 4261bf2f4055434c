"""All that knows the official code (microsoft/K-Adapter): its checkpoints, their names, and their conversion."""
