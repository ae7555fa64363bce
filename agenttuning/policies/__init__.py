"""Who acts: chat endpoints, and local models served by vLLM behind Ray Serve."""
