"""Python imports this first of all when its folder is on PYTHONPATH: the process lives on a host whose clock is off."""

import os
import time

import time_machine

time_machine.travel(time.time() + float(os.environ["CLOCK_OFF_SECONDS"]), tick=True).start()
