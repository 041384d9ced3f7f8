"""A run from its configuration to its folder: methods by name, the training loop, records and checkpoints."""
