"""Where tasks happen: the contract, the registry, and one module or folder per environment."""
