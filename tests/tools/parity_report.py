"""Prints how far we are from the reference on a case folder, stage by stage; exits with 1 if anything is too far.

    python tests/tools/parity_report.py CASE_DIR --seed 0 --backbone ResNet50 [--attention soft_masked]

CASE_DIR is laid out like one of the folders of the parity data (backbone, losses, train_step, e2e); its kind is found
by its files.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tests.parity import backbone_case  # noqa: E402
from tests.parity.common import Row, format_table  # noqa: E402
from tests.parity.kinds import find_kind  # noqa: E402


def report(case_dir: pathlib.Path, seed: int, backbone: str, attention: str | None = None) -> list[Row]:
    """Rows of the case; `attention` overrides what the names of a backbone case's weights tell.

    Raises:
      ValueError: the folder is of no known kind, or `attention` is given for another kind than a backbone case.
    """
    kind = find_kind(case_dir)
    if attention is None:
        return kind.run(case_dir, seed, backbone)
    if kind is not backbone_case:
        raise ValueError(f"--attention is for backbone cases only, {case_dir} is a {kind.__name__}")
    return backbone_case.run(case_dir, seed, backbone, attention)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case_dir", type=pathlib.Path)
    parser.add_argument("--seed", type=int, required=True, help="of the drawn weights")
    parser.add_argument("--backbone", required=True, help="reference name, such as ResNet50")
    parser.add_argument("--attention", choices=["hard_masked", "soft_masked"], help="default: as the weights tell")
    args = parser.parse_args()
    rows = report(args.case_dir, args.seed, args.backbone, args.attention)
    print(format_table(rows))
    missed = [row for row in rows if not row.ok]
    print(f"{len(rows) - len(missed)} of {len(rows)} within tolerance")
    return 1 if missed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
