"""Reserved ids in T5's vocabularies: padding, end of sequence, unknown, and sentinels."""

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
#: Number of last ids of a vocabulary that are sentinels; the first masked span has the very last.
SENTINELS = 100
