import os
import signal
import sys

__version__ = "0.1.0"

# Started as a program, Ctrl-C ends it without a traceback of its imports, until `interrupts.listen`.
if (
    os.path.basename(sys.argv[0]) in ("-m", "upsample")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
