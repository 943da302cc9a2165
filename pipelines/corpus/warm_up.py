"""Compiles functions that every page needs, or loads them from a cache, before workers fork.

The parent process must end without a garbage collection, which takes a third of a second: a reader
of the build's output through a pipe would wait for it.
"""

from collections import Counter

import numpy as np

from mswitch.pipelines.corpus.dedup.lines import own_lines
from mswitch.pipelines.crawl.text_lines import normalize_lines, third_longest_line
from mswitch.pipelines.garbage import collect_rarely

normalize_lines(b"A page.")
third_longest_line(b"A page.", 1)
own_lines(b"A page.", np.zeros((1, 2), np.uint64), np.zeros(1, bool), Counter())
collect_rarely()
