"""What is worth knowing of a model before it is trained on: its gradient, its reach, its cost."""
