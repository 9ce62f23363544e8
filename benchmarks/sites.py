"""Train MA-SAM and MONAI's DynUNet (the network of nnU-Net) on one site and test them on all sites.

    masam make sites evidence/sites
    python benchmarks/sites.py evidence/sites --out evidence/generalisation

Both methods have the same budget: the U-Net trains for the CPU time that MA-SAM with the same seed needs from the
training files to the trained weights (three passes over all windows, ``MASAM``), including the loading of data. CPU
time includes all threads and hardly depends on the load of the machine. The pre-training of MA-SAM's encoder is not
included; use ``--sam-checkpoint none`` to start from random numbers. ``--unet-times 1 5`` adds a U-Net with five times
the budget. The U-Net uses nnU-Net's preprocessing: the spacing of the training site, z-scores, patches, spatial and
intensity augmentation. Neither method is tuned for the other sites. One additional row of MA-SAM is: it was trained
with uneven brightness, after the first results had shown the effect of the coils at sites B and E.

The scores of each method and seed are stored in a folder in OUT. Finished ones are reused unless data or settings have
changed, so the same command resumes an interrupted run. The U-Net's number of steps depends on the measured time, so
its scores are not exactly reproducible.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from scipy import ndimage

from masam import atomic
from masam.augment import AugmentSettings
from masam.cases.folder import CaseFolder, find_images, load_case, read_dataset
from masam.evaluation import Evaluation, evaluate
from masam.evaluation.statistics import interval_over_cases, mean_over_seeds, paired_difference, spread_over_seeds
from masam.io.nifti.file import write_volume
from masam.predict.cohort import predict_cohort
from masam.predict.predictor import Predictor
from masam.preprocess.orientation import Orientation
from masam.progress import Silent
from masam.training.config import TrainConfig
from masam.training.planning import plan_dataset
from masam.training.run import train
from masam.volume import Volume

OURS, SHADED = "MA-SAM", "MA-SAM with shading augmentation"
CONFIG = Path(__file__).parent.parent / "configs/evidence/training.yaml"
MASAM: dict[str, Any] = {
    "epochs": 3,
    # The other tables use 1e-3. Soft Dice is noisy for a class that is absent from most windows.
    "learning_rate": 4e-4,
    "model.decoder": "sam",
}
"""Changes of MA-SAM's runs to configs/evidence/training.yaml."""
PATCH = (16, 64, 64)
"""Slices, rows and columns of a patch. Volumes of the training site have 20 x 128 x 128 voxels, glands 12 x 24 x 33."""
UNET: dict[str, Any] = {
    "filters": [16, 32, 64, 128],
    # The distance of slices is three times that of pixels, so the first level is 2D.
    "kernel_size": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "batch_patches": 2,
    "learning_rate": 1e-3,
}

