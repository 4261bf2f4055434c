"""One adapter trained on several objectives at once."""
