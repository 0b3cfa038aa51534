"""First contact with a checkpoint: tells whether it is the model that it is taken for."""
