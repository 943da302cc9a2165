"""The ids that T5's vocabularies reserve: padding, end of sequence, unknown, and the sentinels."""

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
#: The last ids of a vocabulary; the first masked span has the very last one.
SENTINELS = 100
