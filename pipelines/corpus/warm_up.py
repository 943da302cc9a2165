"""Imported by the process that workers are forked from: compiles, or loads, what all pages need.

That process ends without a look for garbage, which takes a third of a second: who reads a build's
output through a pipe waits for it.
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
