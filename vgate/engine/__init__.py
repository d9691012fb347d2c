"""The engine process: the batch scheduler and the model's loop. One process for each engine."""
