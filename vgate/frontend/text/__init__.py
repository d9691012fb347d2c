"""A model's text side: tokenizer, chat template, detokenizer and stop strings."""
