"""Ends with 0 where an address of this machine answers well: what the health checks of the containers call.

    python inference/health.py http://127.0.0.1:8000/health
"""

import sys
import urllib.request

# An address on this machine is not asked of a proxy.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(sys.argv[1], timeout=4) as answer:
        sys.exit(answer.status != 200)
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
