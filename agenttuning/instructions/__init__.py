"""Where tasks come from beyond an environment's own: self-instruct, derivation; and validation of what is made."""
