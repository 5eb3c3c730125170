"""``python -m kukuri_sidecar``: the same as the command ``kukuri-sidecar``."""

import sys

from kukuri_sidecar.cli import main

sys.exit(main())
