"""How good an artifact folder is: ours, an imported one, or one that another LLM made."""
