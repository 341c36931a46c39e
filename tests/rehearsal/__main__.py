"""python -m tests.rehearsal FOLDER: see the package."""

import sys

from tests import rehearsal

if len(sys.argv) != 2:
    sys.exit("usage: python -m tests.rehearsal FOLDER")
print("wrote", *rehearsal.write_tree(sys.argv[1]))
