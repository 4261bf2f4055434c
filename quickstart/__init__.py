"""The quickstart: train two adapters on the small corpora in this folder, compose them and compare them."""
