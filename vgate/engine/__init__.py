"""The engine process: the batch scheduler and the model's loop. One process a model replica."""
