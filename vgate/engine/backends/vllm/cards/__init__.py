"""What vLLM is told because of the card that it runs on."""
