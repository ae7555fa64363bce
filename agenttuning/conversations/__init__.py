"""Conversation formats in and out, and the general sources of the mixture."""
