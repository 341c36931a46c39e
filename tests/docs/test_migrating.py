"""Every flag and setting of ours that docs/migrating.md names exists."""

import pathlib
import re
import subprocess
import sys

import pytest

from configs import finetune

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/migrating.md").read_text()
# Of the original's two scripts.
OPTIONS = """--model_dir --cfg --restore_weights --restore_session --finetune_from --batch_size --num_cpu_workers
--max_samples_per_gpu --detect_anomaly --amp --ignore_oom_errors --cv2_num_threads --random_seed --master_port
--wandb_session --log_level --subprocess_log_level --display_interval --summary_interval --save_ckpts_after
--max_ckpts_to_keep
--dataset --output_dir --overwrite --split --num_workers --viz --viz_num_procs --seq_split --seq_names
--clip_length --frame_overlap""".split()


def rows() -> list[tuple[str, str]]:
    """(original, ours) of every table row."""
    return [tuple(cells) for line in PAGE.splitlines() if len(cells := line.strip("|").split(" | ")) == 2]


def test_every_option_of_the_original_has_a_row():
    originals = {match for original, _ in rows() for match in re.findall(r"`(--\w+)`", original)}
    assert not set(OPTIONS) - originals


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"config\.(\w+(?:\.\w+)+)", PAGE)) - {"yaml"}))
def test_settings_exist(setting):
    value = finetune.get_config()
    for key in setting.split("."):
        if key in ("section", "a"):  # stands for any section
            return
        assert key in value, f"config.{setting}"
        value = value[key]


def test_flags_exist():
    described = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    known = set(re.findall(r"--(\w+)", described))
    ours = {flag for _, cell in rows() for flag in re.findall(r"(?<![\w.])--(\w+)", cell)}
    assert {"workdir", "finetune_from"} <= ours
    assert not ours - known
