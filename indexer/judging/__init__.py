"""An LLM as judge of explanations and personas: the paper's two human studies, with controls."""
