"""What is learned: vision towers, connectors, language models, the full model, and its export."""
