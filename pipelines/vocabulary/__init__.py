"""A SentencePiece vocabulary: trained on a corpus, read, and inspected language by language."""
