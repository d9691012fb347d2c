"""Anthropic's Messages API: requests, answers, streams and errors, said in terms of chats. Pure."""
