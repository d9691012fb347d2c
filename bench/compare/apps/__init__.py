"""Small servers that V-Gate is compared with. Each runs in a process of its own."""
