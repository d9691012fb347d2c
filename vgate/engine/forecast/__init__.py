"""What running requests will need until they end."""
