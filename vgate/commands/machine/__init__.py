"""The commands about V-Gate on this machine: its service, its update, its removal."""
