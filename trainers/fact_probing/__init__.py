"""Ask language models for facts: prompts, candidates, scores and ranks, filters and results."""
