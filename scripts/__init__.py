"""The commands. What stands here comes before torch is imported, whichever of them is started."""

import os

# threads that wait for work sleep and do not spin: as fast on a quiet machine, and on a busy one training goes on
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