Prepared = tuple[np.ndarray, np.ndarray]
"""Image and labels with the spacing of the training site, [slices, rows, columns]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder written by masam make sites")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--train-on", default="A", metavar="SITE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sam-checkpoint", default=None, help="file, published name, or none for random numbers")
    parser.add_argument(
        "--unet-times", type=float, nargs="+", default=[1.0], help="CPU time of the U-Nets relative to that of MA-SAM"
    )
    arguments = parser.parse_args()
    roots = {path.parent.name: path.parent for path in sorted(arguments.data.glob("*/dataset.json"))}
    if arguments.train_on not in roots:
        found = ", ".join(roots) or "no data set"
        parser.error(f"expected site {arguments.train_on} in {arguments.data}, found {found}")
    config, out, site = masam_config(arguments.sam_checkpoint), arguments.out, arguments.train_on
    shared = {"data": sha256_of(roots), "train_on": site}
    # Endorectal coils, at sites B and E, cause uneven brightness within a slice.
    configs = {OURS: config, SHADED: config.changed({"augmentation.shading_probability": 0.5}, SHADED)}
    times = {unet_name(factor): factor for factor in arguments.unet_times}
    methods = (OURS, *times, SHADED)
    scores: dict[tuple[str, int], dict[str, Evaluation]] = {}
    for seed in arguments.seeds:
        for method in methods:
            cell = folder(out, method, seed)
            if method in configs:
                own = configs[method].model_copy(update={"seed": seed})
                identity = {**shared, "config": own.model_dump(mode="json")}
            else:
                budget = times[method] * read_facts(folder(out, OURS, seed))["processor_seconds"]
                identity = {**shared, "seed": seed, "budget": budget, "unet": UNET, "patch": PATCH}
            if not is_done(cell, identity):
                print(f"{method}, seed {seed}: training", flush=True)
                shutil.rmtree(cell, ignore_errors=True)
                is_ours = method in configs
                facts = run_masam(roots, site, own, cell) if is_ours else run_unet(roots, site, seed, budget, cell)
                for other, root in roots.items():
                    score(cell, other, root)
                atomic.write_text(cell / "cell.json", json.dumps({"identity": identity, **facts}, indent=1) + "\n")
            scores[method, seed] = {other: Evaluation.from_json(cell / f"{other}.json") for other in roots}
        write_table(out, scores, methods, site)


def unet_name(factor: float) -> str:
    return "U-Net" if factor == 1 else f"U-Net, {factor:g} times as long"


def folder(out: Path, method: str, seed: int) -> Path:
    return out / f"{method.replace(', ', '-').replace(' ', '-')}.seed{seed}"


def masam_config(sam_checkpoint: str | None) -> TrainConfig:
    """Return the settings of MA-SAM's runs; both methods use augmentation."""
    changes = dict(MASAM)
    if sam_checkpoint == "none":
        changes |= {"model.sam_checkpoint": None, "model.size": "vit_t", "model.trained": "everything"}
    elif sam_checkpoint is not None:
        changes["model.sam_checkpoint"] = sam_checkpoint
    return TrainConfig.from_yaml(CONFIG).changed(changes, "--sam-checkpoint").model_copy(
        update={"augmentation": AugmentSettings()}
    )  # fmt: skip


