"""The engines that the launcher runs: their devices, their start, their restarts, their drains."""
