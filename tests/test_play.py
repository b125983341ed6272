"""Every lesson once more, as a reader plays with it: another seed, rule and width, one removal, few
images, no MNIST, no CIFAR-10, no record, and networks that have hardly learnt anything. An assert
that fails here holds a choice, not a theorem. `make test` plays one, `make test-play` all ten."""

import json
import os
import random
import traceback
from pathlib import Path

import pytest
from helpers import apart
from IPython.display import display
from joblib.externals.loky import get_reusable_executor

import tlc_minimal as tlc

ROOT = Path(__file__).parents[1]
LESSONS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
ALL = os.environ.get("TLC_PLAY") == "all"
# lesson, what stands in its code -> what a reader puts there; in all of them another torch seed
PLAYS = """
00 name = "layer2.1.relu1" -> name = "layer4.0.relu1" | share = 0.3 -> share = 0.6
00 "layer3.1.relu1"], "affine" -> "layer2.0.relu2"], "on_off" | "remove": 2 -> "remove": 1
01 middle = "layer2.0.relu1" -> middle = "layer3.1.relu2" | width=8 -> width=4
01 place, count, mode = "layer3.0.relu1", 64, "eval" -> place, count, mode = "relu", 9, "train"
02 mean, std = -0.5, 1.0 -> mean, std = 0.8, 2.0 | decay=1.0 -> decay=0.01 | width=8 -> width=4
02 mu, sigma, f = -0.5, 1.0, F.elu -> mu, sigma, f = 3.0, 0.1, torch.tanh
03 width=8 -> width=4 | 3, 1, 1, 3, 1, 1, 16 -> 3, 2, 1, 2, 1, 1, 9
04 rule = "on_off_affine" -> rule = "affine" | remove=2) -> remove=1) | width=4 -> width=2
04 ["relu1", "relu5"], "affine", "as_trained", 1 -> ["relu6"], "identity", "first", 0.5
05 remove=12 -> remove=1 | width=16).eval() -> width=8).eval()
05 "resnet18_w8_pictures", 0.3 -> "resnet18_w8_pictures", 0.6
05 "layer3.1.relu1"], 3, 2000 -> "layer3.1.relu1"], 5, 9
06 remove=2 -> remove=1 | width=4 -> width=3 | 1.3, 0.2, 0.8], 1 -> 0.9], 3
07 width=24 -> width=16 | depth=2 -> depth=3 | "affine", 1 -> "on_off", 0.5
07 batch, lr = 128, 0.005 -> batch, lr = 64, 0.02
08 remove=2 -> remove=1 | width=4 -> width=3 | "gaussian_blur", 3, 1.0 -> "shot_noise", 5, 2.0
09 remove=2 -> remove=1 | width=4 -> width=3 | "one_by_one", 2, 1 -> "at_once", 1, 0
"""


def play(lesson: str, seed: int, folder: Path) -> None:
    """Runs a lesson's code in this process, changed, with hardly any training."""
    (folder / "data").mkdir()
    for name in ("checkpoints", "results")[: 2 if lesson == "08" else 1]:  # 08 is about its record
        (folder / "data" / name).symlink_to(ROOT / "data" / name)
    os.chdir(folder)
    os.environ["TLC_PROFILE"] = "smoke"
    steps, load, part = tlc.train.steps_of, tlc.load_data, tlc.Data.subset
    tlc.train.steps_of = lambda *of: min(2, steps(*of))
    tlc.load_data = lambda *of, **how: part(load(*of, **how), 300)
    tlc.Data.subset = lambda data, n: part(data, min(n, 300))
    cells = json.loads(LESSONS[lesson].read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    turns = [k for k, cell in enumerate(cells) if "## Your turn\n" in cell["source"]]
    assert len(turns) == 1 and cells[turns[0] + 1]["cell_type"] == "code", "no cell to play with"
    lines = [line[3:] for line in PLAYS.splitlines() if line[:2] == lesson]
    changes = [change.split(" -> ") for line in lines for change in line.split(" | ")]
    assert [old for old, _ in changes if old not in "\n".join(code)] == []
    space = {"__name__": "__main__", "display": display}
    for number, source in enumerate(code):
        for old, new in [*changes, ("manual_seed(0)", f"manual_seed({seed})")]:
            source = source.replace(old, new)
        exec(compile(source, f"{lesson}, code cell {number}", "exec"), space)


def told(lesson: str, seed: int, folder: Path) -> None:
    """Plays a lesson, and leaves what went wrong in a file."""
    try:
        play(lesson, seed, folder)
        said = ""
    except BaseException:
        said = traceback.format_exc()
    (folder / "said.txt").write_text(said)
    get_reusable_executor().shutdown()  # or this process waits until lesson 09's have idled enough


@pytest.mark.parametrize("lesson", LESSONS if ALL else ["one of them"])
def test_playing_never_breaks_the_page(lesson, tmp_path):
    seed = int(os.environ.get("TLC_PLAY_SEED") or random.SystemRandom().randrange(10**6))
    lesson = lesson if ALL else random.Random(seed).choice(list(LESSONS))
    print(f"lesson {lesson}; to play it again: TLC_PLAY_SEED={seed}")
    apart(told, lesson, seed, tmp_path).join()  # for a lesson switches things off
    assert (tmp_path / "said.txt").read_text() == ""
