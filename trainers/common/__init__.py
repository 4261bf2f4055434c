"""What all trainings share: flags, encoded examples, the Trainer, checkpoints, output directories."""
