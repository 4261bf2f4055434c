"""Between artifacts and the world: convert official checkpoints, compose adapters, the `kadapter` command."""
