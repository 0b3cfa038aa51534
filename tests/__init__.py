import os

# Tiny models gain nothing from threads: on a busy machine they wait for each other at each of
# thousands of small products, which takes ten times as long. Before torch reads it; also for
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
