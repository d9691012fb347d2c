"""What a person at a terminal sees, and the file that keeps the rest."""