def sha256_of(roots: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for root in roots.values():
        for path in sorted(root.rglob("*.nii.gz")):
            digest.update(f"{root.name}/{path.relative_to(root)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_facts(cell: Path) -> dict[str, Any]:
    return json.loads((cell / "cell.json").read_text("utf-8"))


def is_done(cell: Path, identity: dict[str, Any]) -> bool:
    # The file is written last. The identity is converted to JSON and back for the comparison.
    return (cell / "cell.json").exists() and read_facts(cell)["identity"] == json.loads(json.dumps(identity))


def score(cell: Path, site: str, root: Path) -> None:
    """Score the predictions of a site and write the scores."""
    references = {path.name.removesuffix(".nii.gz"): path for path in sorted((root / "labelsTs").glob("*.nii.gz"))}
    predictions = {case: cell / "predictions" / site / f"{case}.nii.gz" for case in references}
    evaluate(predictions, references, read_dataset(root).labels).to_json(cell / f"{site}.json")


# MA-SAM


def run_masam(roots: dict[str, Path], site: str, config: TrainConfig, cell: Path) -> dict[str, Any]:
    """Train on one site and predict the held-out cases of all sites."""
    started = time.process_time()
    changes = {"image_size": 128, "crop": "none"}
    plan = plan_dataset(read_dataset(roots[site])).model_copy(update=changes)
    result = train(roots[site], cell / "run", config, plan=plan)
    seconds = time.process_time() - started
    predictor = Predictor(cell / "run", sam_checkpoint=config.model.sam_checkpoint)
    for other, root in roots.items():
        out = cell / "predictions" / other
        predict_cohort(predictor, find_images(root / "imagesTs"), out, Silent()).raise_failures()
    slices = result.steps * config.batch_windows * plan.window
    return {"processor_seconds": seconds, "steps": result.steps, "slices_seen": slices}


# The U-Net


def run_unet(roots: dict[str, Path], site: str, seed: int, budget: float, cell: Path) -> dict[str, Any]:
    """Train on one site for ``budget`` seconds of CPU time and predict the held-out cases of all sites."""
    started = time.process_time()
    torch.manual_seed(seed)
    draw = random.Random(seed)
    dataset = read_dataset(roots[site])
    spacing = median_spacing(dataset)
    cases = [prepare(case, spacing) for case in map(load_case, dataset.training)]
    network = DynUNet(
        3, 1, 2, UNET["kernel_size"], UNET["strides"], UNET["strides"][1:], filters=UNET["filters"]
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=UNET["learning_rate"], weight_decay=0.01)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    steps = 0
    while (spent := time.process_time() - started) < budget:
        for group in optimizer.param_groups:
            group["lr"] = UNET["learning_rate"] * (1 - spent / budget) ** 0.9
        patches = [draw_patch(draw.choice(cases), draw) for _ in range(UNET["batch_patches"])]
        images, labels = (torch.from_numpy(np.stack(part))[:, None] for part in zip(*patches, strict=True))
        loss = loss_of(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        steps += 1
    spent = time.process_time() - started
    for other, root in roots.items():
        for case in read_dataset(root).test:
            image, _ = load_case(case)
            write_volume(cell / "predictions" / other / f"{case.id}.nii.gz", segment(network.eval(), image, spacing))
    torch.save(network.state_dict(), cell / "network.pt")
    return {"processor_seconds": spent, "steps": steps, "slices_seen": steps * UNET["batch_patches"] * PATCH[0]}


def median_spacing(dataset: CaseFolder) -> np.ndarray:
    """Return the median spacing of slices, rows and columns over the training cases, in mm."""
    return np.median([axial_spacing(load_case(case)[0]) for case in dataset.training], axis=0)


def axial_spacing(volume: Volume) -> list[float]:
    order = Orientation.of(volume.geometry, "axial").order
    return [volume.geometry.spacing_mm[axis] for axis in order]


def prepare(case: tuple[Volume, Volume | None], spacing: np.ndarray) -> Prepared:
    """Resample a case to the spacing of the training site; normalise the image to mean 0 and variance 1."""
    image, labels = case
    assert labels is not None, "training case without labels"
    orientation = Orientation.of(image.geometry, "axial")
    factors = np.array(axial_spacing(image)) / spacing
    scaled = ndimage.zoom(orientation.apply(image.array).astype(np.float32), factors, order=1, mode="nearest")
    values = ndimage.zoom(orientation.apply(labels.array).astype(np.float32), factors, order=0, mode="nearest")
    return padded((scaled - scaled.mean()) / scaled.std()), padded(values)


def padded(array: np.ndarray) -> np.ndarray:
    """Pad a volume with its edge values to at least the size of a patch."""
    short = [max(0, patch - size) for patch, size in zip(PATCH, array.shape, strict=True)]
    return np.pad(array, [(n // 2, n - n // 2) for n in short], mode="edge")


def draw_patch(case: Prepared, draw: random.Random) -> Prepared:
    """Crop a patch, half of them around the organ, and apply augmentations of nnU-Net."""
    image, labels = case
    limits = [size - patch for size, patch in zip(image.shape, PATCH, strict=True)]
    corner = [draw.randint(0, limit) for limit in limits]
    inside = np.argwhere(labels > 0)
    if draw.random() < 0.5 and len(inside):
        voxel = inside[draw.randrange(len(inside))]
        corner = [min(max(int(v) - p // 2, 0), top) for v, p, top in zip(voxel, PATCH, limits, strict=True)]
    cut = tuple(slice(start, start + size) for start, size in zip(corner, PATCH, strict=True))
    image, labels = image[cut].copy(), labels[cut].copy()
    # Mirror left and right only: a prostate is never upside down.
    if draw.random() < 0.5:
        image, labels = image[:, :, ::-1].copy(), labels[:, :, ::-1].copy()
    if draw.random() < 0.3:
        angle = draw.uniform(-15, 15)
        image = ndimage.rotate(image, angle, (1, 2), reshape=False, order=1, mode="nearest")
        labels = ndimage.rotate(labels, angle, (1, 2), reshape=False, order=0, mode="nearest")
    if draw.random() < 0.2:
        image = ndimage.gaussian_filter(image, (0, *[draw.uniform(0.5, 1.2)] * 2))
    if draw.random() < 0.3:
        image = image * draw.uniform(0.7, 1.3) + draw.uniform(-0.2, 0.2)
    if draw.random() < 0.3:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) / (high - low + 1e-6)) ** draw.uniform(0.7, 1.5) * (high - low) + low
    if draw.random() < 0.2:
        noise = np.random.default_rng(draw.getrandbits(64)).standard_normal(image.shape, np.float32)
        image = image + draw.uniform(0.0, 0.3) * noise
    return image.astype(np.float32), labels.astype(np.float32)


def segment(network: torch.nn.Module, image: Volume, spacing: np.ndarray) -> Volume:
    """Predict a volume on its original grid."""
    orientation = Orientation.of(image.geometry, "axial")
    slices = orientation.apply(image.array).astype(np.float32)
    scaled = ndimage.zoom(slices, np.array(axial_spacing(image)) / spacing, order=1, mode="nearest")
    normal = torch.from_numpy((scaled - scaled.mean()) / scaled.std())[None, None]
    with torch.no_grad():
        logits = sliding_window_inference(normal, PATCH, 2, network, overlap=0.5, mode="gaussian")
    inside = logits.softmax(1)[0, 1].numpy()
    back = ndimage.zoom(inside, np.array(slices.shape) / inside.shape, order=1, mode="nearest")
    return Volume(np.ascontiguousarray(orientation.invert((back > 0.5).astype(np.uint8))), image.geometry)


# The table


def repeated(scores: Sequence[dict[str, Evaluation]], sites: Sequence[str]) -> np.ndarray:
    """Return Dice [seeds, cases, sites], NaN for all but the site of the case, so that sites have equal weight."""
    names = [(site, case) for site in sites for case in scores[0][site].cases]
    values = np.full((len(scores), len(names), len(sites)), math.nan)
    for seed, of_seed in enumerate(scores):
        for site in sites:
            dice = dict(zip(of_seed[site].cases, of_seed[site].values("dice")[:, 0], strict=True))
            for number, (own, case) in enumerate(names):
                if own == site:
                    values[seed, number, sites.index(site)] = dice[case]
    return values


def write_table(
    out: Path, scores: dict[tuple[str, int], dict[str, Evaluation]], methods: Sequence[str], train_on: str
) -> None:
    """Write and print the table of all finished seeds."""
    seeds = list(dict.fromkeys(seed for _, seed in scores))
    of_method = {method: [scores[method, seed] for seed in seeds] for method in methods}
    sites = list(of_method[OURS][0])
    others = [site for site in sites if site != train_on]
    columns = {site: [site] for site in sites} | ({"others": others} if others else {})
    of_seeds = f"mean over seeds {', '.join(map(str, seeds))}"
    lines = [
        f"Trained on site {train_on}, Dice on held-out cases of each site, {of_seeds}",
        "(95 % interval over cases; others: mean over the sites that were not used for training).",
        "",
        "| method | " + " | ".join(columns) + " | SD of seeds, others | steps | CPU time |",
        "| --- |" + " ---: |" * (len(columns) + 3),
    ]
    values = {method: {c: repeated(of_method[method], s) for c, s in columns.items()} for method in methods}
    last = list(columns)[-1]
    for method in methods:
        facts = [read_facts(folder(out, method, seed)) for seed in seeds]
        cells = [format_interval(mean_over_seeds(v), *interval_over_cases(v)) for v in values[method].values()]
        spread = format_interval(spread_over_seeds(values[method][last]), math.nan, math.nan)
        steps, seconds = (sum(fact[key] for fact in facts) / len(facts) for key in ("steps", "processor_seconds"))
        lines.append(f"| {method} | {' | '.join(cells)} | {spread} | {steps:.0f} | {seconds:.0f} s |")
    for method in methods[1:]:
        differences = [paired_difference(values[OURS][column], values[method][column]) for column in columns]
        cells = [format_interval(*difference, sign="+") for difference in differences]
        lines.append(f"| {OURS} minus {method} | {' | '.join(cells)} | | | |")
    text = "\n".join(lines) + "\n"
    atomic.write_text(out / "table.md", text)
    print(text, flush=True)


def format_interval(mean: float, low: float, high: float, sign: str = "") -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:{sign}.3f}" + ("" if math.isnan(low) else f" ({low:{sign}.3f} to {high:{sign}.3f})")


if __name__ == "__main__":
    main()
