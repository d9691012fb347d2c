"""OpenAI's shapes: requests, responses, stream chunks and errors. Pure."""
