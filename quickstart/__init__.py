"""The quickstart: two adapters trained on the small corpora beside this file, composed and compared."""
