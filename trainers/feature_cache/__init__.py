"""Hidden states of the frozen encoder, kept on disk instead of being computed again."""
