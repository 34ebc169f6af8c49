"""A recipe: a PyTorch embedder as an ONNX file for `sosie model add` (docs/embedders.md).

Change `open_model` to open yours; the rest stays. `python docs/export_embedder.py FILE.onnx`
needs the packages torch, onnx and onnxscript, which Sosie itself does not.
"""

import sys

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

SIDE_PX, SAME = 112, 0.9999


def open_model() -> nn.Module:
    """Here a small network stands for yours: build it, load its weights with
    `load_state_dict(torch.load(path, map_location="cpu", weights_only=True))`, and leave out what
    is for training alone, as the layer of the margin and its classes.
    """
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=4, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.PReLU(16),
        nn.Conv2d(16, 32, 3, stride=4, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.PReLU(32),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128, bias=False),
        nn.BatchNorm1d(128),
    )


def export(model: nn.Module, path: str) -> None:
    """Writes one file with the weights inside, for batches of any size."""
    # Without it batch normalisation would look at the other faces of a batch, and dropout drop.
    model.eval()
    faces = torch.rand(2, 3, SIDE_PX, SIDE_PX) * 2 - 1
    torch.onnx.export(
        model,
        (faces,),
        path,
        input_names=["faces"],
        output_names=["vectors"],
        dynamic_shapes=({0: torch.export.Dim("n", min=1, max=1024)},),
        dynamo=True,
        external_data=False,
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def compare(model: nn.Module, path: str) -> float:
    """The least cosine of a vector by PyTorch and by the file, which must be SAME."""
    faces = torch.rand(3, 3, SIDE_PX, SIDE_PX) * 2 - 1
    with torch.no_grad():
        wanted = model(faces).numpy()
    found = ReferenceEvaluator(path).run(None, {"faces": faces.numpy()})[0]
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    return float(((wanted * found).sum(axis=1) / lengths).min())


if __name__ == "__main__":
    embedder = open_model()
    export(embedder, sys.argv[1])
    least = compare(embedder, sys.argv[1])
    sys.stdout.write(f"{sys.argv[1]}: least cosine to PyTorch's vectors {least:.6f}\n")
    sys.exit(least < SAME)
