"""Build, save and load models."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ParamSpec

from torch import Tensor

from masam.errors import ModelError
from masam.io import gate
from masam.model.masam import Masam, empty_model
from masam.model.sizes import find_size
from masam.model.spec import MasamSpec, ModelOptions
from masam.weights import tensors
from masam.weights.card import HEADER, Base, ModelCard, read_card, read_header, read_spec, write_header
from masam.weights.infer_spec import infer_sam_size
from masam.weights.published import find_cached_by_sha256, published_by_sha256, resolve
from masam.weights.sam_names import KINDS, kind_of
from masam.weights.state_dict import (
    initialise_classes,
    load_sam_state,
    load_strictly,
    require_matching_state,
    require_sam,
)

MODEL_FILE = "model.safetensors"
"""Name of the model in a run folder."""

AUTO_SIZE = "auto"
"""Use the size of the SAM file, or vit_b without a file."""


Parameters = ParamSpec("Parameters")


def _show_options(build: Callable[Parameters, Masam]) -> Callable[Parameters, Masam]:
    """Replace ``**options`` by the single options in the signature that ``help`` and ``inspect`` show."""
    signature = inspect.signature(build)
    *explicit, _ = signature.parameters.values()
    options = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type)
        for option in fields(ModelOptions)
        if option.name not in signature.parameters
    ]
    vars(build)["__signature__"] = signature.replace(parameters=[*explicit, *options])
    return build


@_show_options
def build_masam(
    size: str = "vit_b",
    num_classes: int = 13,
    image_size: int = MasamSpec.image_size,
    window: int = MasamSpec.window,
    fact_rank: int = ModelOptions.fact_rank,
    fact_scale: float = ModelOptions.fact_scale,
    adapter_channels: int = ModelOptions.adapter_channels,
    sam_checkpoint: str | Path | None = None,
    *,
    image_channels: int = MasamSpec.image_channels,
    **options: Any,
) -> Masam:
    """Build a model to train.

    Args:
        size: vit_h, vit_l, vit_b, vit_t, or ``auto`` for the size of the SAM file.
        num_classes: Foreground classes; the logits have one channel more.
        image_size: Side of the square input in pixels, a multiple of 16.
        window: Slices of a window.
        fact_rank: Rank of the increments; 0 disables them.
        fact_scale: Factor of the increments.
        adapter_channels: Width of the 3D adapters.
        sam_checkpoint: Weights of SAM or MedSAM: a file, ``.pth`` or Hugging Face's ``.safetensors``, or a published
            name such as ``sam-vit-b``. None keeps the encoder at random weights.
        image_channels: Channels of the images; any number except 1 and 3 adds a small trained projection.
        **options: The other options of :class:`masam.model.spec.ModelOptions`, such as ``increments`` and ``decoder``.

    Raises:
        ConfigError: A value is out of range.
        InputError: The file cannot be opened.
        ModelError: The file does not contain a SAM of this size.
        TypeError: An option is unknown.
    """
    sam = find_size("vit_b" if size == AUTO_SIZE else size)
    state, card = None, ModelCard()
    if sam_checkpoint is not None:
        state, base = read_base(sam_checkpoint)
        card = ModelCard(base=base)
        if size == AUTO_SIZE:
            sam = infer_sam_size(state, where=sam_checkpoint)
    options |= {"fact_rank": fact_rank, "fact_scale": fact_scale, "adapter_channels": adapter_channels}
    model = Masam(MasamSpec(sam, num_classes, image_size, window, image_channels=image_channels, **options))
    model.card = card
    if state is not None:
        load_sam_state(model, state, sam, where=sam_checkpoint)
        initialise_classes(model, state)
    return model


def read_base(name_or_path: str | Path) -> tuple[dict[str, Tensor], Base]:
    """Read a file of SAM or MedSAM weights, given by path or published name.

    Returns:
        The tensors under SAM's names, and the entry for the card of a model that is based on them.
    """
    path = resolve(name_or_path)
    state = require_sam(tensors.read_tensors(path)[0], path)
    size, tensors_sha256 = infer_sam_size(state, where=path).name, tensors.content_sha256(state)
    return state, Base(size, gate.sha256(path), tensors_sha256, path.name)


def save(path: Path, model: Masam, *, embed_base: bool = False) -> None:
    """Write a model with its card as one safetensors file.

    If the encoder is frozen and came from a SAM file, only the trained tensors are written; the card names that file,
    and ``load`` requires it. Otherwise all tensors are written.

    Args:
        path: File to write.
        model: The model, with its card.
        embed_base: Write the encoder in any case, so that the file can be loaded without a SAM file.

    Raises:
        ResourceError: The file cannot be written.
    """
    write_model(path, model, model.state_dict(), embed_base=embed_base)


def write_model(path: Path, model: Masam, state: Mapping[str, Tensor], *, embed_base: bool = False) -> None:
    """Write a model as :func:`save` does, with tensors given by ``state``: this process may hold only parts of them."""
    card = model.card or ModelCard()
    if embed_base or not is_based_on_file(model):
        card = replace(card, base=None)
    else:
        trained = model.trained_names()
        state = {name: tensor for name, tensor in state.items() if name in trained}
    tensors.write_tensors(path, state, write_header(model.spec, card))


def is_based_on_file(model: Masam) -> bool:
    """Return whether the encoder is frozen and its weights are those of the SAM file named in the card."""
    trained = model.trained_names()
    is_frozen = not any(p.requires_grad for name, p in model.named_parameters() if name not in trained)
    return is_frozen and model.card is not None and model.card.base is not None


def fold_folder(root: Path, fold: int) -> Path:
    """Return the run folder of one fold inside the folder of all folds."""
    return root / f"fold_{fold}"


def load_folds(path: str | Path, sam_checkpoint: str | Path | None = None) -> list[Masam]:
    """Load the models of all folds in a folder, or a single model, each as by :func:`load`.

    The models share the frozen tensors of a common SAM file.
    """
    folders = _fold_folders(path)
    models = [load(folder, sam_checkpoint) for folder in folders or [Path(path)]]
    first = models[0]
    frozen = {name: p for name, p in first.named_parameters() if name not in first.trained_names()}
    for model in models[1:]:
        if model.card.base is not None and model.card.base == first.card.base:
            for name, parameter in model.named_parameters():
                if name in frozen:
                    parameter.data = frozen[name].data
    return models


def _fold_folders(path: str | Path) -> list[Path]:
    """Return the run folders of the folds that have a model, in order; empty if the path is not a folder of folds."""
    root = Path(path)
    if not root.is_dir() or (root / MODEL_FILE).exists():
        return []
    folders = (fold_folder(root, fold) for fold in itertools.count())
    return list(itertools.takewhile(lambda folder: (folder / MODEL_FILE).is_file(), folders))


def load(path: str | Path, sam_checkpoint: str | Path | None = None) -> Masam:
    """Load a trained model.

    Args:
        path: A run folder or its ``model.safetensors``.
        sam_checkpoint: The SAM file that the model is based on, a path or a published name, if the model file does not
            contain the encoder. None searches the published weights on this machine.

    Returns:
        The model in evaluation mode, its plan in ``model.card.plan``.

    Raises:
        InputError: A file cannot be opened.
        ModelError: The file is damaged, has a newer format, or requires another SAM file.
    """
    if folds := _fold_folders(path):
        raise ModelError(
            f"expected one model, got a folder of {len(folds)} folds",
            where=path,
            fix="give one of them, such as fold_0; masam predict accepts all of them",
        )
    file = find_model_file(path)
    shapes, spec, card = read_model_header(file)
    model = empty_model(spec)
    expected, trained = model.state_dict(), model.trained_names()
    kept = set(expected) - trained if card.base is not None else set()
    # Shapes are compared first, before any tensor is loaded into memory.
    require_matching_state(expected, shapes, kept, where=file)
    if card.base is not None:
        base, where = _find_base(sam_checkpoint, card.base, file)
        load_sam_state(model, base, spec.sam, where=where)
    load_strictly(model, tensors.read_tensors(file, ours=True)[0], kept, where=file)
    model.card = card
    return model.eval()


def read_model_header(file: Path) -> tuple[dict[str, Tensor], MasamSpec, ModelCard]:
    """Read the header of a model file: tensor shapes (on the meta device), specification and card."""
    shapes, metadata = tensors.read_header(file)
    kind = kind_of(shapes)
    if HEADER not in metadata and kind is not None:
        fix = "import it with masam weights import" if kind == "ma-sam-adapter" else "give it with --sam-checkpoint"
        raise ModelError(f"expected a model written by masam, got {KINDS[kind]}", where=file, fix=fix)
    header = read_header(metadata, file)
    return shapes, read_spec(header["spec"], file), read_card(header, file)


def find_model_file(path: str | Path) -> Path:
    """Return the model file for a run folder or the file itself."""
    file = Path(path)
    return file / MODEL_FILE if file.is_dir() else file


def _find_base(given: str | Path | None, base: Base, file: Path) -> tuple[dict[str, Tensor], Path]:
    """Return the tensors of the SAM file that a model is based on, and the path of that file."""
    name = f" ({base.file})" if base.file else ""
    description = f"the SAM file of {base.size}{name} with SHA-256 {base.sha256}"
    published = published_by_sha256(base.sha256)
    path = find_cached_by_sha256(base.sha256) if given is None else resolve(given)
    if path is None:
        get = f", or run masam weights get {published.name}" if published else ""
        raise ModelError(
            f"the model requires {description}", where=file, fix=f"give that file with --sam-checkpoint{get}"
        )
    state = require_sam(tensors.read_tensors(path)[0], path)
    if base.tensors_sha256 is None or tensors.content_sha256(state) != base.tensors_sha256:
        # The hash of the tensors accepts the same weights in another container. Models of version 1 lack it.
        actual = gate.sha256(path)
        if actual != base.sha256:
            raise ModelError(
                f"expected {description}, got a file with SHA-256 {actual}", where=path, fix="give the right file"
            )
    return state, path
