"""Train one encoder on several objectives at once."""
