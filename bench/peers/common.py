"""What the peers share."""
import os

THREADS = int(os.environ.get("THREADS", os.cpu_count()))


class Missing(Exception):
    """This peer does not have that work."""
