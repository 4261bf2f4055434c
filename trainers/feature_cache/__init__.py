"""Hidden states of the frozen encoder, kept on disk and read instead of computed again."""
