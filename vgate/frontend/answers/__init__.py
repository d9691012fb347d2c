"""From a sequence's tokens to an answer, whole or streamed, in no API's format."""
