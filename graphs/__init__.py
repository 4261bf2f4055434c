"""Knowledge graphs: reading and training the embeddings of their entities, and linking texts to them."""
