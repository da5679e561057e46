"""The rerankers that personas are compared with, behind one protocol."""
