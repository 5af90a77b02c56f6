"""Quality at equal counts: trains scenes by several schedules and changes of them, and measures each result.

    python -m benchmarks.quality --scenes SCENES/* --runs quick quick:1000 fast --seeds 0 1 --out results.json
    python -m benchmarks.quality --scenes SCENES/* --runs quick --with mean_from=null photo_divisors=[] --out ...
    python -m benchmarks.quality --table results.json
    python -m benchmarks.quality --plot quality.png results.json

A change names a field of the schedule at its full length (arguments/schedule.py) and gives its value in JSON:
``learning_rates.means_factor=2``, ``densification_rounds.0.allowance_factor=2``; ``selection=cutoff``,
``exposure=on``, ``depth=on``, ``robust=on``, ``refine_poses=on``, ``smoothing_3d=on`` and ``antialiasing=on`` are some,
too. ``pose_noise=0.5`` turns each training camera by 0.5 degrees and moves it by 1 % of the extent (twice the number),
in random directions; then test poses, which stay as they are, are brought into the frame of the training poses by the
similarity between these and the exact ones. Several changes at once are joined by ``+``. Every run of ``--runs`` is
made without changes and with each of them.

A finished run is added to the JSON file at once, and a run that is in the file is not made again. CPU seconds are those
of the process while it trains: loading, measuring and saving do not count.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from compact_splats.arguments.config import SCHEDULES
from compact_splats.arguments.device import use_threads
from compact_splats.arguments.schedule import Schedule, num_random_points
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene import Scene, load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import EXTENT
from compact_splats.training.exposure import Exposure
from compact_splats.training.loss import PhotometricLoss
from compact_splats.training.poses import PoseRefinement
from compact_splats.training.sparse_depth import SparseDepth
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError, run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.geometry import rotation_matrices
from compact_splats.utils.machine import machine_info

MEASUREMENTS = 20  # of a run with --course
Result = dict[str, Any]


class Setting(NamedTuple):
    """How a scene is trained: Gaussians, ``--resolution``, first points where it has none, background, training photos.

    Of ``photos``, evenly spaced among all training photos, only the points are used that two of them observe.
    """

    budget: int = 20_000
    resolution: int = -1
    random_points: int | None = None
    white: bool = False
    photos: int | None = None


# By the name of the folder. The demo scene: python -m compact_splats.demo.scene demo
SETTINGS = {
    "fox_tiny": Setting(8_000),
    "fox_small": Setting(20_000),
    "monstree_small": Setting(15_000),
    "sceaux_small": Setting(8_000),
    "cup_small": Setting(10_000),
    "chair_tiny": Setting(5_000),
    "chair": Setting(30_000, random_points=100_000, white=True),
    "demo": Setting(6_000),
}


OPTIONS = {
    "selection": "natural",
    "exposure": "off",
    "smoothing_3d": "off",
    "antialiasing": "off",
    "depth": "off",
    "robust": "off",
    "refine_poses": "off",
    "pose_noise": "0",
}


def changed(schedule: Any, path: str, value: Any) -> Any:
    """A copy of a schedule, or of a part of one, with another value at a path as ``learning_rates.factor``."""
    head, _, rest = path.partition(".")
    if isinstance(schedule, tuple) and head.isdecimal() and int(head) < len(schedule):
        index = int(head)
        return (*schedule[:index], changed(schedule[index], rest, value) if rest else value, *schedule[index + 1 :])
    if is_dataclass(schedule) and head in [each.name for each in fields(schedule)]:
        part = getattr(schedule, head)
        return replace(schedule, **{head: changed(part, rest, value) if rest else value})
    raise InputError(f"{head!r} is no field of {type(schedule).__name__}; see arguments/schedule.py")


def schedule_of(run: str, changes: str) -> tuple[Schedule, dict[str, str]]:
    """The schedule of a run with changes, and what else train.py has flags for."""
    kind, _, steps = run.partition(":")
    if kind not in SCHEDULES or not (steps or "1").isdecimal():
        raise InputError(f"--runs {run}: write the name of a schedule ({', '.join(SCHEDULES)}) or NAME:STEPS")
    schedule, options = SCHEDULES[kind], dict(OPTIONS)
    for change in filter(None, changes.split("+")):
        path, equals, text = change.partition("=")
        if path in options:
            options[path] = text
            continue
        try:
            value = json.loads(text)
        except ValueError:
            raise InputError(f"--with {change}: write FIELD=VALUE, with a number, a list or null as value") from None
        schedule = changed(schedule, path, _tuples(value))
    return schedule.scaled(int(steps) / schedule.iterations) if steps else schedule, options


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def with_photos(scene: Scene, count: int) -> Scene:
    """The scene with fewer training photos, evenly spaced, and of points with tracks those that two of them observe."""
    last, count = len(scene.train) - 1, min(count, len(scene.train))
    chosen = [round(i * last / max(1, count - 1)) for i in range(count)]
    train = tuple(scene.train[i] for i in chosen)
    if not scene.observed:
        return replace(scene, train=train)
    observed = [scene.observed[i] for i in chosen]
    times = torch.cat(observed).bincount(minlength=len(scene.points.xyz))
    kept = times >= 2
    places = kept.cumsum(0) - 1
    observed = tuple(places[each[kept[each]]] for each in observed)
    return replace(scene, train=train, points=scene.points.chosen(kept), observed=observed)


def measure(folder: Path, setting: Setting, run: str, changes: str, seed: int, course: bool) -> Result:
    """Train once.

    Args:
        folder: of the scene.
        setting: of the scene.
        run: name of a schedule, with the number of steps after a colon where it is another.
        changes: of the schedule, see above; may be empty.
        seed: of the training.
        course: measure while it trains, too.
    """
    schedule, options = schedule_of(run, changes)
    random_points = setting.random_points or num_random_points(setting.budget)
    scene = load_scene(folder, resolution=setting.resolution, num_random_points=random_points, max_tracked=sys.maxsize)
    if setting.photos is not None:
        scene = with_photos(scene, setting.photos)
    model = GaussianModel.from_points(scene.points, 3, "cpu")
    model.antialiased = options["antialiasing"] == "on"
    strategies = standard_strategies(
        scene, schedule, setting.budget, seed=seed, selection=options["selection"],
        smoothing=options["smoothing_3d"] == "on",
    )  # fmt: skip
    if options["depth"] == "on":
        strategies.append(SparseDepth(scene))
    exposure = Exposure(len(scene.train)) if options["exposure"] == "on" else None
    exact = [camera.world_to_camera.clone() for camera in scene.train]
    disturb_poses(scene, float(options["pose_noise"]), seed)
    poses = PoseRefinement(scene.train) if options["refine_poses"] == "on" else None
    background = torch.ones(3) if setting.white else torch.zeros(3)
    spent, points, start = 0.0, [], time.process_time()
    loss = PhotometricLoss(robust=options["robust"] == "on")
    training = Training(
        scene, model, schedule, strategies, loss=loss, background=background, seed=seed, exposure=exposure, poses=poses
    )
    for step in training:
        if course and step.number % max(1, schedule.iterations // MEASUREMENTS) == 0:
            spent += time.process_time() - start
            points.append({"step": step.number, "cpu_seconds": spent, **evaluate(scene.test, model, background)})
            start = time.process_time()
    spent += time.process_time() - start
    if float(options["pose_noise"]):
        align_test_poses(scene, exact)
    return {
        "scene": folder.name,
        **setting._asdict(),
        "run": run,
        "changes": changes,
        "seed": seed,
        "gaussians": model.num_gaussians,
        "cpu_seconds": round(spent, 1),
        "test": evaluate(scene.test, model, background),
        "train": evaluate(scene.train[::7], model, background),
        "course": points,
        "commit": machine_info()["commit"],
    }


def disturb_poses(scene: Scene, degrees: float, seed: int) -> None:
    """Turn each training camera about its centre by so many degrees, and move it by twice as many percent."""
    draw = torch.Generator().manual_seed(seed)
    for camera in scene.train:
        axis, direction = torch.nn.functional.normalize(torch.randn(2, 3, generator=draw, dtype=torch.float64))
        turn = rotation_matrices(torch.cat([torch.ones(1), math.tan(math.radians(degrees) / 2) * axis])[None])[0]
        pose = camera.world_to_camera.double()
        centre = -pose[:3, :3].T @ pose[:3, 3] + 0.02 * degrees * EXTENT * direction
        pose[:3, :3] = turn @ pose[:3, :3]
        pose[:3, 3] = -pose[:3, :3] @ centre
        camera.world_to_camera.copy_(pose)


def align_test_poses(scene: Scene, exact: Sequence[torch.Tensor]) -> None:
    """Move the test cameras by the similarity that brings the exact poses of the training cameras closest to theirs."""
    given, found = (_corners(poses) for poses in (exact, [camera.world_to_camera for camera in scene.train]))
    given_mean, found_mean = given.mean(dim=0), found.mean(dim=0)
    u, values, vt = torch.linalg.svd((found - found_mean).T @ (given - given_mean))  # [Umeyama 1991]
    turn, scale = u @ vt, values.sum() / (given - given_mean).square().sum()
    for camera in scene.test:
        pose = camera.world_to_camera.double()
        centre = found_mean + scale * turn @ (-pose[:3, :3].T @ pose[:3, 3] - given_mean)
        pose[:3, :3] = pose[:3, :3] @ turn.T
        pose[:3, 3] = -pose[:3, :3] @ centre
        camera.world_to_camera.copy_(pose)


def _corners(poses: Sequence[torch.Tensor]) -> torch.Tensor:
    """(4 V,3) of each camera the centre, and the points at one extent from it along its axes."""
    stack = torch.stack(list(poses)).double()
    centres = -torch.einsum("vji,vj->vi", stack[:, :3, :3], stack[:, :3, 3])
    return torch.cat([centres[:, None], centres[:, None] + EXTENT * stack[:, :3, :3]], dim=1).view(-1, 3)


def read(paths: Iterable[Path]) -> list[Result]:
    """The results in JSON files."""
    return [result for path in paths for result in json.loads(path.read_text())["results"]]


# What a table shows: heading, value of a result, digits.
FIGURES = (
    ("PSNR", lambda result: result["test"]["psnr"], 2),
    ("SSIM", lambda result: result["test"]["ssim"], 4),
    ("CC PSNR", lambda result: result["test"]["cc_psnr"], 2),
    ("training PSNR", lambda result: result["train"]["psnr"], 2),
    ("CPU s", lambda result: result["cpu_seconds"], 0),
)


def table(results: Sequence[Result]) -> str:
    """Markdown: the figures of each scene and run without changes, and below what each change makes of them."""
    headings = [heading for heading, _, _ in FIGURES]
    results = sorted(results, key=lambda each: (each["scene"], each["run"]))
    lines = [_row(["scene, Gaussians", "run", "seeds", *headings]), _row(["---"] * (3 + len(headings)))]
    for (scene, run), same in _grouped([each for each in results if not each["changes"]], _scene_and_run):
        cells = [_spread([value(each) for each in same], digits) for _, value, digits in FIGURES]
        lines.append(_row([scene, run, str(len(same)), *cells]))
    scenes = list(dict.fromkeys(_scene(result) for result in results))
    lines += ["", _row(["run, change", *scenes, *(f"mean {each}" for each in headings)])]
    lines.append(_row(["---"] * (1 + len(scenes) + len(headings))))
    for (run, changes), same in _grouped(results, lambda each: (each["run"], each["changes"])):
        if changes:
            lines.append(_row([f"{run} {changes}", *_differences(scenes, same, results)]))
    return "\n".join(lines)


def _differences(scenes: Sequence[str], changed_results: Sequence[Result], results: Sequence[Result]) -> list[str]:
    """Cells: by scene the difference of PSNR to the run without changes; mean over scenes of each figure."""
    unchanged = {_case(result)[:-1]: result for result in results if not result["changes"]}
    pairs = [(each, unchanged[_case(each)[:-1]]) for each in changed_results if _case(each)[:-1] in unchanged]
    by_scene = {scene: [pair for pair in pairs if _scene(pair[0]) == scene] for scene in scenes}
    cells, psnr = [], FIGURES[0][1]
    for scene in scenes:
        cells.append(_spread([psnr(new) - psnr(old) for new, old in by_scene[scene]], 2, sign="+"))
    for heading, value, digits in FIGURES:
        ratio = heading == "CPU s"
        means = [
            statistics.mean(value(new) / value(old) if ratio else value(new) - value(old) for new, old in same)
            for same in by_scene.values()
            if same
        ]
        cells.append(f"x {statistics.mean(means):.2f}" if ratio and means else _spread(means, digits, sign="+"))
    return cells


def _scene(result: Result) -> str:
    return result["scene"] + (f", {result['photos']} photos" if result.get("photos") else "")


def _scene_and_run(result: Result) -> tuple[str, str]:
    size = "" if result["resolution"] == -1 else f" `-r {result['resolution']}`"
    return f"{_scene(result)}{size}, {result['gaussians']:,}", result["run"]


def _case(result: Result) -> tuple[Any, ...]:
    """What makes two results the same run; the changes come last."""
    return tuple(result.get(name) for name in ("scene", *Setting._fields, "run", "seed", "changes"))


def _grouped(results: Sequence[Result], key: Any) -> list[tuple[Any, list[Result]]]:
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return list(groups.items())


def _spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean, and standard deviation where there are several."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign},.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and digits else mean


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(results: Sequence[Result], out: Path) -> None:
    """Draw PSNR over CPU seconds: a line for each run that has a course."""
    from matplotlib.figure import Figure  # takes a while to load

    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    results = [result for result in results if result["course"]]
    names = list(dict.fromkeys(f"{result['run']} {result['changes']}" for result in results))
    for result in results:
        name = f"{result['run']} {result['changes']}"
        points = [(point["cpu_seconds"], point["psnr"]) for point in result["course"]]
        label = name if result["seed"] == 0 else None
        axes.plot(*zip(*points, strict=True), color=f"C{names.index(name)}", label=label, linewidth=1.4)
    axes.set(xscale="log", xlabel="CPU seconds of training, one thread", ylabel="PSNR of the test views, dB")
    axes.set_ylim(bottom=min(result["test"]["psnr"] for result in results) - 10)  # caps of opacities fall below
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color="#dfe2e6")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out)


def main() -> None:
    """Measure, print, write the JSON; or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("-r", "--resolution", type=int, help="of all scenes, as for train.py")
    parser.add_argument("--final-budget", type=int, help="Gaussians, for all scenes (default: by name)")
    parser.add_argument("--photos", type=int, nargs="+", default=[None], help="so many training photos")
    parser.add_argument("--runs", nargs="+", default=["quick"], metavar="SCHEDULE[:STEPS]")
    parser.add_argument(
        "--with", nargs="+", default=[], dest="changes", metavar="FIELD=VALUE", help="changes, see above"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--course", action="store_true", help="measure while it trains, too, for --plot")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file, to which results are added")
    parser.add_argument("--table", action="store_true", help="print the JSON files as Markdown")
    parser.add_argument("--plot", type=Path, help="picture to draw of JSON files")
    parser.add_argument("json", type=Path, nargs="*")
    options = parser.parse_args()
    if options.table:
        return print(table(read(options.json)))
    if options.plot:
        return plot(read(options.json), options.plot)
    if not options.scenes:
        raise InputError("--scenes is missing: the folders of the scenes")

    for run in options.runs:
        for changes in options.changes:
            schedule_of(run, changes)  # an error in the last one is found before the first has run
    use_threads(options.threads)
    results = read([options.out]) if options.out and options.out.exists() else []
    given = {"budget": options.final_budget, "resolution": options.resolution}
    given = {name: value for name, value in given.items() if value is not None}
    for folder, photos in product(options.scenes, options.photos):
        setting = SETTINGS.get(folder.name, Setting())._replace(**given, photos=photos)
        for run in options.runs:
            for changes in ["", *options.changes]:
                for seed in options.seeds:
                    case = {"scene": folder.name, **setting._asdict(), "run": run, "seed": seed, "changes": changes}
                    if any(_case(result) == _case(case) for result in results):
                        continue
                    results.append(measure(folder, setting, run, changes, seed, options.course))
                    figures = ", ".join(f"{name} {value(results[-1]):.{digits}f}" for name, value, digits in FIGURES)
                    print(f"{folder.name} {run} {changes} seed {seed}: {figures}", flush=True)
                    if options.out:
                        write_json(options.out, {"machine": machine_info(), "results": results})


if __name__ == "__main__":
    run_script(main)
