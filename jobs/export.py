"""metasr export: write a model for programs that know ONNX."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.config import JobConfig
from cluster.model_choice import MODEL_HELP, RELEASED, choose_bundle
from jobs.cli import Parser, add_settings, run, say, settings
from metasr.errors import ConfigError

FILES = "encoder.onnx", "decoder.onnx", "README.md"
DESCRIPTION = """Write a model as ONNX: an encoder for images of any size, and a decoder of its features to any size.

  metasr export onnx/
  metasr export onnx/ --model models/bundle

The size of the result is an input of the decoder, so both files serve every real scale, the scale of each axis on its
own. ONNX Runtime computes images from them, which must equal PyTorch's to 1e-4 of the intensities' range before
anything is written. README.md beside them says how intensities enter and leave. It needs the extra `export`."""


def main(arguments: Sequence[str]) -> None:
    """Export a model."""
    parser = Parser(prog="metasr export", description=DESCRIPTION)
    parser.add_argument("output", type=Path, metavar="FOLDER", help=f"where {', '.join(FILES)} go")
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    add_settings(parser, JobConfig, "tracking")
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known).config
    folder = known.output
    taken = [folder / name for name in FILES if (folder / name).exists()]
    if taken and not known.force:
        raise ConfigError(f"output {taken[0]}", "it exists", "Give another folder, or --force to replace it")

    import torch

    from metasr.export.write import export_bundle
    from metasr.inference.bundle import load_bundle

    with tempfile.TemporaryDirectory() as download:
        chosen, version = choose_bundle(known.model, config.tracking, Path(download))
        if version == RELEASED:
            say("model: the one that ships with metasr")
        bundle = load_bundle(chosen, torch.device("cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    difference = export_bundle(bundle, folder)
    say(f"{folder}: {' and '.join(FILES[:2])}, for any size; {difference:.1e} from PyTorch's image at most")


if __name__ == "__main__":
    run(main)
