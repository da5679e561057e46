"""The HTTP service: reranks, keeps users and items, enqueues what an LLM has to do elsewhere."""
