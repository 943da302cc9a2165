"""Reserved ids in T5's vocabularies: padding, end of sequence, unknown, and sentinels."""

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
#: Number of sentinels, the last ids of a vocabulary. The first masked span has the very last id.
SENTINELS = 100
