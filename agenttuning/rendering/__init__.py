"""Turns to token ids and loss mask, per template family."""
