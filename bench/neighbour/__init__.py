"""What one key's worst requests do to another key's short chats."""
