"""Teach a language model facts that it does not know, and measure what was gained and what it cost."""
